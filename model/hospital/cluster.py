"""Studies scored by the workers of a dask cluster. The process that sends them out keeps the journal.

Workers need this software, and STUDIES and RESULTS under the same paths. Each worker keeps one scoring process, so that
weights are loaded once, and a study that takes all memory ends that process alone. If a worker is lost, another gets
its study; a result that it had finished is kept.
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
from model.hospital.batch_precision import auto_precision, common_precision
from model.hospital.find.scan import person_of
from model.hospital.job import Job, Setup, job_from, setup_from, to_json
from model.hospital.journal import DONE, FAILED, Journal, Record
from model.hospital.plan import is_done, read_result
from model.hospital.queue import ask_with_retry, record_of, wait_until_ready
from model.hospital.worker_process import WorkerProcess
from model.schedulers import WAIT_S, as_completed, client_of, slurm_cluster
from model.terminal import say

REPORT_EVERY_S, LEAST_WAIT_S = 60.0, 1.0  # while waiting for workers
JOBS_PER_WORKER = 2  # studies that are sent out at a time, for each worker
PROCESSES: dict[str, WorkerProcess] = {}  # on a worker: its one scoring process, by the setup it was started with
ONE_AT_A_TIME = Lock()


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where the workers are. address: of a dask scheduler; or slurm: number of jobs that dask-jobqueue submits as
    ~/.config/dask/jobqueue.yaml says. tls: PEM files of certificate authority, certificate and key.
    """

    address: str | None = None
    slurm: int = 0
    tls: tuple[Path, Path, Path] | None = None
    dashboard: bool = False

    def __post_init__(self) -> None:
        if bool(self.address) == bool(self.slurm):
            raise ConfigError("--cluster and --slurm exclude each other; give one of them")
        if self.address and self.address.startswith("tls:") != bool(self.tls):
            raise ConfigError(
                f"--cluster {self.address}: an address tls://... needs --tls-ca, --tls-cert and --tls-key, all three, "
                "and another address takes none of them; correct the address or the options"
            )
        if self.address and self.dashboard:
            raise ConfigError(
                "--dashboard goes with --slurm alone; a scheduler that runs already has its own: open that"
            )
        for path in self.tls or ():
            if not path.is_file():
                raise ConfigError(f"the TLS file '{path}' is not there; give a PEM file")


def score_on_cluster(
    jobs_in: Callable[[str], list[Job]],
    setup: Setup,
    cluster: Cluster,
    journal: Journal,
    on_record: Callable[[Record], None],
    patience_s: float,
) -> dict[str, Record]:
    """Score studies on a cluster. Returns the record of each, by study, in the order in which they end.

    jobs_in: the studies to score, with the keys of a precision. With --precision auto it is what all workers have that
    are there when the first came; float32 where they differ. A worker that lacks it says so of each study it gets.
    Each record is also added to the journal and given to `on_record`. Raises ConfigError if no scheduler answers, or if
    all its workers are gone for longer than `patience_s`; OutputError as `model.hospital.queue.score_one_by_one`.
    """
    records: dict[str, Record] = {}
    this_run = secrets.token_hex(6)  # in dask's keys, so that answers to a killed run are not taken for this run's
    first = jobs_in(setup.precision)[0]
    with connected(cluster) as client:
        running: dict[Any, Job] = {}

        def send_next() -> None:
            if (job := next(waiting, None)) is None:
                return
            sent = to_json(without_person(job)), to_json(setup)
            running[client.submit(score_remotely, *sent, key=f"{job.name}-{this_run}", pure=False)] = job

        wait_until_ready(first.root, first.output, patience_s)
        wait_for_workers(client, None if cluster.slurm else patience_s)
        if setup.precision == "auto" and setup.networks:
            setup = replace(setup, precision=precision_of_workers(client, setup.device))
            say(f"precision of all workers: {setup.precision}", sys.stdout)
        waiting = iter(jobs_in(setup.precision))
        workers = max(cluster.slurm, len(client.scheduler_info(n_workers=-1)["workers"]), 1)
        for _ in range(JOBS_PER_WORKER * workers):
            send_next()
        for future in as_completed(client, running, patience_s):
            job = running.pop(future)
            records[job.name] = record_of(job, _answer(future))
            journal.add(records[job.name])
            on_record(records[job.name])
            wait_until_ready(job.root, job.output, patience_s)
            send_next()
    return records


