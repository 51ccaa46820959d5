"""Train many members of one base run: one after the other, over GPUs, or over a cluster (section 2.5).

    python -m training sweep sweep.yaml --cache runs/cache --split split.json --base runs/base --runs runs/members

Each member is a run of training train in a process of its own, in RUNS/NAME; its output is in RUNS/sweep/NAME.log, and
RUNS/sweep.json has the state of each. A member that fails does not stop the others. The same command again leaves
finished members alone and goes on with the rest.
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
from training.command import add_device_option, add_fold_options, option_words
from training.data.folds import Fold, read_fold
from training.ensembles import members
from training.ensembles.members import LOGS, STATES, read_members
from training.ensembles.processes import Engine, LoggedCommand, run_commands
from training.parallel import cores
from training.runs.planned import differing_from_plan
from training.runs.start import starting_point
from training.settings import Training, read_yaml, settings_to
from training.stopping import STOP_AT, StoppedInTime, add_minutes_option, is_limited, time_is_over
from training.weights import checkpoint

TRAIN = (sys.executable, "-m", "training", "train")
ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What is trained: the members by name, the base run they start from, the data, and the folder of their runs."""

    members: dict[str, Training]
    base: Path
    cache: Path
    split: Path
    fold: str
    runs: Path
    device: str = "auto"
    command: tuple[str, ...] = TRAIN  # the first words of every member's command


def sweep(plan: Sweep, engine: Engine | None = None) -> dict[str, Any]:
    """Train every member that is not finished. Returns what sweep.json holds, {"members": {name: {"state": ...}}, ...}.

    state: pending, finished, or failed with `error`, the last line of its output. Raises ConfigError before anything
    runs, if a member's settings do not go with the base run, the fold or the engine; StoppedInTime when the time is
    over.
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
    commands = [member_command(plan, name, engine) for name, entry in states.items() if entry["state"] == "pending"]
    checkpoint.write_json(plan.runs / STATES, report)
    begun = time.monotonic()
    with contextlib.closing(run_commands(commands, engine)) as ended_members:
        for name, error in ended_members:
            there = checkpoint.finished(plan.runs / name) is not None
            if time_is_over() and not there:
                continue  # it stopped in time, too, and stays pending
            if error is None and not there:
                error = f"it ended without {checkpoint.RESULT} and the weights that this file names"
            states[name] |= {"state": "failed", "error": error} if error else {"state": "finished"}
            checkpoint.write_json(plan.runs / STATES, report)
            ended = sum(entry["state"] != "pending" for entry in states.values())
            outcome = f"failed: {error}" if error else "finished"
            print(f"{ended} of {len(states)} after {time.monotonic() - begun:.0f} s: {name} {outcome}", flush=True)
    if pending := [name for name, entry in states.items() if entry["state"] == "pending"]:
        raise StoppedInTime(f"stopped in time: of the members in '{plan.runs}', {', '.join(pending)} are not finished")
    return report


def is_finished(plan: Sweep, name: str, fold: Fold, origin: dict[str, str] | None) -> bool:
    """Whether the member's folder holds its finished run, with these settings, this start and these cases."""
    folder = plan.runs / name
    if checkpoint.finished(folder) is None or not (folder / checkpoint.CONFIG).exists():
        return False
    found = read_yaml(folder / checkpoint.CONFIG)
    return not differing_from_plan(found, plan.members[name], fold, plan.cache, start=origin)


def member_command(plan: Sweep, name: str, engine: Engine) -> LoggedCommand:
    """Write the settings of one member, and return its command. Paths are absolute: workers may run elsewhere."""
    logs = plan.runs.resolve() / LOGS
    settings = logs / f"{name}.yaml"
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
    words = (*plan.command, *option_words(options))
    return LoggedCommand(name=name, words=words, log=logs / f"{name}.log", environment=environment_of(engine))


def environment_of(engine: Engine) -> dict[str, str]:
    """What is added to the environment of a command of this package: where it finds it, its cores, its time."""
    paths = filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
    environment = {"PYTHONPATH": os.pathsep.join(paths), "TQDM_MININTERVAL": "30"}  # the bar goes into a log
    if engine.parallel > 1 and "OMP_NUM_THREADS" not in os.environ:
        environment["OMP_NUM_THREADS"] = str(max(1, cores() // engine.parallel))
    return environment | ({STOP_AT: os.environ[STOP_AT]} if is_limited() else {})


def run(options: argparse.Namespace) -> None:
    """Train the members. Raises ConfigError, or LesionError naming the members that failed."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    plan = Sweep(
        members=read_members(options.sweep),
        base=options.base,
        cache=options.cache,
        split=options.split,
        fold=options.fold,
        runs=options.runs,
        device=options.device,
    )
    engine = Engine(
        parallel=options.parallel,
        cluster=options.cluster,
        slurm=options.slurm,
        patience_s=60 * options.patience_minutes,
    )
    check_finished(sweep(plan, engine), plan.runs)
    print(f"all {len(plan.members)} members in '{options.runs}' are finished")


def check_finished(report: dict[str, Any], runs: Path) -> None:
    """Raise LesionError if members did not finish. report: what `sweep` returned."""
    members = report["members"]
    if failed := [name for name, entry in members.items() if entry["state"] != "finished"]:
        raise LesionError(
            f"{len(failed)} of {len(members)} members failed: {', '.join(failed)}; see '{runs / LOGS}/NAME.log'; the "
            "same command again goes on with them"
        )


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.description = f"{__doc__}\nsweep.yaml: {members.__doc__}"
    parser.epilog = "Cost: that of training train for every member."
    add = parser.add_argument
    add("sweep", type=Path, metavar="YAML", help="settings, and grid or members, see above")
    add_fold_options(parser)
    add("--base", type=Path, required=True, help="folder of the finished base run that every member starts from")
    add("--runs", type=Path, required=True, help="folder of the members' run folders")
    add_device_option(parser)
    add_minutes_option(parser)
    add(
        "--parallel",
        type=int,
        default=1,
        metavar="N",
        help="members to train at a time on this machine, a GPU each; they share GPUs if there are fewer (default 1)",
    )
    add(
        "--cluster",
        metavar="ADDRESS",
        help="train on the workers of a dask scheduler, for example tcp://host:8786, on "
        "machines that see the same files at the same paths; each worker should have one thread (default no)",
    )
    add(
        "--slurm",
        type=int,
        default=0,
        metavar="JOBS",
        help="train in this many SLURM jobs at a time, by dask-jobqueue, "
        "whose settings (queue, cores, memory, walltime, GPU) are in ~/.config/dask/jobqueue.yaml (default no)",
    )
    add(
        "--patience-minutes",
        type=float,
        default=10,
        metavar="N",
        help="how long a cluster may be without any worker "
        "before the sweep ends; the same command again goes on (default 10)",
    )
