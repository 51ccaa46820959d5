"""A model of nnU-Net v2 as its plans.json and dataset.json describe it, in the project's settings.

Plans of today, whose network is a class with arch_kwargs, and of 2023 (UNet_class_name and the like) are understood
(nnunetv2 2.8.1, utilities/plans_handling). nnU-Net's axes are (z, y, x), permuted by transpose_forward; here they are
(x, y, z), as everywhere in the project. What the container cannot run is refused by name: 2-D and cascade
configurations, other networks, resampling and normalisation.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from msgspec import structs

from model.bundle.network import ONLY_PET, PET_AND_CT, Network
from model.bundle.nnunet import Normalisation, Preprocessing, Resampling, UNetStage
from model.bundle.settings import Intensity, Part, Window
from model.errors import ConfigError
from model.schema import SettingError

NETWORKS = {"PlainConvUNet": "plain_unet", "ResidualEncoderUNet": "residual_unet"}
RESAMPLERS = {"resample_data_or_seg_to_shape": None, "resample_torch_fornnunet": 1}  # by name: its fixed order
SCHEMES = {
    "CTNormalization": "clip",
    "ZScoreNormalization": "zscore",
    "RescaleTo01Normalization": "zero_to_one",
    "NoNormalization": "none",
}
PET_NAMES = ("pet", "pt", "suv", "fdg")
CT_NAMES = ("ct", "ctres")
LESIONS = ("tumor", "tumour", "lesion", "tumors", "tumours", "lesions")
MALFORMED = (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError)
AIR_HU = -100.0  # a channel whose least value in the plans lies below holds HU: PET has no such values

Value = TypeVar("Value")


class Outputs(NamedTuple):
    """What a network puts out: how many channels, which are lesion, and whether each is a region of its own."""

    channels: int
    lesion: tuple[int, ...]
    regions: bool


@dataclass(frozen=True, kw_only=True)
class Described:
    """What plans and dataset say of one configuration.

    channels: where CT and PET stand among the network's input channels; (0,) of PET alone. axes: for each of (x, y, z),
    which of the network's axes (0, 1, 2) it is.
    """

    network: Network
    window: Window
    preprocessing: Preprocessing
    channels: tuple[int, ...]
    axes: tuple[int, int, int]
    warnings: tuple[str, ...]


def describe(
    plans: Mapping[str, Any],
    dataset: Mapping[str, Any],
    configuration: str,
    *,
    channels: Sequence[str] | None = None,
    lesion: str | None = None,
    overlap: float = 0.5,
    mirrored: Sequence[int] | None = None,
    organs: int = 0,
) -> Described:
    """Read one configuration. channels, lesion: what the user says of them. mirrored: the axes that the checkpoint
    allows; organs: classes of an organ head, 0 without. Raises ConfigError naming what cannot be run, or is malformed.
    """
    with _well_formed(configuration):
        settings = resolved(plans, configuration)
        if settings.get("previous_stage") or "cascade" in configuration:
            raise ConfigError(
                f"configuration '{configuration}' is a cascade, whose second network needs a first one's mask"
            )
        patch = settings.get("patch_size")
        if not isinstance(patch, Sequence) or len(patch) != 3:
            raise ConfigError(f"configuration '{configuration}' is 2-D (patch_size {patch}); only 3-D ones can be run")
        axes = axes_of(plans)
        order, warnings = channel_order(dataset, plans, channels)
        outputs = outputs_of(dataset, lesion)
        network = network_of(settings, axes, outputs, organs)
        network = structs.replace(network, channels=PET_AND_CT if len(order) == 2 else ONLY_PET)
        window = Window(
            size=_turned(patch, axes),
            overlap=overlap,
            weighting="nnunet",
            placing="even",
            mirrored=tuple(sorted("xyz"[axes.index(axis)] for axis in mirrored or ())),
        )
        preprocessing = preprocessing_of(settings, plans, axes, order)
        Part(network=network, intensity=Intensity(), window=window, preprocessing=preprocessing)  # fit together?
        return Described(
            network=network,
            window=window,
            preprocessing=preprocessing,
            channels=order,
            axes=axes,
            warnings=tuple(warnings),
        )


@contextmanager
def _well_formed(configuration: str) -> Iterator[None]:
    """Turn what Python raises at a missing key or a value of another type into a ConfigError."""
    try:
        yield
    except SettingError as error:
        raise ConfigError(f"configuration '{configuration}' of plans.json cannot be run: {error}") from None
    except ConfigError:
        raise
    except MALFORMED as error:
        lacks = f"{error} is not there" if isinstance(error, KeyError) else str(error)[:200]
        raise ConfigError(
            f"configuration '{configuration}' of plans.json, or dataset.json, is not as nnU-Net writes it: {lacks}; "
            "fetch the model again"
        ) from None


def resolved(plans: Mapping[str, Any], configuration: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """A configuration with what it inherits. Raises ConfigError if there is none of that name, or a circle."""
    known = plans.get("configurations")
    if not isinstance(known, Mapping) or configuration not in known:
        there = ", ".join(sorted(known)) if isinstance(known, Mapping) else "none"
        raise ConfigError(f"plans.json has no configuration '{configuration}'; it has {there}")
    if configuration in seen:
        raise ConfigError(f"plans.json: configurations inherit in a circle: {' from '.join((*seen, configuration))}")
    own = dict(known[configuration])
    parent = own.get("inherits_from")
    return own if parent is None else {**resolved(plans, parent, (*seen, configuration)), **own}


def axes_of(plans: Mapping[str, Any]) -> tuple[int, int, int]:
    """For each of (x, y, z), the network's axis: transpose_forward says which of (z, y, x) each of its axes is."""
    forward = plans.get("transpose_forward", [0, 1, 2])
    if sorted(forward) != [0, 1, 2]:
        raise ConfigError(f"plans.json: transpose_forward must order the axes 0, 1, 2, got {forward}")
    x, y, z = (list(forward).index(2 - axis) for axis in range(3))
    return x, y, z


