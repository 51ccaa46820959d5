"""The forward pass of nnU-Net's networks on a GPU in float16: cuDNN's convolutions with kernels.cu between them.

- A convolution's bias is left out: the instance normalisation after it takes the mean off again, and the bias with it.
- Normalisation and LeakyReLU run in one kernel, in the place of the convolved image; so do the normalisation of a
  residual block's end, the normalisation of its widened shortcut, their sum and LeakyReLU.
- A 1x1x1 convolution and a transposed one, whose kernel is its stride, are matrix products.
- A skip connection is kept by itself, and copied beside the decoder's image when that comes: at full resolution there
  are never more than three images of the first stage's channels (`most_bytes`).
- The heads, 1x1x1, run in one kernel with the normalisation before them; their logits are float32.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.bundle.network import Network
from model.networks.kernels import MOST_CHANNELS, PACK, Kernels
from model.networks.nnunet import SLOPE, ConvUnit, ResidualBlock, StridedUNet, Three
from model.networks.strided import check_edges, empty, strides_of

LAST = torch.channels_last_3d


class Unit(NamedTuple):
    """A convolution's weight (float16; a matrix if 1x1x1), and the instance normalisation after it (float32)."""

    weight: Tensor
    stride: Three
    scale: Tensor
    shift: Tensor
    eps: float


class Residual(NamedTuple):
    """A residual block; stride: of the mean that the shortcut begins with; widen: its 1x1x1 convolution, if any."""

    first: Unit
    second: Unit
    stride: Three
    widen: Unit | None


class Rise(NamedTuple):
    """A stage of the decoder: the transposed convolution as a matrix (a * b * c * C, C below), its bias, and units."""

    up: Tensor
    bias: Tensor | None
    stride: Three
    units: list[Unit]


