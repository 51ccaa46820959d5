"""The forward pass of the U-Nets of unet.py on a GPU in float16: cuDNN's convolutions with kernels.cu between them.

Three things save time:

- A stage's skip connection is never copied. It is one image: the encoders write the last half of its channels, the
  decoder writes the first half.
- The PET and the CT encoder run as one from their second layer on, with zero weights between the two: cuDNN takes as
  long for 64 channels to 64 as twice for 32 to 32, and the kernels in between run once instead of twice.
- The last convolution, 1x1x1, runs in one kernel with the normalisation before it; its logits are float32.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.networks.body import BodyNorm, divided
from model.networks.kernels import MOST_CHANNELS, PACK, Kernels
from model.networks.unet import Block, Decoder, Encoder, LateFeatures, LateFusion, MiddleFusion, Norm, UNet

LAST = torch.channels_last_3d


class Layer(NamedTuple):
    """A convolution's weight (float16), and the instance normalisation after it (float32)."""

    weight: Tensor
    scale: Tensor
    shift: Tensor
    eps: float


class Stage(NamedTuple):
    """A stage of the decoder: the transposed convolution as a matrix (8 * C, C below) with bias, and two layers."""

    up: Tensor
    bias: Tensor
    layers: list[Layer]


class Branch(NamedTuple):
    """One U-Net. first: each encoder's first layer, with the first channel of the image that it reads and how many;
    encoder: the layers after it, stage by stage; weight (K, C), bias (K): the last convolution.
    """

    first: list[tuple[int, int, Layer]]
    encoder: list[list[Layer]]
    decoder: list[Stage]
    weight: Tensor
    bias: Tensor


