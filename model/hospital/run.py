"""One run of score.py: find studies, plan, score them one by one, keep the journal, write the tables."""

import secrets
import sys
import time
from argparse import Namespace
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import partial

from model.bundle.licence import spelt_out
from model.bundle.manifest import Bundle
from model.errors import CaseError, ConfigError, OutputError
from model.hospital.batch_precision import auto_precision
from model.hospital.bundles import Bundles, checked_bundles
from model.hospital.cluster import score_on_cluster
from model.hospital.console import (
    print_dry_run,
    print_estimate,
    print_files_seen,
    print_lines_of_others,
    print_lost_edits,
    print_plan,
    print_record,
    print_weights,
)
from model.hospital.dates.compare import compare_dates
from model.hospital.edit_options import asks_for_edits, wanted_edits
from model.hospital.edits import edits_without_images, with_edits, without_networks
from model.hospital.find.tree import find_studies, with_truth, without_truth
from model.hospital.folder import locked, remove_partial
from model.hospital.job import Job, Options, Setup
from model.hospital.journal import DONE, Journal, Record, read_journal
from model.hospital.last_run import keep_options
from model.hospital.names import SALT, read_salt
from model.hospital.output_options import BESIDE, MASK_ENDINGS
from model.hospital.overrides import OVERRIDES, lines_of_others, with_overrides, with_spheres
from model.hospital.pacs.inbox import is_inbox
from model.hospital.pages.page import PATIENTS_HTML, About
from model.hospital.pages.patients import PATIENTS, write_patients
from model.hospital.pages.write import write_results
from model.hospital.plan import Plan, make_plan, with_precision
from model.hospital.queue import TimeLeft, score_one_by_one, size_of
from model.hospital.worker_process import WorkerProcess
from model.results.rule_options import rules_of
from model.results.writing import check_output
from model.terminal import say

TABLES_EVERY_S = 300.0  # how often the tables are written during a run


def run(options: Namespace) -> None:
    """Score the studies that the options name. Raises the errors of model/errors.py, CaseError if a study failed."""
    bundles = checked_bundles(options)
    if options.dry_run:
        salt = read_salt(options.output) if (options.output / SALT).is_file() else secrets.token_bytes()
        plan = plan_of(options, bundles, salt)
        print_weights(bundles, options.precision)
        print_dry_run(plan, options)
        return
    check_output(options.output)
    with locked(options.output) as lock:
        remove_partial(options.output)
        plan = plan_of(options, bundles, read_salt(options.output))
        keep_options(options, bundles)
        print_plan(plan, options.truth is not None)
        precision = precision_of_run(options, plan)
        print_weights(bundles, precision)
        failed = score(options, bundles, with_precision(plan, bundles, precision), lock, precision)
    if failed:
        raise CaseError(failed)


def precision_of_run(options: Namespace, plan: Plan) -> str:
    """The precision of the studies that need the networks; auto where there is none, or where workers will be asked."""
    if options.precision != "auto" or options.workers or all(job.stored for job in plan.todo):
        return str(options.precision)
    return auto_precision(options.device)


def score(options: Namespace, bundles: Bundles, plan: Plan, lock: int | None, precision: str) -> str:
    """Score what is to do, and compare dates if that is asked for. Write the tables, even if the run is stopped.

    Returns what could not be done, in words; "" if nothing.
    """
    about = about_of(bundles)
    journal, records, begun = Journal(options.output), dict[str, Record](), time.monotonic()
    announced, setup = "", setup_of(options, bundles, plan, precision)
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

    def on_estimate(study: str, seconds: float, words: str) -> None:
        nonlocal announced
        announced = announced or study
        if study == announced:  # of the others, the line of each study before says how long the rest takes
            print_estimate(study, words, seconds, seconds * left.share_of(study), options.limit_minutes)

    try:
        for record in plan.not_in_journal:
            journal.add(record)
        if plan.todo and options.workers:
            keyed = partial(jobs_in, plan, bundles)
            score_on_cluster(keyed, setup, options.workers, journal, on_record, options.patience_minutes * 60)
        elif plan.todo:
            with WorkerProcess(setup, lock, on_estimate) as process:
                process.start()
                score_one_by_one(plan.todo, process, journal, on_record, options.patience_minutes * 60)
    finally:
        remove_partial(options.output)  # what scoring processes left that were ended while they wrote
        journal.flush()
        write_tables()
    failed = plan.unscorable_count + sum(record.state != DONE for record in records.values())
    not_done = []
    if failed:
        not_done.append(
            f"{failed} of {len(plan.jobs) + plan.unscorable_count} studies could not be scored; "
            f"'{options.output / 'failures.csv'}' says why"
        )
    linked = (options.output / PATIENTS_HTML).is_file()
    if options.compare_dates or linked:  # an earlier page would tell of lesions that are no longer so
        not_compared = compare(options, bundles.main, plan, {**plan.done, **records}, setup, lock, about)
        not_done += not_compared if options.compare_dates else []
    if options.compare_dates and not linked:
        write_tables()  # report.html names the page where there is one
    say(f"results: {options.output / 'report.html'}", sys.stdout)
    return "; ".join(not_done)


