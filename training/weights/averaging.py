"""Weight averaging (Ahn and Park, equation 2): the running mean of a network's weights from t0 on."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from model.errors import WeightsError
from training.compute.finite import not_finite


class WeightAverage:
    """The mean of every state given so far, in float64, on the device of the last one.

    The first `update` is made with the weights at t0, which are the first term. Whole numbers (SwinUNETR's index
    tables) cannot be averaged: the last ones are kept. The statistics of a BatchNorm are averaged as any other
    floating tensor, and then fit no network: recompute them.
    """

    def __init__(self) -> None:
        self.terms = 0
        self._mean: dict[str, Tensor] = {}

    def update(self, state: Mapping[str, Tensor], check: bool = True) -> None:
        """Take a network's `state_dict()` as the next term: n / (n + 1) * mean + 1 / (n + 1) * state.

        Raises WeightsError, and stays as it was, if names or shapes differ from the first term's, or if a number is not
        finite. check: False leaves the last to a later update, without waiting for the device; what is not finite
        stays so in the mean.
        """
        if self.terms and {name: t.shape for name, t in state.items()} != {n: t.shape for n, t in self._mean.items()}:
            wrong = sorted(
                name
                for name in {*state, *self._mean}
                if name not in state or name not in self._mean or state[name].shape != self._mean[name].shape
            )
            raise WeightsError(
                f"the average holds another network: {len(wrong)} tensors differ, the first is {wrong[0]}; average "
                "only states of one network"
            )
        mean = {name: self._next(name, tensor.detach()) for name, tensor in state.items()}
        if check and (bad := not_finite(mean)):
            raise WeightsError(f"{bad[0]} is not finite after {self.terms} terms: it must not enter the average")
        self._mean, self.terms = mean, self.terms + 1

    def state(self) -> dict[str, Tensor]:
        """The mean as a network's state: floating tensors in float32. Raises WeightsError before the first term."""
        if not self.terms:
            raise WeightsError("the average of no weights is asked for: averaging starts at epoch averaging.start")
        return {name: t.float() if t.is_floating_point() else t.clone() for name, t in self._mean.items()}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs to resume exactly. Later updates do not change what was returned."""
        return {"terms": self.terms, "mean": dict(self._mean)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`. Raises WeightsError if it is none."""
        terms, mean = state.get("terms"), state.get("mean")
        if (
            not isinstance(terms, int)
            or not isinstance(mean, Mapping)
            or terms < 0
            or bool(mean) != bool(terms)
            or any(tensor.is_floating_point() and tensor.dtype != torch.float64 for tensor in mean.values())
        ):
            raise WeightsError(
                f"no state of a weight average: keys {', '.join(map(str, state)) or 'none'}, terms {terms!r}; it needs "
                "terms and as many means in float64 as it was saved with"
            )
        self.terms, self._mean = terms, dict(mean)

    def _next(self, name: str, tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor.clone()
        tensor = tensor.double()
        if not self.terms:
            return tensor.clone()
        mean = self._mean[name].to(tensor.device)
        return mean + (tensor - mean) / (self.terms + 1)
