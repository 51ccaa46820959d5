"""score.py --listen: take studies from the PACS, score each when it is complete, and have its results sent back.

The receiver keeps images, the main thread scores by the same journal and scoring process as a folder of studies, the
outbox sends. Each leaves on the disk what the next one needs, so a killed run goes on.
"""

import sys
import threading
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NoReturn

from model.errors import LesionError, OutputError
from model.hospital.batch_precision import auto_precision
from model.hospital.bundles import Bundles, checked_bundles
from model.hospital.console import print_estimate, print_record, print_weights
from model.hospital.edit_options import WantedEdits
from model.hospital.edits import with_edits
from model.hospital.find.entry import FoundStudies
from model.hospital.folder import locked, remove_partial
from model.hospital.journal import DONE, Journal, Record, read_journal, stat_of
from model.hospital.last_run import keep_options
from model.hospital.names import read_salt
from model.hospital.overrides import read_overrides
from model.hospital.pacs.inbox import INCOMING, Batch, CompleteStudy, Inbox
from model.hospital.pacs.outbox import Outbox
from model.hospital.pacs.received import images_in
from model.hospital.pacs.receiver import Receiver
from model.hospital.pacs.settings import Listening
from model.hospital.pacs.studies import found_in, still_without_ct
from model.hospital.pages.tables import failures_of
from model.hospital.pages.write import write_results
from model.hospital.plan import Plan, make_plan, with_precision
from model.hospital.queue import score_one_by_one
from model.hospital.run import about_of, setup_of, wanted_of
from model.hospital.worker_process import WorkerProcess
from model.results.writing import check_output
from model.terminal import say

LOOK_EVERY_S = 60.0  # for images that are old enough to be removed
TRY_AGAIN_S = 60.0  # after the results folder could not be written


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """What every study is scored with."""

    options: Namespace
    bundles: Bundles
    precision: str
    salt: bytes
    process: WorkerProcess
    journal: Journal


def listen(options: Namespace) -> NoReturn:
    """Serve the PACS until a signal comes. Raises the errors of model/errors.py for what is wrong at the start."""
    bundles = checked_bundles(options)
    if options.overrides:
        read_overrides(options.overrides)
    check_output(options.output)
    settings: Listening = options.pacs
    if not options.debug:
        threading.excepthook = _on_lost_thread
    with locked(options.output) as lock:
        remove_partial(options.output)
        precision = auto_precision(options.device) if options.precision == "auto" else options.precision
        salt = read_salt(options.output)
        inbox = _inbox_of(options, salt)
        keep_for_edits(options, bundles)
        print_weights(bundles, precision)
        setup = replace(setup_of(options, bundles, Plan(jobs={}, done={}, unusable={}), precision), networks=True)
        with (
            WorkerProcess(setup, lock, _estimate_printer(options.limit_minutes)) as process,
            Outbox(options.output, settings) as outbox,
            Receiver(settings, inbox, outbox.on_commitment),
        ):
            process.start()
            _print_start(settings, outbox)
            scoring = Scoring(
                options=options,
                bundles=bundles,
                precision=precision,
                salt=salt,
                process=process,
                journal=Journal(options.output),
            )
            while True:
                serve_next(scoring, inbox, outbox)


def _on_lost_thread(lost: threading.ExceptHookArgs) -> None:
    """A connection's thread ended by an error of a library's: a line in place of its traceback."""
    say(f"a connection ended by an unexpected {lost.exc_type.__name__}", sys.stdout)


def keep_for_edits(options: Namespace, bundles: Bundles) -> None:
    """Write the options down, so that `score.py RESULTS --recompute` takes edits back. Raises OutputError."""
    keep_options(Namespace(**vars(options) | {"studies": options.output / INCOMING}), bundles)


def _inbox_of(options: Namespace, salt: bytes) -> Inbox:
    """The inbox of the results folder. Raises OutputError."""
    try:
        return Inbox(options.output, salt, options.pacs.quiet_s, options.pacs.on_release)
    except OSError as error:
        raise OutputError(
            f"cannot use '{error.filename}': {error.strerror}; give this user the right to write there"
        ) from None


def _estimate_printer(limit_minutes: float) -> Callable[[str, float, str], None]:
    def on_estimate(study: str, seconds: float, words: str) -> None:
        print_estimate(study, words, seconds, seconds, limit_minutes)

    return on_estimate


