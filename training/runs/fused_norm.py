"""Instance normalisation and SELU as one layer of training, forward and backward; images stay channels-last.

torch's own layers copy a channels-last image to another layout and back on a GPU, and go over it some eight times. Here
norm_kernels.cu, compiled by NVRTC as the kernels of inference are, reads it twice forward and twice back, in float16
or bfloat16 with sums in float32. The backward pass keeps the image and two numbers a channel, and computes the rest
again. Batch normalisation with fixed statistics goes the same way. Where the kernels cannot run, torch's operations do
the same.
"""

import functools
import math
import sys
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from model.inference.device import Device
from model.networks.kernels import LEAST_ROWS, MOST_CHANNELS, NAMES, PACK, SOURCE, THREADS, Kernels
from model.networks.unet import Block, Norm
from training.runs.torchrun import rank
from training.settings import Training

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
        images, channels, voxels = image.shape[0], image.shape[1], math.prod(image.shape[2:])
        each = math.ceil(max(voxels / self._blocks, THREADS // (channels // PACK) * LEAST_ROWS))
        blocks = math.ceil(voxels / each)
        parts = torch.empty(images, blocks, 2, channels, device=image.device)
        both = image, gradient, normal, weight, bias
        self._run("gradient_parts", (blocks, images), THREADS, *both, parts, voxels, channels, each)
        out = torch.empty(images, 2, channels, device=image.device)
        self._run("gradient_sums", (channels, images), 128, parts, out, channels, blocks)
        return out

    def image_gradient(
        self, image: Tensor, gradient: Tensor, normal: Tensor, weight: Tensor, bias: Tensor, sums: Tensor | None
    ) -> Tensor:
        images, channels, voxels = image.shape[0], image.shape[1], math.prod(image.shape[2:])
        groups = channels // PACK
        threads = THREADS // groups * groups
        grid = (self._grid(voxels * groups, threads), images)
        out = torch.empty_like(image)
        both = image, gradient, normal, weight, bias
        self._run("gradient_image", grid, threads, *both, sums, out, voxels, channels)
        return out


TORCH = TorchOperations()


class NormSelu(torch.autograd.Function):
    """The layer with its own backward pass. fixed: factor and summand (B, 2, C) of fixed statistics; None: the image's
    own, with eps added to its variance.
    """

    @staticmethod
    def forward(
        ctx: Any, image: Tensor, weight: Tensor, bias: Tensor, fixed: Tensor | None, eps: float, by: Operations
    ) -> Tensor:
        normal = by.normal(image, eps) if fixed is None else fixed
        ctx.save_for_backward(image, weight, bias, normal)
        ctx.by, ctx.is_fixed = by, fixed is not None
        return by.activated(image, normal, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        image, weight, bias, normal = ctx.saved_tensors
        if not isinstance(ctx.by, TorchOperations):
            gradient = _packed(gradient)
        sums = ctx.by.sums(image, gradient, normal, weight, bias)
        of_image = ctx.by.image_gradient(image, gradient, normal, weight, bias, None if ctx.is_fixed else sums)
        of_bias, of_weight = sums.sum(0).to(weight.dtype)
        return of_image, of_weight, of_bias, None, None, None


class InstanceNormSelu(Norm):
    """Instance normalisation and SELU in one, with the parameters of `norm`."""

    def __init__(self, norm: Norm) -> None:
        super().__init__(norm.num_features, norm.eps, affine=True)
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, image: Tensor) -> Tensor:
        return norm_selu(image, self.weight, self.bias, None, self.eps)


class BatchNormSelu(nn.BatchNorm3d):
    """Batch normalisation and SELU, in one where the statistics are fixed, with parameters and statistics of `norm`."""

    def __init__(self, norm: nn.BatchNorm3d) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum)
        self.weight, self.bias, self.training = norm.weight, norm.bias, norm.training
        for name, buffer in norm.named_buffers():
            setattr(self, name, buffer)

    def forward(self, image: Tensor) -> Tensor:
        if self.training or self.running_mean is None or self.running_var is None:
            return functional.selu(super().forward(image), inplace=True)
        factor = (self.running_var + self.eps).rsqrt()
        fixed = torch.stack([factor, -self.running_mean * factor]).expand(len(image), -1, -1).contiguous()
        return norm_selu(image, self.weight, self.bias, fixed, self.eps)


def norm_selu(image: Tensor, weight: Tensor, bias: Tensor, fixed: Tensor | None, eps: float) -> Tensor:
    """SELU of the normalised image, by the kernels if they take it, else by torch."""
    by: Operations = TORCH
    if image.is_cuda and image.dtype in OPTIONS and image.shape[1] % PACK == 0 and image.shape[1] <= MOST_CHANNELS:
        found = kernels_or_reason(image.get_device(), image.dtype)
        if isinstance(found, NormKernels):
            by, image = found, _packed(image)
    out: Tensor = NormSelu.apply(image, weight, bias, fixed, eps, by)  # type: ignore[no-untyped-call]
    return out


def fuse_norms(network: nn.Module, settings: Training, device: Device) -> int:
    """Put the layer into a network that trains on a GPU, where `fused_norm` asks for it; returns how many times.

    Parameters and statistics are the same tensors with the same names. With `compile` torch fuses by itself. Warns on
    stderr if the kernels cannot run.
    """
    where = device.torch_device
    blocks = [module for module in network.modules() if type(module) is Block]
    blocks = [block for block in blocks if type(block.norm) in (Norm, nn.BatchNorm3d)]
    if where.type != "cuda" or not settings.fused_norm or settings.compile or not blocks:
        return 0
    if device.precision in OPTIONS:
        index = torch.cuda.current_device() if where.index is None else where.index
        why = kernels_or_reason(index, device.precision)
        if isinstance(why, str) and rank() == 0:
            print(
                f"warning: the project's own kernels of training do not run on this GPU ({why}): torch's operations, "
                "which are slower, run in their place",
                file=sys.stderr,
            )
    for block in blocks:
        put_into(block)
    return len(blocks)


def put_into(block: Block) -> None:
    """Let a block's normalisation apply SELU, too."""
    kind: Any = BatchNormSelu if isinstance(block.norm, nn.BatchNorm3d) else InstanceNormSelu
    block.norm, block.act = kind(block.norm), nn.Identity()  # type: ignore[assignment]


@functools.cache
def kernels_or_reason(device: int, dtype: torch.dtype) -> NormKernels | str:
    """The kernels for images of `dtype` on a GPU, or why there are none. Raises torch.OutOfMemoryError."""
    try:
        return NormKernels(device, dtype)
    except torch.OutOfMemoryError:
        raise
    except (OSError, AttributeError, RuntimeError) as error:
        return (str(error).splitlines() or [type(error).__name__])[0]


@functools.cache
def _ones_and_zeros(channels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.ones(channels, device=device), torch.zeros(channels, device=device)


def _packed(image: Tensor) -> Tensor:
    """The image as the kernels read it: channels-last, without gaps, from a multiple of 16 bytes on."""
    image = image.contiguous(memory_format=LAST)
    return image if image.data_ptr() % 16 == 0 else image.clone(memory_format=LAST)


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()
