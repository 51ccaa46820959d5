"""Frozen settings, checked when built. An unknown or missing key is an error that names it.

`Manifest` is the content of a bundle's manifest.json; `Limits` is what a study must keep to. Both
are built from plain dictionaries by `manifest_from` and `limits_from`.
"""

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any, TypeVar

from model.errors import ConfigError

FORMAT_VERSION = 1
FUSIONS = ("early", "middle", "late", "late_features", "swin_unetr")  # networks for volumes
ENCODERS = ("regnety_002", "regnety_004", "regnety_008", "regnety_160")  # of networks for slices
NORMS = ("instance", "batch")
METHODS = ("eoa", "diwa")
KINDS = ("volumes", "slices", "mixed")
CHANNELS = {"volumes": ("CT", "PET"), "slices": ("PET", "CT")}  # as the authors of either network order them
SLICES_BODY_HU = -500.0  # above is body, for networks for slices: between lung (about -800) and fat (-100)
SHA256 = re.compile(r"[0-9a-f]{64}")

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a study must keep to, in SUV and HU; every error about one of them names the setting."""

    pet_min_suv: float = -1.0  # below: not SUV
    pet_max_suv: float = 1000.0  # above: most likely Bq/ml
    pet_warn_suv: float = 200.0  # above: warned about (a hot bladder reaches 100)
    ct_min_hu: float = -100.0  # the smallest CT value must not lie above this: every study has air
    ct_max_hu: float = 32767.0
    spacing_min_mm: float = 0.1  # voxels outside these: the header is wrong, or not in mm
    spacing_max_mm: float = 50.0
    ct_coverage_warn: float = 0.99  # share of the PET's uptake; below: warned about

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            _number(self, item.name)
        if not 0 <= self.ct_coverage_warn <= 1:
            raise ConfigError(f"limit ct_coverage_warn must be in [0, 1], got {self.ct_coverage_warn}")


@dataclass(frozen=True, kw_only=True)
class Network:
    """Which network (Ahn and Park, section 2.1 and table 2; Zhong et al., section 2.2).

    fusion, for volumes: early, middle, late (mean of two networks' logits), late_features (last features joined
    by one 1x1x1 convolution, the authors' code) or swin_unetr; for slices: the RegNetY encoder that both channels
    enter together. widths: channels of each stage; for swin_unetr one number, its feature size; for slices those of
    the decoder's five blocks. classes: 2, or 1 (lesion alone, by sigmoid) for slices. norm, of U-Nets for volumes:
    instance, the paper's, whose mean and deviation are those of the window, air and all; or batch, whose statistics
    are fixed after training, so that a voxel's logit depends on its surroundings alone, not on what else the window
    holds. Slices have batch normalisation whatever norm says.
    """

    fusion: str
    widths: tuple[int, ...]
    classes: int = 2
    norm: str = "instance"

    def __post_init__(self) -> None:
        if self.fusion not in (*FUSIONS, *ENCODERS):
            raise ConfigError(f"network.fusion must be one of {', '.join((*FUSIONS, *ENCODERS))}, got {self.fusion!r}")
        if isinstance(self.classes, bool) or self.classes not in ((1, 2) if self.kind == "slices" else (2,)):
            raise ConfigError(f"network.classes must be 2, or 1 with slices, got {self.classes!r}")
        if self.norm not in NORMS:
            raise ConfigError(f"network.norm must be one of {', '.join(NORMS)}, got {self.norm!r}")
        if self.norm != "instance" and self.fusion not in FUSIONS[:4]:
            raise ConfigError(f"network.norm is for U-Nets for volumes; {self.fusion} has its own: leave it out")
        least = 1 if self.fusion == "swin_unetr" else 2
        _numbers(self, "widths", whole=True)
        if len(self.widths) < least or min(self.widths) < 1 or max(self.widths) > 4096:
            raise ConfigError(
                f"network.widths must be at least {least} whole numbers from 1 to 4096, got {list(self.widths)}"
            )
        if self.fusion == "swin_unetr" and (len(self.widths) != 1 or self.widths[0] % 12):
            raise ConfigError(f"swin_unetr takes one width, a multiple of 12, got {list(self.widths)}")
        if self.kind == "slices" and len(self.widths) != 5:
            raise ConfigError(f"{self.fusion} takes the widths of five decoder blocks, got {list(self.widths)}")

    @property
    def kind(self) -> str:
        """What it works on: volumes or slices."""
        return "slices" if self.fusion in ENCODERS else "volumes"

    @property
    def divisor(self) -> int:
        """Every window edge must be a multiple of this; of slices those of x and y."""
        return 32 if self.kind == "slices" or self.fusion == "swin_unetr" else 2 ** (len(self.widths) - 1)

    def check_edges(self, edges: tuple[int, ...], name: str) -> None:
        """Raise ConfigError unless a window or crop of these edges (x, y, z) passes through. name: the setting's."""
        if any(edge % self.divisor for edge in edges[: 2 if self.kind == "slices" else 3]):
            raise ConfigError(f"{name} {list(edges)} must be multiples of {self.divisor} for this network")
        if self.kind == "volumes" and max(edges) == self.divisor:
            raise ConfigError(
                f"{name} {list(edges)}: one edge at least must be above {self.divisor}, or the deepest stage of this "
                "network has a single voxel, which cannot be normalised"
            )


@dataclass(frozen=True, kw_only=True)
class Intensity:
    """How SUV and HU become network units (Ahn and Park, section 2.2).

    The defaults are those of the authors' container: CT from [-1000, 1000] HU to [0, 1], not
    clipped; SUV divided by 40, not clipped.
    """

    ct_low_hu: float = -1000.0
    ct_high_hu: float = 1000.0
    ct_clip: bool = False
    suv_top: float = 40.0
    suv_clip: bool = False

    def __post_init__(self) -> None:
        for name in ("ct_low_hu", "ct_high_hu", "suv_top"):
            _number(self, name)
        for name in ("ct_clip", "suv_clip"):
            _type(self, name, bool)
        if not self.ct_high_hu - self.ct_low_hu >= 1:
            raise ConfigError(
                f"ct_low_hu must lie below ct_high_hu by at least 1, got {self.ct_low_hu} and {self.ct_high_hu}"
            )
        if not self.suv_top >= 1e-3:
            raise ConfigError(f"suv_top must be at least 0.001, got {self.suv_top}")


@dataclass(frozen=True, kw_only=True)
class Crop:
    """The background is cropped to the bounding box of PET > suv_above, without a margin (section 3.1)."""

    suv_above: float = 0.0

    def __post_init__(self) -> None:
        _number(self, "suv_above")


@dataclass(frozen=True, kw_only=True)
class Window:
    """The sliding window: size in voxels (x, y, z) of the network's order, overlap as a share of it.

    shrink: where a volume is smaller than the window, the window is made smaller, too, so that less is padded with
    zeros: instance normalisation takes them for image. Only for networks trained so; false is MONAI's way, which pads.
    """

    size: tuple[int, int, int]
    overlap: float = 0.5
    weighting: str = "constant"
    shrink: bool = False

    def __post_init__(self) -> None:
        _numbers(self, "size", whole=True)
        _number(self, "overlap")
        if len(self.size) != 3 or min(self.size) < 1 or max(self.size) > 2048:
            raise ConfigError(f"window.size must be three whole numbers from 1 to 2048, got {list(self.size)}")
        if not 0 <= self.overlap < 1:
            raise ConfigError(f"window.overlap must be in [0, 1), got {self.overlap}")
        if self.weighting not in ("constant", "gaussian"):
            raise ConfigError(f"window.weighting must be constant or gaussian, got {self.weighting!r}")
        if not isinstance(self.shrink, bool):
            raise ConfigError(f"window.shrink must be true or false, got {self.shrink!r}")


@dataclass(frozen=True, kw_only=True)
class Part:
    """What a network needs to be run. Of slices the window is (x, y, 1), placed on the body; none overlap."""

    network: Network
    intensity: Intensity
    window: Window

    def __post_init__(self) -> None:
        edges = self.window.size
        if self.network.kind == "slices" and edges[2] != 1:
            raise ConfigError(f"window.size of slices must be [x, y, 1], got {list(edges)}")
        self.network.check_edges(edges, "window.size")
        if self.network.kind == "slices" and self.intensity.ct_clip and self.intensity.ct_low_hu >= SLICES_BODY_HU:
            raise ConfigError(
                f"intensity.ct_low_hu of slices must be below {SLICES_BODY_HU:g} HU, got {self.intensity.ct_low_hu:g}: "
                "their window is placed on what is denser, the body"
            )
        if self.network.kind == "slices" and self.window.shrink:
            raise ConfigError("window.shrink is for networks for volumes; a window of slices keeps its size")

    def fitted(self, size: tuple[int, int, int], volume: tuple[int, ...]) -> tuple[int, int, int]:
        """A window or crop of `size` (x, y, z) for a volume of (X, Y, Z) voxels: itself, or with `window.shrink` on
        each axis the least multiple of what the network divides by, twice that at least, which holds the volume.
        """
        if not self.window.shrink:
            return size
        step = self.network.divisor
        x, y, z = (min(s, max(2 * step, -(-n // step) * step)) for s, n in zip(size, volume, strict=True))
        return x, y, z

    def window_for(self, volume: tuple[int, ...]) -> tuple[int, int, int]:
        """The window's size (x, y, z) for a volume of (X, Y, Z) voxels."""
        return self.fitted(self.window.size, volume)


@dataclass(frozen=True, kw_only=True)
class Member:
    """One trained network of a bundle: its file, its weight, and the network it was started from.

    network, intensity, window: its own where they are not the bundle's, in a bundle of kind mixed.
    """

    file: str
    sha256: str
    weight: float = 1.0
    start_sha256: str | None = None
    network: Network | None = None
    intensity: Intensity | None = None
    window: Window | None = None

    def __post_init__(self) -> None:
        _type(self, "file", str)
        _number(self, "weight")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*\.safetensors", self.file):
            raise ConfigError(f"member file must be a plain name ending in .safetensors, got {self.file!r}")
        for name in ("sha256", "start_sha256"):
            value = getattr(self, name)
            if value is None and name == "start_sha256":
                continue
            if not isinstance(value, str) or not SHA256.fullmatch(value):
                raise ConfigError(f"member {self.file}: {name} must be 64 hexadecimal digits, got {str(value)[:60]}")
        if not 0 < self.weight < 1e6:
            raise ConfigError(f"member {self.file}: weight must be above 0, got {self.weight}")


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where the weights come from; free text, "unknown" where it is not known."""

    data: str
    commit: str
    date: str
    scores: dict[str, Any]
    attribution: str

    def __post_init__(self) -> None:
        for name in ("data", "commit", "date", "attribution"):
            _type(self, name, str)
        _type(self, "scores", dict)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything inference needs to know of a bundle."""

    format_version: int
    name: str
    kind: str
    network: Network
    channels: tuple[str, ...]
    intensity: Intensity
    crop: Crop
    window: Window
    method: str
    members: tuple[Member, ...]
    provenance: Provenance
    intended_use: str
    licence: str
    combine: str = "logits"
    limits: Limits = field(default_factory=Limits)
    skip_suv: float | None = None  # windows whose PET holds nothing above it are not run; None: unknown, all are run

    def __post_init__(self) -> None:
        if self.format_version != FORMAT_VERSION or isinstance(self.format_version, bool):
            raise ConfigError(
                f"format_version is {self.format_version!r}, this version reads {FORMAT_VERSION}; "
                "use the container version the bundle was made for"
            )
        for name in ("name", "intended_use", "licence"):
            _type(self, name, str)
        if self.kind not in KINDS:
            raise ConfigError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if tuple(self.channels) != CHANNELS[self.network.kind]:
            raise ConfigError(
                f"channels must be {list(CHANNELS[self.network.kind])} for {self.network.kind}, "
                f"got {list(self.channels)}"
            )
        if self.method not in METHODS:
            raise ConfigError(f"method must be one of {', '.join(METHODS)}, got {self.method!r}")
        if self.combine not in ("logits", "probabilities"):
            raise ConfigError(f"combine must be logits or probabilities, got {self.combine!r}")
        if not self.members:
            raise ConfigError("members is empty: a bundle needs at least one network")
        files = [member.file for member in self.members]
        if len(set(files)) != len(files):
            raise ConfigError(f"members names a file twice: {files}; give it a weight instead")
        kinds = {self.part(member).network.kind for member in self.members}
        own = any((m.network, m.intensity, m.window) != (None, None, None) for m in self.members)
        if self.kind == "mixed" and self.combine != "probabilities":
            raise ConfigError("a mixed bundle combines probabilities: its networks' logits have no common scale")
        if self.kind == "mixed" and self.method != "eoa":
            raise ConfigError("the members of a mixed bundle are different networks: their method is eoa")
        if self.skip_suv is not None:
            _number(self, "skip_suv")
            most = self.intensity.suv_top if self.intensity.suv_clip else 1e300
            if self.kind != "volumes" or not 0 <= self.skip_suv < most:
                raise ConfigError(
                    "skip_suv is an SUV from 0 on, below suv_top where SUV are clipped, for kind volumes, or null; "
                    f"got {self.skip_suv} for kind {self.kind}"
                )
        if self.kind != "mixed" and (own or kinds != {self.kind}):
            raise ConfigError(
                f"kind is {self.kind}, but the members are of {', '.join(sorted(kinds))}"
                f"{' with settings of their own' if own else ''}; a bundle of several networks has kind mixed"
            )

    def part(self, member: Member) -> Part:
        """The member's network, intensity and window: its own or the bundle's."""
        return Part(
            network=member.network or self.network,
            intensity=member.intensity or self.intensity,
            window=member.window or self.window,
        )


def manifest_from(data: Any) -> Manifest:
    """Build a Manifest from the parsed manifest.json. Raises ConfigError naming the key that is wrong."""
    top = _fields(Manifest, data, "manifest")
    nested: dict[str, type] = {
        "network": Network,
        "intensity": Intensity,
        "crop": Crop,
        "window": Window,
        "provenance": Provenance,
        "limits": Limits,
    }
    for key, cls in nested.items():
        if key in top:
            top[key] = _build(cls, top[key], key)
    members = top["members"]
    if not isinstance(members, list):
        raise ConfigError(f"members must be a list, got {type(members).__name__}")
    top["members"] = tuple(_member(item, f"members[{i}]") for i, item in enumerate(members))
    if not isinstance(top["channels"], list):
        raise ConfigError(f"channels must be a list, got {type(top['channels']).__name__}")
    top["channels"] = tuple(top["channels"])
    return Manifest(**top)


def manifest_to(manifest: Manifest) -> dict[str, Any]:
    """The dictionary that `manifest_from` reads, ready for json.dumps."""
    return dataclasses.asdict(manifest)


def override_limits(limits: Limits, settings: list[str]) -> Limits:
    """Apply NAME=VALUE settings (from --limit). Raises ConfigError for an unknown name or no number."""
    known = [item.name for item in dataclasses.fields(Limits)]
    for setting in settings:
        name, _, value = setting.partition("=")
        if name not in known:
            raise ConfigError(f"--limit {setting}: no such limit; there are {', '.join(known)}")
        try:
            limits = dataclasses.replace(limits, **{name: float(value)})
        except ValueError:
            raise ConfigError(f"--limit {setting}: {value!r} is not a number; write for example {name}=2000") from None
    return limits


def _member(data: Any, where: str) -> Member:
    values = _fields(Member, data, where)
    for key, cls in (("network", Network), ("intensity", Intensity), ("window", Window)):
        if values.get(key) is not None:
            values[key] = _build(cls, values[key], f"{where}: {key}")
    return Member(**values)


def _build(cls: type[T], data: Any, where: str) -> T:
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in _fields(cls, data, where).items()}
    return cls(**values)


def _fields(cls: type, data: Any, where: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise ConfigError(f"{where} must be a mapping of names to values, got {type(data).__name__}")
    items = dataclasses.fields(cls)
    unknown = sorted(set(data) - {item.name for item in items})
    if unknown:
        raise ConfigError(f"{where} has unknown keys: {', '.join(unknown)}")
    needed = {i.name for i in items if i.default is dataclasses.MISSING and i.default_factory is dataclasses.MISSING}
    missing = sorted(needed - set(data))
    if missing:
        raise ConfigError(f"{where} lacks keys: {', '.join(missing)}")
    return dict(data)


def _type(owner: object, name: str, kind: type) -> None:
    value = getattr(owner, name)
    if not isinstance(value, kind):
        raise ConfigError(f"{type(owner).__name__}.{name} must be {kind.__name__}, got {str(value)[:60]}")


def _number(owner: object, name: str) -> None:
    value = getattr(owner, name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -1e300 < value < 1e300:
        raise ConfigError(f"{type(owner).__name__}.{name} must be a finite number, got {str(value)[:60]}")


def _numbers(owner: object, name: str, whole: bool) -> None:
    values = getattr(owner, name)
    kinds = int if whole else (int, float)
    if not isinstance(values, tuple) or any(isinstance(v, bool) or not isinstance(v, kinds) for v in values):
        raise ConfigError(f"{type(owner).__name__}.{name} must be a list of whole numbers, got {values!r}")
