"""What a layer of normalisation and SELU computes, forward and backward: by the project's kernels, or by torch.

Two kernels read the image forward, two back, in float16 or bfloat16, with sums in float32.
"""

import functools
import math
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from model.networks.kernels import MOST_CHANNELS, NAMES, PACK, SOURCE, THREADS, Kernels, sizes_of

SOURCES = (SOURCE, Path(__file__).with_name("norm_kernels.cu"))
GRADIENT_NAMES = ("gradient_parts", "gradient_sums", "gradient_image")
OPTIONS: dict[torch.dtype, tuple[str, ...]] = {torch.float16: (), torch.bfloat16: ("-DBFLOAT16",)}
LAST = torch.channels_last_3d
VOXELS = (2, 3, 4)
SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805  # Klambauer et al. 2017


class Operations(Protocol):
    """What the layer needs. image: (B, C, X, Y, Z); normal: (B, 2, C), factor and summand by which it is normalised;
    weight, bias: (C), of the normalisation.
    """

    def normal(self, image: Tensor, eps: float) -> Tensor:
        """Factor and summand that bring every channel of every image to mean 0 and deviation 1."""

    def activated(self, image: Tensor, normal: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """SELU of the normalised image times weight plus bias."""

    def sums(self, image: Tensor, gradient: Tensor, normal: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """(B, 2, C): the gradient before SELU, and its product with the normalised image, each summed over voxels."""

    def image_gradient(
        self, image: Tensor, gradient: Tensor, normal: Tensor, weight: Tensor, bias: Tensor, sums: Tensor | None
    ) -> Tensor:
        """The gradient of the image. sums: None where the normalisation does not depend on the image."""


class TorchOperations:
    """By torch, on any device, in float32, for float64 in float64; the image's layout is kept."""

    def normal(self, image: Tensor, eps: float) -> Tensor:
        variance, mean = torch.var_mean(_wide(image), VOXELS, correction=0)
        factor = (variance + eps).rsqrt()
        return torch.stack([factor, -mean * factor], 1)

    def activated(self, image: Tensor, normal: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        out = self._normalised(image, normal).mul_(_wide(weight)[:, None, None, None])
        return functional.selu(out.add_(_wide(bias)[:, None, None, None]), inplace=True).to(image.dtype)

    def sums(self, image: Tensor, gradient: Tensor, normal: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        normalised = self._normalised(image, normal)
        before = self._before_selu(normalised, gradient, weight, bias)
        return torch.stack([before.sum(VOXELS), normalised.mul_(before).sum(VOXELS)], 1)

    def image_gradient(
        self, image: Tensor, gradient: Tensor, normal: Tensor, weight: Tensor, bias: Tensor, sums: Tensor | None
    ) -> Tensor:
        normalised = self._normalised(image, normal)
        out = self._before_selu(normalised, gradient, weight, bias)
        if sums is not None:
            mean, product = (sums / math.prod(image.shape[2:]))[..., None, None, None].unbind(1)
            out.sub_(mean).sub_(normalised.mul_(product))
        return out.mul_((normal[:, 0] * _wide(weight))[..., None, None, None]).to(image.dtype)

    def _normalised(self, image: Tensor, normal: Tensor) -> Tensor:
        factor, summand = normal[..., None, None, None].unbind(1)
        return (_wide(image) * factor).add_(summand)

    def _before_selu(self, normalised: Tensor, gradient: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """The gradient before SELU, from that after it."""
        slope = (normalised * _wide(weight)[:, None, None, None]).add_(_wide(bias)[:, None, None, None])
        slope = torch.where(slope > 0, SELU_SCALE, slope.exp() * (SELU_SCALE * SELU_ALPHA))
        return slope.mul_(gradient)


class NormKernels(Kernels):
    """By the kernels, on one GPU: those of inference, and norm_kernels.cu. Images are of `dtype`, float16 or bfloat16,
    channels-last, as Kernels has them; weight and bias are float32.

    Raises RuntimeError if they cannot be compiled or loaded here.
    """

    def __init__(self, device: int, dtype: torch.dtype) -> None:
        super().__init__(device, SOURCES, (*NAMES, *GRADIENT_NAMES), OPTIONS[dtype])

    def normal(self, image: Tensor, eps: float) -> Tensor:
        weight, bias = _ones_and_zeros(image.shape[1], image.device)
        return self.factors(image, weight, bias, eps)

    def activated(self, image: Tensor, normal: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        factors = normal * weight
        factors[:, 1] += bias
        out = torch.empty_like(image)
        self.normalise(image, factors, out)
        return out

    def sums(self, image: Tensor, gradient: Tensor, normal: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        images, channels, voxels = sizes_of(image)
        each, blocks = self._shares(channels, voxels)
        parts = torch.empty(images, blocks, 2, channels, device=image.device)
        both = image, gradient, normal, weight, bias
        self._run("gradient_parts", (blocks, images), THREADS, *both, parts, voxels, channels, each)
        out = torch.empty(images, 2, channels, device=image.device)
        self._run("gradient_sums", (channels, images), 128, parts, out, channels, blocks)
        return out

    def image_gradient(
        self, image: Tensor, gradient: Tensor, normal: Tensor, weight: Tensor, bias: Tensor, sums: Tensor | None
    ) -> Tensor:
        images, channels, voxels = sizes_of(image)
        threads, grid = self._a_pack_each(images, channels, voxels)
        out = torch.empty_like(image)
        both = image, gradient, normal, weight, bias
        self._run("gradient_image", grid, threads, *both, sums, out, voxels, channels)
        return out


TORCH = TorchOperations()


def operations_for(image: Tensor) -> tuple[Operations, Tensor]:
    """The kernels if they take the image, else torch's operations; and the image as they take it."""
    if image.is_cuda and image.dtype in OPTIONS and image.shape[1] % PACK == 0 and image.shape[1] <= MOST_CHANNELS:
        found = kernels_or_reason(image.get_device(), image.dtype)
        if isinstance(found, NormKernels):
            return found, packed(image)
    return TORCH, image


@functools.cache
def kernels_or_reason(device: int, dtype: torch.dtype) -> NormKernels | str:
    """The kernels for images of `dtype` on a GPU, or why there are none. Raises torch.OutOfMemoryError."""
    try:
        found = NormKernels(device, dtype)
        return (
            found
            if agrees_with_torch(found, torch.device("cuda", device), dtype)
            else "they give other values than torch"
        )
    except torch.OutOfMemoryError:
        raise
    except (OSError, AttributeError, RuntimeError) as error:
        return (str(error).splitlines() or [type(error).__name__])[0]


@torch.no_grad()
def agrees_with_torch(kernels: Operations, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernels give torch's values on a small image, forward and backward: a guard for new GPUs."""
    random = torch.Generator().manual_seed(0)
    image, gradient = torch.randn(2, 2, 16, 5, 6, 7, generator=random).to(device, dtype)
    image, gradient = (one.contiguous(memory_format=LAST) for one in (image, gradient))
    weight, bias = torch.rand(2, 16, generator=random).to(device)
    found = []
    for by in (kernels, TORCH):
        normal = by.normal(image, 1e-5)
        sums = by.sums(image, gradient, normal, weight, bias)
        of_image = by.image_gradient(image, gradient, normal, weight, bias, sums)
        found.append((normal, by.activated(image, normal, weight, bias), sums, of_image))
    return all((a - b).abs().max() <= 2**-6 * b.abs().max() for a, b in zip(*found, strict=True))


@functools.cache
def _ones_and_zeros(channels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.ones(channels, device=device), torch.zeros(channels, device=device)


def packed(image: Tensor) -> Tensor:
    """The image as the kernels read it: channels-last, without gaps, from a multiple of 16 bytes on."""
    image = image.contiguous(memory_format=LAST)
    return image if image.data_ptr() % 16 == 0 else image.clone(memory_format=LAST)


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()
