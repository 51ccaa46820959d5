"""A dask scheduler and its workers, in processes of their own."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conftest import ROOT


@contextmanager
def running(folder: Path, kind: str, count: int, *options: str) -> Iterator[tuple[str, list[subprocess.Popen]]]:
    """A scheduler and workers on this machine: its address, and the workers' processes. kind: tcp or tls."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    address, online = f"{kind}://127.0.0.1:{port}", os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def start(what: str, *words: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.dask_{what}", *words, *options],
            cwd=folder,
            env=online,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    started = [start("scheduler", "--host", f"{kind}://127.0.0.1", "--port", port, "--no-dashboard")]
    common = ("--nthreads", "1", "--no-dashboard", "--no-nanny", "--host", "127.0.0.1", "--local-directory", ".")
    started += [start("worker", address, *common) for _ in range(count)]
    try:
        yield address, started[1:]
    finally:
        for child in started:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
