"""The forward pass of the U-Nets of unet.py for inference: the same logits in about a quarter of the memory.

The plain forward pass holds, at full resolution, the skip connection, its concatenation with the decoder's image, and
the convolution of that. Here every stage has one buffer. The encoders write their channels into it; the decoder's
convolutions overwrite it, one slab of the volume at a time, each row only after it was read. Images are
channels_last_3d, in which a slab along X is one piece of memory. A volume of a single slab is computed whole; on a GPU
in float16, fused.py does that.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.networks import strided
from model.networks.bfloat16 import conv3d
from model.networks.body import body_moments, divided, scale_and_shift
from model.networks.fused import Fused
from model.networks.fused_strided import FusedStrided
from model.networks.nnunet import StridedUNet
from model.networks.unet import Decoder, Encoder, LateFeatures, LateFusion, MiddleFusion, UNet

SLAB_BYTES = strided.SLAB_BYTES
LAST = torch.channels_last_3d
Read = Callable[[int, int], Sequence[Tensor]]  # gives rows [low, high) along X of an image, as groups of its channels
Bodies = Sequence[Tensor | None]  # of the stages, finest first; none where the norm is not over the body
Buffers = dict[tuple[int, torch.Size, torch.dtype], Tensor]  # the stages' buffers, kept for the next window


@torch.no_grad()
def forward(network: nn.Module, image: Tensor, buffers: Buffers | None = None, organs: bool = False) -> Tensor:
    """`network(image)`, to rounding: logits (B, K, X, Y, Z) of (B, 2, X, Y, Z), channel 0 = CT, 1 = PET; with norm body
    of (B, 3, X, Y, Z), 2 = body. A network that sees PET alone takes (B, 1, X, Y, Z), with norm body (B, 2, X, Y, Z).

    network: from `for_device.prepared`; a network that is no U-Net runs as it is. buffers: of earlier windows; this
    window uses them and adds to them. organs: the logits of the network's organ head follow those of lesion. Makes no
    gradients. Raises ValueError if an edge is no multiple of 2 ** (stages - 1), or without that head.
    """
    buffers = {} if buffers is None else buffers
    match network:
        case StridedUNet():
            return strided.logits(network, image, organs)
        case FusedStrided():
            one_slab = network.joined_bytes(image) <= SLAB_BYTES["cuda"]
            found: Tensor = network(image, organs) if one_slab else forward(network.plain(), image, buffers, organs)
            return found
        case Fused():
            one_slab = network.joined_bytes(image) <= SLAB_BYTES["cuda"]
            whole: Tensor = network(image) if one_slab else forward(network.plain, image, buffers)
            return whole
        case UNet():
            image, bodies = divided(image, network.encoder.stages, network.over_body, network.inside)
            return _unet(network, image, bodies, buffers)
        case MiddleFusion():
            image, bodies = divided(image, network.decoder.stages, network.over_body)
            ct, pet = image.chunk(2, dim=1)
            stages = _encoded([network.pet_encoder, network.ct_encoder], [pet, ct], bodies, buffers)
            return decoded(network.decoder, stages, bodies)
        case LateFusion() | LateFeatures():
            image, bodies = divided(image, network.pet.encoder.stages, network.pet.over_body)
            ct, pet = image.chunk(2, dim=1)
            if isinstance(network, LateFeatures):
                return _late_features(network, pet, ct, bodies, buffers)
            return _unet(network.pet, pet, bodies, buffers).add_(_unet(network.ct, ct, bodies, buffers)).div_(2)
        case _:
            both: Any = network
            out: Tensor = torch.cat(both.with_organs(image), dim=1) if organs else network(image)
            return out


def peak_bytes(width: int, voxels: int, itemsize: int) -> int:
    """About how many bytes `forward` takes for a window on a GPU; `Fused` takes less.

    They are the first stage's buffer of `width` channels, a slab of the decoder's input of twice as many, and the
    convolution's output.
    """
    stage = width * voxels * itemsize
    return stage + 2 * min(2 * stage, SLAB_BYTES["cuda"])


def windows_of_one_slab(width: int, voxels: int, itemsize: int) -> int:
    """How many windows at a time a GPU can compute whole; more at a time would only be slower."""
    return max(SLAB_BYTES["cuda"] // (2 * width * voxels * itemsize), 1)


def _unet(network: UNet, image: Tensor, bodies: Bodies, buffers: Buffers) -> Tensor:
    return decoded(network.decoder, _encoded([network.encoder], [image], bodies, buffers), bodies)


def _late_features(network: LateFeatures, pet: Tensor, ct: Tensor, bodies: Bodies, buffers: Buffers) -> Tensor:
    """The 1x1x1 convolution of both networks' features is the sum of two, one for each network's."""
    weights = network.fc.weight.chunk(2, dim=1)
    kind, bias = weights[0].dtype, network.fc.bias
    features = _unet(network.pet, pet, bodies, buffers)
    out = _by_rows(lambda rows: functional.conv3d(rows.to(kind), weights[0]), features)
    features = _unet(network.ct, ct, bodies, buffers)
    last = _by_rows(lambda rows: functional.conv3d(rows.to(kind), weights[1], bias), features)
    return out.add_(last)


def _encoded(encoders: Sequence[Encoder], images: Sequence[Tensor], bodies: Bodies, buffers: Buffers) -> list[Tensor]:
    """The buffers of the stages, finest first: the encoders' channels one after the other."""
    stages: list[Tensor] = []
    if any(edge % 2 ** (encoders[0].stages - 1) for edge in images[0].shape[2:]):
        raise ValueError(f"{encoders[0].stages} stages cannot halve {tuple(images[0].shape[2:])} voxels evenly")
    for number, (encoder, image) in enumerate(zip(encoders, images, strict=True)):
        for stage in range(encoder.stages):
            layer: Any = encoder.get_submodule(f"layer{stage + 1}")
            width = layer[1].conv.out_channels
            image = _pooled(image) if stage else _channels_last(image, layer[0].conv.weight.dtype)
            if number == 0:
                shape = torch.Size((len(image), len(encoders) * width, *image.shape[2:]))
                key = (stage, shape, layer[1].conv.weight.dtype)
                if key not in buffers:
                    buffers[key] = _empty(image, shape[1], shape[2:], key[2])
                stages.append(buffers[key])
            target = stages[stage].narrow(1, number * width, width)
            body = bodies[stage]
            image = _block(layer[1], _rows_of(_block(layer[0], _rows_of(image), target, body)), target, body)
            if image is not target:
                target.copy_(image)
    return stages


