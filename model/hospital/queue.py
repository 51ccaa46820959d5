"""Studies scored one after the other, whatever becomes of one of them."""

import os
import re
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from model.errors import OutputError
from model.hospital.folder import LOCK
from model.hospital.job import Job
from model.hospital.journal import DONE, FAILED, Journal, Record
from model.hospital.stored_results import is_begun, without_dicom
from model.hospital.worker_process import Died, TookTooLong
from model.results.writing import check_output
from model.terminal import say

LEAST_FREE_BYTES = 200_000_000  # on the results' disk, before a study is begun
LOOK_AGAIN_S = 5.0
STORED_IS_FASTER = 10  # times, about: no network runs


class Scores(Protocol):
    """Where studies are scored: `model.hospital.worker_process.Station`."""

    def ask(self, job: Job, following: Job | None) -> dict[str, Any]: ...


def run_batch(
    jobs: list[Job],
    station: Scores,
    journal: Journal,
    told: Callable[[Record], None],
    patience_s: float,
) -> dict[str, Record]:
    """Score studies in order; the record of each, also written to the journal. `told` hears of each.

    A study at which the scoring process dies is tried once more, alone: the next one, read ahead, may have been the
    reason. Raises OutputError if the results folder, or the studies, are gone or full for longer than `patience_s`.
    """
    records = {}
    for number, job in enumerate(jobs):
        wait_for(job.root, job.output, patience_s)
        following = jobs[number + 1] if number + 1 < len(jobs) else None
        record = record_of(job, answer_of(station, job, following))
        records[job.name] = record
        journal.add(record)
        told(record)
    return records


def answer_of(station: Scores, job: Job, following: Job | None) -> dict[str, Any]:
    """What the scoring process says of a study, or that it died of it."""
    try:
        return station.ask(job, following)
    except TookTooLong as reason:
        if finished := without_dicom(job, str(reason)):
            return finished
        remedy = "give it more with --limit-minutes, or leave this study out"
        return {"state": FAILED, "stage": "segment", "message": str(reason), "remedy": remedy}
    except Died:
        pass
    if is_begun(job):  # it died of the SEG: the mask is there
        job = replace(job, stored=job.name)
    try:
        return station.ask(job, None)
    except Died as reason:
        if finished := without_dicom(job, str(reason)):
            return finished
        remedy = "use a machine with more memory, or a bundle with a smaller window, or leave this study out"
        return {"state": FAILED, "stage": "segment", "message": f"{reason}, twice", "remedy": remedy}


def record_of(job: Job, answer: dict[str, Any]) -> Record:
    """The journal's record of an answer."""
    said = {name: answer.get(name, "") for name in ("input_sha256", "stat", "stage", "message", "remedy")}
    state = DONE if answer["state"] == DONE else FAILED
    if state == FAILED and job.entry.taken:
        said["message"] = f"{said['message']} (taken: {job.entry.taken})"
    return Record(study=job.name, state=state, key=job.key, row=answer.get("row", {}), **said)


def wait_for(root: Path, output: Path, patience_s: float) -> None:
    """Wait until studies and results can be reached and there is space, saying what for.

    Raises OutputError when patience is over.
    """
    end = time.monotonic() + patience_s
    said = ""
    while trouble := _trouble(root, output):
        if time.monotonic() >= end:
            raise OutputError(f"{trouble}; then run the same command again: what is done is kept")
        kind = re.sub(r"\d+", "", trouble)  # free space changes by the second
        if kind != said:
            say(f"waiting, up to {max(0.0, end - time.monotonic()) / 60:.1f} min: {trouble}", sys.stdout)
        said = kind
        time.sleep(min(LOOK_AGAIN_S, max(0.0, end - time.monotonic())))
    if said:
        say("going on", sys.stdout)


class Left:
    """How long a batch still takes, by the sizes of its studies: a large one takes longer than a small one."""

    def __init__(self, sizes: dict[str, int]) -> None:
        self._sizes, self._whole, self._done = sizes, sum(sizes.values()), 0

    def after(self, study: str, seconds: float) -> float:
        """Seconds left after `study`, when the batch has taken `seconds`."""
        self._done += self._sizes[study]
        return seconds * (self._whole - self._done) / self._done


def size_of(job: Job) -> int:
    """About how much there is to do in a study: bytes of its PET, by its first file; nearly none with a mask."""
    with suppress(OSError):
        size: int = len(job.entry.pet) * job.entry.pet[0].stat().st_size
        return max(1, size // (STORED_IS_FASTER if job.stored else 1))
    return 1


def _trouble(root: Path, output: Path) -> str:
    try:
        if not root.exists() or (root.is_dir() and not any(root.iterdir())):  # a share that is not mounted is empty
            return f"the studies in '{root}' are gone; is the share still there? Bring it back"
    except OSError as error:
        return f"the studies in '{root}' cannot be reached: {error.strerror}; is the share still there? Bring it back"
    try:
        if not (output / LOCK).exists():  # which was made when the run began
            return f"the results folder '{output}' is gone; is the share still there? Bring it back"
        check_output(output)
        stats = os.statvfs(output)
    except (OSError, OutputError) as error:
        return str(error)
    free = stats.f_bavail * stats.f_frsize
    if free < LEAST_FREE_BYTES:
        return (
            f"the disk of '{output}' has {free / 1e6:.0f} MB free, and a study is begun with "
            f"{LEAST_FREE_BYTES / 1e6:.0f} MB or more; free some space"
        )
    return ""