class Fused(nn.Module):
    """A network prepared for a GPU's kernels, on the device where it is.

    plain: the same network without them, for images that take too much memory here.
    """

    def __init__(self, network: nn.Module, plain: nn.Module, kernels: Kernels) -> None:
        super().__init__()
        self.plain, self._kernels = plain, kernels
        with torch.no_grad():
            self._branches = [_ready(one) for one in _branches(network)]
        self._stages = len(self._branches[0].encoder)
        self._over_body = any(isinstance(module, BodyNorm) for module in network.modules())
        self._channels = max(first + count for first, count, _ in self._branches[0].first)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, K, X, Y, Z) float32 of (B, 2, X, Y, Z), channel 0 = CT, 1 = PET, or of PET alone (B, 1, X, Y, Z);
        with norm body the last channel is the body.

        Raises ValueError if an edge is no multiple of 2 ** (stages - 1), or without the body that the network needs.
        """
        if any(edge % 2 ** (self._stages - 1) for edge in image.shape[2:]):
            raise ValueError(f"{self._stages} stages cannot halve {tuple(image.shape[2:])} voxels evenly")
        image, bodies = divided(image, self._stages, self._over_body, self._channels)
        bodies = [None if body is None else body.bool() for body in bodies]
        out = self._run(self._branches[0], image, bodies)
        for branch in self._branches[1:]:
            out += self._run(branch, image, bodies)
        return out

    def joined_bytes(self, image: Tensor) -> int:
        """Bytes of the largest image that a forward pass makes: the skip connection at full resolution. The pass takes
        about half as much again beside it.
        """
        channels = self._branches[0].decoder[-1].layers[0].weight.shape[1]
        return channels * image[:, 0].numel() * torch.float16.itemsize

    def _run(self, branch: Branch, image: Tensor, bodies: Sequence[Tensor | None]) -> Tensor:
        skips: list[Tensor] = []
        image = self._first(branch, image, bodies[0])
        for number, (layers, body) in enumerate(zip(branch.encoder, bodies, strict=True), start=1):
            for layer in layers[:-1]:
                image = self._layer(layer, image, body)
            raw, factors = self._convolved(layers[-1], image, body)
            del image
            if number == len(branch.encoder):
                self._kernels.normalise(raw, factors, raw)
                image = raw
            else:  # into the last half of the channels; the first half is the decoder's
                joined = _empty(raw, 2 * raw.shape[1], raw.shape[2:])
                skips.append(joined)
                skip = joined[:, raw.shape[1] :]
                self._kernels.normalise(raw, factors, skip)
                del raw
                image = self._kernels.pool(skip)
        for stage, body in zip(branch.decoder, bodies[-2::-1], strict=True):
            joined = skips.pop()
            self._up(stage, image, joined[:, : joined.shape[1] // 2])
            image = self._layer(stage.layers[0], joined, body)
            del joined
            raw, factors = self._convolved(stage.layers[1], image, body)
            if skips:
                self._kernels.normalise(raw, factors, raw)
                image = raw
        return self._kernels.classify(raw, factors, branch.weight, branch.bias)

    def _first(self, branch: Branch, image: Tensor, body: Tensor | None) -> Tensor:
        """The first layer of every encoder; their channels side by side."""
        out = _empty(image, sum(len(layer.scale) for *_, layer in branch.first), image.shape[2:])
        done = 0
        for low, count, layer in branch.first:
            channels = _empty(image, count, image.shape[2:]).copy_(image[:, low : low + count])
            raw, factors = self._convolved(layer, channels, body)
            self._kernels.normalise(raw, factors, out[:, done : done + raw.shape[1]])
            done += raw.shape[1]
        return out

    def _layer(self, layer: Layer, image: Tensor, body: Tensor | None) -> Tensor:
        raw, factors = self._convolved(layer, image, body)
        self._kernels.normalise(raw, factors, raw)
        return raw

    def _convolved(self, layer: Layer, image: Tensor, body: Tensor | None) -> tuple[Tensor, Tensor]:
        """The convolved image, and the factors that normalise it."""
        raw = functional.conv3d(image, layer.weight, padding=1)
        if not raw.is_contiguous(memory_format=LAST):  # cuDNN keeps the layout of its input
            raw = raw.contiguous(memory_format=LAST)
        return raw, self._kernels.factors(raw, layer.scale, layer.shift, layer.eps, body)

    def _up(self, stage: Stage, image: Tensor, out: Tensor) -> None:
        """Write the transposed convolution into `out`: every voxel becomes eight."""
        rows = image.permute(0, 2, 3, 4, 1)
        values = torch.addmm(stage.bias, rows.reshape(-1, rows.shape[-1]), stage.up.T)
        self._kernels.depth_to_space(values.view(*rows.shape[:4], 2, 2, 2, out.shape[1]), out)


def can_fuse(network: nn.Module) -> bool:
    """Whether `Fused` can run a network: a U-Net with instance normalisation and numbers of channels that the kernels
    take.
    """
    if not isinstance(network, (UNet, MiddleFusion, LateFusion, LateFeatures)):
        return False
    if not all(isinstance(module.norm, (Norm, BodyNorm)) for module in network.modules() if isinstance(module, Block)):
        return False  # without it there is little between the convolutions for a kernel to save
    middle = isinstance(network, MiddleFusion)
    parts: list[Any] = [network] if isinstance(network, (UNet, MiddleFusion)) else [network.pet, network.ct]
    encoder = parts[0].pet_encoder if middle else parts[0].encoder
    channels = [
        encoder.get_submodule(f"layer{stage}")[0].conv.out_channels * (2 if middle else 1)
        for stage in range(1, encoder.stages + 1)
    ]
    packs = channels[0] // PACK  # of the last convolution: a power of two, at most a warp
    return all(c % PACK == 0 and c <= MOST_CHANNELS for c in channels) and packs & (packs - 1) == 0 and packs <= 32


def _branches(network: Any) -> list[Branch]:
    """The U-Nets that a network consists of; the sum of their logits is the network's."""
    match network:
        case UNet():
            return [_branch([network.encoder], [(0, network.inside)], network.decoder, network.decoder.fc)]
        case MiddleFusion():
            encoders = [network.pet_encoder, network.ct_encoder]
            return [_branch(encoders, [(1, 1), (0, 1)], network.decoder, network.decoder.fc)]
        case LateFusion():
            parts = [(network.pet, 1, network.pet.decoder.fc), (network.ct, 0, network.ct.decoder.fc)]
            halves = [_branch([part.encoder], [(channel, 1)], part.decoder, fc) for part, channel, fc in parts]
            return [half._replace(weight=half.weight / 2, bias=half.bias / 2) for half in halves]
        case _:
            weights = network.fc.weight.flatten(1).chunk(2, dim=1)
            out = [
                _branch([part.encoder], [(channel, 1)], part.decoder, network.fc)._replace(weight=weight)
                for part, channel, weight in zip((network.pet, network.ct), (1, 0), weights, strict=True)
            ]
            return [out[0], out[1]._replace(bias=torch.zeros_like(out[1].bias))]


