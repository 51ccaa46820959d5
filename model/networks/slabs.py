"""The forward pass of the U-Nets in networks.py for inference: the same logits in about a quarter of the memory.

The plain forward holds, at full resolution, what the decoder joins, the join, and what is made of it. Here every stage
has one buffer: the encoders write their channels into it, and the decoder's convolutions overwrite it, a slab of the
volume at a time, a row only after it was read. Images lie channels_last_3d, in which a slab along X is one piece of
memory. A volume that is one slab is computed whole. On a GPU in float16 fused.py runs it then.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.networks.fused import Fused, fits
from model.networks.kernels import kernels, trouble
from model.networks.regnet import RegNetUNet
from model.networks.unet import Block, Decoder, Encoder, LateFeatures, LateFusion, MiddleFusion, UNet

SLAB_BYTES = {"cpu": 1 << 24, "cuda": 1 << 32}  # most that a slab of a convolution's input takes
LAST = torch.channels_last_3d
Read = Callable[[int, int], Sequence[Tensor]]  # rows [low, high) along X of an image, its channels in parts
Kept = dict[tuple[int, torch.Size, torch.dtype], Tensor]  # buffers of the stages, for the next window


def prepared(network: nn.Module, device: torch.device, precision: torch.dtype) -> nn.Module:
    """The network on the device, its weights laid out for `forward`, those of convolutions in `precision`.

    In float32, or for another network than the U-Nets, it is `network` itself, moved; else a copy, or on a GPU whose
    kernels can be had, `Fused`. Batch normalisation goes into the convolution before it. A network for slices lies
    channels-last, too: on a CPU it takes two thirds of the time.
    """
    if isinstance(network, RegNetUNet):
        flat: nn.Module = network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return flat
    if not isinstance(network, (UNet, MiddleFusion, LateFusion, LateFeatures)):
        return network.to(device)
    given = network = without_batch_norm(network)
    if precision != torch.float32:
        network = copy.deepcopy(network)
        for module in network.modules():
            if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)):
                module.to(precision)
    out: nn.Module = network.to(device).to(memory_format=LAST)  # type: ignore[call-overload]
    if precision == torch.float16 and fits(given) and (those := kernels(device)):
        return Fused(given.to(device), out, those)
    return out


def without_batch_norm(network: nn.Module) -> nn.Module:
    """A copy in which convolution and batch normalisation are one convolution with bias: the same values, to rounding.

    The network itself where it has no batch normalisation.
    """
    if not any(isinstance(module, nn.BatchNorm3d) for module in network.modules()):
        return network
    network = copy.deepcopy(network)
    for block in [module for module in network.modules() if isinstance(module, Block)]:
        norm: Any = block.norm
        scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()
        block.conv.weight.data *= scale.reshape(-1, 1, 1, 1, 1)
        block.conv.bias = nn.Parameter((norm.bias - norm.running_mean * scale).detach(), requires_grad=False)
        block.norm = nn.Identity()
    return network


def why_not_fused(network: nn.Module, device: torch.device, precision: torch.dtype) -> str | None:
    """Why `prepared` makes no `Fused` of a network that could be one there; None where it does, or never could."""
    return trouble(device) if precision == torch.float16 and fits(network) else None


@torch.no_grad()
def forward(network: nn.Module, image: Tensor, kept: Kept | None = None) -> Tensor:
    """What `network(image)` gives, to rounding: logits (B, K, X, Y, Z) of (B, 2, X, Y, Z), channel 0 = CT, 1 = PET.

    network: of `prepared`; others than the U-Nets are run as they are. kept: buffers of windows before, which this one
    takes and adds to. Makes no gradients. Raises ValueError if an edge is no multiple of 2 ** (stages - 1).
    """
    kept = {} if kept is None else kept
    match network:
        case Fused():
            one_slab = network.joined_bytes(image) <= SLAB_BYTES["cuda"]
            whole: Tensor = network(image) if one_slab else forward(network.plain, image, kept)
            return whole
        case UNet():
            return _unet(network, image, kept)
        case MiddleFusion():
            ct, pet = image.chunk(2, dim=1)
            return decoded(network.decoder, _encoded([network.pet_encoder, network.ct_encoder], [pet, ct], kept))
        case LateFusion():
            ct, pet = image.chunk(2, dim=1)
            return _unet(network.pet, pet, kept).add_(_unet(network.ct, ct, kept)).div_(2)
        case LateFeatures():
            return _late_features(network, image, kept)
        case _:
            out: Tensor = network(image)
            return out


def peak_bytes(width: int, voxels: int, itemsize: int) -> int:
    """About what `forward` takes of a window on a GPU: a stage's buffer of `width` channels, a slab of the join of
    twice as many, and what the convolution and the norm make of it. In fused.py it is less.
    """
    stage = width * voxels * itemsize
    return stage + 2 * min(2 * stage, SLAB_BYTES["cuda"])


def windows_of_one_slab(width: int, voxels: int, itemsize: int) -> int:
    """How many windows at a time are computed whole on a GPU; more would only be slower."""
    return max(SLAB_BYTES["cuda"] // (2 * width * voxels * itemsize), 1)


def _unet(network: UNet, image: Tensor, kept: Kept) -> Tensor:
    return decoded(network.decoder, _encoded([network.encoder], [image], kept))


def _late_features(network: LateFeatures, image: Tensor, kept: Kept) -> Tensor:
    """The 1x1x1 convolution of joined features is the sum of one of each network's."""
    ct, pet = image.chunk(2, dim=1)
    weights = network.fc.weight.chunk(2, dim=1)
    out = _by_rows(lambda rows: functional.conv3d(rows, weights[0]), _unet(network.pet, pet, kept))
    last = _by_rows(lambda rows: functional.conv3d(rows, weights[1], network.fc.bias), _unet(network.ct, ct, kept))
    return out.add_(last)


