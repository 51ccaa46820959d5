"""The options of score.py about other machines."""

import argparse
from pathlib import Path

from model.errors import ConfigError
from model.hospital.cluster import Cluster


def cluster_of(options: argparse.Namespace) -> Cluster | None:
    """The machines that the options name; None for this one alone. Raises ConfigError."""
    tls = [options.tls_ca, options.tls_cert, options.tls_key]
    if any(tls) and not all(tls):
        raise ConfigError("--tls-ca, --tls-cert and --tls-key go together; give all three or none")
    if not 0 <= options.slurm <= 1000:
        raise ConfigError(f"--slurm must be 0 to 1000 jobs, got {options.slurm}")
    if not options.cluster and not options.slurm:
        return None
    return Cluster(
        address=options.cluster,
        slurm=options.slurm,
        tls=tuple(tls) if all(tls) else None,
        dashboard=options.dashboard,
    )


def add_cluster_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("other machines").add_argument
    add(
        "--cluster",
        metavar="ADDRESS",
        help="score on the workers of the dask scheduler at tcp://... or tls://...; see docs/cluster.md (default: no, "
        "this machine alone and no network; cost: studies and results on a share that all workers see)",
    )
    add(
        "--slurm",
        type=int,
        default=0,
        metavar="JOBS",
        help="score on this many SLURM jobs, one worker each (default: no)",
    )
    for what in ("ca", "cert", "key"):
        add(
            f"--tls-{what}",
            type=Path,
            metavar="PEM",
            help="with --listen or --cluster tls://...: certificate authority, certificate, key (default: no)",
        )
    add("--dashboard", action="store_true", help="with --slurm: dask's dashboard on port 8787 (default: no)")