def network_of(settings: Mapping[str, Any], axes: tuple[int, int, int], outputs: Outputs, organs: int) -> Network:
    """The network, of plans of today or of 2023."""
    if "architecture" in settings:
        name = str(settings["architecture"].get("network_class_name", "")).rsplit(".", 1)[-1]
        found = dict(settings["architecture"].get("arch_kwargs", {}))
    else:
        name, found = str(settings.get("UNet_class_name", "")), _of_2023(settings)
    if name not in NETWORKS:
        raise ConfigError(f"network '{name}' cannot be run; those that can are {' and '.join(NETWORKS)}")
    _refuse_others(found)
    count = int(found["n_stages"])
    blocks = found["n_blocks_per_stage" if name == "ResidualEncoderUNet" else "n_conv_per_stage"]
    return Network(
        fusion=NETWORKS[name],
        widths=tuple(int(width) for width in _per_stage(found["features_per_stage"], count)),
        classes=outputs.channels,
        lesion=outputs.lesion,
        regions=outputs.regions,
        organs=organs,
        bias=bool(found.get("conv_bias", False)),
        stages=tuple(
            UNetStage(
                kernel=_turned(_three(kernel), axes),
                stride=_turned(_three(stride), axes),
                blocks=int(encoder),
                decoder_blocks=int(decoder),
            )
            for kernel, stride, encoder, decoder in zip(
                _per_stage(found["kernel_sizes"], count),
                _per_stage(found["strides"], count),
                _per_stage(blocks, count),
                [*_per_stage(found["n_conv_per_stage_decoder"], count - 1)[::-1], 1],
                strict=True,
            )
        ),
    )


def preprocessing_of(
    settings: Mapping[str, Any], plans: Mapping[str, Any], axes: tuple[int, int, int], order: tuple[int, ...]
) -> Preprocessing:
    """Spacing, resampling, and each channel's normalisation."""
    preprocessor = settings.get("preprocessor_name", "DefaultPreprocessor")
    if preprocessor != "DefaultPreprocessor":
        raise ConfigError(f"preprocessor '{preprocessor}' cannot be run; only DefaultPreprocessor can")
    data, logits = (_resampling(settings, name) for name in ("resampling_fn_data", "resampling_fn_probabilities"))
    *ct, pet = (_normalisation(settings, plans, number) for number in order)
    return Preprocessing(
        ct=ct[0] if ct else None,
        pet=pet,
        spacing_mm=_turned([float(mm) for mm in settings["spacing"]], axes),
        image=data,
        logits=logits,
    )


