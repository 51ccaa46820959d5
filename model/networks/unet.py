"""Build a network from its settings. Here: the networks of Ahn and Park, table 2, which are U-Nets with early, middle
and late fusion, and MONAI's SwinUNETR. The networks for slices are in regnet.py.

A stage is two blocks of Conv3d 3x3x3 (no bias) -> InstanceNorm3d(affine) -> SELU; MaxPool 2 down, ConvTranspose3d 2 up,
Conv3d 1x1x1 to 2 logits (section 2.1). With norm: batch, BatchNorm3d replaces InstanceNorm3d. Input (B, 2, X, Y, Z),
channel 0 = CT, channel 1 = PET, or (B, 1, X, Y, Z) of PET alone; every edge a multiple of 2 ** (stages - 1). Output:
logits (B, 2, X, Y, Z). With norm: body (body.py) the body is one more channel of the input, which the normalisations
alone look at.
Parameter names follow the authors' checkpoints: pet_encoder.layer1.0.conv.weight and so on.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.bundle.network import Network
from model.networks.body import BodyNorm, divided
from model.networks.nnunet import StridedUNet
from model.networks.regnet import build_slices

CLASSES = 2  # background, lesion


def build(network: Network) -> nn.Module:
    """The network with fresh random weights."""
    if network.kind == "slices":
        return build_slices(network)
    widths, norm = network.widths, network.norm
    match network.fusion:
        case "early":
            return UNet(len(network.channels), widths, norm=norm)
        case "middle":
            return MiddleFusion(widths, norm)
        case "late":
            return LateFusion(widths, norm)
        case "late_features":
            return LateFeatures(widths, norm)
        case "plain_unet" | "residual_unet":
            return StridedUNet(network)
        case _:
            return _swin_unetr(widths[0], len(network.channels))


def skeleton(network: Network) -> nn.Module:
    """The network without values, to load weights into or to count parameters: built on the meta device.

    MONAI's SwinUNETR reads tensors' values while it is built, so it gets random weights instead.
    """
    if network.fusion == "swin_unetr":
        return build(network)
    with torch.device("meta"):
        return build(network)


class Norm(nn.InstanceNorm3d):
    """Instance normalisation that keeps a channels_last_3d image in that layout on a CPU.

    torch's own copies such an image into another layout and back, which is a fifth of a training step's time. Group
    normalisation with one channel a group gives the same values.
    """

    def forward(self, image: Tensor) -> Tensor:
        is_channels_last = image.is_contiguous(memory_format=torch.channels_last_3d) and not image.is_contiguous()
        if image.device.type != "cpu" or not is_channels_last:
            return super().forward(image)
        return functional.group_norm(image, self.num_features, self.weight, self.bias, self.eps)


def norm_of(kind: str, channels: int) -> nn.Module:
    """The normalisation of a block. Batch statistics are means over about the last 100 training steps."""
    if kind == "body":
        return BodyNorm(channels)
    return Norm(channels, affine=True) if kind == "instance" else nn.BatchNorm3d(channels, momentum=0.02)


class Block(nn.Module):
    """Convolution, normalisation, SELU. body: of the stage, where the normalisation is over it."""

    def __init__(self, inside: int, outside: int, norm: str = "instance") -> None:
        super().__init__()
        self.conv = nn.Conv3d(inside, outside, kernel_size=3, padding=1, bias=False)
        self.norm = norm_of(norm, outside)
        self.act = nn.SELU(inplace=True)

    def forward(self, image: Tensor, body: Tensor | None = None) -> Tensor:
        image = self.conv(image)
        out: Tensor = self.act(self.norm(image) if body is None else self.norm(image, body))
        return out


class Blocks(nn.Sequential):
    """The blocks of a stage, one after the other."""

    def forward(self, image: Tensor, body: Tensor | None = None) -> Tensor:
        for block in self:
            image = block(image) if body is None else block(image, body)
        return image


class Encoder(nn.Module):
    """Stages of falling resolution; returns one tensor a stage, finest first. bodies: of the stages, finest first."""

    def __init__(self, inside: int, widths: tuple[int, ...], norm: str = "instance") -> None:
        super().__init__()
        self.stages = len(widths)
        for number, width in enumerate(widths, start=1):
            self.add_module(f"layer{number}", Blocks(Block(inside, width, norm), Block(width, width, norm)))
            inside = width
        self.down = nn.MaxPool3d(2)

    def forward(self, image: Tensor, bodies: Sequence[Tensor | None]) -> list[Tensor]:
        out = []
        for number, body in enumerate(bodies, start=1):
            image = self.get_submodule(f"layer{number}")(image if number == 1 else self.down(image), body)
            out.append(image)  # (B, widths[i], X / 2**i, Y / 2**i, Z / 2**i)
        return out


class Decoder(nn.Module):
    """From the encoder's stages back to full resolution; layer1 and upconv1 are the deepest."""

    def __init__(self, widths: tuple[int, ...], classes: int | None = CLASSES, norm: str = "instance") -> None:
        super().__init__()
        self.stages = len(widths)
        deep = widths[::-1]
        for number in range(1, self.stages):
            below, here = deep[number - 1], deep[number]
            self.add_module(f"upconv{number}", nn.ConvTranspose3d(below, here, kernel_size=2, stride=2))
            self.add_module(f"layer{number}", Blocks(Block(2 * here, here, norm), Block(here, here, norm)))
        self.fc = nn.Conv3d(widths[0], classes, kernel_size=1) if classes else nn.Identity()

    def forward(self, skips: list[Tensor], bodies: Sequence[Tensor | None]) -> Tensor:
        image = skips[-1]
        for number in range(1, self.stages):
            up = self.get_submodule(f"upconv{number}")(image)
            joined = torch.cat([up, skips[-1 - number]], dim=1)
            image = self.get_submodule(f"layer{number}")(joined, bodies[-1 - number])
        out: Tensor = self.fc(image)
        return out


