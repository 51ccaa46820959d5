"""What score.py prints: the plan of a batch, a line a study, the error it ends with."""

import sys
from argparse import Namespace

from model.hospital.journal import DONE, Record
from model.hospital.names import SALT, cleared
from model.hospital.pages.tables import failures_of
from model.hospital.plan import Plan
from model.terminal import say

FILES_TOLD = 10_000  # after how many files a search says how far it is
LACKING_TOLD = 5  # studies without a truth that are named


def tell_files(number: int) -> None:
    if number % FILES_TOLD == 0:
        say(f"looked at {number} files", sys.stdout)


def tell_plan(plan: Plan, compared: bool) -> None:
    """How many studies there are, how many of them are to do, and, where they are compared, which have no truth."""
    lacking = [name for name, job in plan.jobs.items() if job.entry.truth is None]
    truths = len(plan.jobs) - len(lacking)
    with_mask = sum(bool(job.stored) for job in plan.todo)
    say(
        f"{len(plan.jobs)} studies found: {len(plan.done)} done before, {len(plan.todo)} to do"
        + (f" ({with_mask} with the masks that are there)" if with_mask else "")
        + f"; {plan.wanting} cannot be scored"
        + (f"; {plan.passed_over} CT without a PET passed over" if plan.passed_over else "")
        + (f"; {truths} have a truth" if compared else ""),
        sys.stdout,
    )
    if compared and lacking:
        more = f" and {len(lacking) - LACKING_TOLD} more" if len(lacking) > LACKING_TOLD else ""
        say(f"without a truth: {', '.join(lacking[:LACKING_TOLD])}{more}", sys.stdout)


def list_plan(plan: Plan, options: Namespace) -> None:
    """What --dry-run prints: every study, its files and picks, and what cannot be scored."""
    tell_plan(plan, options.truth is not None)
    if not (options.output / SALT).is_file():
        say("names that begin with s- are of this list alone: a run gives its own, mapped back by keys.csv", sys.stdout)
    for name, job in plan.jobs.items():
        entry = job.entry
        where = f"  {entry.source}" if options.names else ""
        files = f"PET {len(entry.pet)}, CT {len(entry.ct)} files" if entry.kind == "dicom" else "images"
        truth = ", truth" if entry.truth else ""
        say(f"{'done ' if name in plan.done else 'to do'}  {name}  {entry.kind}: {files}{truth}{where}", sys.stdout)
        for pick in (*entry.picks, *entry.warnings):
            shown = pick if options.names else cleared(pick, entry, options.studies, name)
            say(f"       {shown}", sys.stdout)
    for failure in failures_of(plan, [], options.studies, options.names):
        say(f"not    {failure.study}  {failure.message}; {failure.remedy}", sys.stdout)


def tell(record: Record, number: int, count: int, left_s: float) -> None:
    """One line a study."""
    left = f"{left_s / 60:.0f} min left" if left_s >= 60 else "less than a minute left"
    place = f"[{number} of {count}, {left}]" if number < count else f"[{number} of {count}]"
    if record.state == DONE:
        row = record.row
        warned = f", {counted(len(row['warnings']), 'warning')}" if row["warnings"] else ""
        said = f"{counted(row['lesions'], 'lesion')}, {row['mtv_ml']:.1f} ml, {row['seconds']:.1f} s{warned}"
    else:
        said = f"NOT SCORED ({record.stage}): {record.message}; {record.remedy}"
    say(f"{place} {record.study}: {said}", sys.stdout)


def counted(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def fail(message: str, code: int) -> int:
    say(f"error: {' '.join(message.split())}", sys.stderr)
    return code