def channel_order(
    dataset: Mapping[str, Any], plans: Mapping[str, Any], given: Sequence[str] | None
) -> tuple[tuple[int, ...], list[str]]:
    """Where CT and PET stand among the input channels, and warnings; of a model of PET alone (0,).

    By what the user says, else by the channels' names, else (two of one name, as where both are to get
    CTNormalization) by the plans' least intensity. Raises ConfigError if none of them decides.
    """
    names = dataset.get("channel_names", dataset.get("modality"))
    if not isinstance(names, Mapping) or len(names) not in (1, 2):
        raise ConfigError(f"dataset.json: channel_names must name two channels, CT and PET, or PET alone, got {names}")
    listed = [str(names[key]).lower() for key in sorted(names, key=int)]
    if len(listed) == 1:
        is_pet = listed[0] in PET_NAMES if given is None else [name.lower() for name in given] == ["pet"]
        if not is_pet:
            raise ConfigError(
                f"dataset.json names one channel, {listed[0]}, and only PET can stand alone: say --channels PET if "
                "that is what it is"
            )
        return (0,), []
    if given is not None:
        wanted = [name.lower() for name in given]
        if sorted(wanted) != ["ct", "pet"]:
            raise ConfigError(f"--channels must be CT PET or PET CT for a model of two channels, got {' '.join(given)}")
        return (wanted.index("ct"), wanted.index("pet")), []
    ct = [number for number, name in enumerate(listed) if name in CT_NAMES]
    pet = [number for number, name in enumerate(listed) if name in PET_NAMES]
    if len(ct) == len(pet) == 1:
        return (ct[0], pet[0]), []
    least = [_intensity(plans, number).get("min") for number in (0, 1)]
    below = [number for number, value in enumerate(least) if value is not None and value < AIR_HU]
    if len(below) != 1 or None in least:
        raise ConfigError(
            f"dataset.json names the channels {' and '.join(listed)}, and the plans' least intensities {least} do not "
            "tell which is CT: say --channels CT PET or --channels PET CT"
        )
    first = below[0]
    warning = (
        f"dataset.json names the channels {' and '.join(listed)}: channel {first} was taken as CT, since its least "
        f"intensity in the plans is {least[first]:g}, and the other's {least[1 - first]:g}; --channels says otherwise"
    )
    return (first, 1 - first), [warning]


def outputs_of(dataset: Mapping[str, Any], lesion: str | None) -> Outputs:
    """What the output channels mean, and which of them are lesion. Raises ConfigError if that cannot be decided."""
    labels = {str(name): value for name, value in dict(dataset.get("labels", {})).items() if name != "ignore"}
    if "background" not in labels or len(labels) < 2:
        raise ConfigError(f"dataset.json: labels must hold background and a lesion, got {sorted(labels)}")
    found = {name: value for name, value in labels.items() if name != "background"}
    name = lesion or (next(iter(found)) if len(found) == 1 else None)
    if name is None:
        hits = [each for each in found if each.lower() in LESIONS]
        if len(hits) != 1:
            raise ConfigError(
                f"dataset.json: labels {sorted(found)} do not tell which is the lesion: say --lesion NAME"
            )
        name = hits[0]
    if name not in found:
        raise ConfigError(f"--lesion {name}: dataset.json has the labels {', '.join(sorted(found))}")
    wanted = set(_values(found[name]))
    regions = any(isinstance(value, Sequence) and len(value) > 1 for value in labels.values())
    if not regions:
        every = sorted({value for each in labels.values() for value in _values(each)})
        return Outputs(channels=len(every), lesion=tuple(every.index(value) for value in sorted(wanted)), regions=False)
    order = [int(value) for value in dataset.get("regions_class_order", [])]
    if len(order) != len(found):
        raise ConfigError(
            f"dataset.json: regions_class_order must have one label for each of {sorted(found)}, got {order}"
        )
    lesions = tuple(number for number, value in enumerate(order) if value in wanted)
    if not lesions:
        raise ConfigError(f"dataset.json: no region of regions_class_order {order} writes a label of '{name}'")
    return Outputs(channels=len(order), lesion=lesions, regions=True)


def _of_2023(settings: Mapping[str, Any]) -> dict[str, Any]:
    """arch_kwargs of plans that have none."""
    try:
        blocks = settings["n_conv_per_stage_encoder"]
        widths = [
            min(settings["UNet_base_num_features"] * 2**stage, settings["unet_max_num_features"])
            for stage in range(len(blocks))
        ]
        return {
            "n_stages": len(blocks),
            "features_per_stage": widths,
            "kernel_sizes": settings["conv_kernel_sizes"],
            "strides": settings["pool_op_kernel_sizes"],
            "n_conv_per_stage": blocks,
            "n_blocks_per_stage": blocks,
            "n_conv_per_stage_decoder": settings["n_conv_per_stage_decoder"],
            "conv_bias": True,
        }
    except KeyError as error:
        raise ConfigError(f"plans.json: the configuration has neither an architecture nor {error.args[0]}") from None


