"""Networks on a CPU whose convolutions and linear layers multiply bfloat16 numbers; sums are float32.

A layer's weights are rounded to bfloat16 once, its input each time, and what it gives is rounded again: that is what
oneDNN does for torch where the processor has bfloat16, and there it takes a half to a quarter of the time. Where the
processor has none, torch's own convolutions would be some hundred times slower than in float32. There the rounded
numbers are multiplied in float32: a product of two bfloat16 numbers is exact in float32, so only the order of the sums
differs, as it does between processors.

Two kinds of layers stay float32. Those that read the image (of a RegNet the first stage, too) or give the logits: they
take little time, an image's values have more digits than bfloat16's eight bits, and no later layer makes up for what
the logits lose. And those of few channels: they lie near full resolution, where rounding shows most in a mask, and the
many operations lie elsewhere.
"""

import copy
import re
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from model.networks.regnet import ConvNorm, RegNetUNet
from model.processor import has_bfloat16

NARROW = torch.bfloat16
Layer = nn.Conv2d | nn.Conv3d | nn.ConvTranspose3d | nn.Linear
READS_IMAGE = re.compile(  # names of layers in unet.py, nnunet.py, regnet.py and MONAI's SwinUNETR
    r"(encoder\.layer1\.0\.conv|encoder\.stem\.conv|encoder\.s1\.b\d+\..*|encoder\.stages\.0\.0\.conv"
    r"|patch_embed\.proj|encoder1\.layer\.conv[13]\.conv)$"
)
GIVES_LOGITS = re.compile(r"(^|\.)(fc|head|organ_head|segmentation_head\.0|out\.conv\.conv)$")
LEAST_CHANNELS = 32  # of a group, in and out, for bfloat16: below, real masks changed by more than Dice 0.998
POOLED_CHANNELS = 8  # at a time: torch's mean over blocks has no bfloat16


def narrowed(network: nn.Module) -> nn.Module:
    """A copy for a CPU in which the layers of many channels have bfloat16 weights; every layer takes any input.

    A layer gives the precision of its weights; those of MONAI's SwinUNETR give float32, since its attention needs it.
    Batch normalisation after a convolution of a network for slices goes into it. Else names and kinds of layers stay.
    """
    gives = torch.float32 if type(network).__name__ == "SwinUNETR" else None
    out = copy.deepcopy(network)
    if isinstance(out, RegNetUNet):
        _fold_batch_norm(out)
    for name, layer in out.named_modules():
        if isinstance(layer, nn.AvgPool3d):
            layer.forward = partial(_pooled, layer)  # type: ignore[method-assign]
        if not isinstance(layer, Layer):
            continue
        at_an_end = READS_IMAGE.search(name) or GIVES_LOGITS.search(name)
        if not at_an_end and _channels(layer) >= LEAST_CHANNELS:
            layer.to(NARROW)
        layer.forward = partial(_run, layer, gives or layer.weight.dtype)  # type: ignore[method-assign]
    return out


def conv3d(conv: Any, image: Tensor, padding: Any, has_bias: bool = True) -> Tensor:
    """`conv` with another padding, in the precision of its weights, which may be another than the image's.

    has_bias: whether its bias counts, if it has one.
    """

    def apply(image: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return functional.conv3d(image, weight, bias if has_bias else None, conv.stride, padding)

    return _computed(conv, image, apply)


@cache
def in_hardware() -> bool:
    """Whether torch's convolutions in bfloat16 are fast here: the processor has it, and torch gives them to oneDNN."""
    return has_bfloat16() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _fold_batch_norm(network: RegNetUNet) -> None:
    for module in list(network.modules()):
        if isinstance(module, ConvNorm):
            module.conv = fuse_conv_bn_eval(module.conv, module.bn)
            module.bn = nn.Identity()  # type: ignore[assignment]
        elif isinstance(module, nn.Sequential) and len(module) > 1 and isinstance(module[1], nn.BatchNorm2d):
            conv: Any = module[0]
            module[0], module[1] = fuse_conv_bn_eval(conv, module[1]), nn.Identity()


def _channels(layer: Any) -> int:
    """The fewer of the channels that a layer reads and gives, of one group."""
    if isinstance(layer, nn.Linear):
        return min(layer.in_features, layer.out_features)
    return int(min(layer.in_channels, layer.out_channels) // layer.groups)


def _run(layer: Any, gives: torch.dtype, image: Tensor) -> Tensor:
    def apply(image: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        match layer:
            case nn.Linear():
                return functional.linear(image, weight, bias)
            case nn.ConvTranspose3d():
                shape: Any = (layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation)
                return functional.conv_transpose3d(image, weight, bias, *shape)
            case _:
                convolve = functional.conv2d if isinstance(layer, nn.Conv2d) else functional.conv3d
                return convolve(image, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)

    return _computed(layer, image, apply).to(gives)


def _computed(layer: Any, image: Tensor, apply: Any) -> Tensor:
    """`apply(image, weight, bias)`, rounded to the weights' precision as the hardware would."""
    weight, bias = layer.weight, layer.bias
    image = image.to(weight.dtype)
    if weight.dtype != NARROW or image.device.type != "cpu" or in_hardware():
        out: Tensor = apply(image, weight, bias)
        return out
    imitated: Tensor = apply(image.float(), weight.float(), None if bias is None else bias.float())
    return imitated.to(NARROW)


def _pooled(pool: Any, image: Tensor) -> Tensor:
    parts = torch.split(image, POOLED_CHANNELS, 1)
    pooled = [functional.avg_pool3d(part.float(), pool.kernel_size, pool.stride).to(image.dtype) for part in parts]
    return torch.cat(pooled, 1)
