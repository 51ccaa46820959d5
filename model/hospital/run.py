"""One run of score.py: find studies, plan, score them one by one, keep the journal, write the tables."""

import secrets
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime

from model.bundle.manifest import Bundle, chosen_bundle
from model.bundle.organs import organ_names
from model.errors import CaseError, ConfigError, OutputError
from model.hospital.cluster import score_on_cluster
from model.hospital.console import print_dry_run, print_files_seen, print_plan, print_record
from model.hospital.find.tree import find_studies, with_truth, without_truth
from model.hospital.folder import locked, remove_partial
from model.hospital.job import Options, Setup
from model.hospital.journal import DONE, Journal, Record, read_journal
from model.hospital.names import SALT, read_salt
from model.hospital.options import BESIDE, MASK_ENDINGS
from model.hospital.overrides import OVERRIDES, with_overrides
from model.hospital.pages.page import About
from model.hospital.pages.write import write_results
from model.hospital.plan import Plan, make_plan
from model.hospital.queue import TimeLeft, score_one_by_one, size_of
from model.hospital.worker_process import WorkerProcess
from model.results.writing import check_output
from model.terminal import say

TABLES_EVERY_S = 300.0  # how often the tables are written during a run


def run(options: Namespace) -> None:
    """Score the studies that the options name. Raises the errors of model/errors.py, CaseError if a study failed."""
    bundle = chosen_bundle(options.weights, options.method, options.limit)
    check_disagreement(options, bundle)
    if options.organs:
        organ_names(bundle.manifest)  # raises ConfigError for a bundle that knows none
    if options.dry_run:
        salt = read_salt(options.output) if (options.output / SALT).is_file() else secrets.token_bytes()
        print_dry_run(plan_of(options, bundle, salt), options)
        return
    check_output(options.output)
    with locked(options.output) as lock:
        remove_partial(options.output)
        plan = plan_of(options, bundle, read_salt(options.output))
        print_plan(plan, options.truth is not None)
        score(options, bundle, plan, lock)


def score(options: Namespace, bundle: Bundle, plan: Plan, lock: int | None) -> None:
    """Score what is to do. Write the tables, even if the run is stopped. Raises CaseError if a study failed."""
    about = About(
        weights=f"{bundle.manifest.name} ({bundle.manifest.method})", weights_sha256=bundle.sha256, made=datetime.now()
    )
    journal, records, begun = Journal(options.output), dict[str, Record](), time.monotonic()
    tables_written, left = begun, TimeLeft({job.name: size_of(job) for job in plan.todo})

    def write_tables() -> None:
        nonlocal tables_written
        write_results(options.output, options.studies, plan, records, options.names, about)
        tables_written = time.monotonic()

    def on_record(record: Record) -> None:
        records[record.study] = record
        print_record(record, len(records), len(plan.todo), left.after(record.study, time.monotonic() - begun))
        if time.monotonic() - tables_written > TABLES_EVERY_S:
            with suppress(OutputError):  # a full disk is waited for before the next study
                write_tables()

    try:
        for record in plan.not_in_journal:
            journal.add(record)
        score_todo(options, bundle, plan, lock, journal, on_record)
    finally:
        remove_partial(options.output)  # what scoring processes left that were ended while they wrote
        journal.flush()
        write_tables()
    failed = plan.unscorable_count + sum(record.state != DONE for record in records.values())
    say(f"results: {options.output / 'report.html'}", sys.stdout)
    if failed:
        raise CaseError(
            f"{failed} of {len(plan.jobs) + plan.unscorable_count} studies could not be scored; "
            f"'{options.output / 'failures.csv'}' says why"
        )


def score_todo(
    options: Namespace,
    bundle: Bundle,
    plan: Plan,
    lock: int | None,
    journal: Journal,
    on_record: Callable[[Record], None],
) -> None:
    """Score the studies that are to do, in a scoring process of this machine or on a cluster."""
    setup = Setup(
        weights=str(bundle.folder.resolve()),
        method=bundle.manifest.method,
        device=options.device,
        limits=tuple(options.limit),
        debug=options.debug,
        networks=any(not job.stored for job in plan.todo),
        limit_s=options.limit_minutes * 60,
    )
    patience_s = options.patience_minutes * 60
    if not plan.todo:
        return
    if options.workers:
        score_on_cluster(plan.todo, setup, options.workers, journal, on_record, patience_s)
        return
    with WorkerProcess(setup, lock) as process:
        process.start()
        score_one_by_one(plan.todo, process, journal, on_record, patience_s)


def plan_of(options: Namespace, bundle: Bundle, salt: bytes) -> Plan:
    """Find the studies and compare them with the results. Raises ConfigError if there is none."""
    found = find_studies(options.studies, options.output, options.names, print_files_seen)
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
        mask_ending=MASK_ENDINGS[options.format],
        rtstruct=options.rtstruct,
        disagreement=options.disagreement,
        convention=options.convention,
        named=options.names,
        organs=options.organs,
    )
    records = read_journal(options.output)
    return make_plan(found, options.studies, options.output, salt, records, bundle, chosen)


def check_disagreement(options: Namespace, bundle: Bundle) -> None:
    """Raise ConfigError for --disagreement with a bundle of one network."""
    manifest = bundle.manifest
    if options.disagreement and (manifest.method != "eoa" or len(manifest.members) < 2):
        raise ConfigError(
            f"--disagreement needs two or more networks that vote, and '{manifest.name}' by {manifest.method} has one; "
            "leave the option out, or give a bundle of several members with --weights"
        )
