"""The organs of a study, by the networks that have a head for them: at every voxel the class of the largest mean.

As nnU-Net does with its folds, logits of networks that differ in nothing but their weights are averaged, brought back
to the study's voxels, and the largest counts. Where there are several such groups, the weighted mean of their
probabilities counts. Sums lie in the host's memory, 4 bytes a class and voxel of the network's, and classes are
brought back one at a time: so all classes are never at once on the study's own voxels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from model.bundle.settings import Part
from model.inference.device import Device
from model.inference.ladder import Ladder, Rung, run_on_ladder
from model.inference.outputs import split_organs
from model.inference.view import BACKGROUND, StudyView

HOST = torch.device("cpu")
LAST_RUNG = Rung(device=HOST, windows=1, slices=1, sums_on=HOST)


@dataclass(kw_only=True)
class _PartLogits:
    """The mean of the organ logits (O, X, Y, Z) of a part's networks, on the host, and their weight."""

    part: Part
    mean: Tensor
    weight: float


class OrganMean:
    """The organ logits of a study's networks, one network at a time."""

    def __init__(self) -> None:
        self._parts: list[_PartLogits] = []

    def add(self, part: Part, values: Tensor, weight: float) -> Tensor:
        """Count the organ logits among a network's values (`outputs.values_of`), if there are any; they may be kept.

        Returns the others, which do not hold the memory of the organs'.
        """
        lesion, organs = split_organs(values, part.network)
        if not len(organs):
            return values
        known = next((one for one in self._parts if one.part == part), None)
        if known is None:
            self._parts.append(_PartLogits(part=part, mean=organs.to(HOST), weight=weight))
        else:
            before, known.weight = known.weight, known.weight + weight
            for mean, more in zip(known.mean, organs, strict=True):  # a class at a time: no copy of all on the host
                mean.mul_(before / known.weight).add_(more.to(HOST), alpha=weight / known.weight)
        return lesion.clone()

    def labels(self, view: StudyView, ladder: Ladder, device: Device) -> Tensor:
        """The class of every voxel of the study's crop, uint8 (X, Y, Z) on the host; all 0 if nothing was counted.

        Overwrites what was counted. It runs where the last network ran, or on the CPU if memory runs out there, with a
        warning in the ladder. Raises CaseError if memory runs out there, too.
        """
        if not self._parts:
            return torch.zeros(view.shape, dtype=torch.uint8)
        rungs = [ladder.rung] if ladder.rung.device == HOST else [ladder.rung, LAST_RUNG]
        steps = Ladder(rungs=rungs, shape=view.shape, warnings=ladder.warnings)
        return run_on_ladder(lambda rung, _: self._labels(view, rung.device), steps, device, "organs", lambda: None)

    def _labels(self, view: StudyView, device: torch.device) -> Tensor:
        classes = len(self._parts[0].mean)
        found = [partial(_on_crop, view, one, device) for one in self._parts]
        if len(found) == 1:
            return _largest(found[0], classes)
        totals = [_log_of_sum(one, classes) for one in found]

        def probability(number: int) -> Tensor:
            total = torch.zeros_like(totals[0])
            for part, logit, log_sum in zip(self._parts, found, totals, strict=True):
                total.add_(logit(number).sub(log_sum).exp_(), alpha=part.weight)
            return total

        return _largest(probability, classes)


def _on_crop(view: StudyView, logits: _PartLogits, device: torch.device, number: int) -> Tensor:
    """The logit of one class on the study's crop, (X, Y, Z); outside the networks' box it is certain background."""
    return view.channel(logits.part, logits.mean[number].to(device), BACKGROUND if number else 0.0)


def _largest(value: Callable[[int], Tensor], classes: int) -> Tensor:
    """The number of the class with the largest value, uint8 on the host; of a tie the first. Values are overwritten."""
    best = value(0)
    labels = torch.zeros(best.shape, dtype=torch.uint8, device=best.device)
    for number in range(1, classes):
        found = value(number)
        labels.masked_fill_(found > best, number)
        torch.maximum(best, found, out=best)
    return labels.to(HOST)


def _log_of_sum(logit: Callable[[int], Tensor], classes: int) -> Tensor:
    """The logarithm of the sum of the exponentials of all classes' logits."""
    total = logit(0).clone()
    for number in range(1, classes):
        torch.logaddexp(total, logit(number), out=total)
    return total
