"""A schedule of minutes: the steps of an epoch are fitted to the time of a step, measured where the run begins.

`schedule.minutes` is the time of all `epochs`. What was chosen stands in the run's config.yaml and run.json, so the run
goes on, and can be done again, with as many steps on any machine.
"""

import tempfile
import time
from math import ceil, floor
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from torch import nn

from model.errors import ConfigError
from model.inference.device import Device
from training.compute.torchrun import processes
from training.runs.folder import FITTED
from training.runs.loop import train
from training.runs.losses import loss_function
from training.runs.run import Run
from training.settings import Training, read_yaml
from training.stopping import StoppedInTime
from training.weights import checkpoint

LEAST_S = 5.0  # the steps that are timed take at least so long
FIRST_STEPS, MOST_STEPS, GROWTH = 2, 20_000, 8  # steps timed at first, at most, and times more at each try at most


def fitted_settings(settings: Training, config: Any) -> Training:
    """The settings with the steps that a run's config.yaml chose for their minutes; unchanged where it chose none."""
    fitted = config.get(FITTED) if isinstance(config, dict) else None
    if settings.schedule.minutes is None or not fitted or fitted["minutes"] != settings.schedule.minutes:
        return settings
    return with_steps(settings, fitted["steps_per_epoch"])


def with_steps(settings: Training, steps_per_epoch: int) -> Training:
    """The settings with so many steps an epoch, and no minutes."""
    return settings.changed_to(schedule=replace(settings.schedule, minutes=None, steps_per_epoch=steps_per_epoch))


def fit_schedule(
    folder: Path, settings: Training, network: nn.Module, data: Any, device: Device
) -> tuple[Training, dict[str, Any]]:
    """Choose the steps of an epoch, or take those that the run in this folder began with. Returns settings, and a note.

    network: trained a little, and then of no use. Raises ConfigError for several processes, or for other minutes than
    the run began with.
    """
    minutes = settings.schedule.minutes
    assert minutes is not None
    if processes() > 1:
        raise ConfigError("schedule.minutes is for one process; with torchrun give schedule.steps_per_epoch")
    if (folder / checkpoint.CONFIG).exists():
        found = read_yaml(folder / checkpoint.CONFIG)
        begun = fitted_settings(settings, found)
        if begun is settings:
            raise ConfigError(
                f"'{folder}' holds a run of other settings (schedule.minutes is {minutes:g} now); name another folder"
            )
        return begun, dict(found[FITTED])
    try:
        seconds = seconds_a_step(settings, network, data, device)
    except StoppedInTime:  # its own words name a temporary folder
        raise StoppedInTime(
            f"stopped in time: the steps of '{folder}' were being timed; the same command goes on"
        ) from None
    steps = max(1, floor(60 * minutes / (settings.schedule.epochs * seconds)))
    note = {"minutes": minutes, "steps_per_epoch": steps, "seconds_a_step": round(seconds, 6), "device": device.name}
    print(
        f"'{folder}': a step takes {seconds:.4f} s, so {steps} steps an epoch take {minutes:g} minutes in "
        f"{settings.schedule.epochs} epochs",
        flush=True,
    )
    return with_steps(settings, steps), note


def seconds_a_step(settings: Training, network: nn.Module, data: Any, device: Device) -> float:
    """Seconds of a step, without the first ones, in which libraries choose how they compute."""
    steps = FIRST_STEPS
    while True:
        schedule = replace(settings.schedule, minutes=None, epochs=2, stop=None, warmup_epochs=0, steps_per_epoch=steps)
        short = settings.changed_to(schedule=schedule, averaging=None, keep="last")
        ends: list[float] = []

        def at_epoch(epoch: int, figures: dict[str, Any], ends: list[float] = ends) -> dict[str, Any]:
            ends.append(time.perf_counter())
            return {}

        with tempfile.TemporaryDirectory(prefix="timing-") as place:
            loss = loss_function(settings.loss)
            run = Run(
                folder=Path(place),
                settings=short,
                network=network,
                data=data,
                loss=loss,
                device=device,
                at_epoch=at_epoch,
            )
            train(run, None)
        took = ends[1] - ends[0]
        if took >= LEAST_S or steps >= MOST_STEPS:
            return took / steps
        steps = min(MOST_STEPS, ceil(steps * min(GROWTH, 1.2 * LEAST_S / took)))
