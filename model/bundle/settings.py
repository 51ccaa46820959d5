"""Settings of how a network is run, and limits of studies: frozen, and checked when they are built.

msgspec checks keys, types and ranges (model/schema.py); each class then checks what its fields must have in common.
"""

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta, Struct

from model.bundle.network import OF_NNUNET, Network
from model.bundle.nnunet import Preprocessing
from model.errors import ConfigError
from model.schema import Number, SettingError, Share, ShareBelowOne, build, check_fields, one_of, to_plain

METHODS = ("eoa", "diwa")
SLICES_BODY_HU = -500.0  # networks for slices take what is above for body: between lung (about -800) and fat (-100)

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
        if self.preprocessing is not None and (self.preprocessing.ct is None) != self.network.pet_alone:
            raise SettingError(
                f"preprocessing must have ct if network.channels has CT, and only then; the channels are "
                f"{list(self.network.channels)}"
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
        if (
            intensity.ct_clip
            and not self.network.pet_alone
            and not intensity.ct_low_hu <= body.hu < intensity.ct_high_hu
        ):
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
