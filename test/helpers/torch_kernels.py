"""What the kernels of model.networks.kernels compute, by torch."""

import itertools
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

LAST = torch.channels_last_3d


class TorchKernels:
    """The same operations as model.networks.kernels, in float32 by torch."""

    def factors(self, image: Tensor, weight: Tensor, bias: Tensor, eps: float, body: Tensor | None = None) -> Tensor:
        values = image.double()
        if body is None:
            variance, mean = torch.var_mean(values, (2, 3, 4), correction=0)
        else:
            inside = [one[:, mask[0]] for one, mask in zip(values, body, strict=True)]  # (C, voxels) of each image
            mean = torch.stack([one.mean(1) for one in inside])
            variance = torch.stack([one.var(1, correction=0) for one in inside])
        factor = weight / (variance + eps).sqrt()
        return torch.stack([factor, bias - mean * factor], 1).float()

    def normalise(self, image: Tensor, factors: Tensor, out: Tensor) -> None:
        out.copy_(functional.selu(_normalised(image, factors)))

    def leaky(
        self, image: Tensor, factors: Tensor, slope: float, other: Tensor | None = None, other_factors: Any = None
    ) -> None:
        total = _normalised(image, factors)
        if other is not None:
            total = total + (other.float() if other_factors is None else _normalised(other, other_factors))
        image.copy_(functional.leaky_relu(total, slope))

    def classify(
        self, image: Tensor, factors: Tensor, weight: Tensor, bias: Tensor, slope: float | None = None
    ) -> Tensor:
        total = _normalised(image, factors)
        features = functional.selu(total) if slope is None else functional.leaky_relu(total, slope)
        return functional.conv3d(features, weight[..., None, None, None], bias)

    def average(self, image: Tensor, stride: tuple[int, int, int]) -> Tensor:
        return functional.avg_pool3d(image.float(), stride).to(image.dtype).contiguous(memory_format=LAST)

    def pool(self, image: Tensor) -> Tensor:
        return functional.max_pool3d(image.float(), 2).to(image.dtype).contiguous(memory_format=LAST)

    def depth_to_space(self, values: Tensor, out: Tensor) -> None:
        a, b, c = values.shape[4:7]
        for x, y, z in itertools.product(range(a), range(b), range(c)):
            out[:, :, x::a, y::b, z::c] = values[:, :, :, :, x, y, z].movedim(-1, 1)


def _normalised(image: Tensor, factors: Tensor) -> Tensor:
    factor, summand = factors[..., None, None, None].unbind(1)
    return image.float() * factor + summand
