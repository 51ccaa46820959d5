"""Run commands in processes of their own: one after the other, several at a time over GPUs, or over a cluster."""

import contextlib
import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import ConfigError
from model.schedulers import WAIT_S, as_completed, client_of, slurm_cluster
from training.stopping import time_is_over, when_asked

# Starts the command in its arguments, which ends when the process of the first argument, its parent, ends.
START_TIED = """
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
LOCK_WAIT_S = 10.0  # a process that was just killed may hold its log a moment longer
RUNNING: set[subprocess.Popen[bytes]] = set()


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Where members run. parallel: so many at a time here, each on the next GPU; or cluster: the address of a dask
    scheduler; or slurm: so many jobs by dask-jobqueue, which reads ~/.config/dask/jobqueue.yaml. patience_s: how long a
    cluster may be without any worker.
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
            raise ConfigError("--parallel, --cluster and --slurm exclude each other; give one of them")
        if not 0 <= self.patience_s < float("inf"):
            raise ConfigError(f"--patience-minutes must be 0 or more, got {self.patience_s / 60:g}")


@dataclass(frozen=True, kw_only=True)
class LoggedCommand:
    """A command, the file that its output is appended to, and what is added to its environment."""

    name: str
    words: tuple[str, ...]
    log: Path
    environment: dict[str, str]


def run_commands(commands: list[LoggedCommand], engine: Engine) -> Generator[tuple[str, str | None], None, None]:
    """Run all; yield each one's name and why it failed, None if it did not, as they end. Closed early, it ends what
    runs here. When the time of this command is over, those that were not begun are left out.

    Raises ConfigError if no scheduler answers, or if a cluster has no worker for longer than `engine.patience_s`.
    """
    if not commands or (engine.parallel == 1 and not engine.cluster and not engine.slurm):
        for command in commands:
            if time_is_over():
                return
            yield command.name, run_logged(command)
        return
    from distributed import Client

    gpus = visible_gpus() if engine.parallel > 1 else ()
    with workers(engine, len(commands)) as cluster, Client(cluster, timeout=WAIT_S) as client:
        names = {client.submit(_task(one, gpus), key=one.name, pure=False): one.name for one in commands}
        try:
            for future in as_completed(client, names, engine.patience_s, queued=bool(engine.slurm)):
                yield names.pop(future), _result(future)
        finally:
            stop_all()  # before the workers are closed, which wait for them


def workers(engine: Engine, count: int) -> Any:
    """A dask cluster for `count` commands, or the address of one, as a context manager. Raises ConfigError."""
    from distributed import LocalCluster

    if engine.parallel > 1:  # threads of this process: each only waits for the process that trains
        return LocalCluster(
            n_workers=min(engine.parallel, count),
            threads_per_worker=1,
            processes=False,
            memory_limit=None,
            dashboard_address=None,
            worker_dashboard_address=None,
        )
    import cloudpickle  # type: ignore[import-untyped]

    cloudpickle.register_pickle_by_value(
        sys.modules[run_logged.__module__]
    )  # workers elsewhere need not have this file
    if engine.cluster:
        client_of(engine.cluster, WAIT_S).close()
        return contextlib.nullcontext(engine.cluster)
    return slurm_cluster(min(engine.slurm, count))


def run_logged(command: LoggedCommand, gpus: tuple[str, ...] = ()) -> str | None:
    """Run a command to its end. Returns None, or why it failed. gpus: the dask worker that runs this takes its own."""
    environment = os.environ | command.environment
    if gpus:
        from distributed import get_worker

        environment["CUDA_VISIBLE_DEVICES"] = gpus[int(get_worker().name) % len(gpus)]
    with command.log.open("ab") as log:
        if not lock(log):  # the child inherits the lock, and holds it for as long as it lives
            return f"another process trains it (it holds '{command.log}'); wait for it, or end it"
        begun = log.seek(0, os.SEEK_END)
        words = (sys.executable, "-I", "-S", "-c", START_TIED, str(os.getpid()), *command.words)
        child = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
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
    with command.log.open("rb") as log:
        log.seek(begun)
        return failure_reason(log.read().decode(errors="replace")) or f"exit code {code}, without a message"


def lock(log: Any) -> bool:
    """Lock the log for this process. Returns False if another process still holds it after LOCK_WAIT_S."""
    end = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > end:
                return False
        time.sleep(0.1)


def failure_reason(text: str) -> str:
    """Why a command failed, from its output: its last line `error: ...`, else the exception of its last traceback,
    else its last line; empty if it printed nothing. Progress bars do not count.
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


def hand_on_signal() -> None:
    """Ask every process that runs here to stop at its next checkpoint."""
    for child in list(RUNNING):
        child.send_signal(signal.SIGUSR1)


def visible_gpus() -> tuple[str, ...]:
    """The GPUs that may be used, as CUDA_VISIBLE_DEVICES names them; empty without any."""
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return tuple(filter(None, named.split(",")))
    import torch

    return tuple(map(str, range(torch.cuda.device_count())))


def _task(command: LoggedCommand, gpus: tuple[str, ...]) -> Callable[[], str | None]:
    """A function without a name: dask sends its code and what it needs to the worker."""
    return lambda: run_logged(command, gpus)


def _result(future: Any) -> str | None:
    try:
        reason: str | None = future.result()
    except Exception as error:  # a lost worker may raise anything; the other commands go on
        return f"its worker failed: {' '.join(str(error).split()) or type(error).__name__}"
    return reason


def _stop(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.terminate()
        child.wait()


when_asked(hand_on_signal)
