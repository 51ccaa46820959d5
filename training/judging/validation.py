"""Validation during a run, and what is shown of it: curves, slices, TensorBoard."""

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from model.errors import ConfigError
from model.inference.device import Device
from model.networks.unet import build
from training.compute.torchrun import gathered, processes, rank
from training.data.folds import Fold
from training.data.prepared import Prepared, load
from training.judging.pictures import draw_curves, draw_slices
from training.judging.predict import finite, margin, score_margin, validation_dice
from training.settings import Training
from training.stopping import StoppedInTime, check_time
from training.weights import checkpoint
from training.weights.averaging import WeightAverage
from training.weights.batch_norm import refreshed

BEST, BEST_NOTE = "best.safetensors", "best.json"
MOST_SHARE = 0.1  # of the time of the steps that validation should take
LEAST_SECONDS = 60.0  # below, a long validation is not worth a warning


class Validation:
    """At the end of epochs: scores of the validation cases by what would be saved, curves, slices, TensorBoard."""

    def __init__(
        self, folder: Path, settings: Training, cache: Path, fold: Fold, network: nn.Module, device: Device
    ) -> None:
        self.folder, self.settings, self.cache, self.network, self.device = folder, settings, cache, network, device
        self.cases, self.all_cases = validation_cases(settings, cache, fold), list(fold.validate)
        self.seconds, self.warned = 0.0, False
        self.average: WeightAverage | None = None
        self.train = fold.train
        self.board = SummaryWriter(str(folder / "tensorboard")) if rank() == 0 else None
        self.last: dict[str, Any] = {}

    def __call__(self, epoch: int, figures: dict[str, Any]) -> dict[str, Any]:
        try:
            scores = self.scores(epoch)
        except (
            StoppedInTime
        ):  # the step's checkpoint is yet to be written; after the last one train_run validates again
            if self.settings.keep == "best":
                raise  # these weights may be the best: go on from the checkpoint before
            scores = {}
        if scores:
            self.say_if_long(figures)
        if self.board is not None:
            for kind, values in (("training", figures), ("validation", scores)):
                for name, value in values.items():
                    if isinstance(value, (int, float)):
                        self.board.add_scalar(f"{kind}/{name}", value, epoch)
            self.board.flush()
        return scores

    def say_if_long(self, figures: dict[str, Any]) -> None:
        """Warn, once, where validation has taken more than MOST_SHARE of the time of the steps."""
        steps = sum(float(figures.get(f"{name}_s", 0)) for name in ("data", "compute"))
        if rank() == 0 and not self.warned and self.seconds > MOST_SHARE * steps and self.seconds > LEAST_SECONDS:
            self.warned = True
            print(
                f"warning: validation took {self.seconds:.0f} s beside {steps:.0f} s of training, more than "
                f"{MOST_SHARE:.0%}: raise validate_every ({self.settings.validate_every} epochs) or lower "
                f"validate_at_most ({self.settings.validate_at_most} studies)",
                file=sys.stderr,
            )

    def scores(self, epoch: int) -> dict[str, float | None]:
        """Mean scores of the validation cases; empty if this epoch is none to validate."""
        stop = self.settings.schedule.last
        if epoch % self.settings.validate_every and epoch != stop or not self.cases:
            return {}
        begun, full = time.monotonic(), epoch == stop and self.settings.keep != "best"
        cases, shown = self.all_cases if full else self.cases, None
        settings = self.settings if full else with_fewer_windows(self.settings)
        network, mine, longest = self.network_to_save(), {}, 0.0
        for case in cases[rank() :: processes()]:  # every process takes its share
            if processes() == 1:  # several end together, after a step
                check_time(f"'{self.folder}' validates", longest)
            began, study = time.monotonic(), load(self.cache, case)
            out = self.margin(network, study, settings)
            mine[case] = score_margin(out, study)
            longest = max(longest, time.monotonic() - began)
            if shown is None or (len(study.lesion) and not len(shown[0].lesion)):
                shown = study, out
        if shown is not None and rank() == 0:
            draw_slices(*shown, self.folder / "slices.png")
        found = {case: score for part in gathered(mine) for case, score in part.items()}
        scores = {case: found[case] for case in cases}
        self.last = {
            "dice": validation_dice(scores),
            "fpv_ml": float(np.mean([s.fpv_ml for s in scores.values()])),
            "fnv_ml": float(np.mean([s.fnv_ml for s in scores.values()])),
        }
        self.keep_best(epoch, network)
        if rank() == 0 and (self.folder / checkpoint.LOG).exists():
            draw_curves(self.folder / checkpoint.LOG, self.folder / "curves.png")
        self.seconds += time.monotonic() - begun
        return dict(self.last)

    def margin(self, network: nn.Module, study: Prepared, settings: Training) -> np.ndarray:
        """The study's margin, computed as in training, or in float32 where that overflows."""

        def compute(on: Device) -> np.ndarray:
            return margin(network, study, settings, on)

        return finite(compute, self.device, f"'{self.folder}', case {study.case}")

    def keep_best(self, epoch: int, network: nn.Module) -> None:
        """Write the weights if they are the best so far and the settings keep the best."""
        if self.settings.keep != "best" or rank() != 0:
            return
        note = self.folder / BEST_NOTE
        before = checkpoint.read_json(note) if note.exists() else None
        if before is None or epoch <= before["epoch"] or self.last["dice"] > before["validation"]["dice"]:
            checkpoint.write_weights(self.folder / BEST, network.state_dict())
            checkpoint.write_json(note, {"epoch": epoch, "validation": self.last})

    def network_to_save(self) -> nn.Module:
        """The network with averaged weights where there are any, else the one that trains."""
        if self.average is None:
            return self.network
        network = build(self.settings.network).to(self.device.torch_device)
        network.load_state_dict(self.average.state())
        return refreshed(network, self.settings, self.cache, self.train, self.device)