def serve_next(scoring: Scoring, inbox: Inbox, outbox: Outbox, wait_s: float = LOOK_EVERY_S) -> None:
    """Wait a while for a complete study, score it, and hand its results to the outbox."""
    batch = inbox.next(wait_s)
    if batch is not None:
        try:
            score_batch(scoring, batch, inbox, outbox)
        except LesionError as error:
            say(f"error: {error}; tried again in {TRY_AGAIN_S:g} s", sys.stdout)
            time.sleep(TRY_AGAIN_S)
    keep_days = scoring.options.pacs.keep_days
    for name in inbox.remove_old(keep_days):
        say(f"{name}: its images are removed here, {keep_days:g} days after they came", sys.stdout)


def score_batch(scoring: Scoring, batch: Batch, inbox: Inbox, outbox: Outbox) -> None:
    """Score the complete studies of a patient. Raises LesionError; then nothing is lost, and it can be tried again."""
    options = scoring.options
    batch, found = studies_of_batch(scoring, batch, inbox)
    for study in batch.ready:
        say(f"{study.name}: {study.images} images came" + (", and it was broken off" * study.broken), sys.stdout)
    try:
        stats = {study.folder: stat_of(images_in(study.folder)) for study in batch.ready}
    except OSError as error:
        raise OutputError(f"cannot read '{error.filename}': {error.strerror}; is the disk still there?") from None
    plan = plan_of_batch(scoring, batch, found)
    for record in plan.not_in_journal:
        scoring.journal.add(record)
    records = dict[str, Record]()

    def on_record(record: Record) -> None:
        records[record.study] = record
        print_record(record, len(records), len(plan.todo), 0)

    try:
        score_one_by_one(plan.todo, scoring.process, scoring.journal, on_record, options.patience_minutes * 60)
    finally:
        remove_partial(options.output)
        write_results(options.output, batch.root, plan, records, options.names, about_of(scoring.bundles))
    done = {name for name, record in (plan.done | records).items() if record.state == DONE}
    try:
        for name in sorted(done):
            outbox.add(name)
    except OSError as error:
        raise OutputError(f"cannot write what is to be sent: {error.strerror}; free some space") from None
    for failure in failures_of(plan, [], batch.root, options.names):
        say(f"{failure.study}: NOT SCORED ({failure.stage}): {failure.message}; {failure.remedy}", sys.stdout)
    for study in batch.ready:
        inbox.handled(study, stats[study.folder] if _is_settled(study, plan, done) else "")


def studies_of_batch(scoring: Scoring, batch: Batch, inbox: Inbox) -> tuple[Batch, FoundStudies]:
    """The batch and its studies, without those whose CT may still come; these wait until no image comes for long."""
    alone = scoring.bundles.take_pet_alone
    found = found_in(batch, scoring.options, scoring.salt, alone)
    waiting = still_without_ct(found, batch) if scoring.bundles.pet_only else []
    if not waiting:
        return batch, found
    for study in waiting:
        inbox.wait_for_more(study)
        say(f"{study.name}: {study.images} images came, none of a CT; waiting whether one comes", sys.stdout)
    ready = tuple(study for study in batch.ready if study not in waiting)
    batch = replace(batch, ready=ready, unready=(*batch.unready, *(study.folder for study in waiting)))
    return batch, found_in(batch, scoring.options, scoring.salt, alone)


def plan_of_batch(scoring: Scoring, batch: Batch, found: FoundStudies) -> Plan:
    """What is to do of the complete studies of a patient; those that a reader edited keep their edits."""
    options, bundles, salt = scoring.options, scoring.bundles, scoring.salt
    records, wanted = read_journal(options.output), wanted_of(options)
    plan = make_plan(found, batch.root, options.output, salt, records, bundles, wanted, options.precision)
    plan = with_edits(plan, WantedEdits(), records, batch.root, salt)
    return with_precision(plan, bundles, scoring.precision)


def _is_settled(study: CompleteStudy, plan: Plan, done: set[str]) -> bool:
    """Whether all that a received study is part of was scored, so that a later run need not look at it."""
    own = [name for name, job in plan.jobs.items() if any(path.parent == study.folder for path in job.entry.files)]
    lost = [item for item in plan.unusable.values() if item.source.is_relative_to(study.folder)]
    return bool(own) and not lost and done.issuperset(own)


def _print_start(settings: Listening, outbox: Outbox) -> None:
    callers = ", ".join(sorted({*settings.callers, settings.send.aet}))
    say(
        f"listening on {settings.bind}:{settings.port} as {settings.aet}; let in: {callers}; results go to "
        f"{settings.send}; studies with results still to send: {outbox.waiting_count}",
        sys.stdout,
    )
    if settings.tls is None:
        say(
            "warning: without TLS images and patients' names cross the network readable, and an AE title proves "
            "nothing; give --tls-ca, --tls-cert and --tls-key, or keep to a network of its own",
            sys.stdout,
        )
