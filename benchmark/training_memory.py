"""How much of a GPU's memory a training step takes: arithmetic, on tensors that have sizes and no values.

python -m benchmark.training --memory prints it. A step of the network is run on torch's meta device in two bytes a
value, as in bfloat16 or float16: forward, loss, backward, with the fused layer of training.compute.fused_norm as its
kernels allocate. Every tensor that is made is counted until it is let go. What cuDNN takes for itself, the CUDA context
and holes between tensors are not in it: RESERVE stands for them, by guess, until a GPU has measured it.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.record import table
from benchmark.tensor_memory import MostBytes
from model.bundle.network import Network
from model.networks.unet import Block, skeleton
from training.compute.fused_norm import InstanceNormSelu, norm_selu
from training.compute.recompute import recompute_stages
from training.runs.losses import loss_function
from training.settings import Loss

CARDS_GB = (16, 24, 80)  # as the cards are sold
USABLE = 0.92  # share of it that a program is given, by guess
RESERVE = 1.5e9  # bytes for the CUDA context, cuDNN's workspace and holes
BYTES_A_PARAMETER = 4 + 4 + 8 + 8 + 2  # weight, gradient, two moments, the average in float64, autocast's copy
LAST = torch.channels_last_3d


class KernelSizes:
    """The operations of the fused layer as to what its kernels allocate, without values."""

    def normal(self, image: Tensor, eps: float) -> Tensor:
        return image.new_empty(len(image), 2, image.shape[1], dtype=torch.float32)

    def activated(self, image: Tensor, normal: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.empty_like(image)

    def sums(self, image: Tensor, gradient: Tensor, normal: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.empty_like(normal)

    def image_gradient(
        self, image: Tensor, gradient: Tensor, normal: Tensor, weight: Tensor, bias: Tensor, sums: Tensor | None
    ) -> Tensor:
        return torch.empty_like(image)


class CountedNormSelu(InstanceNormSelu):
    """The fused layer, by KernelSizes."""

    def forward(self, image: Tensor) -> Tensor:
        image = image.contiguous(memory_format=LAST)
        by = KernelSizes()
        return norm_selu(image, self.weight, self.bias, by.normal(image, self.eps), True, by)


@dataclass(frozen=True, kw_only=True)
class StepBytes:
    """Bytes of a step: `weights` with gradients, optimizer and average; `kept` for the backward pass; `most` of all."""

    weights: int
    kept: int
    most: int


@functools.cache
def step_bytes(network: Network, edge: int, batch: int, *, recompute: bool) -> StepBytes:
    """Bytes of one step of `batch` crops of edge^3."""
    net = counted_network(network, recompute=recompute)
    weights = BYTES_A_PARAMETER * sum(one.numel() for one in net.parameters())
    with torch.device("meta"):
        image = torch.empty(batch, 2, edge, edge, edge, dtype=torch.bfloat16, memory_format=LAST)
        truth = torch.empty(batch, 1, edge, edge, edge)
    given = 3 * image.nbytes + truth.nbytes  # an image comes in float32, and autocast copies it
    loss_of = loss_function(Loss())
    with MostBytes() as counted:
        out = net(image)
        loss: Any = loss_of(out.float(), truth)
        del out
        kept = counted.alive
        loss.backward()
    return StepBytes(weights=weights, kept=kept, most=counted.most + weights + given)


def counted_network(network: Network, *, recompute: bool) -> nn.Module:
    """The network as it trains on a GPU, with sizes and no values, in bfloat16."""
    net = skeleton(network).to(torch.bfloat16)
    for block in [one for one in net.modules() if isinstance(one, Block)]:
        block.norm, block.act = CountedNormSelu(block.norm), nn.Identity()  # type: ignore[arg-type, assignment]
    if recompute:
        recompute_stages(net)
    return net


def largest_batch(network: Network, edge: int, gigabytes: float, *, recompute: bool) -> int:
    """The most crops at a time that fit a card; 0 if not even one does. Memory grows by the same for every crop."""
    one, two = (step_bytes(network, edge, batch, recompute=recompute).most for batch in (1, 2))
    left = gigabytes * 1e9 * USABLE - RESERVE - one
    return 0 if left < 0 else 1 + int(left // (two - one))


def memory_tables(network: Network, edges: Sequence[int]) -> list[str]:
    """Both tables: bytes of a step, and which batch fits which card."""
    steps, fits = [], []
    for edge in edges:
        for recompute in (False, True):
            how = "yes" if recompute else "no"
            for batch in (1, 2, 4):
                found = step_bytes(network, edge, batch, recompute=recompute)
                values = found.weights, found.kept, found.most
                steps.append([f"{edge}^3", how, str(batch), *(f"{value / 1e9:.2f}" for value in values)])
            batches = [largest_batch(network, edge, card, recompute=recompute) for card in CARDS_GB]
            fits.append([f"{edge}^3", how, *(str(one) if one else "none" for one in batches)])
    return [
        *table(["crops", "recompute", "batch", "weights, GB", "kept for backward, GB", "most at once, GB"], steps),
        "",
        *table(["crops", "recompute", *(f"largest batch, {card} GB" for card in CARDS_GB)], fits),
        "",
        f"By arithmetic, not measured. Two bytes a value. A card's memory times {USABLE:g}, less "
        f"{RESERVE / 1e9:g} GB for the CUDA context, cuDNN and holes, must hold the most at once.",
    ]
