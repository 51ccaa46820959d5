"""The settings of a training run: frozen, read from YAML, checked when they are built (Ahn and Park, section 3.1).

The defaults are those of the paper, or of the authors' code where the paper is silent; every other choice is
made in a YAML file such as training/configs/small.yaml. An unknown key is an error that names it.
"""

from pathlib import Path
from typing import Annotated, Any

import yaml
from msgspec import Meta, Struct
from msgspec.structs import replace

from model.bundle.choice_options import PRECISIONS
from model.bundle.network import Network
from model.bundle.settings import Intensity, Part, Window
from model.errors import ConfigError
from model.schema import SettingError, Share, ShareBelowOne, build, check_fields, one_of, to_plain

PAPER_WIDTHS = (32, 32, 64, 128, 256)
LOSSES = {"volumes": ("dice_focal", "equation_1"), "slices": ("dice_lovasz_bce",)}
KEPT = ("last", "best")
MERGE = "tag:yaml.org,2002:merge"  # of the key << in YAML
OPTIMIZERS = ("adamp", "adamw", "adabelief")
STRENGTHS = {"none": 0.0, "weak": 0.5, "paper": 1.0, "strong": 1.5}  # times probability and range of table 1
RATE_PRESETS = ("paper", "authors")
CROPS_ON = ("workers", "device")

Edge = Annotated[int, Meta(ge=1)]  # of a crop, in voxels
Count = Annotated[int, Meta(ge=1, le=10**6)]
LargeCount = Annotated[int, Meta(ge=1, le=10**9)]
Rate = Annotated[int, Meta(ge=1, le=10)] | Annotated[float, Meta(ge=1e-12, le=10)]  # a learning rate
UpToTen = Annotated[int, Meta(ge=0, le=10)] | Annotated[float, Meta(ge=0, le=10)]
UpToMillion = Annotated[int, Meta(ge=0, le=10**6)] | Annotated[float, Meta(ge=0, le=1e6)]
Epochs = Annotated[int, Meta(ge=0, le=10**7)] | Annotated[float, Meta(ge=0, le=1e7)]
Minutes = Annotated[int, Meta(gt=0, le=10**7)] | Annotated[float, Meta(gt=0, le=1e7, description="a number above 0")]
Norm = Annotated[int, Meta(ge=0, le=10**9)] | Annotated[float, Meta(ge=0, le=1e9)]  # of gradients
SuvTop = Annotated[int, Meta(gt=0, le=2**62)] | Annotated[float, Meta(gt=0, lt=1e300, description="a number above 0")]
SuvTops = Annotated[tuple[SuvTop, ...], Meta(min_length=1)]
Axis = Annotated[int, Meta(ge=0, le=2)]
Strength = Annotated[str, one_of(*STRENGTHS)]
LossKind = Annotated[str, one_of(*LOSSES["volumes"], *LOSSES["slices"])]
Precision = Annotated[str, one_of(*PRECISIONS)]
Kept = Annotated[str, one_of(*KEPT)]
CropsOn = Annotated[str, one_of(*CROPS_ON)]


