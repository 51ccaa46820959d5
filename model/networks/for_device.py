"""A trained network as its device computes it: in which precision and layout, and by which kernels."""

import copy
from functools import partial
from typing import Any

import torch
from torch import nn

from model.networks.bfloat16 import narrowed
from model.networks.fused import Fused, can_fuse
from model.networks.fused_strided import FusedStrided, can_fuse_strided
from model.networks.kernels import kernels, why_unavailable
from model.networks.nnunet import StridedUNet
from model.networks.regnet import RegNetUNet
from model.networks.unet import Block, LateFeatures, LateFusion, MiddleFusion, UNet

LAST = torch.channels_last_3d


def prepared(network: nn.Module, device: torch.device, precision: torch.dtype) -> nn.Module:
    """The network on the device, laid out for `slabs.forward`, the weights of its convolutions in `precision`.

    In float32, or on a GPU if it is no U-Net, it is `network` itself, moved; else a copy, on a CPU in bfloat16 with
    float32 layers at both ends (`narrowed`), or on a GPU with the kernels, `Fused`. Batch normalisation of a U-Net goes
    into the convolution before it. A network for slices becomes channels-last, too: on a CPU it then takes two thirds
    of the time.
    """
    on_cpu = device.type == "cpu" and precision != torch.float32
    if isinstance(network, RegNetUNet):
        network = narrowed(network) if on_cpu else network
        flat: nn.Module = network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return flat
    if isinstance(network, StridedUNet):
        return _prepared_strided(network, device, precision)
    if not isinstance(network, (UNet, MiddleFusion, LateFusion, LateFeatures)):
        return narrowed(network) if on_cpu else network.to(device)
    original = without_batch_norm(network)
    out = _converted(original, device, precision)
    if precision == torch.float16 and can_fuse(original) and (compiled := kernels(device)):
        return Fused(original.to(device), out, compiled)
    return out


def _prepared_strided(network: StridedUNet, device: torch.device, precision: torch.dtype) -> nn.Module:
    """Of nnU-Net's kind. On a GPU with the kernels there is no copy for torch's operations until an image needs it."""

    network = network.to(device)
    plain = partial(_converted, network, device, precision)
    if precision == torch.float16 and can_fuse_strided(network) and (compiled := kernels(device)):
        return FusedStrided(network, plain, compiled)
    return plain()


def _converted(network: nn.Module, device: torch.device, precision: torch.dtype) -> nn.Module:
    """The network on the device, channels-last; where `precision` is not float32 a copy with convolutions in it."""
    if precision != torch.float32 and device.type == "cpu":
        network = narrowed(network)
    elif precision != torch.float32:
        network = copy.deepcopy(network)
        for module in network.modules():
            if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)):
                module.to(precision)
    out: nn.Module = network.to(device).to(memory_format=LAST)  # type: ignore[call-overload]
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
    """Why `prepared` gives no `Fused` for a network that could be one; None if it does, or the network could not."""
    can_be_fused = can_fuse(network) or can_fuse_strided(network)
    return why_unavailable(device) if precision == torch.float16 and can_be_fused else None
