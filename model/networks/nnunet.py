"""U-Nets as nnU-Net v2 builds them: with a plain encoder, or with a residual one (ResEnc M, L, XL).

A unit is Conv3d (padding keeps the size) -> InstanceNorm3d(affine) -> LeakyReLU(0.01). A stage of the plain encoder is
some units, the first with the stage's stride; a stage of the residual encoder is some blocks of two units around which
the input is added (ResNet-D: the input is averaged over the stride, then brought to the width by a 1x1x1 convolution).
The decoder comes up by ConvTranspose3d of the same strides, joins [up-sampled, skip] and runs plain units. Input
(B, channels, X, Y, Z); every edge a multiple of the product of its axis's strides. Output: logits (B,
classes, X, Y, Z).

nnU-Net's axes are (Z, Y, X): kernels and strides here are (X, Y, Z), as everywhere in the project.
Source: nnunetv2 2.8.1, dynamic-network-architectures 0.4.4 (Isensee et al. 2021 and 2024).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model.bundle.network import Network
from model.bundle.nnunet import UNetStage

Three = tuple[int, int, int]  # (x, y, z)
SLOPE = 0.01  # of LeakyReLU below zero


class ConvUnit(nn.Module):
    """Convolution, instance normalisation, and LeakyReLU where `act`."""

    def __init__(self, inside: int, outside: int, kernel: Three, stride: Three, bias: bool, act: bool = True) -> None:
        super().__init__()
        x, y, z = ((edge - 1) // 2 for edge in kernel)
        self.conv = nn.Conv3d(inside, outside, kernel, stride, (x, y, z), bias=bias)
        self.norm = nn.InstanceNorm3d(outside, eps=1e-5, affine=True)
        self.act = nn.LeakyReLU(SLOPE, inplace=True) if act else nn.Identity()

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = self.act(self.norm(self.conv(image)))
        return out


class ResidualBlock(nn.Module):
    """Two units, the second without LeakyReLU, plus the input; then LeakyReLU."""

    def __init__(self, inside: int, outside: int, kernel: Three, stride: Three, bias: bool) -> None:
        super().__init__()
        self.first = ConvUnit(inside, outside, kernel, stride, bias)
        self.second = ConvUnit(outside, outside, kernel, (1, 1, 1), bias, act=False)
        self.pool = nn.AvgPool3d(stride, stride) if max(stride) > 1 else nn.Identity()
        one = (1, 1, 1)
        self.widen = ConvUnit(inside, outside, one, one, bias=False, act=False) if inside != outside else nn.Identity()
        self.act = nn.LeakyReLU(SLOPE, inplace=True)

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = self.act(self.second(self.first(image)).add_(self.widen(self.pool(image))))
        return out


class StridedEncoder(nn.Module):
    """Stages of falling resolution; returns one tensor a stage, finest first."""

    def __init__(self, channels: int, widths: Sequence[int], stages: Sequence[UNetStage], bias: bool, residual: bool):
        super().__init__()
        inside = channels
        self.stem: nn.Module = nn.Identity()
        if residual:
            self.stem = ConvUnit(channels, widths[0], stages[0].kernel, (1, 1, 1), bias)
            inside = widths[0]
        self.stages = nn.ModuleList()
        one = (1, 1, 1)
        kind = ResidualBlock if residual else ConvUnit
        for width, stage in zip(widths, stages, strict=True):
            strides = [stage.stride] + [one] * (stage.blocks - 1)
            insides = [inside] + [width] * (stage.blocks - 1)
            blocks = [kind(i, width, stage.kernel, s, bias) for i, s in zip(insides, strides, strict=True)]
            self.stages.append(nn.Sequential(*blocks))
            inside = width

    def forward(self, image: Tensor) -> list[Tensor]:
        image = self.stem(image)
        skips = []
        for stage in self.stages:
            image = stage(image)
            skips.append(image)  # (B, widths[i], X / strides, Y / strides, Z / strides)
        return skips


class StridedDecoder(nn.Module):
    """From the encoder's stages back to full resolution; number 0 is the deepest."""

    def __init__(self, widths: Sequence[int], stages: Sequence[UNetStage], bias: bool) -> None:
        super().__init__()
        self.ups, self.stages = nn.ModuleList(), nn.ModuleList()
        for below in range(len(widths) - 1, 0, -1):
            wide, width, stride, kernel = (
                widths[below],
                widths[below - 1],
                stages[below].stride,
                stages[below - 1].kernel,
            )
            self.ups.append(nn.ConvTranspose3d(wide, width, stride, stride, bias=bias))
            insides = [2 * width] + [width] * (stages[below - 1].decoder_blocks - 1)
            self.stages.append(nn.Sequential(*[ConvUnit(i, width, kernel, (1, 1, 1), bias) for i in insides]))

    def forward(self, skips: Sequence[Tensor]) -> Tensor:
        image = skips[-1]
        for up, stage, skip in zip(self.ups, self.stages, reversed(skips[:-1]), strict=True):
            image = stage(torch.cat([up(image), skip], dim=1))
        return image


class StridedUNet(nn.Module):
    """A U-Net of nnU-Net's kind. With an organ head, `organs` gives the organs' logits from the same features."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        stages, bias = network.stages, network.bias
        residual = network.fusion == "residual_unet"
        self.encoder = StridedEncoder(len(network.channels), network.widths, stages, bias, residual)
        self.decoder = StridedDecoder(network.widths, stages, bias)
        self.head = nn.Conv3d(network.widths[0], network.classes, 1)
        self.organ_head = nn.Conv3d(network.widths[0], network.organs, 1) if network.organs else None

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = self.head(self.decoder(self.encoder(image)))
        return out

    def with_organs(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of lesion (B, classes, X, Y, Z) and of organs (B, organs, X, Y, Z). ValueError without that head."""
        if self.organ_head is None:
            raise ValueError("this network has no organ head")
        features = self.decoder(self.encoder(image))
        return self.head(features), self.organ_head(features)