def decoded(decoder: Decoder, stages: list[Tensor], bodies: Bodies) -> Tensor:
    """Logits, or the last features of a network without a last convolution; `stages` are overwritten."""
    image = stages[-1]
    for number in range(1, decoder.stages):
        stage, body = stages[-1 - number], bodies[-1 - number]
        layer: Any = decoder.get_submodule(f"layer{number}")
        joined = _rows_of_join(decoder.get_submodule(f"upconv{number}"), image, stage)
        image = _block(layer[1], _rows_of(_block(layer[0], joined, stage, body)), stage, body)
    return image if isinstance(decoder.fc, nn.Identity) else _by_rows(decoder.fc, image)


def _rows_of(image: Tensor) -> Read:
    return lambda low, high: [image[:, :, low:high]]


def _rows_of_join(up: nn.Module, below: Tensor, skip: Tensor) -> Read:
    """Rows of [up(below), skip]; a row of `below` becomes two."""

    def read(low: int, high: int) -> Sequence[Tensor]:
        part = up(below[:, :, low // 2 : (high + 1) // 2])
        return [part[:, :, low % 2 : low % 2 + high - low], skip[:, :, low:high]]

    return read


def _block(block: Any, read: Read, target: Tensor, body: Tensor | None) -> Tensor:
    """Convolution, instance normalisation where there is one (over the body, if there is a body), SELU.

    A volume of one slab is returned as a new tensor. A larger one is written to `target`, which `read` may read.
    """
    conv, norm, edge = block.conv, block.norm, target.shape[2]
    rows = _rows(target, max(conv.in_channels, conv.out_channels))
    narrow_on_cpu = target.device.type == "cpu" and target.dtype != torch.float32
    if rows >= edge:
        parts = read(0, edge)
        joined = parts[0] if len(parts) == 1 else torch.cat(list(parts), 1)
        image = conv3d(conv, joined, 1)
        del parts, joined
        if narrow_on_cpu and not isinstance(norm, nn.Identity):
            return _normed_by_slabs(norm, image, _moments(image, body)[1:], image.to(target.dtype), edge)
        return functional.selu_(_normed(norm, image, body)).to(target.dtype)
    if isinstance(norm, nn.Identity):
        for first, slab in _slabs(conv, read, target, rows):
            target[:, :, first : first + slab.shape[2]] = functional.selu_(slab)
        return target
    sums = [torch.zeros(target.shape[:2], dtype=torch.float64, device=target.device) for _ in range(3)]
    for first, slab in _slabs(conv, read, target, rows):
        last = first + slab.shape[2]
        count, mean, variance = _moments(slab, None if body is None else body[:, :, first:last])
        target[:, :, first:last] = slab
        for total, more in zip(sums, (torch.ones_like(mean), mean, variance + mean**2), strict=True):
            total += more * count
    mean = sums[1] / sums[0]
    return _normed_by_slabs(norm, target, (mean, sums[2] / sums[0] - mean**2), target, rows)


def _moments(image: Tensor, body: Tensor | None) -> tuple[Tensor | int, Tensor, Tensor]:
    """How much of each image counts, in rows of it or in voxels of body; mean and variance, (B, C) float64."""
    return (image.shape[2], *strided.moments(image)) if body is None else body_moments(image, body)


def _normed_by_slabs(norm: Any, image: Tensor, moments: tuple[Tensor, Tensor], target: Tensor, rows: int) -> Tensor:
    """Instance normalisation and SELU of the image in float32, so many rows at a time, into `target`."""
    scale, shift = scale_and_shift(norm, *moments)
    for first in range(0, image.shape[2], rows):
        part = image[:, :, first : first + rows]
        target[:, :, first : first + rows] = functional.selu_(torch.addcmul(shift, part.float(), scale))
    return target


def _slabs(conv: Any, read: Read, target: Tensor, rows: int) -> Iterator[tuple[int, Tensor]]:
    """The convolution, `rows` rows at a time: the first row's number, and the slab.

    The caller may overwrite `target` up to the end of the slab.
    """
    edge = target.shape[2]
    size, kind = (rows + 2, *target.shape[3:]), conv.weight.dtype
    window = _empty(target, conv.in_channels, size, kind)  # row r at r - first + 1
    window[:, :, 0] = 0
    rows_read = 0
    for first in range(0, edge, rows):
        last = min(first + rows, edge)
        if first:
            window[:, :, :2] = window[:, :, rows:].clone()
        needed = min(last + 1, edge)
        if needed > rows_read:
            channel = 0
            for part in read(rows_read, needed):
                window[:, channel : channel + part.shape[1], rows_read - first + 1 : needed - first + 1] = part
                channel += part.shape[1]
            rows_read = needed
        if last == edge:
            window[:, :, last - first + 1] = 0
        yield first, conv3d(conv, window[:, :, : last - first + 2], (0, 1, 1))


def _normed(norm: Any, image: Tensor, body: Tensor | None) -> Tensor:
    """Instance normalisation that keeps a channels-last image as it is, over the body if there is one.

    On a GPU it is batch normalisation of one image after the other: the same values, summed in float32 whatever the
    image's type. torch's instance_norm would copy the image into another layout and back.
    """
    if image.device.type == "cpu" or isinstance(norm, nn.Identity) or body is not None:
        out: Tensor = norm(image) if body is None else norm(image, body)
        return out
    parts = [normed_as_batch(norm, one) for one in _one_by_one(image)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def normed_as_batch(norm: Any, image: Tensor) -> Tensor:
    """Instance normalisation of one image (1, C, X, Y, Z)."""
    return functional.batch_norm(image, None, None, norm.weight, norm.bias, training=True, eps=norm.eps)


def _one_by_one(images: Tensor) -> list[Tensor]:
    return [images[number : number + 1] for number in range(len(images))]


def _pooled(image: Tensor) -> Tensor:
    """Maxima of 2 x 2 x 2 voxels."""
    return _by_rows(lambda rows: functional.max_pool3d(rows, 2), image)


def _by_rows(work: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    """Do `work`, which takes every row along X, or every two, by itself, one slab at a time."""
    edge, rows = image.shape[2], _rows(image, image.shape[1])
    if rows >= edge:
        return work(image)
    return torch.cat([work(image[:, :, first : first + rows]) for first in range(0, edge, rows)], 2)


def _rows(image: Tensor, channels: int) -> int:
    """How many rows along X a slab of so many channels has, an even number."""
    row = channels * image[:, 0, 0].numel() * image.element_size()
    return max(SLAB_BYTES[image.device.type] // row // 2 * 2, 2)


def _channels_last(image: Tensor, precision: torch.dtype) -> Tensor:
    """The image, channels-last. torch's own conversion would leave the strides of a single channel as they are."""
    return _empty(image, image.shape[1], image.shape[2:]).copy_(image).to(precision)


def _empty(like: Tensor, channels: int, size: Sequence[int], kind: torch.dtype | None = None) -> Tensor:
    """An image without values; kind: its type, by default that of `like`."""
    shape = (like.shape[0], channels, *size)
    return torch.empty(shape, dtype=kind or like.dtype, device=like.device, memory_format=LAST)