def wait_for_workers(client: Any, patience_s: float | None) -> None:
    """Wait until the scheduler has a worker, and print a line every minute.

    patience_s: None for no limit, as for SLURM, whose jobs may be queued for long. Raises ConfigError after it.
    """
    waited = 0.0
    while True:
        longest = REPORT_EVERY_S if patience_s is None else min(REPORT_EVERY_S, patience_s - waited)
        try:
            client.wait_for_workers(1, timeout=max(longest, LEAST_WAIT_S))
            return
        except TimeoutError:
            waited += longest
        if patience_s is not None and waited >= patience_s:
            raise ConfigError(
                f"no worker came to the scheduler within {waited / 60:.0f} min (--patience-minutes); start workers, "
                "then run the same command again"
            )
        say(f"no worker yet, for {waited / 60:.0f} min", sys.stdout)


def precision_of_workers(client: Any, device: str) -> str:
    """What --precision auto is on all workers. Raises ConfigError if one cannot use the device, or does not answer."""
    answers = client.run(auto_precision, device, on_error="return")
    for answer in answers.values():
        if isinstance(answer, LesionError):
            raise answer
        if not isinstance(answer, str):
            raise ConfigError(
                f"a worker did not say in which precision it computes ({type(answer).__name__}); give all workers this "
                "version of the software, or give --precision"
            )
    return common_precision(answers.values())


def without_person(job: Job) -> Job:
    """The job without the patient's name and ID and the study's UID: a worker reads them from the files itself."""
    return replace(job, entry=replace(job.entry, identity=job.name, person=()))


def score_remotely(job: str, setup: str) -> dict[str, Any]:
    """What a worker does: score one study in its scoring process, or find that it is scored already.

    An error becomes an answer: if it were raised, dask would write the call, with its paths, into the worker's log.
    """
    try:
        return _score(job_from(json.loads(job)), setup)
    except Exception as error:
        return {
            "state": FAILED,
            "stage": "start",
            "message": f"unexpected {type(error).__name__} on a worker",
            "remedy": "check that the worker has the same software, shares and access rights as the others",
        }


def _score(job: Job, setup: str) -> dict[str, Any]:
    with suppress(CaseError):  # scoring will read the file again, and say that it cannot be read
        job = replace(job, entry=replace(job.entry, person=person_of(job.entry)))
    with ONE_AT_A_TIME:
        finished = read_result(job.output, job.name)
        if finished is not None and is_done(job, finished):  # by a worker that was lost before it answered
            return {"state": DONE, "row": finished.row, "input_sha256": finished.input_sha256, "stat": finished.stat}
        if setup not in PROCESSES:
            for process in PROCESSES.values():
                process.close()
            PROCESSES.clear()
            PROCESSES[setup] = WorkerProcess(setup_from(json.loads(setup)))
        try:
            return ask_with_retry(PROCESSES[setup], job, None)
        except LesionError as error:
            return {"state": FAILED, "stage": "start", "message": str(error), "remedy": "correct it on the workers"}


@contextmanager
def connected(cluster: Cluster) -> Iterator[Any]:
    """A client of the scheduler; SLURM's jobs run while it is open. Raises ConfigError."""
    from distributed import Client
    from distributed.security import Security

    security = None
    if cluster.tls:
        ca, certificate, key = map(str, cluster.tls)
        security = Security(
            tls_ca_file=ca,
            require_encryption=True,
            **{
                f"tls_{who}_{what}": path
                for who in ("client", "scheduler", "worker")
                for what, path in (("cert", certificate), ("key", key))
            },
        )
    if cluster.address:
        with client_of(cluster.address, WAIT_S, security) as client:
            yield client
        return
    with (
        slurm_cluster(cluster.slurm, cluster.dashboard, security) as jobs,
        Client(jobs, timeout=WAIT_S, security=security) as client,
    ):
        yield client


def _answer(future: Any) -> dict[str, Any]:
    """A worker's answer; a failure of the study if the workers that scored it were lost."""
    try:
        answer: dict[str, Any] = future.result()
    except Exception as error:  # dask raises many kinds; the other studies go on
        kind = type(error).__name__
        return {
            "state": FAILED,
            "stage": "segment",
            "message": f"the workers that scored it were lost ({kind})",
            "remedy": "give the workers more memory, or leave this study out",
        }
    return answer