def _branch(encoders: Sequence[Encoder], channels: list[tuple[int, int]], decoder: Decoder, last: Any) -> Branch:
    """channels: of each encoder, the first channel of the image that it reads, and how many."""
    first, encoder = [], []
    for stage in range(1, encoders[0].stages + 1):
        blocks: list[Any] = [one.get_submodule(f"layer{stage}") for one in encoders]
        encoder.append([_side_by_side([block[number] for block in blocks]) for number in (0, 1)])
        if stage == 1:
            first = [(*place, _side_by_side([block[0]])) for place, block in zip(channels, blocks, strict=True)]
            together = encoder[0].pop(0)
            if any(
                len(layer.scale) % PACK for *_, layer in first
            ):  # too few channels for a kernel: all encoders as one
                order = sorted(range(len(channels)), key=lambda number: channels[number])
                columns = together.weight if len(order) == 1 else together.weight[:, order]
                first = [(min(channels)[0], sum(count for _, count in channels), together._replace(weight=columns))]
    stages = []
    for number in range(1, decoder.stages):
        up: Any = decoder.get_submodule(f"upconv{number}")
        weight = up.weight.permute(2, 3, 4, 1, 0).reshape(-1, up.in_channels)  # a voxel's (2, 2, 2, C)
        layer: Any = decoder.get_submodule(f"layer{number}")
        stages.append(Stage(weight, up.bias.repeat(8), [_side_by_side([block]) for block in layer]))
    return Branch(first, encoder, stages, last.weight.flatten(1), last.bias)


def _side_by_side(blocks: list[Any]) -> Layer:
    """Several blocks as one layer, each on channels of its own."""
    weights = [block.conv.weight for block in blocks]
    weight = weights[0].new_zeros(sum(len(w) for w in weights), sum(w.shape[1] for w in weights), 3, 3, 3)
    row = column = 0
    for part in weights:
        weight[row : row + len(part), column : column + part.shape[1]] = part
        row, column = row + len(part), column + part.shape[1]
    scale, shift = (torch.cat([getattr(block.norm, what) for block in blocks]) for what in ("weight", "bias"))
    return Layer(weight, scale, shift, blocks[0].norm.eps)


def _ready(branch: Branch) -> Branch:
    """The branch with convolutions in float16, channels-last; what the kernels read stays float32."""

    def layer(one: Layer) -> Layer:
        return one._replace(weight=one.weight.half().contiguous(memory_format=LAST))

    return Branch(
        [(low, count, layer(one)) for low, count, one in branch.first],
        [[layer(one) for one in stage] for stage in branch.encoder],
        [Stage(up.half(), bias.half(), [layer(one) for one in layers]) for up, bias, layers in branch.decoder],
        branch.weight.contiguous(),
        branch.bias,
    )


def _empty(like: Tensor, channels: int, size: Sequence[int]) -> Tensor:
    shape = (like.shape[0], channels, *size)
    return torch.empty(shape, dtype=torch.float16, device=like.device, memory_format=LAST)
