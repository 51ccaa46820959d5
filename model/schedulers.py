"""dask's schedulers: one that runs already, or one whose workers are SLURM jobs."""

from typing import Any

from model.errors import ConfigError

WAIT_S = 30.0  # for a scheduler to answer


def client_of(address: str, wait_s: float, security: Any = None) -> Any:
    """A client of the scheduler at this address. Raises ConfigError if none answers within `wait_s`."""
    from distributed import Client

    try:
        return Client(address, timeout=wait_s, security=security)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--cluster {address}: no scheduler answers ({error}); start it with: dask scheduler"
        ) from None


def slurm_cluster(jobs: int, dashboard: bool = False, security: Any = None) -> Any:
    """So many SLURM jobs by dask-jobqueue, which reads ~/.config/dask/jobqueue.yaml, each a worker of one process and
    one thread; encrypted with `security`. Raises ConfigError if that file does not say what jobs need.
    """
    from dask_jobqueue import SLURMCluster

    try:
        cluster = SLURMCluster(
            processes=1, worker_extra_args=["--nthreads", "1", "--no-dashboard"],
            scheduler_options={"dashboard": dashboard, "dashboard_address": ":8787" if dashboard else ":0"},
            **({"security": security, "protocol": "tls://"} if security else {}),
        )  # fmt: skip
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"--slurm: {' '.join(str(error).split())}; write cores, memory, walltime and, for a GPU, "
            "job-extra-directives: ['--gres=gpu:1'] into ~/.config/dask/jobqueue.yaml under jobqueue: slurm:"
        ) from None
    cluster.scale(jobs=jobs)
    return cluster
