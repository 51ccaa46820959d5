"""What a training run is told: frozen settings, read from YAML, checked when built (Ahn and Park, section 3.1).

The defaults are those of the paper, or of the authors' code where the paper is silent; every other choice is
made in a YAML file such as training/configs/small.yaml. An unknown key is an error that names it.
"""

import dataclasses
import math
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from model.bundle.settings import Intensity, Network, Part, Window
from model.errors import ConfigError

T = TypeVar("T")
PAPER_WIDTHS = (32, 32, 64, 128, 256)
LOSSES = {"volumes": ("dice_focal", "equation_1"), "slices": ("dice_lovasz_bce",)}
KEPT = ("last", "best")
OPTIMIZERS = ("adamp", "adamw", "adabelief")
STRENGTHS = {"none": 0.0, "weak": 0.5, "paper": 1.0, "strong": 1.5}  # times probability and range of table 1
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
RATE_PRESETS = ("paper", "authors")
CROPS_ON = ("workers", "device")


@dataclass(frozen=True, kw_only=True)
class Crops:
    """How training crops are drawn. Shares in [0, 1], lengths in mm, size in voxels (x, y, z)."""

    size: tuple[int, int, int] = (160, 160, 160)
    sought: float = 0.8  # share drawn by positive : negative, the rest anywhere (authors' code)
    positive: float = 1.0  # MONAI's pos and neg: weights of a crop around lesion and around anything else
    negative: float = 0.2
    uptake: float = 0.0  # share of the crops without a sought lesion that lie near physiological uptake (ours)
    shift: float = 0.0  # a crop is moved off the voxel it was drawn for by up to this share of its edge (ours)
    by_part: float = 0.0  # share of the crops for which first a lesion, or a part of uptake, is drawn, then its voxel:
    # small ones as often as large ones; else large ones, such as the brain, as often as they have voxels (ours)
    pairs: bool = False  # every other crop of a batch around a lesion, from a study that has one (ours)
    scattered: bool = False  # a study smaller than its crop lies anywhere in the crop's air, not in its middle (ours)
    recrop_mm: float = 0.0  # before a crop is drawn, 0 to this much is cut off every side of the study (ours)

    def __post_init__(self) -> None:
        for name in ("sought", "uptake", "shift", "by_part"):
            _between(self, name, 0, 1)
        for name in ("positive", "negative", "recrop_mm"):
            _between(self, name, 0, 1e6)
        if len(self.size) != 3 or min(self.size) < 1 or not all(isinstance(n, int) for n in self.size):
            raise ConfigError(f"crops.size must be three whole numbers above 0, got {list(self.size)}")
        if self.positive + self.negative == 0:
            raise ConfigError("crops.positive and crops.negative are both 0: one must be above")


