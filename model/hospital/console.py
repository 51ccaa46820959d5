"""What score.py prints: the plan of a run, and a line for each study."""

import sys
from argparse import Namespace
from pathlib import Path

from model import PET_ALONE
from model.hospital.bundles import Bundles
from model.hospital.journal import DONE, Record
from model.hospital.names import SALT, redacted
from model.hospital.pages.tables import failures_of
from model.hospital.plan import Plan
from model.terminal import counted, duration, say

FILES_PER_LINE = 10_000  # a search prints a line each time it has looked at so many files
NAMED_AT_MOST = 5  # studies without a truth that are listed by name


def print_files_seen(number: int) -> None:
    if number % FILES_PER_LINE == 0:
        say(f"looked at {number} files", sys.stdout)


def print_weights(bundles: Bundles, precision: str) -> None:
    """Which networks run and how, and what to mind of it."""
    say(f"weights: {bundles.main.label}, precision {precision}", sys.stdout)
    if bundles.pet_only:
        say(f"weights of studies without CT: {bundles.pet_only.label}, precision {precision}", sys.stdout)
    elif bundles.main.manifest.pet_alone:
        say(f"these weights see {PET_ALONE}: no CT is read", sys.stdout)
    for warning in [warning for bundle in bundles.every for warning in bundle.warnings]:
        say(f"warning: {warning}", sys.stdout)


def print_plan(plan: Plan, compared: bool) -> None:
    """How many studies there are and how many are to do. compared: say also which studies have no truth."""
    without_truth = [name for name, job in plan.jobs.items() if job.entry.truth is None]
    truths = len(plan.jobs) - len(without_truth)
    with_mask = sum(bool(job.stored) for job in plan.todo)
    alone = sum(job.entry.pet_alone for job in plan.jobs.values())
    say(
        f"{len(plan.jobs)} studies found: {len(plan.done)} done before, {len(plan.todo)} to do"
        + (f" ({with_mask} with the masks that are there)" if with_mask else "")
        + (f"; {alone} by {PET_ALONE}" if alone else "")
        + f"; {plan.unscorable_count} cannot be scored"
        + (f"; {plan.passed_over_count} CT without a PET passed over" if plan.passed_over_count else "")
        + (f"; {truths} have a truth" if compared else ""),
        sys.stdout,
    )
    if compared and without_truth:
        more = f" and {len(without_truth) - NAMED_AT_MOST} more" if len(without_truth) > NAMED_AT_MOST else ""
        say(f"without a truth: {', '.join(without_truth[:NAMED_AT_MOST])}{more}", sys.stdout)


def print_lines_of_others(overrides: Path, lines: list[int]) -> None:
    """Which lines of the overrides are of no study that is here; of studies from a PACS the images go with time."""
    more = f" and {len(lines) - NAMED_AT_MOST} more" if len(lines) > NAMED_AT_MOST else ""
    say(
        f"'{overrides}': passed over line {', '.join(map(str, lines[:NAMED_AT_MOST]))}{more}: no images of that study "
        "are here; those from the PACS are kept for --keep-days",
        sys.stdout,
    )


def print_lost_edits(studies: list[str]) -> None:
    """Whose edits are not taken back. studies: names of their folders in the results."""
    more = f" and {len(studies) - NAMED_AT_MOST} more" if len(studies) > NAMED_AT_MOST else ""
    say(
        f"warning: the edit of {', '.join(studies[:NAMED_AT_MOST])}{more} is not taken back: the study's images are "
        "not among those that were found; put them there, or have the PACS send them again",
        sys.stdout,
    )


def print_dry_run(plan: Plan, options: Namespace) -> None:
    """What --dry-run prints: every study, its files and picks, and what cannot be scored."""
    print_plan(plan, options.truth is not None)
    if not (options.output / SALT).is_file():
        say("these names end in digits for this list alone; a run gives others, which keys.csv explains", sys.stdout)
    for name, job in plan.jobs.items():
        entry = job.entry
        source = f"  {entry.source}" if options.names else ""
        files = f"PET {len(entry.pet)}, CT {len(entry.ct)} files" if entry.kind == "dicom" else "images"
        files = f"PET {len(entry.pet)} files, {PET_ALONE}" if entry.pet_alone else files
        truth = (", truth" if entry.truth else "") + (", an edit to take back" if job.edit_path else "")
        say(f"{'done ' if name in plan.done else 'to do'}  {name}  {entry.kind}: {files}{truth}{source}", sys.stdout)
        for note in (*entry.picks, *entry.warnings):
            say(f"       {note if options.names else redacted(note, entry, options.studies, name)}", sys.stdout)
    for failure in failures_of(plan, [], options.studies, options.names):
        say(f"not    {failure.study}  {failure.message}; {failure.remedy}", sys.stdout)


def print_estimate(study: str, words: str, seconds: float, all_s: float, limit_minutes: float) -> None:
    """How long a study will take, `words`, and about how long all of them; and whether it will be given up."""
    together = f"; all studies: about {duration(all_s)}" if all_s > seconds else ""
    say(f"{study}: {words}{together}", sys.stdout)
    if limit_minutes and seconds > limit_minutes * 60:
        say(
            f"warning: a study is given up after {limit_minutes:g} min, which is less; end this run and give more with "
            "--limit-minutes (0: no limit), or choose a faster way",
            sys.stdout,
        )


def print_record(record: Record, number: int, count: int, left_s: float) -> None:
    """How one study ended, the `number`th of `count`, and about how long the rest takes."""
    left = f"{left_s / 60:.0f} min left" if left_s >= 60 else "less than a minute left"
    place = f"[{number} of {count}, {left}]" if number < count else f"[{number} of {count}]"
    if record.state == DONE:
        row = record.row
        warned = f", {counted(len(row['warnings']), 'warning')}" if row["warnings"] else ""
        edited = f"{row['channels']}, " if "channels" in row else ""
        edited += "edited, " if "edited" in row else ""
        outcome = f"{edited}{counted(row['lesions'], 'lesion')}, {row['mtv_ml']:.1f} ml, {row['seconds']:.1f} s{warned}"
    else:
        outcome = f"NOT SCORED ({record.stage}): {record.message}; {record.remedy}"
    dropped = record.row.get("dropped_lesions", 0) if record.row else 0
    say(f"{place} {record.study}: {outcome}{f', {dropped} left out' if dropped else ''}", sys.stdout)
