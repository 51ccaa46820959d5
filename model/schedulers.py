"""dask's schedulers: one that runs already, or one whose workers are SLURM jobs."""

import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import Any

from model.errors import ConfigError
from model.terminal import say

WAIT_S = 30.0  # for a scheduler to answer
LOOK_EVERY_S = 5.0  # for workers
REPORT_EVERY_S = 60.0  # on stdout, while there is no worker


def client_of(address: str, wait_s: float, security: Any = None) -> Any:
    """A client of the scheduler at this address. Raises ConfigError if none answers within `wait_s`."""
    from distributed import Client

    try:
        return Client(address, timeout=wait_s, security=security)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--cluster {address}: no scheduler answers ({error}); start it with: dask scheduler"
        ) from None


def as_completed(client: Any, running: Mapping[Any, object], patience_s: float, queued: bool = False) -> Iterator[Any]:
    """Yield the futures of `running` as they end. The caller removes each from it before the next, and may add others.

    While the scheduler has no worker, a line on stdout says so every minute. queued: wait for the first worker without
    a limit, because jobs may be queued. Raises ConfigError if there is no worker for longer than `patience_s`, or if
    the scheduler is lost.
    """
    from distributed import wait

    last_seen = reported = time.monotonic()
    started = not queued  # whether there has been a worker
    while running:
        states = {future: future.status for future in running}
        if "cancelled" in states.values():
            raise ConfigError(
                f"the connection to the scheduler was lost; {_then_repeat('start it and its workers again')}"
            )
        if ended := [future for future, state in states.items() if state in ("finished", "error")]:
            yield from ended
            continue
        with suppress(TimeoutError, CancelledError):
            wait(list(running), timeout=min(LOOK_EVERY_S, patience_s + 0.1), return_when="FIRST_COMPLETED")
            continue
        now, workers = time.monotonic(), _workers(client)
        started = started or workers > 0
        last_seen = now if workers or not started else last_seen
        if now - last_seen > patience_s:
            raise ConfigError(
                f"no worker is left, for {(now - last_seen) / 60:.1f} min (--patience-minutes), and {len(running)} "
                f"tasks wait for one; {_then_repeat('start workers again')}"
            )
        if not workers and now - reported >= REPORT_EVERY_S:
            reported = now
            say(f"no worker at the scheduler; {len(running)} tasks wait for one", sys.stdout)


def _workers(client: Any) -> int:
    """How many workers the scheduler has; 0 if it does not answer."""
    with suppress(OSError, ValueError, KeyError):
        return len(client.scheduler_info(n_workers=-1)["workers"])
    return 0


def _then_repeat(first: str) -> str:
    """A remedy: something first, then the same command."""
    return f"{first}, then the same command again, which goes on with what is not finished"


def slurm_cluster(jobs: int, dashboard: bool = False, security: Any = None) -> Any:
    """Start SLURM jobs by dask-jobqueue, each a worker of one process and one thread; encrypted with `security`.

    ~/.config/dask/jobqueue.yaml says what a job needs. Raises ConfigError if it does not.
    """
    from dask_jobqueue import SLURMCluster

    try:
        cluster = SLURMCluster(
            processes=1,
            worker_extra_args=["--nthreads", "1", "--no-dashboard"],
            scheduler_options={"dashboard": dashboard, "dashboard_address": ":8787" if dashboard else ":0"},
            **({"security": security, "protocol": "tls://"} if security else {}),
        )
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"--slurm: {' '.join(str(error).split())}; write cores, memory, walltime and, for a GPU, "
            "job-extra-directives: ['--gres=gpu:1'] into ~/.config/dask/jobqueue.yaml under jobqueue: slurm:"
        ) from None
    cluster.scale(jobs=jobs)
    return cluster
