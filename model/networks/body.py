"""Instance normalisation over the body alone: mean and deviation do not depend on how much air a window holds.

Instance normalisation takes them over the whole window, so the same tissue looks different to a network with more air
around it. Here they are those of the window's body; all voxels are normalised with them. The body is the image's last
channel (model.inference.view.with_body), whose maxima every stage takes as it takes those of the image.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

LEAST_VOXELS = 8  # of body at a stage: the deviation of fewer can be so small that other values grow without bound
MOST_CHANNELS = 3  # of the image: CT, PET, body; a network that sees PET alone gets PET and body
VOXELS = (2, 3, 4)  # the axes of an image that are summed over


def divided(
    image: Tensor, stages: int, over_body: bool, channels: int = MOST_CHANNELS - 1
) -> tuple[Tensor, list[Tensor | None]]:
    """What a network reads of an image (B, C, X, Y, Z): `channels` of it, and the body at every stage, finest first.

    channels: CT and PET, or 1 for PET alone. over_body: whether the network normalises over the body; without it there
    is none. Raises ValueError if the image lacks the body that the network needs.
    """
    if not over_body:
        return image, [None] * stages
    if image.shape[1] != channels + 1:
        what = "CT, PET" if channels > 1 else "PET"
        raise ValueError(f"norm: body needs an image of {what} and body, got {image.shape[1]} channels")
    return image[:, :channels], [*body_of_stages(image[:, channels:], stages)]


def body_of_stages(body: Tensor, stages: int) -> list[Tensor]:
    """The body (B, 1, X, Y, Z), 1 inside and 0 outside, at the resolution of every stage, finest first: its maxima.

    In a window with fewer than LEAST_VOXELS of it at a stage, all voxels of that stage count.
    """
    out = []
    for stage in range(stages):
        body = functional.max_pool3d(body, 2) if stage else body.contiguous().float()
        too_few = body.sum((1, 2, 3, 4), keepdim=True) < LEAST_VOXELS
        out.append(torch.where(too_few, 1.0, body))
    return out


class BodyNorm(nn.Module):
    """Instance normalisation with the mean and the deviation of the body; weight and bias as in any other."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.eps = 1e-5

    def forward(self, image: Tensor, body: Tensor) -> Tensor:
        """(B, C, X, Y, Z) normalised, in its type and layout; body: (B, 1, X, Y, Z) from `body_of_stages`."""
        out: Tensor = _Normalised.apply(image, body, self.weight, self.bias, self.eps)  # type: ignore[no-untyped-call]
        return out


def body_moments(image: Tensor, body: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How many voxels of each image are body, (B, 1), and every channel's mean and variance over them, (B, C), float64.

    They are summed in float32 whatever the image's type. Zeros where there is no body.
    """
    count = body.sum(VOXELS, dtype=torch.float64)
    divisor = count.clamp(min=1)
    inside = image * body  # a type of more digits, if the body has more
    mean = inside.sum(VOXELS).double() / divisor
    inside.addcmul_(body, _wide(mean, inside), value=-1).square_()
    return count, mean, inside.sum(VOXELS).double() / divisor


def scale_and_shift(norm: Any, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Factor and summand, (B, C, 1, 1, 1), that normalise an image; norm: with weight, bias and eps."""
    scale = norm.weight / (variance + norm.eps).sqrt()
    shift = norm.bias - mean * scale
    return _wide(scale, norm.weight), _wide(shift, norm.weight)


class _Normalised(torch.autograd.Function):
    """`BodyNorm.forward`, with a backward pass of its own: it keeps its input alone, and reads images as few times as
    torch's operations allow.
    """

    @staticmethod
    def forward(ctx: Any, image: Tensor, body: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        count, mean, variance = body_moments(image, body)
        inverse = (variance + eps).rsqrt()
        ctx.save_for_backward(image, body, weight, count, mean, inverse)
        scale = weight * inverse
        return torch.addcmul(_wide(bias - mean * scale, weight), image, _wide(scale, weight)).to(image.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The image's gradient is w s g - b (w s / n) (sum(g) + x sum(g x)), with g the gradient, w the weight, s one
        over the deviation, n the voxels of body, b 1 there and 0 elsewhere, and x the image less its mean, times s.
        Both sums are over all voxels; over all images they are the gradients of bias and weight.
        """
        image, body, weight, count, mean, inverse = ctx.saved_tensors
        product = (image - _wide(mean, weight)).mul_(grad)
        sums = grad.sum(VOXELS, dtype=weight.dtype), product.sum(VOXELS).to(weight.dtype) * inverse.to(weight.dtype)
        del product
        scale = weight * inverse
        slope = -scale / count * inverse * sums[1]
        start = -scale / count * sums[0] - mean * slope
        out = torch.addcmul(_wide(start, weight), image, _wide(slope, weight))
        out = out.mul_(body).addcmul_(grad, _wide(scale, weight))
        return out.to(image.dtype), None, sums[1].sum(0), sums[0].sum(0), None


def _wide(values: Tensor, like: Tensor) -> Tensor:
    """Values of each image and channel, (B, C), as a factor of an image, in the type of `like`."""
    return values.to(like.dtype)[..., None, None, None]
