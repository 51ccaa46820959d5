"""The forward pass of nnU-Net's networks for inference: the same logits in about a third of the memory.

The plain forward pass holds, at full resolution, the skip connection, its concatenation with the decoder's image, and
what the convolution and the normalisation make of that. Here every convolution runs one slab of the volume at a time,
and writes over its own input where nothing else needs it: a decoder's stage over its skip connection, each row only
after it was read. Images are channels_last_3d, in which a slab along X is one piece of memory. What fits into one slab
is computed whole. A convolution's bias before a normalisation is left out: the normalisation takes it off again. On a
GPU in float16, fused_strided.py runs instead.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.networks.bfloat16 import conv3d
from model.networks.nnunet import SLOPE, ConvUnit, ResidualBlock, StridedEncoder, StridedUNet, Three

SLAB_BYTES = {"cpu": 1 << 24, "cuda": 1 << 32}  # the most that the input of a convolution over one slab takes
LAST = torch.channels_last_3d


class Source(NamedTuple):
    """An image that a convolution reads: rows(low, high) gives rows along X, as groups of its channels; `like` has its
    size.
    """

    rows: Callable[[int, int], Sequence[Tensor]]
    like: Tensor

    @property
    def size(self) -> tuple[int, ...]:
        return tuple(self.like.shape[2:])


def logits(network: StridedUNet, image: Tensor, organs: bool = False) -> Tensor:
    """`network(image)`, to rounding: (B, classes, X, Y, Z) of (B, 2, X, Y, Z); the weights are channels-last.

    organs: the logits of the organ head follow those of lesion. Raises ValueError without that head, or if an edge is
    no multiple of the product of its axis's strides.
    """
    heads: list[nn.Module] = [network.head]
    if organs:
        if network.organ_head is None:
            raise ValueError("this network has no organ head")
        heads.append(network.organ_head)
    found = _features(network, image)
    return _by_rows(lambda rows: torch.cat([head(rows) for head in heads], 1), found)


def _features(network: StridedUNet, image: Tensor) -> Tensor:
    """What the heads read: (B, widths[0], X, Y, Z), channels-last."""
    check_edges(strides_of(network), image)
    encoder, decoder = network.encoder, network.decoder
    skips = _encoded(encoder, empty(image, image.shape[1], image.shape[2:]).copy_(image))
    below = skips.pop()
    for up, stage in zip(decoder.ups, decoder.stages, strict=True):
        units: Any = stage
        below = _unit(units[0], _join_of(up, below, skips[-1]), skips.pop())
        for unit in units[1:]:
            below = _unit(unit, _source_of(below), below)
    return below


def check_edges(strides: list[Three], image: Tensor) -> None:
    """Raises ValueError if an edge is no multiple of the product of its axis's strides."""
    products = [math.prod(axis) for axis in zip(*strides, strict=True)]
    if any(edge % product for edge, product in zip(image.shape[2:], products, strict=True)):
        raise ValueError(
            f"edges of {tuple(image.shape[2:])} voxels are no multiples of the strides' product {products}"
        )


def strides_of(network: StridedUNet) -> list[Three]:
    """The stride (x, y, z) of every stage of the encoder."""
    firsts: list[Any] = [next(stage.children()) for stage in network.encoder.stages]
    convolutions: list[Any] = [(one.first if isinstance(one, ResidualBlock) else one).conv for one in firsts]
    return [one.stride for one in convolutions]


def _encoded(encoder: StridedEncoder, image: Tensor) -> list[Tensor]:
    """The stages' images, finest first."""
    if isinstance(encoder.stem, ConvUnit):
        image = _unit(encoder.stem, _source_of(image))
    skips: list[Tensor] = []
    for stage in encoder.stages:
        blocks: Any = stage
        for number, block in enumerate(blocks):
            if isinstance(block, ResidualBlock):
                image = _residual(block, image)
            else:
                image = _unit(block, _source_of(image), image if number else None)
        skips.append(image)
    return skips


def _residual(block: ResidualBlock, image: Tensor) -> Tensor:
    shortcut = image
    if not isinstance(block.pool, nn.Identity):
        shortcut = _by_rows(block.pool, image, block.first.conv.stride[0])
    if isinstance(block.widen, ConvUnit):
        shortcut = _unit(block.widen, _source_of(shortcut))
    out = _unit(block.first, _source_of(image))
    del image
    return _unit(block.second, _source_of(out), out, shortcut)


def _source_of(image: Tensor) -> Source:
    return Source(lambda low, high: [image[:, :, low:high]], image)


