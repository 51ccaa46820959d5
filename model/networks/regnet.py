"""The network of Zhong et al.: a U-Net decoder on a RegNetY encoder, for slices (their section 2.2).

RegNetY: Radosavovic et al., "Designing Network Design Spaces", CVPR 2020, section 3.3 and appendix D. Names of
parameters are those of timm's RegNet below `encoder.` and of segmentation_models_pytorch's Unet elsewhere, so that
weights made with those libraries fit. Input (B, 2, Y, X), channel 0 = PET, 1 = CT; both edges multiples of 32.
Output: logits (B, classes, Y, X).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.bundle.network import Network

CHANNELS = 2  # PET, CT
STEM = 32
SQUEEZE = 0.25  # width of the squeeze-and-excitation, as a share of the block's input channels
STEP = 8  # widths are rounded to multiples of this, then of the groups' width


@dataclass(frozen=True)
class Design:
    """A RegNetY: block j is about initial + slope * j wide, quantised to initial * factor ** k (equations 2 to 4)."""

    depth: int
    initial: int
    slope: float
    factor: float
    group: int

    def stages(self) -> list[tuple[int, int]]:
        """(blocks, width) of every stage."""
        widths = []
        for block in range(self.depth):
            power = round(math.log((self.initial + self.slope * block) / self.initial) / math.log(self.factor))
            width = round(self.initial * self.factor**power / STEP) * STEP
            widths.append(round(width / self.group) * self.group)
        return [(widths.count(width), width) for width in dict.fromkeys(widths)]


DESIGNS = {  # RegNetY of 200 MF, 400 MF, 800 MF and 16 GF: the paper's table of appendix D, timm's names
    "regnety_002": Design(13, 24, 36.44, 2.49, 8),
    "regnety_004": Design(16, 48, 27.89, 2.09, 8),
    "regnety_008": Design(14, 56, 38.84, 2.4, 16),
    "regnety_160": Design(18, 200, 106.23, 2.48, 112),
}


def build_slices(network: Network) -> nn.Module:
    """The network with fresh random weights."""
    return RegNetUNet(DESIGNS[network.fusion], network.widths, network.classes)


class ConvNorm(nn.Module):
    """Convolution without bias, batch normalisation, and ReLU unless `linear`."""

    def __init__(self, inside: int, outside: int, edge: int, stride: int = 1, groups: int = 1, linear: bool = False):
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, edge, stride, padding=edge // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outside)
        self.linear = linear

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = self.bn(self.conv(image))
        return out if self.linear else functional.relu_(out)


class SqueezeExcitation(nn.Module):
    """Weights every channel by a function of all channels' means over the slice (Hu et al., CVPR 2018)."""

    def __init__(self, width: int, narrow: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(width, narrow, 1)
        self.fc2 = nn.Conv2d(narrow, width, 1)

    def forward(self, image: Tensor) -> Tensor:
        weight: Tensor = self.fc2(functional.relu_(self.fc1(image.mean((2, 3), keepdim=True)))).sigmoid()
        return image * weight


class Bottleneck(nn.Module):
    """RegNetY's residual block: 1x1, grouped 3x3, squeeze and excitation, 1x1."""

    def __init__(self, inside: int, width: int, stride: int, group: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(inside, width, 1)
        self.conv2 = ConvNorm(width, width, 3, stride, groups=width // group)
        self.se = SqueezeExcitation(width, round(inside * SQUEEZE))
        self.conv3 = ConvNorm(width, width, 1, linear=True)
        same = inside == width and stride == 1
        self.downsample = nn.Identity() if same else ConvNorm(inside, width, 1, stride, linear=True)
        nn.init.zeros_(self.conv3.bn.weight)  # before training a block passes on its shortcut alone

    def forward(self, image: Tensor) -> Tensor:
        shortcut: Tensor = self.downsample(image)
        return functional.relu_(shortcut + self.conv3(self.se(self.conv2(self.conv1(image)))))


class SliceEncoder(nn.Module):
    """Stem and four stages, each of half the resolution; returns one tensor each, finest (half) first."""

    def __init__(self, design: Design) -> None:
        super().__init__()
        self.stem = ConvNorm(CHANNELS, STEM, 3, 2)
        inside, self.widths = STEM, [STEM]
        for number, (blocks, width) in enumerate(design.stages(), start=1):
            stage = nn.Sequential()
            for block in range(blocks):
                stage.add_module(f"b{block + 1}", Bottleneck(inside, width, 1 if block else 2, design.group))
                inside = width
            self.add_module(f"s{number}", stage)
            self.widths.append(width)
        for module in self.modules():
            # As timm: normal, scaled by the convolution's outputs. Not on the meta device, where there are no values:
            # normal_ would load torch's compiler there, which takes seconds and leaves a folder in /tmp.
            if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
                fan = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, image: Tensor) -> list[Tensor]:
        out = [self.stem(image)]
        for number in range(1, len(self.widths)):
            out.append(self.get_submodule(f"s{number}")(out[-1]))
        return out


class UpBlock(nn.Module):
    """Doubles the resolution by nearest neighbour, joins the skip connection, and convolves twice."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (
            nn.Sequential(nn.Conv2d(n, outside, 3, padding=1, bias=False), nn.BatchNorm2d(outside), nn.ReLU(True))
            for n in (inside, outside)
        )

    def forward(self, image: Tensor, skip: Tensor | None) -> Tensor:
        image = functional.interpolate(image, scale_factor=2, mode="nearest")
        out: Tensor = self.conv2(self.conv1(image if skip is None else torch.cat([image, skip], 1)))
        return out


class SliceDecoder(nn.Module):
    """From the encoder's deepest stage to full resolution; one block a width."""

    def __init__(self, skips: list[int], widths: tuple[int, ...]) -> None:
        super().__init__()
        insides = [skips[-1], *widths[:-1]]
        joined = [*reversed(skips[:-1]), 0]
        self.blocks = nn.ModuleList(UpBlock(a + b, c) for a, b, c in zip(insides, joined, widths, strict=True))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, mode="fan_in", nonlinearity="relu")

    def forward(self, skips: list[Tensor]) -> Tensor:
        image = skips[-1]
        for number, block in enumerate(self.blocks, start=2):
            image = block(image, skips[-number] if number <= len(skips) else None)
        return image


class RegNetUNet(nn.Module):
    """Encoder, decoder, and a 3x3 convolution to the classes."""

    def __init__(self, design: Design, widths: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.encoder = SliceEncoder(design)
        self.decoder = SliceDecoder(self.encoder.widths, widths)
        head = nn.Conv2d(widths[-1], classes, 3, padding=1)
        nn.init.xavier_uniform_(head.weight)
        if head.bias is not None:
            nn.init.zeros_(head.bias)
        self.segmentation_head = nn.Sequential(head)

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = self.segmentation_head(self.decoder(self.encoder(image)))
        return out