class UNet(nn.Module):
    """One encoder, one decoder: early fusion on 2 channels; or PET alone, or one branch of late fusion, on 1."""

    def __init__(
        self, inside: int, widths: tuple[int, ...], classes: int | None = CLASSES, norm: str = "instance"
    ) -> None:
        super().__init__()
        self.inside, self.over_body = inside, norm == "body"
        self.encoder = Encoder(inside, widths, norm)
        self.decoder = Decoder(widths, classes, norm)

    def forward(self, image: Tensor, bodies: Sequence[Tensor | None] | None = None) -> Tensor:
        if bodies is None:
            image, bodies = divided(image, self.encoder.stages, self.over_body, self.inside)
        out: Tensor = self.decoder(self.encoder(image, bodies), bodies)
        return out


class MiddleFusion(nn.Module):
    """An encoder each for PET and CT, joined as [PET, CT] at every stage; a decoder of doubled widths (figure 2)."""

    def __init__(self, widths: tuple[int, ...], norm: str = "instance") -> None:
        super().__init__()
        self.over_body = norm == "body"
        self.pet_encoder = Encoder(1, widths, norm)
        self.ct_encoder = Encoder(1, widths, norm)
        self.decoder = Decoder(tuple(2 * width for width in widths), norm=norm)

    def forward(self, image: Tensor) -> Tensor:
        image, bodies = divided(image, self.decoder.stages, self.over_body)
        ct, pet = image.chunk(2, dim=1)  # (B, 1, X, Y, Z) each
        skips = [
            torch.cat(pair, dim=1)  # (B, 2 * widths[i], X / 2**i, Y / 2**i, Z / 2**i)
            for pair in zip(self.pet_encoder(pet, bodies), self.ct_encoder(ct, bodies), strict=True)
        ]
        out: Tensor = self.decoder(skips, bodies)
        return out


class LateFusion(nn.Module):
    """Two complete networks of one modality each; the mean of their logits (figure 2)."""

    def __init__(self, widths: tuple[int, ...], norm: str = "instance") -> None:
        super().__init__()
        self.pet = UNet(1, widths, norm=norm)
        self.ct = UNet(1, widths, norm=norm)

    def forward(self, image: Tensor) -> Tensor:
        image, bodies = divided(image, self.pet.encoder.stages, self.pet.over_body)
        ct, pet = image.chunk(2, dim=1)
        out: Tensor = (self.pet(pet, bodies) + self.ct(ct, bodies)) / 2
        return out


class LateFeatures(nn.Module):
    """Late fusion as in the authors' code: the two networks' last features joined by one 1x1x1 convolution."""

    def __init__(self, widths: tuple[int, ...], norm: str = "instance") -> None:
        super().__init__()
        self.pet = UNet(1, widths, classes=None, norm=norm)
        self.ct = UNet(1, widths, classes=None, norm=norm)
        self.fc = nn.Conv3d(2 * widths[0], CLASSES, kernel_size=1)

    def forward(self, image: Tensor) -> Tensor:
        image, bodies = divided(image, self.pet.encoder.stages, self.pet.over_body)
        ct, pet = image.chunk(2, dim=1)
        out: Tensor = self.fc(torch.cat([self.pet(pet, bodies), self.ct(ct, bodies)], dim=1))
        return out


def _swin_unetr(feature_size: int, channels: int) -> nn.Module:
    from monai.networks.nets import SwinUNETR  # slow to import, and only this network needs it

    network: nn.Module = SwinUNETR(in_channels=channels, out_channels=CLASSES, feature_size=feature_size)
    return network
