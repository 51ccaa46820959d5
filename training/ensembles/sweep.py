"""H members of one base run: one after the other, several at a time over GPUs, or over a cluster (section 2.5).

    python -m training sweep sweep.yaml --cache runs/cache --split split.json --base runs/base --runs runs/members

What stands in sweep.yaml: training/ensembles/members.py. Each member is a run of training train in a process of its
own, RUNS/NAME, with what it prints in RUNS/sweep/NAME.log; RUNS/sweep.json holds the state of each. A member that fails
does not stop the others. The same command again leaves finished members alone and goes on with the rest.
"""

import argparse
import contextlib
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from model.errors import ConfigError, LesionError
from training.command import ENDS, told
from training.data.folds import Fold, read_fold
from training.data.prepared import digest_of, load
from training.ensembles import members
from training.ensembles.members import KEPT, STATES, read_members
from training.ensembles.processes import Engine, Job, results
from training.runs import checkpoint
from training.runs.start import starting_point
from training.settings import Training, read_yaml, settings_to

TRAIN = (sys.executable, "-m", "training", "train")
ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What is trained: members by name, from which base run, on which data, into which folder."""

    members: dict[str, Training]
    base: Path
    cache: Path
    split: Path
    fold: str
    runs: Path
    device: str = "auto"
    command: tuple[str, ...] = TRAIN


def sweep(plan: Sweep, engine: Engine | None = None) -> dict[str, Any]:
    """Train every member that is not finished; what sweep.json holds, {"members": {name: {"state": ...}}, ...}.

    state: pending, finished or failed, then with `error`, its last line. Raises ConfigError before anything runs,
    if a member's settings do not go with the base run, the fold or the engine.
    """
    engine = engine or Engine()
    fold = read_fold(plan.split, plan.fold)
    for name, settings in plan.members.items():
        if settings.averaging is None:
            raise ConfigError(
                f"member {name} has no averaging: a member is fine-tuned from the base run while its weights are "
                "averaged (equation 2); set averaging.start to the base run's last epoch"
            )
    origins = {name: starting_point(settings, plan.base, None) for name, settings in plan.members.items()}
    states = {
        name: {"state": "finished" if is_finished(plan, name, fold, origins[name]) else "pending"}
        for name in plan.members
    }
    report = {
        "base": next(iter(origins.values()), None),
        "cache": str(plan.cache),
        "split": str(plan.split),
        "fold": plan.fold,
        "members": states,
    }
    jobs = [job_of(plan, name, engine) for name, entry in states.items() if entry["state"] == "pending"]
    checkpoint.write_json(plan.runs / STATES, report)
    begun = time.monotonic()
    with contextlib.closing(results(jobs, engine)) as ending:
        for name, error in ending:
            if error is None and checkpoint.finished(plan.runs / name) is None:
                error = f"it ended without {checkpoint.RESULT} and the weights that this names"
            states[name] |= {"state": "failed", "error": error} if error else {"state": "finished"}
            checkpoint.write_json(plan.runs / STATES, report)
            ended = sum(entry["state"] != "pending" for entry in states.values())
            said = f"failed: {error}" if error else "finished"
            print(f"{ended} of {len(states)} after {time.monotonic() - begun:.0f} s: {name} {said}", flush=True)
    return report


def is_finished(plan: Sweep, name: str, fold: Fold, origin: dict[str, str] | None) -> bool:
    """Whether the member's folder holds its finished run, with these settings, this start and these cases."""
    folder = plan.runs / name
    if checkpoint.finished(folder) is None or not (folder / checkpoint.CONFIG).exists():
        return False
    wanted = {
        "settings": settings_to(plan.members[name]),
        "start": origin,
        "train": list(fold.train),
        "validate": list(fold.validate),
        "data": digest_of(load(plan.cache, case) for case in (*fold.train, *fold.validate)),
    }
    there = read_yaml(folder / checkpoint.CONFIG)
    return isinstance(there, dict) and not checkpoint.differing({key: there.get(key) for key in wanted}, wanted)


def job_of(plan: Sweep, name: str, engine: Engine) -> Job:
    """The command of one member; its settings are written for it. Paths are absolute: workers may run elsewhere."""
    kept = plan.runs.resolve() / KEPT
    settings = kept / f"{name}.yaml"
    checkpoint.write_text(settings, yaml.safe_dump(settings_to(plan.members[name]), sort_keys=False))
    options = {
        "settings": settings,
        "cache": plan.cache.resolve(),
        "split": plan.split.resolve(),
        "fold": plan.fold,
        "run": plan.runs.resolve() / name,
        "start": plan.base.resolve(),
        "device": plan.device,
    }
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    paths = filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
    environment = {"PYTHONPATH": os.pathsep.join(paths), "TQDM_MININTERVAL": "30"}  # a bar in a log, not on a screen
    if engine.parallel > 1 and "OMP_NUM_THREADS" not in os.environ:
        environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // engine.parallel))
    return Job(name=name, command=(*plan.command, *words), log=kept / f"{name}.log", environment=environment)


def main(arguments: list[str] | None = None) -> int:
    """Run with the command line's arguments. Returns the exit code; an error is the last line on stderr."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        plan = Sweep(
            members=read_members(options.sweep),
            base=options.base,
            cache=options.cache,
            split=options.split,
            fold=options.fold,
            runs=options.runs,
            device=options.device,
        )
        report = sweep(
            plan,
            Engine(
                parallel=options.parallel,
                cluster=options.cluster,
                slurm=options.slurm,
                patience_s=60 * options.patience_minutes,
            ),
        )
        failed = [name for name, entry in report["members"].items() if entry["state"] != "finished"]
        if failed:
            raise LesionError(
                f"{len(failed)} of {len(plan.members)} members failed: {', '.join(failed)}; see "
                f"'{options.runs / KEPT}/NAME.log'; the same command again goes on with them"
            )
    except ENDS as error:
        return told(error)
    print(f"all {len(plan.members)} members in '{options.runs}' are finished")
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training sweep",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"{__doc__}\nsweep.yaml: {members.__doc__}",
        epilog="Cost: that of training train for every member.",
    )
    add = parser.add_argument
    add("sweep", type=Path, metavar="YAML", help="settings, and grid or members, see above")
    add("--cache", type=Path, required=True, help="what training prepare wrote")
    add("--split", type=Path, required=True, help="what training split wrote")
    add("--fold", default="0", help="name of the fold (default 0)")
    add("--base", type=Path, required=True, help="folder of the finished base run that every member starts from")
    add("--runs", type=Path, required=True, help="folder of the members' run folders")
    add("--device", default="auto", choices=("auto", "cuda", "cpu"), help="of every member (default auto)")
    add(
        "--parallel",
        type=int,
        default=1,
        metavar="N",
        help="so many at a time on this machine, on one GPU each, in turn where there are fewer (default 1)",
    )
    add(
        "--cluster",
        metavar="ADDRESS",
        help="over the workers of a dask scheduler, for example tcp://host:8786, on "
        "machines that see the same files at the same paths; each worker should have one thread (default no)",
    )
    add(
        "--slurm",
        type=int,
        default=0,
        metavar="JOBS",
        help="over so many SLURM jobs at a time, by dask-jobqueue, "
        "whose settings (queue, cores, memory, walltime, GPU) stand in ~/.config/dask/jobqueue.yaml (default no)",
    )
    add(
        "--patience-minutes",
        type=float,
        default=10,
        metavar="N",
        help="how long a cluster may be without any worker "
        "before the sweep ends; the same command again goes on (default 10)",
    )
    return parser.parse_args(arguments)
