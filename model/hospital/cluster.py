"""Studies scored by the workers of a dask cluster; the journal is kept by the one that hands them out.

Workers need this software, and STUDIES and RESULTS under the same paths. Each keeps one scoring process, so that
weights are loaded once, and a study that takes all memory ends that process alone. A worker that is gone gives its
study to another; a result that it had finished is taken as it is.
"""

import json
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

from model.errors import CaseError, ConfigError, LesionError
from model.hospital.find.scan import person_of
from model.hospital.job import Job, Setup, job_from, setup_from, to_json
from model.hospital.journal import DONE, FAILED, Journal, Record
from model.hospital.plan import is_done, read_result
from model.hospital.queue import answer_of, record_of, wait_for
from model.hospital.worker_process import Station
from model.schedulers import WAIT_S, as_completed, client_of, slurm_cluster
from model.terminal import say

TELL_EVERY_S, LEAST_WAIT_S = 60.0, 1.0  # for workers
AHEAD = 2  # studies a worker that are handed out at a time
STATIONS: dict[str, Station] = {}  # of a worker: the one scoring process, by its setup
ONE_AT_A_TIME = Lock()


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where the workers are: `address` of a dask scheduler, or `slurm`, so many jobs by dask-jobqueue, which reads
    ~/.config/dask/jobqueue.yaml. tls: files of certificate authority, certificate and key, as PEM.
    """

    address: str | None = None
    slurm: int = 0
    tls: tuple[Path, Path, Path] | None = None
    dashboard: bool = False

    def __post_init__(self) -> None:
        if bool(self.address) == bool(self.slurm):
            raise ConfigError("--cluster and --slurm exclude each other")
        if self.address and self.address.startswith("tls:") != bool(self.tls):
            raise ConfigError(
                f"--cluster {self.address}: --tls-ca, --tls-cert and --tls-key go with an address tls://..., all three"
            )
        if self.address and self.dashboard:
            raise ConfigError("--dashboard goes with --slurm; a scheduler that runs already has its own")
        for path in self.tls or ():
            if not path.is_file():
                raise ConfigError(f"the TLS file '{path}' is not there; give a PEM file")


def run_cluster(
    jobs: list[Job],
    setup: Setup,
    where: Cluster,
    journal: Journal,
    told: Callable[[Record], None],
    patience_s: float,
    limit_s: float | None = None,
) -> dict[str, Record]:
    """Score studies on a cluster; the record of each, in the order in which they end.

    Raises ConfigError if no scheduler answers, or if all its workers are gone for longer than `patience_s`; OutputError
    as `model.hospital.queue.run_batch`.
    """
    records: dict[str, Record] = {}
    this_run = secrets.token_hex(6)  # what a killed run left on the workers is not taken for this one's
    waiting = iter(jobs)
    with connected(where) as client:
        running: dict[Any, Job] = {}

        def hand_out() -> None:
            job = next(waiting, None)
            if job is None:
                return
            future = client.submit(
                score_remotely,
                to_json(nameless(job)),
                to_json(setup),
                limit_s,
                key=f"{job.name}-{this_run}",
                pure=False,
            )
            running[future] = job

        wait_for(jobs[0].root, jobs[0].output, patience_s)
        wait_for_workers(client, None if where.slurm else patience_s)
        workers = max(where.slurm, len(client.scheduler_info(n_workers=-1)["workers"]), 1)
        for _ in range(AHEAD * workers):
            hand_out()
        for future in as_completed(client, running, patience_s):
            job = running.pop(future)
            records[job.name] = record_of(job, _answer(future))
            journal.add(records[job.name])
            told(records[job.name])
            wait_for(job.root, job.output, patience_s)
            hand_out()
    return records


def wait_for_workers(client: Any, patience_s: float | None) -> None:
    """Wait until the scheduler has a worker, saying so every minute; without a limit for SLURM's, which may be queued.

    Raises ConfigError when patience is over.
    """
    waited = 0.0
    while True:
        longest = TELL_EVERY_S if patience_s is None else min(TELL_EVERY_S, patience_s - waited)
        try:
            client.wait_for_workers(1, timeout=max(longest, LEAST_WAIT_S))
            return
        except TimeoutError:
            waited += longest
        if patience_s is not None and waited >= patience_s:
            raise ConfigError(
                f"no worker came to the scheduler within {waited / 60:.0f} min; start workers, then run this again"
            )
        say(f"no worker yet, for {waited / 60:.0f} min", sys.stdout)


def nameless(job: Job) -> Job:
    """The job without what the headers say of the patient and the study: a worker reads that itself."""
    return replace(job, entry=replace(job.entry, identity=job.name, person=()))


def score_remotely(job: str, setup: str, limit_s: float | None) -> dict[str, Any]:
    """What a worker does: score one study in its scoring process, or find that it is scored already.

    Whatever goes wrong is an answer: dask would write the call, with its paths, into the worker's log.
    """
    try:
        return _score(job_from(json.loads(job)), setup, limit_s)
    except Exception as error:
        return {
            "state": FAILED,
            "stage": "start",
            "message": f"unexpected {type(error).__name__} on a worker",
            "remedy": "are its software, its shares and its rights those of the others?",
        }


def _score(asked: Job, setup: str, limit_s: float | None) -> dict[str, Any]:
    with suppress(CaseError):  # that it cannot be read is told when it is read
        asked = replace(asked, entry=replace(asked.entry, person=person_of(asked.entry)))
    with ONE_AT_A_TIME:
        finished = read_result(asked.output, asked.name)
        if finished is not None and is_done(asked, finished):  # by a worker that was lost before it could say so
            return {"state": DONE, "row": finished.row, "input_sha256": finished.input_sha256, "stat": finished.stat}
        if setup not in STATIONS:
            for station in STATIONS.values():
                station.close()
            STATIONS.clear()
            STATIONS[setup] = Station(setup_from(json.loads(setup)), limit_s)
        try:
            return answer_of(STATIONS[setup], asked, None)
        except LesionError as error:
            return {"state": FAILED, "stage": "start", "message": str(error), "remedy": "correct it on the workers"}


@contextmanager
def connected(where: Cluster) -> Iterator[Any]:
    """A client of the scheduler, and the workers that SLURM gives, while they are needed. Raises ConfigError."""
    from distributed import Client
    from distributed.security import Security

    security = None
    if where.tls:
        ca, certificate, key = map(str, where.tls)
        security = Security(
            tls_ca_file=ca,
            require_encryption=True,
            **{
                f"tls_{who}_{what}": path
                for who in ("client", "scheduler", "worker")
                for what, path in (("cert", certificate), ("key", key))
            },
        )
    if where.address:
        with client_of(where.address, WAIT_S, security) as client:
            yield client
        return
    made = slurm_cluster(where.slurm, where.dashboard, security)
    with made as cluster, Client(cluster, timeout=WAIT_S, security=security) as client:
        yield client


def _answer(future: Any) -> dict[str, Any]:
    """A worker's answer; what dask says of workers that were lost over a study is a failure of that study."""
    try:
        said: dict[str, Any] = future.result()
    except Exception as error:  # whatever a worker that is gone raises: the others go on
        kind = type(error).__name__
        return {
            "state": FAILED,
            "stage": "segment",
            "message": f"the workers that scored it were lost ({kind})",
            "remedy": "give the workers more memory, or leave this study out",
        }
    return said
