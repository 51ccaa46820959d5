"""The weighted mean of the networks' margins, and how far their probabilities lie apart."""

from typing import Any

import torch
from torch import Tensor

from model.inference.sliding import OUTSIDE

LEAST_TOTAL = 1e-9  # least total weight: keeps the division defined where no network looked


class MeanMargin:
    """The weighted mean of margins, (X, Y, Z), one network at a time; the weights given sum to 1.

    combine logits: the mean of the margins, whose sign is the argmax; probabilities and parts: the mean of the lesion
    probabilities, minus 1/2. mixed: a network may leave voxels out (OUTSIDE); there the mean is of the others, and
    where all leave a voxel out it is background.
    """

    def __init__(self, combine: str, mixed: bool) -> None:
        self._combine, self._mixed = combine, mixed
        self._sum: Tensor | None = None
        self._left_out: Tensor | None = None  # weight of the networks that left a voxel out

    def add(self, margin: Tensor, share: float) -> None:
        """Count a network's margin, which is overwritten. share: its weight over that of all networks."""
        left_out = margin == OUTSIDE if self._mixed else None
        if self._combine != "logits":
            margin = margin.sigmoid_().sub_(0.5)
        if left_out is not None and left_out.any():
            margin[left_out] = 0
            weights = left_out.float().mul_(share).cpu()
            self._left_out = weights if self._left_out is None else self._left_out.add_(weights)
        margin = margin.mul_(share)
        self._sum = margin if self._sum is None else self._sum.to(margin.device).add_(margin)

    def mean(self) -> Tensor:
        """The mean, float32, above 0 = lesion, where the last margin was."""
        assert self._sum is not None  # a manifest has members
        if self._left_out is None:
            return self._sum
        return torch.where(self._left_out < 1 - 1e-6, self._sum.cpu() / (1 - self._left_out), -0.5)


class PartMean:
    """The weighted mean of the values (K, X, Y, Z) of networks that differ in nothing but their weights."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._weight = 0.0

    def add(self, values: Tensor, weight: float) -> None:
        """Count a network's values, which may be overwritten."""
        if self._sum is None:
            self._sum, self._weight = values, weight
            return
        before, self._weight = self._weight, self._weight + weight
        self._sum = self._sum.to(values.device).mul_(before / self._weight).add_(values.mul_(weight / self._weight))

    def take(self) -> tuple[Tensor, float]:
        """The mean and the weight of all that were added; begins anew. One network's values come as they were."""
        assert self._sum is not None  # something was added
        found, weight = self._sum, self._weight
        self._sum, self._weight = None, 0.0
        return found, weight


class Spread:
    """The weighted standard deviation of probabilities, one network at a time.

    West 1979, doi:10.1145/359146.359153.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._weight: Any = 0.0  # a tensor once a network left voxels out
        self._mean, self._squares = torch.zeros(shape), torch.zeros(shape)

    def add(self, probability: Tensor, weight: float, left_out: Tensor | None = None) -> None:
        """Count a network's probabilities, which are overwritten. left_out: voxels that it does not count for."""
        share: Any = weight if left_out is None else weight * ~left_out
        self._weight = self._weight + share
        off = probability - self._mean
        self._mean += off * (share / torch.as_tensor(self._weight).clamp(min=LEAST_TOTAL))
        self._squares += off.mul_(probability.sub_(self._mean)).mul_(share)

    def add_margin(self, margin: Tensor, weight: float, mixed: bool) -> None:
        """Count a network's margin, which is left as it is; mixed: OUTSIDE marks voxels that it left out."""
        self.add(margin.sigmoid().cpu(), weight, (margin == OUTSIDE).cpu() if mixed else None)

    def deviation(self) -> Tensor:
        """(X, Y, Z) float32 on the host."""
        return (self._squares / torch.as_tensor(self._weight).clamp(min=LEAST_TOTAL)).clamp_(min=0).sqrt_()