def _encoded(encoders: Sequence[Encoder], images: Sequence[Tensor], kept: Kept) -> list[Tensor]:
    """What the decoder reads of every stage, finest first: the encoders' channels one after the other."""
    stages: list[Tensor] = []
    if any(edge % 2 ** (encoders[0].stages - 1) for edge in images[0].shape[2:]):
        raise ValueError(f"{encoders[0].stages} stages cannot halve {tuple(images[0].shape[2:])} voxels evenly")
    for number, (encoder, image) in enumerate(zip(encoders, images, strict=True)):
        for stage in range(encoder.stages):
            layer: Any = encoder.get_submodule(f"layer{stage + 1}")
            width = layer[1].conv.out_channels
            image = _pooled(image) if stage else _laid_out(image, layer[0].conv.weight.dtype)
            if number == 0:
                shape = torch.Size((len(image), len(encoders) * width, *image.shape[2:]))
                key = (stage, shape, image.dtype)
                if key not in kept:
                    kept[key] = _empty(image, shape[1], shape[2:])
                stages.append(kept[key])
            place = stages[stage].narrow(1, number * width, width)
            image = _block(layer[1], _rows_of(_block(layer[0], _rows_of(image), place)), place)
            if image is not place:
                place.copy_(image)
    return stages


def decoded(decoder: Decoder, stages: list[Tensor]) -> Tensor:
    """Logits, or last features; the stages are overwritten."""
    image = stages[-1]
    for number in range(1, decoder.stages):
        place = stages[-1 - number]
        layer: Any = decoder.get_submodule(f"layer{number}")
        joined = _rows_of_join(decoder.get_submodule(f"upconv{number}"), image, place)
        image = _block(layer[1], _rows_of(_block(layer[0], joined, place)), place)
    return image if isinstance(decoder.fc, nn.Identity) else _by_rows(decoder.fc, image)


def _rows_of(image: Tensor) -> Read:
    return lambda low, high: [image[:, :, low:high]]


