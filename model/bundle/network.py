"""Which network: its settings, frozen, and checked when they are built."""

import math
from typing import Annotated

from msgspec import Meta, Struct

from model.bundle.nnunet import UNetStage
from model.schema import Number, SettingError, check_fields, one_of, text_like

UNETS = ("early", "middle", "late", "late_features")  # by how they join PET and CT
OF_NNUNET = ("plain_unet", "residual_unet")  # U-Nets as nnU-Net v2 builds them
FUSIONS = (*UNETS, "swin_unetr", *OF_NNUNET)  # networks for volumes
ENCODERS = ("regnety_002", "regnety_004", "regnety_008", "regnety_160")  # of networks for slices
NORMS = ("instance", "body", "batch")
PET_AND_CT, ONLY_PET = ("CT", "PET"), ("PET",)  # what a network sees
ONE_ENCODER = ("early", "swin_unetr", *OF_NNUNET)  # networks that take any number of channels together

Width = Annotated[int, Meta(ge=1, le=4096)]  # channels of a stage
Channel = Annotated[int, Meta(ge=0, le=255)]  # of a network's output
OrganName = Annotated[str, text_like("[a-z][a-z0-9 _-]{0,63}", "1 to 64 lower-case letters, digits, spaces, - or _")]


class BodyLevels(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A voxel is body where the CT lies above `hu` or the PET above `suv`: air has about -1000 HU and no uptake. Where
    the CT does not reach, uptake alone tells, as for a network that sees PET alone.
    """

    hu: Number = -700.0
    suv: Number = 0.2

    def __post_init__(self) -> None:
        check_fields(self)


class Network(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which network (Ahn and Park, section 2.1 and table 2; Zhong et al., section 2.2).

    fusion, for volumes: early, middle, late (mean of two networks' logits), late_features (last features joined
    by one 1x1x1 convolution, the authors' code) or swin_unetr; for slices: the RegNetY encoder that both channels
    enter together. widths: channels of each stage; for swin_unetr one number, its feature size; for slices the
    channels of the decoder's five blocks. classes: 2, or 1 (lesion alone, by sigmoid) for slices. norm, of U-Nets for
    volumes: instance, the paper's, takes mean and deviation over the whole window, air too; body takes them over the
    window's body alone, which `body` tells from air; batch has statistics that are fixed after training, so that a
    voxel's logit depends on its surroundings alone, not on what else the window holds. Networks for slices have batch
    normalisation whatever norm says. channels: CT and PET, or PET alone, which then is the image's one channel: for
    networks for volumes with one encoder, as there is nothing to join; early is then a plain U-Net.

    plain_unet and residual_unet are the U-Nets of nnU-Net v2 (model/networks/nnunet.py). stages: one for each width;
    bias: whether convolutions have one; organs: classes of a second head, 0 without it; organ_names: of its classes
    after the background (model/bundle/organs.py); lesion: the outputs that are lesion; regions: each output is a
    region of its own, by sigmoid, and a later one overwrites an earlier one; without it the largest output counts.
    """

    fusion: Annotated[str, one_of(*FUSIONS, *ENCODERS)]
    widths: tuple[Width, ...]
    classes: int = 2
    norm: Annotated[str, one_of(*NORMS)] = "instance"
    channels: tuple[Annotated[str, one_of(*PET_AND_CT)], ...] = PET_AND_CT
    body: BodyLevels = BodyLevels()
    stages: tuple[UNetStage, ...] = ()
    bias: bool = True
    organs: Channel = 0
    organ_names: tuple[OrganName, ...] = ()
    lesion: tuple[Channel, ...] = (1,)
    regions: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        self._check_channels()
        if self.fusion in OF_NNUNET:
            self._check_nnunet()
            return
        own = (self.stages, self.bias, self.organs, self.organ_names, self.lesion, self.regions)
        if own != ((), True, 0, (), (1,), False):
            raise SettingError(
                "stages, bias, organs, organ_names, lesion and regions are for "
                f"{' and '.join(OF_NNUNET)}: leave them out"
            )
        if self.classes not in ((1, 2) if self.kind == "slices" else (2,)):
            raise SettingError(f"classes must be 2, or 1 with slices, got {self.classes}")
        if self.norm != "instance" and self.fusion not in UNETS:
            raise SettingError(f"norm is for U-Nets for volumes; {self.fusion} has its own: leave it out")
        if self.norm != "body" and self.body != BodyLevels():
            raise SettingError(f"body is for norm: body, and norm is {self.norm}: leave it out")
        if self.fusion == "swin_unetr":
            if len(self.widths) != 1 or self.widths[0] % 12:
                raise SettingError(f"widths of swin_unetr must be one multiple of 12, got {list(self.widths)}")
        elif self.kind == "slices":
            if len(self.widths) != 5:
                raise SettingError(
                    f"widths of {self.fusion} must be five, one for each decoder block, got {list(self.widths)}"
                )
        elif len(self.widths) < 2:
            raise SettingError(f"widths must be at least 2 whole numbers, got {list(self.widths)}")

    def _check_channels(self) -> None:
        if self.channels not in (PET_AND_CT, ONLY_PET):
            raise SettingError(f"channels must be {list(PET_AND_CT)} or {list(ONLY_PET)}, got {list(self.channels)}")
        if self.pet_alone and self.fusion not in ONE_ENCODER:
            why = "finds the body on the CT" if self.kind == "slices" else "joins PET and CT"
            raise SettingError(
                f"{self.fusion} {why}, and channels are {list(self.channels)}; PET alone is for "
                f"{', '.join(ONE_ENCODER)}: set fusion to one of them, early for a plain U-Net"
            )

    def _check_nnunet(self) -> None:
        if not 2 <= len(self.stages) == len(self.widths):
            raise SettingError(
                f"stages must be two or more, one for each of the {len(self.widths)} widths, got {len(self.stages)}"
            )
        if max(self.stages[0].stride) > 1:
            raise SettingError(f"stages[0].stride must be [1, 1, 1], got {list(self.stages[0].stride)}")
        if self.norm != "instance":
            raise SettingError(f"norm of {self.fusion} must be instance, got {self.norm}")
        if self.body != BodyLevels():
            raise SettingError(f"body is for norm: body, and norm of {self.fusion} is instance: leave it out")
        if not 1 <= self.classes <= 255 or (self.classes == 1 and not self.regions):
            raise SettingError(f"classes must be 2 to 255, or from 1 on with regions, got {self.classes}")
        background = set() if self.regions else {0}
        if not self.lesion or not set(self.lesion) <= set(range(self.classes)) - background:
            raise SettingError(
                f"lesion must name outputs among the {self.classes}{'' if self.regions else ' but 0, the background'}, "
                f"got {list(self.lesion)}"
            )
        if self.organ_names and len(self.organ_names) != self.organs - 1:
            raise SettingError(
                f"organ_names must be one for each of the {max(self.organs - 1, 0)} organs, got {len(self.organ_names)}"
            )
        if len(set(self.organ_names)) != len(self.organ_names):
            raise SettingError(f"organ_names has a name twice: {', '.join(self.organ_names)}")

    @property
    def kind(self) -> str:
        """What it works on: volumes or slices."""
        return "slices" if self.fusion in ENCODERS else "volumes"

    @property
    def pet_alone(self) -> bool:
        """Whether it sees no CT."""
        return self.channels == ONLY_PET

    @property
    def image_channels(self) -> int:
        """How many its image has: CT and PET, or PET, and with norm body the body."""
        return len(self.channels) + (self.norm == "body")

    @property
    def divisor(self) -> int:
        """Every window edge must be a multiple of this; for slices, the edges in x and y."""
        if self.stages:
            return max(self.divisors)
        return 32 if self.kind == "slices" or self.fusion == "swin_unetr" else 2 ** (len(self.widths) - 1)

    @property
    def divisors(self) -> tuple[int, int, int]:
        """What an edge of each axis (x, y, z) must be a multiple of."""
        if self.stages:
            x, y, z = (math.prod(stage.stride[axis] for stage in self.stages) for axis in range(3))
            return x, y, z
        return (self.divisor, self.divisor, 1 if self.kind == "slices" else self.divisor)

    def check_edges(self, edges: tuple[int, ...], name: str) -> None:
        """Raise SettingError unless a window or crop of these edges (x, y, z) passes through. name: the setting's."""
        if any(edge % divisor for edge, divisor in zip(edges, self.divisors, strict=True)):
            wanted = self.divisor if len(set(self.divisors[:2])) == 1 and not self.stages else list(self.divisors)
            raise SettingError(f"{name} {list(edges)} must be multiples of {wanted} for this network")
        if self.kind == "volumes" and all(e == d for e, d in zip(edges, self.divisors, strict=True)):
            raise SettingError(
                f"{name} {list(edges)}: one edge at least must be above {self.divisor}, or the deepest stage of this "
                "network has a single voxel, which cannot be normalised"
            )