class Crops(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How training crops are drawn. Shares in [0, 1], lengths in mm, size in voxels (x, y, z)."""

    size: tuple[Edge, Edge, Edge] = (160, 160, 160)
    sought: Share = 0.8  # share drawn by positive : negative, the rest anywhere (authors' code)
    positive: UpToMillion = 1.0  # MONAI's pos and neg: weights of a crop around lesion and around anything else
    negative: UpToMillion = 0.2
    uptake: Share = 0.0  # share of the crops without a sought lesion that lie near physiological uptake (ours)
    shift: Share = 0.0  # a crop is moved off the voxel it was drawn for by up to this share of its edge (ours)
    # share of the crops for which first a lesion or a part of uptake is drawn, small ones as often as large ones, then
    # a voxel of it; for the rest any voxel is drawn, so the brain counts by its size (ours)
    by_part: Share = 0.0
    pairs: bool = False  # every other crop of a batch around a lesion, from a study that has one (ours)
    scattered: bool = False  # a study smaller than its crop lies anywhere in the crop's air, not in its middle (ours)
    recrop_mm: UpToMillion = 0.0  # before a crop is drawn, 0 to this much is cut off every side of the study (ours)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.positive + self.negative == 0:
            raise SettingError("positive and negative are both 0: one must be above")


class Loss(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """dice_focal: MONAI's DiceFocalLoss as the authors use it; equation_1: as the paper prints it. For slices
    dice_lovasz_bce (Zhong et al.), whose weights are learned at weights_rate.
    """

    kind: LossKind = "dice_focal"
    gamma: UpToTen = 2.0
    weights_rate: Rate = 1e-4
    batch_dice: bool = False  # one Dice over the whole batch: a crop without lesion alone has no gradient

    def __post_init__(self) -> None:
        check_fields(self)


class Optimizer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """AdamP, AdamW or AdaBelief; rate is the peak learning rate (section 3.1)."""

    name: Annotated[str, one_of(*OPTIMIZERS)] = "adamp"
    rate: Rate = 1e-4
    betas: tuple[ShareBelowOne, ShareBelowOne] = (0.9, 0.999)
    weight_decay: UpToTen = 0.05
    rectify: bool = False  # AdaBelief alone: RAdam's rectification, named because libraries differ in the default
    clip_norm: Norm = 0.0  # gradients are scaled down to this norm; 0: never

    def __post_init__(self) -> None:
        check_fields(self)


class Schedule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Cosine with warm-up over `epochs`; a run ends after epoch `stop` (the base run at t0), None: at the end."""

    epochs: Annotated[int, Meta(ge=1, le=10**7)] = 1000
    stop: int | None = None
    steps_per_epoch: LargeCount | None = None  # optimizer steps; None: as many as show every study once
    warmup_epochs: Epochs = 100  # authors' code
    floor: UpToTen = 1e-7  # authors' code
    minutes: Minutes | None = None  # of all epochs: their steps are fitted to the time of a step where the run begins

    def __post_init__(self) -> None:
        check_fields(self)
        if self.minutes is not None and self.steps_per_epoch is not None:
            raise SettingError("minutes chooses steps_per_epoch; leave one of them out (null)")
        if self.warmup_epochs > self.epochs:
            raise SettingError(f"warmup_epochs must be at most {self.epochs}, all epochs, got {self.warmup_epochs}")
        if self.stop is not None and not 1 <= self.stop <= self.epochs:
            raise SettingError(f"stop must be from 1 to {self.epochs}, got {self.stop}")

    @property
    def last(self) -> int:
        """The epoch after which the run ends."""
        return self.stop or self.epochs


class Averaging(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Equation 2 from the end of epoch `start` (t0) on, and the learning rate meanwhile (figure 3).

    rates paper: up from the rate at t0 to `peak`, then down to `constant`, within `length_epochs`; authors:
    one cosine from the rate at t0 to `constant` in `length_epochs`.
    """

    start: Annotated[int, Meta(ge=0, le=10**7)] = 600  # 60 % of the epochs, authors' code
    per_step: bool = False  # False: one term an epoch, authors' code
    rates: Annotated[str, one_of(*RATE_PRESETS)] = "paper"
    peak: Rate = 1e-4
    length_epochs: Epochs = 50  # authors' code
    constant: Rate = 5e-5  # authors' code

    def __post_init__(self) -> None:
        check_fields(self)


class Misalignment(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """CT against PET as breathing and movement leave them, for volumes alone (ours): in a share `chance` of the crops
    the CT is moved by a smooth field of at most `most_mm` along each axis, which changes over `smooth_mm`.
    """

    chance: Share = 0.0
    most_mm: Annotated[float, Meta(gt=0, le=100)] | Annotated[int, Meta(gt=0, le=100)] = 12.0
    smooth_mm: Annotated[float, Meta(ge=10, le=1000)] | Annotated[int, Meta(ge=10, le=1000)] = 80.0

    def __post_init__(self) -> None:
        check_fields(self)


class WholeBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole-body strategy (Zhong et al., section 2.1), for slices alone; see training.batches.whole_body.

    alpha: slices of whole bodies as a multiple of those with lesion, 0: none; beta: epochs until the next group of
    patients; overlap: share of a group's patients that the next one has, too; lesion false: whole bodies alone.
    """

    alpha: UpToMillion = 1.0
    beta: Count = 5
    overlap: Share = 0.25
    lesion: bool = True

    def __post_init__(self) -> None:
        check_fields(self)


class Training(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One run of training train. `batch` crops at a time, `accumulate` batches a step: the effective batch is their
    product times the number of processes.
    """

    network: Network = Network(fusion="middle", widths=PAPER_WIDTHS)
    intensity: Intensity = Intensity(ct_clip=True)  # of validation and of the bundle
    suv_tops: SuvTops = (20.0, 40.0)  # in training SUV is divided by one of them (section 2.2)
    window: Window = Window(size=(160, 160, 160))
    crops: Crops = Crops()  # of volumes
    whole_body: WholeBody = WholeBody()  # of slices
    augmentation: Strength = "paper"
    misalignment: Misalignment = Misalignment()
    flips: tuple[Axis, ...] = (0, 1, 2)  # axes (x, y, z) that table 1's flip may turn; all three in the paper
    loss: Loss = Loss()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    averaging: Averaging | None = None
    batch: Count = 2
    accumulate: Count = 4
    precision: Precision = "auto"  # of the convolutions; auto: bfloat16 on a GPU that has it, else float16 (authors'
    # code); float32 where there is no GPU and auto or float16 is asked for
    most_left_out: Annotated[int, Meta(ge=0, le=10**9)] = 20  # steps in a row whose loss or gradients are not finite
    log_every: Count | None = None  # steps between two looks at loss and gradients, for which the host waits for the
    # device; null: every step on a CPU, where it costs nothing, every 20th on a GPU
    channels_last: bool = False
    fused_norm: bool = True  # on a GPU the project's kernels normalise and apply SELU, forward and backward
    compile: bool = False  # torch.compile of the network in place of them: needs a C compiler, and Triton on a GPU
    recompute: bool = False  # stages are computed again in the backward pass: about a third more time, much less memory
    workers: Annotated[int, Meta(ge=0, le=1024)] = 4  # processes that draw and augment crops; 0: none
    crops_on: CropsOn = "workers"  # device: crops of volumes are cut and augmented where the network trains
    fixed_statistics: bool = False  # batch normalisation keeps the statistics of the start, in training too: members
    # of one base run then differ in weights alone, and their average needs no statistics of its own
    validate_every: Count = 10  # epochs
    validate_at_most: LargeCount | None = 40  # studies, few and many lesions alike, until the last epoch, which takes
    # all, as every epoch does with null; with keep: best the same ones to the end
    validate_overlap: ShareBelowOne = 0.25  # of windows, none of them mirrored, until the last epoch, which takes the
    # window's own
    keep: Kept = "last"  # which weights the run ends with: the last ones, or those of the best validation so far
    checkpoint_minutes: UpToMillion = 10.0  # between checkpoints, up to the next look at the device (log_every); one
    # is written at every epoch's end, too
    deterministic: bool = True  # false: faster on a GPU, and a run that is done again differs in the last digits
    seed: Annotated[int, Meta(ge=0, le=2**31)] = 0

    def __post_init__(self) -> None:
        check_fields(self)
        kind = self.network.kind
        if self.loss.kind not in LOSSES[kind]:
            raise SettingError(f"loss.kind of {kind} must be one of {', '.join(LOSSES[kind])}, got {self.loss.kind!r}")
        if self.keep == "best" and self.averaging is not None:
            raise SettingError("keep: best and averaging exclude each other: an average is of all that comes after t0")
        if self.crops_on == "device" and kind != "volumes":
            raise SettingError("crops_on: device is for volumes; slices are drawn by workers: leave it out")
        if self.fixed_statistics and self.network.norm != "batch":
            raise SettingError("fixed_statistics is for network.norm: batch; leave it out")
        if self.network.pet_alone and self.misalignment != Misalignment():
            raise SettingError(
                "misalignment moves the CT against the PET, and network.channels are [PET]: leave misalignment out"
            )
        if self.recompute and (kind != "volumes" or self.network.fusion == "swin_unetr"):
            raise SettingError("recompute is for U-Nets for volumes: leave it out")
        if self.recompute and self.network.norm == "batch" and not self.fixed_statistics:
            raise SettingError("recompute would count every batch twice in batch statistics: set fixed_statistics, too")
        if self.part.network.kind == "volumes":  # `part` is made, and so its window checked, for slices too
            self.network.check_edges(self.crops.size, "crops.size")

    @property
    def part(self) -> Part:
        """What the network needs to be run."""
        return Part(network=self.network, intensity=self.intensity, window=self.window)

    def changed_to(self, **changes: Any) -> "Training":
        """The settings with other values of their own."""
        return replace(self, **changes)


def read_settings(path: Path) -> Training:
    """Training settings from a YAML file. Raises ConfigError naming the file and the key that is wrong."""
    return settings_from(read_yaml(path), str(path))


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which no mapping has a key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: list[Any] = [
            self.construct_object(key, deep=True)  # type: ignore[no-untyped-call]
            for key, _ in node.value
            if key.tag != MERGE
        ]
        for number, key in enumerate(keys):
            if key in keys[:number]:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", node.start_mark)
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


def read_yaml(path: Path) -> Any:
    """A YAML file as plain values. Raises ConfigError if it cannot be read."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys) or {}
    except OSError as error:
        raise ConfigError(f"cannot read '{path}': {error.strerror}; give a YAML file that is there") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"'{path}' is not YAML: {error}; correct it") from None


def settings_from(data: Any, where: str = "settings") -> Training:
    """Training settings from nested dictionaries. Raises ConfigError naming the key that is wrong."""
    return build(Training, data, where)


def settings_to(settings: Training) -> dict[str, Any]:
    """Nested dictionaries that `settings_from` reads, with lists for tuples, ready for YAML or JSON."""
    plain: dict[str, Any] = to_plain(settings)
    return plain


def changed(settings: Training, changes: dict[str, Any], where: str = "changes") -> Training:
    """The settings with nested changes, for example {"optimizer": {"rate": 1e-3}}. Raises ConfigError."""
    return settings_from(_merged(settings_to(settings), changes), where)


def _merged(base: Any, changes: Any) -> Any:
    if isinstance(base, dict) and isinstance(changes, dict):
        return base | {key: _merged(base.get(key), value) for key, value in changes.items()}
    return changes
