"""Run commands of this package side by side, each in a process of its own; one that fails does not stop the others."""

import contextlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from model.errors import LesionError
from training.command import option_words
from training.ensembles.processes import Engine, LoggedCommand, run_commands
from training.ensembles.sweep import environment_of
from training.settings import Training, settings_to
from training.stopping import StoppedInTime, time_is_over
from training.weights import checkpoint

TRAINING = (sys.executable, "-m", "training")


@dataclass(frozen=True, kw_only=True)
class OneRun:
    """A run of training train: its folder, its settings, and the run or the encoder that it begins with."""

    folder: Path
    settings: Training
    start: Path | None = None
    ct_encoder: Path | None = None


def run_side_by_side(
    commands: Mapping[str, Sequence[str]], logs: Path, engine: Engine, is_done: Callable[[str], bool]
) -> None:
    """Run every command whose work is not done. commands: {name: words after `python -m training`}.

    logs: folder of their output. Raises LesionError that names those that failed, once all have ended; StoppedInTime if
    some are not done because the time is over.
    """
    logs.mkdir(parents=True, exist_ok=True)
    environment = environment_of(engine)
    wanted = [
        LoggedCommand(name=name, words=(*TRAINING, *words), log=logs.resolve() / f"{name}.log", environment=environment)
        for name, words in commands.items()
        if not is_done(name)
    ]
    failed: dict[str, str] = {}
    begun = time.monotonic()
    with contextlib.closing(run_commands(wanted, engine)) as ended:
        for name, error in ended:
            if time_is_over() and not is_done(name):
                continue
            if error is None and not is_done(name):
                error = "it ended without its result"
            if error is not None:
                failed[name] = error
            print(f"after {time.monotonic() - begun:.0f} s: {name} {error or 'finished'}", flush=True)
    if failed:
        reasons = "; ".join(f"{name}: {error}" for name, error in failed.items())
        raise LesionError(
            f"{len(failed)} of {len(wanted)} failed ({reasons}); see '{logs}/NAME.log'; the same command again goes on "
            "with them"
        )
    if left := [command.name for command in wanted if not is_done(command.name)]:
        raise StoppedInTime(f"stopped in time: {', '.join(left)} not finished; the same command goes on")


def train_words(run: OneRun, cache: Path, split: Path, fold: str, device: str, logs: Path) -> list[str]:
    """The words of training train for a run; its settings are written to NAME.yaml in the folder `logs`."""
    settings = logs / f"{run.folder.name}.yaml"
    checkpoint.write_text(settings, yaml.safe_dump(settings_to(run.settings), sort_keys=False))
    paths = {"settings": settings, "cache": cache, "split": split, "run": run.folder}
    paths |= {"start": run.start} if run.start else {}
    paths |= {"ct-encoder": run.ct_encoder} if run.ct_encoder else {}
    absolute = {name: path.resolve() for name, path in paths.items()}
    return ["train", *option_words({**absolute, "fold": fold, "device": device})]


def train_side_by_side(
    runs: Sequence[OneRun], logs: Path, *, cache: Path, split: Path, fold: str, device: str, engine: Engine
) -> None:
    """Train every run that is not finished, each in a process. Raises the errors of `run_side_by_side`."""
    folders = {run.folder.name: run.folder for run in runs}
    commands = {run.folder.name: train_words(run, cache, split, fold, device, logs) for run in runs}
    run_side_by_side(commands, logs, engine, lambda name: checkpoint.finished(folders[name]) is not None)
