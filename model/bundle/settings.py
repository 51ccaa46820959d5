"""Settings of networks and of studies: frozen, and checked when they are built.

msgspec checks keys, types and ranges (model/schema.py); each class then checks what its fields must have in common.
"""

import math
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta, Struct

from model.bundle.nnunet import Preprocessing, UNetStage
from model.errors import ConfigError
from model.schema import Number, SettingError, Share, ShareBelowOne, build, check_fields, one_of, text_like, to_plain

UNETS = ("early", "middle", "late", "late_features")  # by how they join PET and CT
OF_NNUNET = ("plain_unet", "residual_unet")  # U-Nets as nnU-Net v2 builds them
FUSIONS = (*UNETS, "swin_unetr", *OF_NNUNET)  # networks for volumes
ENCODERS = ("regnety_002", "regnety_004", "regnety_008", "regnety_160")  # of networks for slices
NORMS = ("instance", "body", "batch")
METHODS = ("eoa", "diwa")
SLICES_BODY_HU = -500.0  # networks for slices take what is above for body: between lung (about -800) and fat (-100)

Width = Annotated[int, Meta(ge=1, le=4096)]  # channels of a stage
Channel = Annotated[int, Meta(ge=0, le=255)]  # of a network's output
OrganName = Annotated[str, text_like("[a-z][a-z0-9 _-]{0,63}", "1 to 64 lower-case letters, digits, spaces, - or _")]
Edge = Annotated[int, Meta(ge=1, le=2048)]  # of a window, in voxels


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a study must keep to, in SUV and HU; every error about one of them names the setting."""

    pet_min_suv: Number = -1.0  # below: not SUV
    pet_max_suv: Number = 1000.0  # above: most likely Bq/ml
    pet_warn_suv: Number = 200.0  # above: a warning (a hot bladder reaches 100)
    ct_min_hu: Number = -100.0  # the smallest CT value must not lie above this: every study has air
    ct_max_hu: Number = 32767.0
    spacing_min_mm: Number = 0.1  # voxels outside these: the header is wrong, or not in mm
    spacing_max_mm: Number = 50.0
    ct_coverage_warn: Share = 0.99  # share of the PET's uptake that the CT covers; below: a warning

    def __post_init__(self) -> None:
        check_fields(self)


class BodyLevels(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A voxel is body where the CT lies above `hu` or the PET above `suv`: air has about -1000 HU and no uptake. Where
    the CT does not reach, uptake alone tells.
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
    normalisation whatever norm says.

    plain_unet and residual_unet are the U-Nets of nnU-Net v2 (model/networks/nnunet.py). stages: one for each width;
    bias: whether convolutions have one; organs: classes of a second head, 0 without it; organ_names: of its classes
    after the background (model/bundle/organs.py); lesion: the outputs that are lesion; regions: each output is a
    region of its own, by sigmoid, and a later one overwrites an earlier one; without it the largest output counts.
    """

    fusion: Annotated[str, one_of(*FUSIONS, *ENCODERS)]
    widths: tuple[Width, ...]
    classes: int = 2
    norm: Annotated[str, one_of(*NORMS)] = "instance"
    body: BodyLevels = BodyLevels()
    stages: tuple[UNetStage, ...] = ()
    bias: bool = True
    organs: Channel = 0
    organ_names: tuple[OrganName, ...] = ()
    lesion: tuple[Channel, ...] = (1,)
    regions: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
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
    def channels(self) -> int:
        """Of its image: CT and PET, and with norm body the body."""
        return 3 if self.norm == "body" else 2

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