def with_fewer_windows(settings: Training) -> Training:
    """The settings with windows of `validate_overlap`, if that is less than theirs, each seen once and not mirrored."""
    window = settings.window
    if settings.network.kind == "slices":
        return settings
    overlap = min(settings.validate_overlap, window.overlap)
    return settings.changed_to(window=replace(window, overlap=overlap, mirrored=()))


def validation_cases(settings: Training, cache: Path, fold: Fold) -> list[str]:
    """The cases a run validates with until its last epoch: at most `validate_at_most` of the fold's.

    They are taken at even distances from the cases in the order of their lesions' volume, so that small and large
    lesions, and none, have their share.
    """
    count = len(fold.validate)
    most = min(settings.validate_at_most or count, count)
    if most == count:
        return list(fold.validate)
    studies = {case: load(cache, case) for case in fold.validate}
    volume = {case: float(np.count_nonzero(study.truth)) * study.voxel_ml for case, study in studies.items()}
    ranked = sorted(fold.validate, key=lambda case: (volume[case], case))
    chosen = {ranked[(2 * number + 1) * count // (2 * most)] for number in range(most)}
    return [case for case in fold.validate if case in chosen]


def check_validation_cases(settings: Training, cache: Path, cases: list[str]) -> None:
    """Warn if no validation case has a lesion: there is no Dice then.

    Raises ConfigError for keep: best, which chooses by the Dice.
    """
    studies = (load(cache, case) for case in cases)
    if any(len(study.lesion) or study.lost_ml for study in studies):
        return
    remedy = "raise validate_at_most, or divide the cases anew"
    if settings.keep == "best":
        raise ConfigError(
            f"keep: best needs a lesion in the {len(cases)} cases that are validated, or no epoch is better than "
            f"another: {remedy}"
        )
    if cases and rank() == 0:
        print(
            f"warning: none of the {len(cases)} cases that are validated has a lesion: there will be no validation "
            f"Dice; {remedy}",
            file=sys.stderr,
        )
