"""Commands in processes of their own: one after the other, several at a time over GPUs, or over a cluster."""

import contextlib
import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import ConfigError
from model.schedulers import WAIT_S, as_completed, client_of, slurm_cluster

TIED = """
import ctypes, os, signal, sys
try:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG of Linux, which exec keeps
except (OSError, AttributeError):
    pass
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
"""
BAR = re.compile(r"[^\r\n]*?\[(?:\d+:)?\d\d:\d\d[<,][^\]\r\n]*\]|[^\r\n]*?\d%\|[^\r\n]*")  # tqdm's, whole or cut off
COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
ERROR = re.compile(r"(?:\S+: )?error: (.*)")
RANK = re.compile(r"\[rank\d+\]: ?")  # torch's, before the lines of a process among several
LET_GO_S = 10.0
RUNNING: set[subprocess.Popen[bytes]] = set()


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Where members run. At most one of: `parallel` at a time here, each on the next GPU; `cluster`, the address of a
    dask scheduler; `slurm`, so many jobs by dask-jobqueue, which reads ~/.config/dask/jobqueue.yaml. A cluster may be
    without any worker for `patience_s` seconds.
    """

    parallel: int = 1
    cluster: str | None = None
    slurm: int = 0
    patience_s: float = 600.0

    def __post_init__(self) -> None:
        for name, least in (("parallel", 1), ("slurm", 0)):
            if not least <= getattr(self, name) <= 1000:
                raise ConfigError(f"--{name} must be from {least} to 1000, got {getattr(self, name)}")
        if (self.parallel > 1) + bool(self.cluster) + bool(self.slurm) > 1:
            raise ConfigError("--parallel, --cluster and --slurm exclude each other")
        if not 0 <= self.patience_s < float("inf"):
            raise ConfigError(f"--patience-minutes must be 0 or more, got {self.patience_s / 60:g}")


@dataclass(frozen=True, kw_only=True)
class Job:
    """A command, where what it prints goes, and what is added to its environment."""

    name: str
    command: tuple[str, ...]
    log: Path
    environment: dict[str, str]


def results(jobs: list[Job], engine: Engine) -> Iterator[tuple[str, str | None]]:
    """Every job's name and why it failed, None if it did not, as they end. Closed early, it ends what runs here.

    Raises ConfigError if no scheduler answers, or if a cluster has no worker for longer than `engine.patience_s`.
    """
    if not jobs or (engine.parallel == 1 and not engine.cluster and not engine.slurm):
        yield from ((job.name, run_job(job)) for job in jobs)
        return
    from distributed import Client

    gpus = visible_gpus() if engine.parallel > 1 else ()
    with workers(engine, len(jobs)) as cluster, Client(cluster, timeout=WAIT_S) as client:
        names = {client.submit(_task(job, gpus), key=job.name, pure=False): job.name for job in jobs}
        try:
            for future in as_completed(client, names, engine.patience_s, queued=bool(engine.slurm)):
                yield names.pop(future), _result(future)
        finally:
            stop_all()  # before the workers are closed, which wait for them


def workers(engine: Engine, jobs: int) -> Any:
    """A cluster of dask.distributed, or the address of one, as a context manager. Raises ConfigError."""
    from distributed import LocalCluster

    if engine.parallel > 1:  # threads of this process: each only waits for the process that trains
        return LocalCluster(
            n_workers=min(engine.parallel, jobs),
            threads_per_worker=1,
            processes=False,
            memory_limit=None,
            dashboard_address=None,
            worker_dashboard_address=None,
        )
    import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[run_job.__module__])  # others need not find this file
    if engine.cluster:
        client_of(engine.cluster, WAIT_S).close()
        return contextlib.nullcontext(engine.cluster)
    return slurm_cluster(min(engine.slurm, jobs))


def run_job(job: Job, gpus: tuple[str, ...] = ()) -> str | None:
    """Run a job to its end; None, or why it failed. gpus: of them the worker that runs this takes its own."""
    environment = os.environ | job.environment
    if gpus:
        from distributed import get_worker

        environment["CUDA_VISIBLE_DEVICES"] = gpus[int(get_worker().name) % len(gpus)]
    with job.log.open("ab") as log:
        if not held(log):  # the child inherits it: held for as long as it lives
            return f"another process trains it (it holds '{job.log}'); wait for it, or end it"
        begun = log.seek(0, os.SEEK_END)
        command = (sys.executable, "-I", "-S", "-c", TIED, str(os.getpid()), *job.command)
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        RUNNING.add(child)
        try:
            code = child.wait()
        finally:
            _stop(child)
            RUNNING.discard(child)
    if code == 0:
        return None
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (", most often for want of memory" if name == "SIGKILL" else "")
    with job.log.open("rb") as log:
        log.seek(begun)
        return reason_in(log.read().decode(errors="replace")) or f"exit code {code}, and not a word"


def held(log: Any) -> bool:
    """Whether this process has the log for its own now; one that was just killed may take a moment to let go of it."""
    end = time.monotonic() + LET_GO_S
    while True:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > end:
                return False
        time.sleep(0.1)


def reason_in(text: str) -> str:
    """Why a command failed, by what it printed: its last line `error: ...`, else the exception of its last traceback,
    else its last line; progress bars are no lines, wherever they were drawn. Empty if it printed nothing else.
    """
    lines = [RANK.sub("", line).rstrip() for line in BAR.sub("\n", COLOUR.sub("", text)).splitlines()]
    lines = [line for line in lines if line.strip()]
    errors = [found[1] for line in lines if (found := ERROR.fullmatch(line))]
    raised = []
    for number, line in enumerate(lines):
        ignored = number and lines[number - 1].startswith("Exception ignored")
        if line.startswith("Traceback (most recent call last)") and not ignored:
            raised += [next((after for after in lines[number + 1 :] if not after[0].isspace()), "")]
    return next((found[-1].strip() for found in (errors, raised, lines) if found), "")


def stop_all() -> None:
    """End every process that still runs here."""
    for child in list(RUNNING):
        _stop(child)


def visible_gpus() -> tuple[str, ...]:
    """The GPUs that may be used, as CUDA_VISIBLE_DEVICES names them; empty without any."""
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return tuple(filter(None, named.split(",")))
    import torch

    return tuple(map(str, range(torch.cuda.device_count())))


def _task(job: Job, gpus: tuple[str, ...]) -> Callable[[], str | None]:
    """A function without a name of its own: dask sends such a one, and what it needs, as code."""
    return lambda: run_job(job, gpus)


def _result(future: Any) -> str | None:
    try:
        said: str | None = future.result()
    except Exception as error:  # whatever a worker that is gone raises: the others go on
        return f"its worker failed: {' '.join(str(error).split()) or type(error).__name__}"
    return said


def _stop(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.terminate()
        child.wait()
