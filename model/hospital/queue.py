"""Studies scored one after the other. A study that ends the scoring process does not end the run."""

import os
import re
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from model.errors import OutputError
from model.hospital.folder import LOCK
from model.hospital.job import Job
from model.hospital.journal import DONE, FAILED, Journal, Record
from model.hospital.stored_results import finish_without_dicom, lacks_only_dicom
from model.hospital.worker_process import Died, TookTooLong, WorkerProcess
from model.results.writing import check_output
from model.terminal import say

LEAST_FREE_BYTES = 200_000_000  # on the results' disk, before a study is begun
CHECK_EVERY_S = 5.0  # while waiting for a disk
STORED_SPEEDUP = 10  # about how many times faster a study is whose mask is there already


def score_one_by_one(
    jobs: list[Job],
    process: WorkerProcess,
    journal: Journal,
    on_record: Callable[[Record], None],
    patience_s: float,
) -> dict[str, Record]:
    """Score studies in order. Returns the record of each, by study; each is also added to the journal and given to
    `on_record`.

    A study at which the scoring process dies is tried once more, alone: the next study, which is read meanwhile, may
    have been the reason. Raises OutputError if the results folder or the studies are gone, or the disk is full, for
    longer than `patience_s`.
    """
    records = {}
    for number, job in enumerate(jobs):
        wait_until_ready(job.root, job.output, patience_s)
        following = jobs[number + 1] if number + 1 < len(jobs) else None
        record = record_of(job, ask_with_retry(process, job, following))
        records[job.name] = record
        journal.add(record)
        on_record(record)
    return records


def ask_with_retry(process: WorkerProcess, job: Job, following: Job | None) -> dict[str, Any]:
    """The scoring process's answer about a study; a failure if the process dies of it twice or takes too long."""
    try:
        return process.ask(job, following)
    except TookTooLong as reason:
        if finished := finish_without_dicom(job, str(reason)):
            return finished
        remedy = "give it more time with --limit-minutes, or leave this study out"
        return {"state": FAILED, "stage": "segment", "message": str(reason), "remedy": remedy}
    except Died:
        pass
    if lacks_only_dicom(job):  # it died while it made the SEG: the mask is there
        job = replace(job, stored=job.name, edit=replace(job.edit, path=None) if job.edit else None)
    try:
        return process.ask(job, None)
    except Died as reason:
        if finished := finish_without_dicom(job, str(reason)):
            return finished
        remedy = "use a machine with more memory, or a bundle with a smaller window, or leave this study out"
        return {"state": FAILED, "stage": "segment", "message": f"{reason}, twice", "remedy": remedy}


def record_of(job: Job, answer: dict[str, Any]) -> Record:
    """The journal's record of an answer."""
    fields = {name: answer.get(name, "") for name in ("input_sha256", "stat", "stage", "message", "remedy")}
    state = DONE if answer["state"] == DONE else FAILED
    if state == FAILED and job.entry.taken:
        fields["message"] = f"{fields['message']} (taken: {job.entry.taken})"
    return Record(study=job.name, state=state, key=answer.get("key", job.key), row=answer.get("row", {}), **fields)


def wait_until_ready(root: Path, output: Path, patience_s: float) -> None:
    """Wait until studies and results can be reached and the disk has space; each new reason to wait is printed.

    Raises OutputError after `patience_s`.
    """
    end = time.monotonic() + patience_s
    printed = ""
    while reason := _why_unavailable(root, output):
        if time.monotonic() >= end:
            raise OutputError(f"{reason}; then run the same command again: what is done is kept")
        kind = re.sub(r"\d+", "", reason)  # free space changes by the second
        if kind != printed:
            say(f"waiting, up to {max(0.0, end - time.monotonic()) / 60:.1f} min: {reason}", sys.stdout)
        printed = kind
        time.sleep(min(CHECK_EVERY_S, max(0.0, end - time.monotonic())))
    if printed:
        say("going on", sys.stdout)


class TimeLeft:
    """How long a run still takes, by the sizes of its studies: a large one takes longer than a small one."""

    def __init__(self, sizes: dict[str, int]) -> None:
        self._sizes, self._total, self._done = sizes, sum(sizes.values()), 0

    def share_of(self, study: str) -> float:
        """How many times this study's work is in all studies."""
        return self._total / self._sizes[study]

    def after(self, study: str, seconds: float) -> float:
        """Seconds left after `study`, when the run has taken `seconds`."""
        self._done += self._sizes[study]
        return seconds * (self._total - self._done) / self._done


def size_of(job: Job) -> int:
    """About how much work a study is: the bytes of its PET, judged by its first file; less where its mask is there."""
    with suppress(OSError):
        size: int = len(job.entry.pet) * job.entry.pet[0].stat().st_size
        return max(1, size // (STORED_SPEEDUP if job.stored else 1))
    return 1


def _why_unavailable(root: Path, output: Path) -> str:
    """Why no study can be begun, with the remedy; "" if one can."""
    try:
        if not root.exists() or (root.is_dir() and not any(root.iterdir())):  # a share that is not mounted is empty
            return f"the studies in '{root}' are gone; is the share still there? Bring it back"
    except OSError as error:
        return f"the studies in '{root}' cannot be reached: {error.strerror}; is the share still there? Bring it back"
    try:
        if not (output / LOCK).exists():  # it was made when the run began
            return f"the results folder '{output}' is gone; is the share still there? Bring it back"
        check_output(output)
        stats = os.statvfs(output)
    except (OSError, OutputError) as error:
        return str(error)
    free = stats.f_bavail * stats.f_frsize
    if free < LEAST_FREE_BYTES:
        return (
            f"the disk of '{output}' has {free / 1e6:.0f} MB free, and a study needs {LEAST_FREE_BYTES / 1e6:.0f} MB "
            "or more to begin; free some space"
        )
    return ""
