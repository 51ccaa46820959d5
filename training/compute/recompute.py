"""Less memory for more time: a stage's inner values are computed again in the backward pass, in place of being kept.

Source: Chen et al., Training Deep Nets with Sublinear Memory Cost, arXiv 1604.06174; torch.utils.checkpoint.
"""

from collections.abc import Callable

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.networks.nnunet import StridedDecoder, StridedEncoder
from model.networks.unet import Decoder, Encoder


def recompute_stages(network: nn.Module) -> int:
    """Let every stage of a U-Net keep its input alone while it trains; returns how many stages.

    Weights, their names and all values stay as they are, to the bit.
    """
    stages = [stage for module in network.modules() for stage in _stages_of(module)]
    for stage in stages:
        stage.forward = _recomputed(stage, stage.forward)
    return len(stages)


def _stages_of(module: nn.Module) -> list[nn.Module]:
    if isinstance(module, (Encoder, Decoder)):
        return [part for name, part in module.named_children() if name.startswith("layer")]
    if isinstance(module, (StridedEncoder, StridedDecoder)):
        return list(module.stages)
    return []


def _recomputed(stage: nn.Module, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def run(*inputs: Tensor | None) -> Tensor:
        if not stage.training:
            return forward(*inputs)
        out: Tensor = checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=False)
        return out

    return run