def _join_of(up: nn.Module, below: Tensor, skip: Tensor) -> Source:
    """[up(below), skip]; a row of `below` becomes as many as the stride."""
    conv: Any = up
    step = conv.stride[0]

    def rows(low: int, high: int) -> Sequence[Tensor]:
        part = conv(below[:, :, low // step : -(-high // step)])
        first = low % step
        return [part[:, :, first : first + high - low], skip[:, :, low:high]]

    return Source(rows, skip)


def _unit(unit: ConvUnit, source: Source, target: Tensor | None = None, shortcut: Tensor | None = None) -> Tensor:
    """Convolution, instance normalisation, plus the shortcut where there is one, LeakyReLU.

    What takes more than one slab is written to `target`, which `source` may read; without one to a new tensor. The
    shortcut comes before LeakyReLU; a unit without LeakyReLU has none unless a shortcut is added.
    """
    conv: Any = unit.conv
    slope = SLOPE if shortcut is not None or isinstance(unit.act, nn.LeakyReLU) else None
    size = [(n - 1) // step + 1 for n, step in zip(source.size, conv.stride, strict=True)]  # odd kernels keep the size
    like = source.like
    row = max(conv.in_channels * math.prod(source.size[1:]) * conv.stride[0], conv.out_channels * math.prod(size[1:]))
    rows = max(SLAB_BYTES[like.device.type] // (len(like) * row * like.element_size()), 1)
    if rows >= size[0]:
        parts = list(source.rows(0, source.size[0]))
        joined = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        image = conv3d(conv, joined, conv.padding, has_bias=False)
        del parts, joined
        return _activated(_normed(unit.norm, image), shortcut, slope).to(conv.weight.dtype)
    if target is None or target.dtype != conv.weight.dtype:
        target = empty(like, conv.out_channels, size, conv.weight.dtype)
    scale, shift = _convolved(unit, source, target, rows)
    for first in range(0, size[0], rows):
        part = target[:, :, first : first + rows]
        more = None if shortcut is None else shortcut[:, :, first : first + rows]
        part.copy_(_activated(torch.addcmul(shift, part.float(), scale), more, slope))
    return target


def _activated(image: Tensor, shortcut: Tensor | None, slope: float | None) -> Tensor:
    """LeakyReLU of the image, of its sum with the shortcut where there is one, in the image's place."""
    if shortcut is not None:
        image = image.add_(shortcut)
    return image if slope is None else functional.leaky_relu_(image, slope)


def _convolved(unit: ConvUnit, source: Source, target: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Write the convolution to `target`, and return the factor and the summand that normalise it, float32."""
    norm = unit.norm
    sums = [torch.zeros(target.shape[:2], dtype=torch.float64, device=target.device) for _ in range(2)]
    for first, slab in _slabs(unit.conv, source, target.shape[2], rows):
        mean, variance = moments(slab)
        target[:, :, first : first + slab.shape[2]] = slab
        for total, more in zip(sums, (mean, variance + mean**2), strict=True):
            total += more * (slab.shape[2] / target.shape[2])
    mean, squares = sums
    scale = norm.weight / (squares - mean**2 + norm.eps).sqrt()
    shift = norm.bias - mean * scale
    return scale.float()[..., None, None, None], shift.float()[..., None, None, None]


def _slabs(conv: Any, source: Source, edge: int, rows: int) -> Iterator[tuple[int, Tensor]]:
    """The convolution, `rows` of its `edge` rows at a time: the first row's number, and the slab.

    Of a convolution with stride 1, the caller may overwrite the source up to the end of the slab.
    """
    kernel, step = conv.kernel_size[0], conv.stride[0]
    padding = kernel // 2
    kept: list[Tensor] = []  # rows that the next slab reads, too
    read_to = 0
    for first in range(0, edge, rows):
        last = min(first + rows, edge)
        low, high = first * step - padding, (last - 1) * step + padding + 1
        stop = min(high, source.size[0])
        parts = source.rows(read_to, stop) if stop > read_to else []
        window = empty(parts[0] if parts else kept[0], conv.in_channels, (high - low, *source.size[1:]))
        if low < 0:
            window[:, :, :-low] = 0
        if high > stop:
            window[:, :, stop - low :] = 0
        if kept:
            window[:, :, max(-low, 0) : max(-low, 0) + kept[0].shape[2]] = kept[0]
        channel, start = 0, read_to - low
        for part in parts:
            target = window[:, channel : channel + part.shape[1]]
            if start >= 0:
                target[:, :, start : start + part.shape[2]] = part
            else:  # a stride longer than the kernel passes rows over
                target[:, :, : part.shape[2] + start] = part[:, :, -start:]
            channel += part.shape[1]
        del parts
        read_to = max(stop, read_to)
        following = max(last * step - padding, 0)
        kept = [window[:, :, following - low : stop - low].clone()] if following < stop else []
        yield first, conv3d(conv, window, (0, *conv.padding[1:]), has_bias=False)


def _normed(norm: Any, image: Tensor) -> Tensor:
    """Instance normalisation that keeps a channels-last image as it is; summed in float32, on a CPU also given in it.

    It is batch normalisation of one image after the other. torch's instance_norm would copy the image into another
    layout and back.
    """
    parts = []
    for one in torch.split(image, 1):
        found = one if one.is_cuda else one.float()
        found = functional.batch_norm(found, None, None, norm.weight, norm.bias, training=True, eps=norm.eps)
        parts.append(found)
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def moments(image: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of every channel of every image, (B, C) float64."""
    if image.device.type == "cpu":  # var_mean is twenty times slower there
        pairs = [torch.batch_norm_update_stats(one.float(), None, None, 0.0) for one in torch.split(image, 1)]
        mean, variance = (torch.stack(part) for part in zip(*pairs, strict=True))
    else:
        variance, mean = torch.var_mean(image.float(), (2, 3, 4), correction=0)
    return mean.double(), variance.double()


def _by_rows(work: Callable[[Tensor], Tensor], image: Tensor, step: int = 1) -> Tensor:
    """Do `work`, which takes every `step` rows along X by themselves, one slab at a time."""
    edge, row = image.shape[2], image[:, :, 0].numel() * image.element_size()
    rows = max(SLAB_BYTES[image.device.type] // row // step * step, step)
    if rows >= edge:
        return work(image)
    return torch.cat([work(image[:, :, first : first + rows]) for first in range(0, edge, rows)], 2)


def empty(like: Tensor, channels: int, size: Sequence[int], precision: torch.dtype | None = None) -> Tensor:
    """An uninitialised channels-last image on the same device, of `like`'s precision where none is given."""
    shape = (like.shape[0], channels, *size)
    return torch.empty(shape, dtype=precision or like.dtype, device=like.device, memory_format=LAST)