@dataclass(frozen=True, kw_only=True)
class Loss:
    """dice_focal: MONAI's DiceFocalLoss as the authors use it; equation_1: as the paper prints it. For slices
    dice_lovasz_bce (Zhong et al.), whose weights are learned at weights_rate.
    """

    kind: str = "dice_focal"
    gamma: float = 2.0
    weights_rate: float = 1e-4
    batch_dice: bool = False  # one Dice over the whole batch: a crop without lesion alone has no gradient

    def __post_init__(self) -> None:
        _among(self, "kind", tuple(kind for kinds in LOSSES.values() for kind in kinds))
        _between(self, "gamma", 0, 10)
        _between(self, "weights_rate", 1e-12, 10)


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """AdamP, AdamW or AdaBelief; rate is the peak learning rate (section 3.1)."""

    name: str = "adamp"
    rate: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.05
    rectify: bool = False  # AdaBelief alone: RAdam's rectification, named because libraries differ in the default
    clip_norm: float = 0.0  # gradients are scaled down to this norm; 0: never

    def __post_init__(self) -> None:
        _among(self, "name", OPTIMIZERS)
        _between(self, "rate", 1e-12, 10)
        _between(self, "weight_decay", 0, 10)
        _between(self, "clip_norm", 0, 1e9)
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"optimizer.betas must be two numbers in [0, 1), got {list(self.betas)}")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Cosine with warm-up over `epochs`; a run ends after epoch `stop` (the base run at t0), None: at the end."""

    epochs: int = 1000
    stop: int | None = None
    steps_per_epoch: int | None = None  # optimizer steps; None: as many as show every study once
    warmup_epochs: float = 100  # authors' code
    floor: float = 1e-7  # authors' code

    def __post_init__(self) -> None:
        _between(self, "epochs", 1, 1e7)
        _between(self, "warmup_epochs", 0, self.epochs)
        _between(self, "floor", 0, 10)
        if self.steps_per_epoch is not None:
            _between(self, "steps_per_epoch", 1, 1e9)
        if self.stop is not None and not 1 <= self.stop <= self.epochs:
            raise ConfigError(f"schedule.stop must be from 1 to {self.epochs}, got {self.stop}")

    @property
    def last(self) -> int:
        """The epoch after which the run ends."""
        return self.stop or self.epochs


@dataclass(frozen=True, kw_only=True)
class Averaging:
    """Equation 2 from the end of epoch `start` (t0) on, and the learning rate meanwhile (figure 3).

    rates paper: up from the rate at t0 to `peak`, then down to `constant`, within `length_epochs`; authors:
    one cosine from the rate at t0 to `constant` in `length_epochs`.
    """

    start: int = 600  # 60 % of the epochs, authors' code
    per_step: bool = False  # False: one term an epoch, authors' code
    rates: str = "paper"
    peak: float = 1e-4
    length_epochs: float = 50  # authors' code
    constant: float = 5e-5  # authors' code

    def __post_init__(self) -> None:
        _among(self, "rates", RATE_PRESETS)
        _between(self, "start", 0, 1e7)
        _between(self, "length_epochs", 0, 1e7)
        for name in ("peak", "constant"):
            _between(self, name, 1e-12, 10)


@dataclass(frozen=True, kw_only=True)
class WholeBody:
    """The whole-body strategy (Zhong et al., section 2.1), for slices alone; see training.batches.whole_body.

    alpha: slices of whole bodies as a multiple of those with lesion, 0: none; beta: epochs until the next group of
    patients; overlap: share of a group's patients that the next one has, too; lesion false: whole bodies alone.
    """

    alpha: float = 1.0
    beta: int = 5
    overlap: float = 0.25
    lesion: bool = True

    def __post_init__(self) -> None:
        _between(self, "alpha", 0, 1e6)
        _between(self, "beta", 1, 1e6)
        _between(self, "overlap", 0, 1)


@dataclass(frozen=True, kw_only=True)
class Training:
    """One run of training train. `batch` crops at a time, `accumulate` batches a step: the effective batch is their
    product times the number of processes.
    """

    network: Network = field(default_factory=lambda: Network(fusion="middle", widths=PAPER_WIDTHS))
    intensity: Intensity = field(default_factory=lambda: Intensity(ct_clip=True))  # of validation and of the bundle
    suv_tops: tuple[float, ...] = (20.0, 40.0)  # in training SUV is divided by one of them (section 2.2)
    window: Window = field(default_factory=lambda: Window(size=(160, 160, 160)))
    crops: Crops = field(default_factory=Crops)  # of volumes
    whole_body: WholeBody = field(default_factory=WholeBody)  # of slices
    augmentation: str = "paper"
    flips: tuple[int, ...] = (0, 1, 2)  # axes (x, y, z) that table 1's flip may turn; all three in the paper
    loss: Loss = field(default_factory=Loss)
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    averaging: Averaging | None = None
    batch: int = 2
    accumulate: int = 4
    precision: str = "auto"  # of the convolutions; auto: bfloat16 on a GPU that has it, else float16 (authors' code);
    # float32 where there is no GPU and auto or float16 is asked for
    most_left_out: int = 20  # steps in a row that may be left out because loss or gradients are not finite
    channels_last: bool = False
    workers: int = 4  # processes that draw and augment crops; 0: none
    crops_on: str = "workers"  # "device": crops of volumes are cut and augmented where the network trains
    fixed_statistics: bool = False  # batch normalisation keeps the statistics of the start, in training too: members
    # of one base run then differ in weights alone, and their average needs no statistics of its own
    validate_every: int = 10  # epochs
    validate_at_most: int | None = None  # studies; None: all
    keep: str = "last"  # which weights the run ends with: the last ones, or those of the best validation so far
    checkpoint_minutes: float = 10.0  # at most between checkpoints; one is written at every epoch's end, too
    deterministic: bool = True  # false: faster on a GPU, and a run that is done again differs in the last digits
    seed: int = 0

    def __post_init__(self) -> None:
        _among(self, "augmentation", tuple(STRENGTHS))
        _among(self, "precision", PRECISIONS)
        _among(self, "keep", KEPT)
        _among(self, "crops_on", CROPS_ON)
        kind = self.network.kind
        if self.loss.kind not in LOSSES[kind]:
            raise ConfigError(f"loss.kind of {kind} must be one of {', '.join(LOSSES[kind])}, got {self.loss.kind!r}")
        if self.keep == "best" and self.averaging is not None:
            raise ConfigError("keep: best and averaging exclude each other: an average is of all that comes after t0")
        if self.crops_on == "device" and kind != "volumes":
            raise ConfigError("crops_on: device is for volumes; slices are drawn by workers: leave it out")
        if self.fixed_statistics and self.network.norm != "batch":
            raise ConfigError("fixed_statistics is for network.norm: batch; leave it out")
        for name in ("batch", "accumulate", "validate_every"):
            _between(self, name, 1, 1e6)
        if self.validate_at_most is not None:
            _between(self, "validate_at_most", 1, 1e9)
        _between(self, "seed", 0, 2**31)
        _between(self, "workers", 0, 1024)
        _between(self, "most_left_out", 0, 1e9)
        _between(self, "checkpoint_minutes", 0, 1e6)
        if not set(self.flips) <= {0, 1, 2}:
            raise ConfigError(f"flips must be axes out of 0, 1, 2, got {list(self.flips)}")
        if not self.suv_tops or not all(top > 0 for top in self.suv_tops):
            raise ConfigError(f"suv_tops must be numbers above 0, got {list(self.suv_tops)}")
        if self.part.network.kind == "volumes":  # `part` is made, and so its window checked, for slices too
            self.network.check_edges(self.crops.size, "crops.size")

    @property
    def part(self) -> Part:
        """What the network needs to be run."""
        return Part(network=self.network, intensity=self.intensity, window=self.window)

    def changed_to(self, **changes: Any) -> "Training":
        """The settings with other values of their own."""
        return dataclasses.replace(self, **changes)


def read_settings(path: Path) -> Training:
    """Training settings from a YAML file. Raises ConfigError naming the file and the key that is wrong."""
    return settings_from(read_yaml(path), str(path))


def read_yaml(path: Path) -> Any:
    """A YAML file as plain values. Raises ConfigError if it cannot be read."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise ConfigError(f"cannot read '{path}': {error.strerror}; give a YAML file that is there") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"'{path}' is not YAML: {error}") from None