class FusedStrided(nn.Module):
    """A network of nnU-Net's kind prepared for a GPU's kernels, on the device where it is.

    plain: makes the same network without them, for images that are too large for one pass here.
    """

    def __init__(self, network: StridedUNet, plain: Callable[[], nn.Module], kernels: Kernels) -> None:
        super().__init__()
        self.plain, self._kernels = functools.cache(plain), kernels
        encoder, decoder = network.encoder, network.decoder
        with torch.no_grad():
            self._stem = _unit_of(encoder.stem) if isinstance(encoder.stem, ConvUnit) else None
            self._encoder = [[_block_of(block) for block in _each(stage)] for stage in encoder.stages]
            self._decoder = [_rise_of(up, _each(stage)) for up, stage in zip(decoder.ups, decoder.stages, strict=True)]
            heads = [head for head in (network.head, network.organ_head) if head is not None]
            self._weight = torch.cat([head.weight.flatten(1) for head in heads])
            self._bias = torch.cat([_bias_of(head) for head in heads])
        self._classes, self._strides = network.head.out_channels, strides_of(network)

    def forward(self, image: Tensor, organs: bool = False) -> Tensor:
        """Logits (B, K, X, Y, Z) float32 of (B, 2, X, Y, Z); organs: those of the organ head follow.

        Raises ValueError without that head, or if an edge is no multiple of the product of its axis's strides.
        """
        if organs and len(self._weight) == self._classes:
            raise ValueError("this network has no organ head")
        check_edges(self._strides, image)
        skips = self._encoded(image)
        below = skips.pop()
        for rise in self._decoder[:-1]:
            below = self._risen(rise, below, skips)
            for unit in rise.units[1:]:
                below = self._unit(unit, below)
        rise = self._decoder[-1]
        raw, factors = self._joined(rise, below, skips)
        del below
        for unit in rise.units[1:]:
            self._kernels.leaky(raw, factors, SLOPE)
            raw, factors = self._convolved(unit, raw)
        count = len(self._weight) if organs else self._classes
        return self._kernels.classify(raw, factors, self._weight[:count], self._bias[:count], SLOPE)

    def joined_bytes(self, image: Tensor) -> int:  # as of `fused.Fused`
        """Bytes of the largest image that a forward pass makes: a skip connection beside the decoder's image."""
        voxels = image[:, 0].numel() * torch.float16.itemsize
        return max(
            int(voxels * share) * rise.units[0].weight.shape[1]
            for share, rise in zip(_stage_voxels(self._strides)[-2::-1], self._decoder, strict=True)
        )

    def _encoded(self, image: Tensor) -> list[Tensor]:
        """The stages' images, finest first."""
        image = empty(image, image.shape[1], image.shape[2:], torch.float16).copy_(image)
        if self._stem is not None:
            image = self._unit(self._stem, image)
        skips: list[Tensor] = []
        for stage in self._encoder:
            for block in stage:
                image = self._unit(block, image) if isinstance(block, Unit) else self._residual(block, image)
            skips.append(image)
        return skips

    def _unit(self, unit: Unit, image: Tensor) -> Tensor:
        raw, factors = self._convolved(unit, image)
        self._kernels.leaky(raw, factors, SLOPE)
        return raw

    def _residual(self, block: Residual, image: Tensor) -> Tensor:
        shortcut = image if max(block.stride) == 1 else self._kernels.average(image, block.stride)
        widened = None
        if block.widen is not None:
            shortcut, widened = self._convolved(block.widen, shortcut)
        raw, factors = self._convolved(block.second, self._unit(block.first, image))
        self._kernels.leaky(raw, factors, SLOPE, shortcut, widened)
        return raw

    def _risen(self, rise: Rise, below: Tensor, skips: list[Tensor]) -> Tensor:
        raw, factors = self._joined(rise, below, skips)
        self._kernels.leaky(raw, factors, SLOPE)
        return raw

    def _joined(self, rise: Rise, below: Tensor, skips: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The first unit's convolution of [up(below), skip], and the factors that normalise it."""
        skip = skips.pop()
        width = skip.shape[1]
        joined = empty(skip, 2 * width, skip.shape[2:])
        joined[:, width:] = skip
        del skip
        rows = below.permute(0, 2, 3, 4, 1)
        matrix = rows.reshape(-1, rows.shape[-1])
        values = matrix @ rise.up.T if rise.bias is None else torch.addmm(rise.bias, matrix, rise.up.T)
        self._kernels.depth_to_space(values.view(*rows.shape[:4], *rise.stride, width), joined[:, :width])
        del values
        return self._convolved(rise.units[0], joined)

    def _convolved(self, unit: Unit, image: Tensor) -> tuple[Tensor, Tensor]:
        """The convolved image, and the factors that normalise it."""
        if unit.weight.ndim == 2:
            rows = image.permute(0, 2, 3, 4, 1)
            product = rows.reshape(-1, rows.shape[-1]) @ unit.weight.T
            raw = product.view(*rows.shape[:4], -1).permute(0, 4, 1, 2, 3)
        else:
            padding = [edge // 2 for edge in unit.weight.shape[2:]]
            raw = functional.conv3d(image, unit.weight, None, unit.stride, padding)
            if not raw.is_contiguous(memory_format=LAST):  # cuDNN keeps the layout of its input
                raw = raw.contiguous(memory_format=LAST)
        return raw, self._kernels.factors(raw, unit.scale, unit.shift, unit.eps)


def can_fuse_strided(network: nn.Module) -> bool:
    """Whether `FusedStrided` can run a network: one of nnU-Net's with numbers of channels that the kernels take."""
    if not isinstance(network, StridedUNet):
        return False
    channels = [
        convolution.out_channels for convolution in network.encoder.modules() if isinstance(convolution, nn.Conv3d)
    ]
    packs = network.head.in_channels // PACK  # of the last convolution: a power of two, at most a warp
    return all(c % PACK == 0 and c <= MOST_CHANNELS for c in channels) and packs & (packs - 1) == 0 and packs <= 32


def most_bytes(network: Network, voxels: int, itemsize: int) -> int:
    """The most bytes of images that a forward pass holds for windows of so many voxels, without the logits.

    Of a residual stage three images: a block's input, and one more before and after its second convolution; with the
    skip connections of the finer stages. Of a plain stage two. Of a stage of the decoder: its skip connection beside
    both halves of the joined image, or these with what comes up, or with the convolution of them.
    """
    shares = _stage_voxels([stage.stride for stage in network.stages])
    images = [int(width * voxels * share) * itemsize for width, share in zip(network.widths, shares, strict=True)]
    most = 0
    for number, image in enumerate(images):
        held = sum(images[:number])
        below = images[number + 1] if number + 1 < len(images) else 0
        at_once = 3 if network.fusion == "residual_unet" else 2
        most = max(most, held + at_once * image, held + 3 * image + below if below else 0)
    return most + 2 * voxels * itemsize


def _stage_voxels(strides: list[Three]) -> list[float]:
    """Voxels of every stage over those of the window."""
    out, share = [], 1.0
    for stride in strides:
        share /= math.prod(stride)
        out.append(share)
    return out


def _each(stage: nn.Module) -> list[Any]:
    return list(stage.children())


def _bias_of(head: nn.Conv3d) -> Tensor:
    return head.weight.new_zeros(head.out_channels) if head.bias is None else head.bias


def _unit_of(unit: ConvUnit) -> Unit:
    conv, norm = unit.conv, unit.norm
    x, y, z = conv.stride
    if conv.kernel_size == (1, 1, 1) and conv.stride == (1, 1, 1) and conv.in_channels % PACK == 0:
        weight = conv.weight.flatten(1).half()
    else:
        weight = conv.weight.half().contiguous(memory_format=LAST)
    return Unit(weight, (x, y, z), norm.weight, norm.bias, norm.eps)


def _block_of(block: Any) -> Unit | Residual:
    if not isinstance(block, ResidualBlock):
        return _unit_of(block)
    x, y, z = block.first.conv.stride
    widen = _unit_of(block.widen) if isinstance(block.widen, ConvUnit) else None
    return Residual(_unit_of(block.first), _unit_of(block.second), (x, y, z), widen)


def _rise_of(up: Any, units: list[Any]) -> Rise:
    weight = up.weight.permute(2, 3, 4, 1, 0).reshape(-1, up.in_channels).half()  # a voxel's (a, b, c, C)
    bias = None if up.bias is None else up.bias.repeat(math.prod(up.stride)).half()
    return Rise(weight, bias, up.stride, [_unit_of(unit) for unit in units])