def compare(
    options: Namespace,
    bundle: Bundle,
    plan: Plan,
    records: Mapping[str, Record],
    setup: Setup,
    lock: int | None,
    about: About,
) -> list[str]:
    """Compare the dates of patients with several; without --compare-dates list only what is compared already.

    Returns what is not compared, in words. Raises OutputError.
    """
    jobs = [job for name, job in plan.jobs.items() if name in records and records[name].state == DONE]
    now = setup if options.compare_dates else None
    comparisons, why = compare_dates(jobs, options.output, read_salt(options.output), bundle, now, lock)
    write_patients(options.output, comparisons, why, about)
    say(f"two dates: {options.output / PATIENTS_HTML}", sys.stdout)
    failed = sum(any(one.failure) for one in comparisons)
    if not failed:
        return []
    return [
        f"{failed} of {len(comparisons)} pairs of dates could not be compared; '{options.output / PATIENTS}' says why"
    ]


def about_of(bundles: Bundles) -> About:
    """What the page and the tables say of the weights."""
    made = datetime.now()

    def about(bundle: Bundle) -> About:
        manifest = bundle.manifest
        licence, sha256 = spelt_out(manifest.licence), bundle.sha256
        return About(
            weights=bundle.label, weights_sha256=sha256, made=made, licence=licence, citation=manifest.citation
        )

    return replace(about(bundles.main), pet_only=about(bundles.pet_only) if bundles.pet_only else None)


def setup_of(options: Namespace, bundles: Bundles, plan: Plan, precision: str) -> Setup:
    """What a scoring process is started with."""
    stored_only, bundle = asks_for_edits(options), bundles.main
    return Setup(
        weights=str(bundle.folder.resolve()),
        method=bundle.manifest.method,
        device="cpu" if stored_only else options.device,
        limits=tuple(options.limit),
        debug=options.debug,
        networks=any(not job.stored and bundles.of(job.entry) is bundle for job in plan.todo),
        limit_s=options.limit_minutes * 60,
        precision="float32" if stored_only else precision,
        folds=options.folds,
        mirroring=options.mirroring,
        stored_only=stored_only,
        pet_only=str(bundles.pet_only.folder.resolve()) if bundles.pet_only else "",
    )


def jobs_in(plan: Plan, bundles: Bundles, precision: str) -> list[Job]:
    """The jobs to do, with the keys of a precision."""
    return with_precision(plan, bundles, precision).todo


def plan_of(options: Namespace, bundles: Bundles, salt: bytes) -> Plan:
    """Find the studies and compare them with the results. Raises ConfigError if there is none."""
    alone = bundles.take_pet_alone
    found = find_studies(options.studies, options.output, options.names, print_files_seen, alone)
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
        some = is_inbox(options.studies, options.output)
        if some and (others := lines_of_others(found, overrides, options.studies, salt)):
            print_lines_of_others(overrides, others)
        found = with_overrides(found, overrides, options.studies, salt, options.names, some)
    spheres = {"liver": options.liver_sphere, "blood": options.blood_sphere}
    found = with_spheres(found, {what: text for what, text in spheres.items() if text})
    records, wanted = read_journal(options.output), wanted_of(options)
    plan = make_plan(found, options.studies, options.output, salt, records, bundles, wanted, options.precision)
    plan = with_edits(plan, wanted_edits(options), records, options.studies, salt)
    if options.recompute and (lost := edits_without_images(plan, options.output)):
        print_lost_edits(lost)
    return without_networks(plan, records, bundles) if asks_for_edits(options) else plan


def wanted_of(options: Namespace) -> Options:
    """What to write for every study."""
    return Options(
        mask_ending=MASK_ENDINGS[options.format],
        rtstruct=options.rtstruct,
        disagreement=options.disagreement,
        convention=options.convention,
        named=options.names,
        organs=options.organs,
        picture=options.picture,
        sr=options.sr,
        pdf=options.pdf,
        rules=rules_of(options),
    )
