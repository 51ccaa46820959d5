"""Normalisation and SELU as one layer of training, forward and backward; images stay channels-last.

torch's own layers copy a channels-last image to another layout and back on a GPU, and go over it some eight times. Here
norm_kernels.cu, compiled by NVRTC as the kernels of inference are, reads it twice forward and twice back. The backward
pass keeps the image and two numbers a channel, and computes the rest again. Where the kernels cannot run, torch's
operations do the same (training.compute.norm_operations).
"""

import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from model.inference.device import Device
from model.networks.unet import Block, Norm
from training.compute.norm_operations import (
    LAST,
    OPTIONS,
    Operations,
    TorchOperations,
    kernels_or_reason,
    operations_for,
    packed,
)
from training.compute.torchrun import rank
from training.settings import Training


class NormSelu(torch.autograd.Function):
    """The layer with its own backward pass. normal: (B, 2, C), as Operations have it; own: it is that of this image,
    so the gradient goes through it, too.
    """

    @staticmethod
    def forward(
        ctx: Any, image: Tensor, weight: Tensor, bias: Tensor, normal: Tensor, own: bool, by: Operations
    ) -> Tensor:
        ctx.save_for_backward(image, weight, bias, normal)
        ctx.by, ctx.own = by, own
        return by.activated(image, normal, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        image, weight, bias, normal = ctx.saved_tensors
        if not isinstance(ctx.by, TorchOperations):
            gradient = packed(gradient)
        sums = ctx.by.sums(image, gradient, normal, weight, bias)
        of_image = ctx.by.image_gradient(image, gradient, normal, weight, bias, sums if ctx.own else None)
        of_bias, of_weight = sums.sum(0).to(weight.dtype)
        return of_image, of_weight, of_bias, None, None, None


class InstanceNormSelu(Norm):
    """Instance normalisation and SELU in one, with the parameters of `norm`."""

    def __init__(self, norm: Norm) -> None:
        super().__init__(norm.num_features, norm.eps, affine=True)
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, image: Tensor) -> Tensor:
        by, image = operations_for(image)
        return norm_selu(image, self.weight, self.bias, _normal(by, image, self.eps), True, by)


class BatchNormSelu(nn.BatchNorm3d):
    """Batch normalisation and SELU in one, with parameters and statistics of `norm`."""

    def __init__(self, norm: nn.BatchNorm3d) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum)
        self.weight, self.bias, self.training = norm.weight, norm.bias, norm.training
        for name, buffer in norm.named_buffers():
            setattr(self, name, buffer)

    def forward(self, image: Tensor) -> Tensor:
        by, image = operations_for(image)
        if not self.training:
            mean, variance = self.running_mean, self.running_var
            assert mean is not None and variance is not None  # as norm_of makes it
            factor = (variance + self.eps).rsqrt()
            normal = torch.stack([factor, -mean * factor]).expand(len(image), -1, -1).contiguous()
            return norm_selu(image, self.weight, self.bias, normal, False, by)
        one = _as_one(image)  # whose own statistics are the batch's
        normal = _normal(by, one, self.eps)
        self._follow(normal[0], one[0, 0].numel())
        out = norm_selu(one, self.weight, self.bias, normal, True, by)
        return _rows(out).view(_rows(image).shape).permute(0, 4, 1, 2, 3)

    @torch.no_grad()
    def _follow(self, normal: Tensor, voxels: int) -> None:
        """Take a batch's mean and variance into the statistics, as torch does."""
        factor, summand = normal
        variance = (factor.pow(-2) - self.eps).clamp(min=0) * (voxels / max(voxels - 1, 1))
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_((-summand / factor).to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)


def norm_selu(image: Tensor, weight: Tensor, bias: Tensor, normal: Tensor, own: bool, by: Operations) -> Tensor:
    """NormSelu as a function."""
    out: Tensor = NormSelu.apply(image, weight, bias, normal, own, by)  # type: ignore[no-untyped-call]
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


@torch.no_grad()
def _normal(by: Operations, image: Tensor, eps: float) -> Tensor:
    return by.normal(image, eps)


def _rows(image: Tensor) -> Tensor:
    """(B, X, Y, Z, C), as a channels-last image lies in memory."""
    return image.contiguous(memory_format=LAST).permute(0, 2, 3, 4, 1)


def _as_one(image: Tensor) -> Tensor:
    """The images of a batch one behind the other along X, as one image (1, C, B * X, Y, Z)."""
    return _rows(image).flatten(0, 1)[None].permute(0, 4, 1, 2, 3)
