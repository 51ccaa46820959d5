"""The learning rate over a run, and its picture: cosine with warm-up, then the averaging phase (figure 3).

    python -m training schedule --output docs/averaging_rate.png

draws the rate of a run before and after t0, with both presets of the averaging phase.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace

from model.errors import ConfigError, OutputError
from model.whole import Staging
from training.settings import RATE_PRESETS, Averaging, Training, read_settings

RISE = 0.5  # share of length_epochs in which preset `paper` rises to its peak: ours, the paper gives none
SAMPLES = 400  # points of a curve in the picture


def rate_at(settings: Training, epoch: float) -> float:
    """The learning rate at `epoch`, which counts whole epochs and the share done of the present one; 0: the first step.

    Before t0, or without averaging: linear from floor to optimizer.rate in warmup_epochs, then a cosine to floor at
    schedule.epochs, and floor after it. From averaging.start (t0) on, in length_epochs: preset `paper`, by a cosine
    to peak in the first half and by a cosine to constant in the second (section 2.5: raised, then annealed to a
    constant); preset `authors`, one cosine to constant; then constant. Without a jump at t0.
    """
    averaging = settings.averaging
    if averaging is None or epoch < averaging.start:
        return _base(settings, epoch)
    start, since, length = _base(settings, averaging.start), epoch - averaging.start, averaging.length_epochs
    if since >= length:
        return averaging.constant
    if averaging.rates == "authors":
        return _cosine(start, averaging.constant, since / length)
    if since < RISE * length:
        return _cosine(start, averaging.peak, since / (RISE * length))
    return _cosine(averaging.peak, averaging.constant, (since / length - RISE) / (1 - RISE))


def share_after_restart(restarts: Sequence[Mapping[str, Any]], step: int, last: int) -> float:
    """The share of the rate at a step of a run that went on elsewhere without its optimizer's state: it warms up again.

    restarts: the `step` of each, the `warmup_steps` it takes at most, and the `share` of the steps left, up to `last`,
    that it takes at most.
    """
    shares = [1.0]
    for restart in restarts:
        steps = min(restart["warmup_steps"], int(restart["share"] * (last - restart["step"])))
        shares.append((step - restart["step"] + 1) / (steps + 1))
    return min(shares)


def steps_of(settings: Training, length: int, processes: int = 1) -> int:
    """Optimizer steps of an epoch: as set, or as many as show each of `length` studies or slices once."""
    return settings.schedule.steps_per_epoch or max(1, -(-length // (settings.batch * settings.accumulate * processes)))


def draw(settings: Training, path: Path) -> None:
    """Write the rate over the run as PNG: yellow before t0, green after it, every preset. Raises OutputError.

    Settings without averaging are drawn with the default one.
    """
    from matplotlib.figure import Figure  # half a second that a training run need not spend

    averaging = settings.averaging or Averaging()
    start, last = averaging.start, settings.schedule.epochs
    if not 0 < start < last:
        raise ConfigError(f"averaging.start must lie inside the run of {last} epochs to be drawn, got {start}")
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    before = np.linspace(0, start, SAMPLES)
    base = replace(settings, averaging=None)
    axes.plot(
        before, [rate_at(base, epoch) for epoch in before], color="#f0b400", linewidth=2.5, label="before averaging"
    )
    corners = start + averaging.length_epochs * np.array([RISE, 1])
    after = np.unique(np.clip([*np.linspace(start, last, 4 * SAMPLES), *corners], start, last))
    for preset, style, colour in zip(RATE_PRESETS, ("-", "--"), ("#1a9641", "#0b5d27"), strict=True):
        phase = replace(settings, averaging=replace(averaging, rates=preset))
        axes.plot(
            after,
            [rate_at(phase, epoch) for epoch in after],
            style,
            color=colour,
            linewidth=2,
            label=f"averaging, rates: {preset}",
        )
    axes.axvline(start, color="0.6", linestyle=":", linewidth=1)
    axes.annotate("$t_0$", (start, 0), xytext=(4, 4), textcoords="offset points", color="0.3")
    axes.set(xlabel="epoch", ylabel="learning rate (per step)", xlim=(0, last), ylim=(0, None))
    axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0), useMathText=True)
    axes.grid(alpha=0.3)
    axes.legend(loc="best")
    with Staging() as staging:
        partial = staging.path(path)
        try:
            figure.savefig(partial, format="png", dpi=120, metadata={"Software": None})  # same settings, same bytes
        except OSError as error:
            raise OutputError(f"cannot write '{path}': {error.strerror or error}; is there space?") from None
        staging.commit()


def run(options: argparse.Namespace) -> None:
    """Draw the picture. Raises ConfigError or OutputError."""
    if options.output.suffix.lower() != ".png":
        raise ConfigError(f"--output must end in .png, got '{options.output}'")
    settings = read_settings(options.settings) if options.settings else Training()
    draw(settings, options.output)
    print(f"wrote '{options.output}'")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Cost: seconds; nothing is trained."
    parser.add_argument("--output", type=Path, required=True, metavar="PNG", help="the picture; replaced if it exists")
    parser.add_argument("--settings", type=Path, metavar="YAML", help="settings of a run (default: the paper's)")


def _base(settings: Training, epoch: float) -> float:
    schedule, peak = settings.schedule, settings.optimizer.rate
    if epoch < schedule.warmup_epochs:
        return schedule.floor + (peak - schedule.floor) * epoch / schedule.warmup_epochs
    if epoch >= schedule.epochs:
        return schedule.floor
    return _cosine(peak, schedule.floor, (epoch - schedule.warmup_epochs) / (schedule.epochs - schedule.warmup_epochs))


def _cosine(first: float, last: float, share: float) -> float:
    """Half a cosine from `first` at share 0 to `last` at share 1."""
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2