def settings_from(data: Any, where: str = "settings") -> Training:
    """Training settings from nested dictionaries. Raises ConfigError naming the key that is wrong."""
    return build(Training, data, where)


def settings_to(settings: Training) -> dict[str, Any]:
    """Nested dictionaries that `settings_from` reads, with lists for tuples, ready for YAML or JSON."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, tuple) else value

    return {key: plain(value) for key, value in dataclasses.asdict(settings).items()}


def changed(settings: Training, changes: dict[str, Any], where: str = "changes") -> Training:
    """The settings with nested changes, for example {"optimizer": {"rate": 1e-3}}. Raises ConfigError."""
    return settings_from(_merged(settings_to(settings), changes), where)


def build(cls: type[T], data: Any, where: str) -> T:
    """A settings dataclass from nested dictionaries; lists become tuples. Raises ConfigError naming the key."""
    if not isinstance(data, dict):
        raise ConfigError(f"{where} must be a mapping of names to values, got {type(data).__name__}")
    kinds = typing.get_type_hints(cls)
    unknown = sorted(set(map(str, data)) - set(kinds))
    if unknown:
        raise ConfigError(f"{where} has unknown keys: {', '.join(unknown)}; there are {', '.join(kinds)}")
    values = {}
    for key, value in data.items():
        inner = _dataclass_in(kinds[key])
        if inner is not None and value is not None:
            value = build(inner, value, f"{where}: {key}")
        values[key] = tuple(value) if isinstance(value, list) else value
        if not _fits(kinds[key], values[key]):
            raise ConfigError(f"{where}: {key} must be {_words(kinds[key])}, got {value!r}")
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    except TypeError as error:
        raise ConfigError(f"{where}: {str(error).removeprefix(f'{cls.__name__}.__init__() ')}") from None


def _dataclass_in(kind: Any) -> Any:
    """The dataclass of a field's type, also of `X | None`; None if it is no dataclass."""
    options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    return next((option for option in options if dataclasses.is_dataclass(option)), None)


def _fits(kind: Any, value: Any) -> bool:
    """Whether a value is of a field's type; how many numbers a tuple needs is the dataclass's own affair."""
    if isinstance(kind, types.UnionType):
        return any(_fits(option, value) for option in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_fits(typing.get_args(kind)[0], item) for item in value)
    if typing.get_origin(kind) is dict or dataclasses.is_dataclass(kind):
        return isinstance(value, typing.get_origin(kind) or kind)
    if kind in (int, float):
        number = isinstance(value, (int, kind)) and not isinstance(value, bool)
        return number and math.isfinite(value)
    return kind is Any or isinstance(value, kind)


def _words(kind: Any) -> str:
    """A field's type in words a user can act on."""
    if isinstance(kind, types.UnionType):
        return " or ".join(map(_words, typing.get_args(kind)))
    if typing.get_origin(kind) is tuple:
        return f"a list, each {_words(typing.get_args(kind)[0])}"
    named = {int: "a whole number", float: "a number (in YAML 5.0e-5, not 5e-5)", bool: "true or false", str: "text"}
    return named.get(kind, "null" if kind is types.NoneType else "a mapping")


def _merged(base: Any, changes: Any) -> Any:
    if isinstance(base, dict) and isinstance(changes, dict):
        return base | {key: _merged(base.get(key), value) for key, value in changes.items()}
    return changes


def _among(owner: object, name: str, names: tuple[str, ...]) -> None:
    value = getattr(owner, name)
    if value not in names:
        raise ConfigError(f"{type(owner).__name__.lower()}.{name} must be one of {', '.join(names)}, got {value!r}")


def _between(owner: object, name: str, low: float, high: float) -> None:
    value = getattr(owner, name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ConfigError(
            f"{type(owner).__name__.lower()}.{name} must be a number from {low:g} to {high:g}, got {value!r}"
        )
