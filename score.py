"""Score every PET/CT study of a folder, offline: masks, numbers, pictures, and a list of what was not done and why.

    python score.py STUDIES --output RESULTS

Finds studies, hands them one by one to a process that scores them, keeps the journal, writes the tables; no algorithm.
"""

import secrets
import signal
import sys
import time
from argparse import Namespace
from contextlib import suppress
from dataclasses import replace
from datetime import datetime

from model.bundle.manifest import Bundle, find_bundle, load_bundle
from model.bundle.settings import override_limits
from model.errors import CaseError, ConfigError, LesionError, OutputError
from model.hospital.cluster import run_cluster
from model.hospital.find.tree import find_studies, with_truth, without_truth
from model.hospital.folder import locked, remove_partial
from model.hospital.job import Options, Setup
from model.hospital.journal import DONE, Journal, Record, read_journal
from model.hospital.names import SALT, cleared, read_salt
from model.hospital.options import BESIDE, MASK_ENDINGS, arguments
from model.hospital.overrides import FILE as OVERRIDES
from model.hospital.overrides import with_overrides
from model.hospital.pages.page import About
from model.hospital.pages.tables import failures_of
from model.hospital.pages.write import write_results
from model.hospital.plan import Plan, make_plan
from model.hospital.queue import Left, run_batch, size_of
from model.hospital.worker_process import Died, Station
from model.results.writing import check_output
from model.terminal import open_streams, say

FILES_TOLD = 10_000  # after how many files a search says how far it is
LACKING_TOLD = 5  # studies without a truth that are named
TABLES_EVERY_S = 300.0  # how often the tables are written while a batch runs


class Stopped(BaseException):
    """SIGINT or SIGTERM came."""


def main() -> int:
    """Run with the command line's arguments. Returns the exit code: 3 if a study could not be scored."""
    open_streams()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    debug = "--debug" in sys.argv
    try:
        return run(arguments())
    except Stopped as stopped:
        number = stopped.args[0]
        return fail(f"stopped by {signal.Signals(number).name}; the same command goes on from here", 128 + number)
    except LesionError as error:
        return fail(str(error), error.exit_code)
    except Died as error:
        return fail(f"{error} before the first study; is there memory for the weights?", 1)
    except Exception as error:
        if debug:
            raise
        return fail(f"unexpected {type(error).__name__}; run again with --debug and report what it prints", 1)


def run(options: Namespace) -> int:
    """One batch, from the tree of studies to its tables. Raises the errors of model/errors.py."""
    bundle = chosen_bundle(options)
    if options.dry_run:
        salt = read_salt(options.output) if (options.output / SALT).is_file() else secrets.token_bytes()
        list_plan(plan_of(options, bundle, salt), options)
        return 0
    check_output(options.output)
    with locked(options.output) as lock:
        remove_partial(options.output)
        plan = plan_of(options, bundle, read_salt(options.output))
        tell_plan(plan, options.truth is not None)
        return score(options, bundle, plan, lock)


def score(options: Namespace, bundle: Bundle, plan: Plan, lock: int | None) -> int:
    """Score what is to do, and write the tables, also when the batch is stopped or its disk is gone."""
    setup = Setup(
        weights=str(bundle.folder.resolve()), method=bundle.manifest.method, device=options.device,
        limits=tuple(options.limit), debug=options.debug, networks=any(not job.stored for job in plan.todo),
    )  # fmt: skip
    about = About(
        weights=f"{bundle.manifest.name} ({bundle.manifest.method})", weights_sha256=bundle.sha256, made=datetime.now()
    )
    journal, records, begun = Journal(options.output), dict[str, Record](), time.monotonic()
    written, left = begun, Left({job.name: size_of(job) for job in plan.todo})

    def write() -> None:
        nonlocal written
        write_results(options.output, options.studies, plan, records, options.names, about)
        written = time.monotonic()

    def told(record: Record) -> None:
        records[record.study] = record
        tell(record, len(records), len(plan.todo), left.after(record.study, time.monotonic() - begun))
        if time.monotonic() - written > TABLES_EVERY_S:
            with suppress(OutputError):  # a full disk is waited for before the next study
                write()

    try:
        for record in plan.unrecorded:
            journal.add(record)
        limit_s, patience_s = options.limit_minutes * 60, options.patience_minutes * 60
        if plan.todo and options.where:
            run_cluster(plan.todo, setup, options.where, journal, told, patience_s, limit_s)
        elif plan.todo:
            with Station(setup, limit_s, lock) as station:
                station.start()
                run_batch(plan.todo, station, journal, told, patience_s)
    finally:
        remove_partial(options.output)  # of scoring processes that were ended while they wrote
        journal.flush()
        write()
    failed = plan.wanting + sum(record.state != DONE for record in records.values())
    say(f"results: {options.output / 'report.html'}", sys.stdout)
    if failed:
        return fail(f"{failed} of {len(plan.jobs) + plan.wanting} studies could not be scored; "
                    f"'{options.output / 'failures.csv'}' says why", CaseError.exit_code)  # fmt: skip
    return 0


def plan_of(options: Namespace, bundle: Bundle, salt: bytes) -> Plan:
    """What there is to do. Raises ConfigError if nothing is found."""
    found = find_studies(options.studies, options.output, options.names, tell_files)
    if options.truth is None:
        found = without_truth(found)
    elif options.truth != BESIDE:
        found = with_truth(found, options.studies, options.truth)
    if not found.entries and not found.unusable:
        raise ConfigError(
            f"'{options.studies}' holds no PET/CT study ({found.ignored} files of other kinds); give a folder with "
            "DICOM PET and CT series, or with MHA or NIfTI pairs named pet and ct, or a CSV"
        )
    overrides = options.overrides or options.studies / OVERRIDES
    if options.overrides or overrides.is_file():
        found = with_overrides(found, overrides, options.studies, salt, options.names)
    chosen = Options(
        mask_ending=MASK_ENDINGS[options.format], rtstruct=options.rtstruct, disagreement=options.disagreement,
        convention=options.convention, named=options.names,
    )  # fmt: skip
    records = read_journal(options.output)
    return make_plan(found, options.studies, options.output, salt, records, bundle, chosen)


def chosen_bundle(options: Namespace) -> Bundle:
    """The bundle that the options or the environment name, verified, with --limit applied. Raises as those do."""
    bundle = load_bundle(find_bundle(options.weights, options.method), options.method)
    manifest = bundle.manifest
    if options.disagreement and (manifest.method != "eoa" or len(manifest.members) < 2):
        raise ConfigError(
            f"--disagreement needs two or more networks that vote, and '{manifest.name}' by {manifest.method} has one; "
            "leave the option out, or give a bundle of several members with --weights"
        )
    limits = override_limits(manifest.limits, options.limit)
    return replace(bundle, manifest=replace(manifest, limits=limits))


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


def stop(number: int, frame: object) -> None:
    raise Stopped(number)


def fail(message: str, code: int) -> int:
    say(f"error: {' '.join(message.split())}", sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
