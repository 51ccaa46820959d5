"""Compare the dates of every patient with two or more: which pairs there are, which are to do, and their tables."""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model import PET_ALONE
from model.bundle.manifest import Bundle
from model.errors import CaseError, split_remedy
from model.hospital.dates.change import Response, lesion_rows, response, total_row, totals_of
from model.hospital.dates.comparable import why_not_comparable
from model.hospital.dates.made_alike import how_made_unlike
from model.hospital.dates.stored_pairs import (
    earlier_pairs,
    is_compared,
    lesions_of,
    matches_in,
    pair_job,
    read_pair,
)
from model.hospital.dates.studies import DatePair, dated, labels_of, pairs_of
from model.hospital.job import Job, PairJob, Setup
from model.hospital.stored_results import read_report
from model.hospital.worker_process import Died, TookTooLong, WorkerProcess
from model.terminal import counted, say

MODULE = "model.hospital.dates.worker"
ONE_DAY = "both studies are of one day: what changed is no response to treatment"
NO_CT = f"{PET_ALONE}: two dates are laid onto each other by their CTs"
NOT_NOW = ("not compared since the lesions of a date changed, or not yet", "run the same command with --compare-dates")


@dataclass(frozen=True, kw_only=True)
class ComparedDates:
    """Two dates of a patient, as the tables show them. patient, first, second: as names are wanted.

    days: from the first to the second; dates: of both, empty unless names are wanted. folder: of the pair's files, ""
    if there are none. failure: why they could not be compared, and the remedy; then the rest is empty.
    """

    patient: str
    first: str
    second: str
    days: int
    dates: tuple[str, ...] = ()
    folder: str = ""
    aligned: str = ""
    correlation: float | None = None
    totals: dict[str, Any] = field(default_factory=dict)
    lesions: tuple[dict[str, Any], ...] = ()
    response: Response = Response(category="", reason="")
    warnings: tuple[str, ...] = ()
    failure: tuple[str, str] = ("", "")


def compare_dates(
    jobs: Iterable[Job], output: Path, salt: bytes, bundle: Bundle, setup: Setup | None, lock: int | None
) -> tuple[list[ComparedDates], dict[str, str]]:
    """Compare what is not compared yet. Returns every pair of the results folder, and, by study, why it is in none.

    jobs: the studies that are scored. A pair that fails is a failure among the others, and is tried again in the next
    run. setup: of the comparing process; without one nothing is compared, and what would be to do is a failure. Raises
    the errors that a scoring process starts with.
    """
    jobs = list(jobs)
    without_ct = {job.name: NO_CT for job in jobs if job.entry.pet_alone}
    studies, why = dated([job for job in jobs if job.name not in without_ct], salt)
    by_patient, unclear = pairs_of(studies)
    pairs = [pair for own in by_patient.values() for pair in own]
    pair_jobs = [_job_of(pair, bundle) for pair in pairs]
    known = {job.name: job for job in pair_jobs if isinstance(job, PairJob)}
    todo = {name: job for name, job in known.items() if not is_compared(job, output)}
    what = "do" if setup or not todo else "compare by --compare-dates"
    say(
        f"two dates: {counted(len(by_patient), 'patient')} with two dates or more, {counted(len(pairs), 'pair')}: "
        f"{len(known) - len(todo)} compared before, {len(todo)} to {what}",
        sys.stdout,
    )
    failed: dict[str, tuple[str, str]] = {} if setup else dict.fromkeys(todo, NOT_NOW)
    if todo and setup:
        with WorkerProcess(setup, lock, module=MODULE) as process:
            for number, (name, job) in enumerate(todo.items(), start=1):
                if failure := _failure_of(process, job):
                    failed[name] = failure
                outcome = f"NOT COMPARED: {'; '.join(failed[name])}" if name in failed else f"{job.days} days, done"
                say(f"[{number} of {len(todo)}] {job.first.name} and {job.second.name}: {outcome}", sys.stdout)
    labels = labels_of(studies)
    compared = [_comparison(pair, job, failed, labels) for pair, job in zip(pairs, pair_jobs, strict=True)]
    return compared + _earlier(output, {job.name for job in jobs}, labels), why | unclear | without_ct


def _failure_of(process: WorkerProcess, job: PairJob) -> tuple[str, str] | None:
    """Have a pair compared. Returns message and remedy if that fails."""
    try:
        answer = process.ask(job, None)
    except TookTooLong as reason:
        return str(reason), "give it more time with --limit-minutes"
    except Died as reason:
        return str(reason), "use a machine with more memory, and run the same command again"
    return None if answer["state"] == "done" else (answer["message"], answer["remedy"])


def _job_of(pair: DatePair, bundle: Bundle) -> PairJob | CaseError:
    try:
        return pair_job(pair, bundle)
    except CaseError as error:
        return error


def _comparison(
    pair: DatePair, job: PairJob | CaseError, failed: dict[str, tuple[str, str]], labels: Mapping[str, str]
) -> ComparedDates:
    """A pair of this run, as it ended. labels: of `labels_of`."""
    first, second = pair.first, pair.second
    named = first.job.options.named
    about: dict[str, Any] = {
        "patient": labels.get(first.patient, first.patient),
        "first": first.job.name,
        "second": second.job.name,
        "days": pair.days,
        "dates": (first.day.isoformat(), second.day.isoformat()) if named else (),
    }
    failure = split_remedy(str(job)) if isinstance(job, CaseError) else failed.get(job.name)
    if failure is None and isinstance(job, PairJob):
        try:
            return _filled(first.job.output, job.name, about, pair.notes)
        except CaseError as error:  # its files were changed meanwhile; the other pairs go on
            failure = split_remedy(str(error))
    return ComparedDates(**about, failure=failure or ("", ""), warnings=pair.notes)


def _filled(output: Path, folder: str, about: dict[str, Any], notes: tuple[str, ...] = ()) -> ComparedDates:
    """A pair that is compared, with its numbers: from the lesion tables as they are now."""
    content = read_pair(output, folder)
    if content is None:
        return ComparedDates(**about, failure=("its files are gone", "run the same command again"), warnings=notes)
    tables = [lesions_of(output, about[side]) for side in ("first", "second")]
    reports = read_report(output, about["first"]), read_report(output, about["second"])
    rows = lesion_rows(matches_in(content), tables[0]["lesions"], tables[1]["lesions"])
    totals = total_row(*map(totals_of, tables))
    return ComparedDates(
        **about,
        folder=folder,
        aligned=content["alignment"]["kind"],
        correlation=content["alignment"]["correlation"],
        totals=totals,
        lesions=tuple(rows),
        response=response(rows, totals) if about["days"] else Response(category="", reason=ONE_DAY),
        warnings=(*notes, *content["warnings"], *why_not_comparable(reports), *how_made_unlike(reports, rows)),
    )


def _earlier(output: Path, found: set[str], labels: Mapping[str, str]) -> list[ComparedDates]:
    """Pairs of earlier runs over other studies that still hold: they stay in the tables. found: studies of this run.
    labels: by hash, the patients of this run as they are named, so that a patient has one place on the page.
    """
    return [
        _filled(
            output,
            folder,
            {
                "patient": labels.get(content["patient"], content["patient"]),
                "first": one,
                "second": other,
                "days": content["days"],
            },
        )
        for folder, (content, one, other) in earlier_pairs(output).items()
        if not {one, other} <= found
    ]