def _rows_of_join(up: nn.Module, below: Tensor, skip: Tensor) -> Read:
    """Rows of [up(below), skip]: a row of `below` becomes two."""

    def read(low: int, high: int) -> Sequence[Tensor]:
        part = up(below[:, :, low // 2 : (high + 1) // 2])
        return [part[:, :, low % 2 : low % 2 + high - low], skip[:, :, low:high]]

    return read


def _block(block: Any, read: Read, place: Tensor) -> Tensor:
    """Convolution, instance normalisation where there is one, SELU, written to `place`, which `read` may read; a volume
    that is one slab comes as a new tensor.
    """
    conv, norm, edge = block.conv, block.norm, place.shape[2]
    rows = _rows(place, max(conv.in_channels, conv.out_channels))
    if rows >= edge:
        parts = read(0, edge)
        joined = parts[0] if len(parts) == 1 else torch.cat(list(parts), 1)
        image = functional.conv3d(joined, conv.weight, conv.bias, padding=1)
        del parts, joined
        return functional.selu_(_normed(norm, image))
    if isinstance(norm, nn.Identity):
        for first, slab in _slabs(conv, read, place, rows):
            place[:, :, first : first + slab.shape[2]] = functional.selu_(slab)
        return place
    sums = [torch.zeros(place.shape[:2], dtype=torch.float64, device=place.device) for _ in range(3)]
    for first, slab in _slabs(conv, read, place, rows):
        mean, spread = _moments(slab)
        place[:, :, first : first + slab.shape[2]] = slab
        for total, more in zip(sums, (torch.ones_like(mean), mean, spread + mean**2), strict=True):
            total += more * slab.shape[2]
    mean = sums[1] / sums[0]
    scale = norm.weight / (sums[2] / sums[0] - mean**2 + norm.eps).sqrt()
    shift = norm.bias - mean * scale
    for first in range(0, edge, rows):
        part = place[:, :, first : first + rows]
        scaled = torch.addcmul(shift.float()[..., None, None, None], part.float(), scale.float()[..., None, None, None])
        part.copy_(functional.selu_(scaled))
    return place


def _slabs(conv: Any, read: Read, place: Tensor, rows: int) -> Iterator[tuple[int, Tensor]]:
    """The convolution, `rows` rows at a time, each with its first row; `place` may be overwritten up to them."""
    edge = place.shape[2]
    seen = _empty(place, conv.in_channels, (rows + 2, *place.shape[3:]))  # row r at r - first + 1
    seen[:, :, 0] = 0
    have = 0
    for first in range(0, edge, rows):
        last = min(first + rows, edge)
        if first:
            seen[:, :, :2] = seen[:, :, rows:].clone()
        more = min(last + 1, edge)
        if more > have:
            channel = 0
            for part in read(have, more):
                seen[:, channel : channel + part.shape[1], have - first + 1 : more - first + 1] = part
                channel += part.shape[1]
            have = more
        if last == edge:
            seen[:, :, last - first + 1] = 0
        yield first, functional.conv3d(seen[:, :, : last - first + 2], conv.weight, conv.bias, padding=(0, 1, 1))


def _normed(norm: Any, image: Tensor) -> Tensor:
    """Instance-normalised, channels last where they are. On a GPU as batch normalisation of one image after the other:
    the same sum, in float32 whatever the image is, where instance_norm would turn the image to and fro.
    """
    if image.device.type == "cpu" or isinstance(norm, nn.Identity):
        out: Tensor = norm(image)
        return out
    parts = [normed_as_batch(norm, one) for one in _one_by_one(image)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def normed_as_batch(norm: Any, image: Tensor) -> Tensor:
    """Instance normalisation of one image (1, C, X, Y, Z)."""
    return functional.batch_norm(image, None, None, norm.weight, norm.bias, training=True, eps=norm.eps)


def _moments(image: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of every channel of every image, (B, C) float64."""
    if image.device.type == "cpu":  # var_mean is twenty times slower there
        pairs = [torch.batch_norm_update_stats(one, None, None, 0.0) for one in _one_by_one(image)]
        mean, spread = (torch.stack(part) for part in zip(*pairs, strict=True))
    else:
        spread, mean = torch.var_mean(image.float(), (2, 3, 4), correction=0)
    return mean.double(), spread.double()


def _one_by_one(images: Tensor) -> list[Tensor]:
    return [images[number : number + 1] for number in range(len(images))]


def _pooled(image: Tensor) -> Tensor:
    """Maxima of 2 x 2 x 2 voxels."""
    return _by_rows(lambda rows: functional.max_pool3d(rows, 2), image)


def _by_rows(work: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    """What works on every row along X, or on every two, a slab at a time."""
    edge, rows = image.shape[2], _rows(image, image.shape[1])
    if rows >= edge:
        return work(image)
    return torch.cat([work(image[:, :, first : first + rows]) for first in range(0, edge, rows)], 2)


def _rows(image: Tensor, channels: int) -> int:
    """Rows along X of a slab of so many channels, an even number."""
    row = channels * image[:, 0, 0].numel() * image.element_size()
    return max(SLAB_BYTES[image.device.type] // row // 2 * 2, 2)


def _laid_out(image: Tensor, precision: torch.dtype) -> Tensor:
    """An image of one channel in which torch sees channels last: its own conversion leaves such strides as they are."""
    return _empty(image, image.shape[1], image.shape[2:]).copy_(image).to(precision)


def _empty(like: Tensor, channels: int, size: Sequence[int]) -> Tensor:
    shape = (like.shape[0], channels, *size)
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=LAST)