def _refuse_others(found: Mapping[str, Any]) -> None:
    """Raise ConfigError for settings of a network that are not nnU-Net's own."""
    needed = ("n_stages", "features_per_stage", "kernel_sizes", "strides", "n_conv_per_stage_decoder")
    for name in needed:
        if name not in found:
            raise ConfigError(f"plans.json: the network's arch_kwargs lack {name}")
    allowed: dict[str, tuple[Any, ...]] = {
        "conv_op": ("Conv3d",),
        "norm_op": ("InstanceNorm3d",),
        "nonlin": ("LeakyReLU",),
        "block": ("BasicBlockD",),
        "pool_type": ("conv",),
        "pool": ("conv",),
    }
    for name, values in allowed.items():
        value = found.get(name)
        if value is not None and str(value).rsplit(".", 1)[-1].strip("'>") not in values:
            raise ConfigError(f"plans.json: {name} {value} cannot be run; only {' or '.join(values)} can")
    norm = {"eps": 1e-5, "affine": True, **(found.get("norm_op_kwargs") or {})}
    slope = (found.get("nonlin_kwargs") or {}).get("negative_slope", 0.01)
    if norm["eps"] != 1e-5 or norm["affine"] is not True or slope != 0.01:
        raise ConfigError(
            f"plans.json: norm_op_kwargs {norm} and LeakyReLU of slope {slope} cannot be run; only eps 1e-05, affine "
            "and slope 0.01 can"
        )
    for name in ("squeeze_excitation", "nonlin_first", "stem_channels", "bottleneck_channels", "disable_default_stem"):
        if found.get(name):
            raise ConfigError(f"plans.json: {name} {found[name]} cannot be run; leave the network as nnU-Net plans it")


def _resampling(settings: Mapping[str, Any], key: str) -> Resampling:
    name = settings.get(key)
    if name not in RESAMPLERS:
        raise ConfigError(f"plans.json: {key} '{name}' cannot be run; those that can are {' and '.join(RESAMPLERS)}")
    options = dict(settings.get(f"{key}_kwargs") or {})
    order = RESAMPLERS[name] or options.get("order", 3)
    mode, other = options.get("mode", "linear"), options.get("aniso_axis_mode", "nearest-exact")
    threshold = options.get("separate_z_anisotropy_threshold", 3)
    apart = options.get("force_separate_z", None if RESAMPLERS[name] else False)
    if (
        order not in (1, 3)
        or options.get("order_z", 0) != 0
        or threshold != 3
        or (mode, other) != ("linear", "nearest-exact")
    ):
        raise ConfigError(
            f"plans.json: {key} with {options} cannot be run; order must be 1 or 3, order_z 0, mode linear, "
            "aniso_axis_mode nearest-exact and the threshold 3"
        )
    return Resampling(order=order, apart=apart)


def _normalisation(settings: Mapping[str, Any], plans: Mapping[str, Any], number: int) -> Normalisation:
    scheme = settings["normalization_schemes"][number]
    if scheme not in SCHEMES:
        raise ConfigError(
            f"plans.json: normalisation '{scheme}' cannot be run; those that can are {', '.join(SCHEMES)}"
        )
    inside = bool(settings.get("use_mask_for_norm", [False, False])[number])
    if scheme != "CTNormalization":
        return Normalisation(scheme=SCHEMES[scheme], inside=inside and scheme == "ZScoreNormalization")
    found = _intensity(plans, number)
    try:
        low, high, mean, deviation = (
            float(found[key]) for key in ("percentile_00_5", "percentile_99_5", "mean", "std")
        )
    except KeyError as error:
        raise ConfigError(f"plans.json: CTNormalization of channel {number} lacks {error.args[0]}") from None
    return Normalisation(scheme="clip", low=low, high=high, mean=mean, deviation=max(deviation, 1e-8))


def _intensity(plans: Mapping[str, Any], number: int) -> Mapping[str, Any]:
    for key in ("foreground_intensity_properties_per_channel", "foreground_intensity_properties_by_modality"):
        if isinstance(plans.get(key), Mapping):
            found: Mapping[str, Any] = plans[key].get(str(number), {})
            return found
    return {}


def _values(label: Any) -> tuple[int, ...]:
    return tuple(int(value) for value in label) if isinstance(label, Sequence) else (int(label),)


def _per_stage(value: Any, count: int) -> list[Any]:
    found = list(value) if isinstance(value, Sequence) else [value] * count
    if len(found) != count:
        raise ConfigError(f"plans.json: {found} has {len(found)} entries, the network has {count} stages for it")
    return found


def _three(value: Any) -> list[int]:
    return [int(edge) for edge in value] if isinstance(value, Sequence) else [int(value)] * 3


def _turned(values: Sequence[Value], axes: tuple[int, int, int]) -> tuple[Value, Value, Value]:
    """Values of the network's axes as those of (x, y, z)."""
    x, y, z = (values[axis] for axis in axes)
    return x, y, z