class Intensity(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How SUV and HU become network units (Ahn and Park, section 2.2).

    The defaults are those of the authors' container: CT from [-1000, 1000] HU to [0, 1], not
    clipped; SUV divided by 40, not clipped.
    """

    ct_low_hu: Number = -1000.0
    ct_high_hu: Number = 1000.0
    ct_clip: bool = False
    suv_top: Number = 40.0
    suv_clip: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.ct_high_hu - self.ct_low_hu >= 1:
            raise SettingError(
                f"ct_low_hu must lie below ct_high_hu by at least 1, got {self.ct_low_hu} and {self.ct_high_hu}"
            )
        if not self.suv_top >= 1e-3:
            raise SettingError(f"suv_top must be at least 0.001, got {self.suv_top}")


class Crop(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The background is cropped to the bounding box of PET > suv_above, without a margin (section 3.1)."""

    suv_above: Number = 0.0

    def __post_init__(self) -> None:
        check_fields(self)


class Window(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The sliding window: size in voxels (x, y, z) of the network's order, overlap as a share of it.

    placing: monai, whose last window of an axis is moved back to end at the volume's edge, or even, as nnU-Net spreads
    them. weighting: constant, gaussian as MONAI makes it, or nnunet, its own Gaussian. mirrored: axes along which a
    window is also seen mirrored, in all combinations; the mean of the logits counts.

    shrink: where a volume is smaller than the window, the window is made smaller, too, so that less is padded with
    zeros: instance normalisation takes them for image. Only for networks trained so; false is MONAI's way, which pads.
    """

    size: tuple[Edge, Edge, Edge]
    overlap: ShareBelowOne = 0.5
    weighting: Annotated[str, one_of("constant", "gaussian", "nnunet")] = "constant"
    shrink: bool = False
    placing: Annotated[str, one_of("monai", "even")] = "monai"
    mirrored: tuple[Annotated[str, one_of("x", "y", "z")], ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)
        if len(set(self.mirrored)) < len(self.mirrored):
            raise SettingError(f"mirrored has an axis twice: {', '.join(self.mirrored)}")


class Part(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a network needs to be run. For slices the window is (x, y, 1) around the body: one a slice, no overlap."""

    network: Network
    intensity: Intensity
    window: Window
    preprocessing: Preprocessing | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.preprocessing is not None and self.network.fusion not in OF_NNUNET:
            raise SettingError(
                f"preprocessing is for {' and '.join(OF_NNUNET)}, not {self.network.fusion}: leave it out"
            )
        if self.network.norm == "body":
            self._check_body()
        edges = self.window.size
        if self.network.kind == "slices" and edges[2] != 1:
            raise SettingError(f"window.size of slices must be [x, y, 1], got {list(edges)}")
        self.network.check_edges(edges, "window.size")
        if self.network.kind == "slices" and self.intensity.ct_clip and self.intensity.ct_low_hu >= SLICES_BODY_HU:
            raise SettingError(
                f"intensity.ct_low_hu of slices must be below {SLICES_BODY_HU:g} HU, got {self.intensity.ct_low_hu:g}: "
                "the window is placed on the body, which is what is denser than that"
            )
        if self.network.kind == "slices" and self.window.shrink:
            raise SettingError("window.shrink is for networks for volumes; a window of slices keeps its size")

    def _check_body(self) -> None:
        """A clipped CT or PET must still show where the body is: training looks for it there."""
        body, intensity = self.network.body, self.intensity
        if intensity.ct_clip and not intensity.ct_low_hu <= body.hu < intensity.ct_high_hu:
            raise SettingError(
                f"network.body.hu must lie from intensity.ct_low_hu, {intensity.ct_low_hu:g}, to below ct_high_hu, "
                f"{intensity.ct_high_hu:g}, where CT is clipped, got {body.hu:g}"
            )
        if intensity.suv_clip and not 0 <= body.suv < intensity.suv_top:
            raise SettingError(
                f"network.body.suv must lie from 0 to below intensity.suv_top, {intensity.suv_top:g}, where SUV are "
                f"clipped, got {body.suv:g}"
            )

    def fitted(self, size: tuple[int, int, int], volume: tuple[int, ...]) -> tuple[int, int, int]:
        """The size (x, y, z) of a window or crop of `size` on a volume of (X, Y, Z) voxels.

        It is `size` itself. With `window.shrink` an edge is shorter where the volume is: the smallest multiple of
        the network's divisor that holds the volume, but at least twice the divisor.
        """
        if not self.window.shrink:
            return size
        steps = self.network.divisors
        x, y, z = (min(s, max(2 * step, -(-n // step) * step)) for s, n, step in zip(size, volume, steps, strict=True))
        return x, y, z

    def window_for(self, volume: tuple[int, ...]) -> tuple[int, int, int]:
        """The window's size (x, y, z) for a volume of (X, Y, Z) voxels."""
        return self.fitted(self.window.size, volume)


def override_limits(limits: Limits, settings: Sequence[str]) -> Limits:
    """Apply NAME=VALUE settings (from --limit). Raises ConfigError for an unknown name or no number."""
    known = Limits.__struct_fields__
    for setting in settings:
        name, _, value = setting.partition("=")
        if name not in known:
            raise ConfigError(f"--limit {setting}: no such limit; there are {', '.join(known)}")
        try:
            number = float(value)
        except ValueError:
            raise ConfigError(f"--limit {setting}: {value!r} is not a number; write for example {name}=2000") from None
        limits = build(Limits, to_plain(limits) | {name: number}, f"--limit {setting}")
    return limits
