"""A bundle of a model of nnU-Net v2: its folds as members, its preprocessing, windows and mirroring as settings.

Masks are those of nnU-Net's own predictor: windows spread evenly, Gaussian weights, mirroring, the mean of the folds'
logits, brought back to the PET's voxels. Two models that were given become one bundle of both, in which the mean of the
lesion probabilities counts. Nothing in a checkpoint is run.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from msgspec import structs

from model.bundle.format import FORMAT_VERSION, Manifest, Member, Provenance
from model.bundle.licence import UNKNOWN, spelt_out
from model.bundle.network import Network
from model.bundle.organs import ORGANS
from model.bundle.settings import Crop, Intensity, Part
from model.errors import ConfigError, WeightsError
from model.files import sha256_of
from model.inference.spacing import resampled_size
from model.inference.windows import count_windows
from model.networks.operations import operations
from model.networks.unet import skeleton
from training.bundles.nnunet_folder import FoundModel, find_model
from training.bundles.nnunet_plans import Described, describe
from training.bundles.nnunet_state import State, organ_classes, our_state
from training.bundles.write import check_bundle_name, check_not_there, write_bundle
from training.weights.checkpoint_reader import read_checkpoint

ROOTS = ("network_weights",)
USE = "Research only. Not a medical device. The weights are their authors': pass them on only by their licence."
WHOLE_BODY = (400, 400, 326)  # voxels (x, y, z) of the study that --check counts for, as autoPET's
WHOLE_BODY_MM = (2.0364, 2.0364, 3.0)
LARGEST_HALF = 65504.0  # what float16 holds
METHOD = "nnU-Net (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z)"


@dataclass(frozen=True, kw_only=True)
class ImportedModel:
    """One model to be imported: its files, its settings, and its members' states by name."""

    found: FoundModel
    described: Described
    sources: tuple[str, ...]  # what each checkpoint is, with its sha256
    digests: tuple[str, ...]  # their sha256
    states: dict[str, State]


def import_nnunet(options: argparse.Namespace) -> Path:
    """Read one model, or two, and write the bundle. Returns its folder.

    Raises ConfigError, WeightsError or OutputError; then nothing is written, and a bundle of that name stays.
    """
    check_bundle_name(options.name)
    folder: Path = options.output_folder / options.name
    check_not_there(folder, options.force, "--name")
    paths = [options.checkpoints[0], *([options.and_model] if options.and_model else [])]
    half = options.store == "float16"
    models = []
    for number, (path, named) in enumerate(zip(paths, configurations(options), strict=False), 1):
        models.append(read_model(path, named, options, f"{number}-" if len(paths) > 1 else "", half))
    check_different(models, paths)
    states = {name: state for model in models for name, state in model.states.items()}
    about = partial(manifest_of, models, options, spelt_out(options.licence))

    weights = [1.0 / len(model.states) for model in models for _ in model.states]
    write_bundle(folder, states, about, weights=weights, start_sha256=None, half=half, force=options.force)
    return folder


def manifest_of(
    models: Sequence[ImportedModel], options: argparse.Namespace, licence: str, written: tuple[Member, ...]
) -> Manifest:
    """The manifest of a bundle of these models, whose members were written; of two models each member has its own."""
    own = [model.described for model in models for _ in model.states]
    folds = [fold for model in models for fold in model.found.folds]
    first = models[0].described
    members = [structs.replace(member, fold=fold) for member, fold in zip(written, folds, strict=True)]
    if len(models) > 1:
        members = [
            structs.replace(
                member,
                network=one.network,
                window=one.window,
                preprocessing=one.preprocessing,
                intensity=Intensity(),
            )
            for member, one in zip(members, own, strict=True)
        ]
    return Manifest(
        format_version=FORMAT_VERSION,
        name=options.name,
        kind="mixed" if len(models) > 1 else "volumes",
        network=first.network,
        channels=first.network.channels,
        intensity=Intensity(),
        crop=Crop(suv_above=0.0),
        window=first.window,
        preprocessing=first.preprocessing,
        method="eoa",
        combine="parts" if len(models) > 1 else "logits",
        members=tuple(members),
        provenance=Provenance(
            data=f"dataset {str(models[0].found.plans.get('dataset_name', UNKNOWN))[:100]}, as its plans name it",
            commit=UNKNOWN,
            date=UNKNOWN,
            scores={},
            attribution=f"{METHOD}; imported from {', '.join(s for model in models for s in model.sources)}",
        ),
        intended_use=USE,
        licence=licence,
        citation=options.citation or "",
    )


def configurations(options: argparse.Namespace) -> tuple[str | None, str | None]:
    """--configuration for the model and for that of --and: one name is that of both."""
    given = options.configuration or [None]
    return given[0], given[-1]


def check_different(models: Sequence[ImportedModel], paths: Sequence[Path]) -> None:
    """Raise ConfigError if the second model is the first one once more."""
    if len(models) == 2 and set(models[0].digests) & set(models[1].digests):
        raise ConfigError(
            f"--and: '{paths[1]}' gives the same checkpoint as '{paths[0]}'; of two models in one place say both: "
            "--configuration NAME NAME2"
        )


def read_model(
    path: Path, configuration: str | None, options: argparse.Namespace, prefix: str, half: bool
) -> ImportedModel:
    """One model's settings and the states of its folds, whose names begin with `prefix`, in float16 if `half`."""
    found = find_model(path, configuration, options.folds, options.checkpoint)
    described: Described | None = None
    states, digests = {}, []
    for number, fold in enumerate(found.folds):
        with found.checkpoint(number) as file:
            tensors, others = read_checkpoint(file, ROOTS)
            digests.append(sha256_of(file))
            this = describe_checkpoint(found, tensors, others, options, file)
            described = described or this
            if this != described:
                raise WeightsError(
                    f"'{file}': fold {fold} allows other mirroring or has another organ head than fold "
                    f"{found.folds[0]}; import them apart by --folds"
                )
            state = our_state(tensors, described, file)
            states[f"{prefix}fold-{fold}"] = halved(state, file) if half else state
            print(f"read fold {fold}: {describe_network(described.network)}", flush=True)
    assert described is not None  # a model has a fold
    for warning in described.warnings:
        print(f"warning: {warning}", flush=True)
    sources = [
        f"{found.configuration} fold {fold} (sha256 {digest})"
        for fold, digest in zip(found.folds, digests, strict=True)
    ]
    return ImportedModel(
        found=found, described=described, sources=tuple(sources), digests=tuple(digests), states=states
    )


def halved(state: State, file: Path) -> State:
    """The state in float16. Raises WeightsError for numbers that are too large for it."""
    for name, tensor in state.items():
        if (largest := float(tensor.abs().max())) > LARGEST_HALF:
            raise WeightsError(
                f"'{file}': {name} holds {largest:.3g}, and float16 at most {LARGEST_HALF:g}; use --store float32"
            )
    return {name: tensor.half() for name, tensor in state.items()}


def describe_checkpoint(
    found: FoundModel, tensors: State, others: dict[str, Any], options: argparse.Namespace, file: Path
) -> Described:
    """The settings of a model whose checkpoint has these tensors and other entries."""
    mirrored = others.get("inference_allowed_mirroring_axes")
    if mirrored is not None and not (
        isinstance(mirrored, (tuple, list)) and all(axis in (0, 1, 2) for axis in mirrored)
    ):
        raise WeightsError(f"'{file}': inference_allowed_mirroring_axes must be axes 0 to 2, got {str(mirrored)[:60]}")
    init = others.get("init_args")
    configuration = init.get("configuration") if isinstance(init, dict) else None
    if not isinstance(configuration, str):
        configuration = found.configuration
    described = describe(
        found.plans,
        found.dataset,
        configuration,
        channels=options.channels,
        lesion=options.lesion,
        overlap=1 - options.step,
        mirrored=() if options.no_mirroring else sorted(set(mirrored or ())),
        organs=organ_classes(tensors),
    )
    return with_organ_names(described, options.organ_names or (), file)


def with_organ_names(described: Described, names: Sequence[str], file: Path) -> Described:
    """The settings with the names of the organ head's classes, or with a warning that says what they are taken for.

    Raises ConfigError for names without an organ head, or another number of them.
    """
    network = described.network
    if names and len(names) != network.organs - 1:
        raise ConfigError(
            f"--organ-names: the organ head of '{file}' knows {max(network.organs - 1, 0)} organs"
            f", got {len(names)} names; give one for each organ, without the background, or leave the option out"
        )
    if names or not network.organs:
        return replace(described, network=structs.replace(network, organ_names=tuple(names)))
    if network.organs == len(ORGANS) + 1:
        warning = (
            f"the organ head's classes are taken for those of GLOW-FDG and LesionTracer: {', '.join(ORGANS)}; if the "
            "model has others, name them with --organ-names"
        )
    else:
        warning = (
            f"nothing says which {network.organs - 1} organs the organ head knows, so --organs will be refused; name "
            "them with --organ-names"
        )
    return replace(described, warnings=(*described.warnings, warning))


def check_model(path: Path, configuration: str | None, options: argparse.Namespace) -> str:
    """What a model is and what it will cost. Its first fold is read whole; nothing is written."""
    found = find_model(path, configuration, options.folds, options.checkpoint)
    found.check_beginnings()
    with found.checkpoint(0) as file:
        tensors, others = read_checkpoint(file, ROOTS)
        described = describe_checkpoint(found, tensors, others, options, file)
        state = our_state(tensors, described, file)
        if options.store == "float16":
            halved(state, file)
        del tensors, state
    network, window, way = described.network, described.window, described.preprocessing
    part = Part(network=network, intensity=Intensity(), window=window, preprocessing=way)
    size = resampled_size(WHOLE_BODY, WHOLE_BODY_MM, way.spacing_mm)
    windows, each_pass = count_windows(size, part), operations(network, window.size) / 1e12
    count = parameters(network)
    passes = len(found.folds) * 2 ** len(window.mirrored)
    each = 2 if options.store == "float16" else 4
    lines = [
        f"'{path}': {found.trainer}, configuration {found.configuration}, folds {', '.join(found.folds)}",
        describe_network(network),
        f"window {' x '.join(map(str, window.size))} voxels of {' x '.join(f'{mm:g}' for mm in way.spacing_mm)} mm, "
        f"{passes} passes a window ({len(found.folds)} without mirroring)",
        f"{f'CT: {way.ct.scheme}, ' if way.ct else ''}PET: {way.pet.scheme}; lesion: output "
        f"{', '.join(map(str, network.lesion))} of {network.classes}",
        f"disk: {count * each * len(found.folds) / 1e9:.2f} GB in {options.store}; "
        f"memory: {4 * count / 1e9:.2f} GB for each network that is loaded",
        f"{each_pass:.3g} TFLOP a pass; a study of {' x '.join(map(str, WHOLE_BODY))} voxels of "
        f"{' x '.join(f'{mm:.4g}' for mm in WHOLE_BODY_MM)} mm has {windows} windows: "
        f"{windows * passes * each_pass:.4g} TFLOP, "
        f"{windows * each_pass:.4g} with --folds {found.folds[0]} --no-mirroring",
        *(f"warning: {warning}" for warning in described.warnings),
        f"fold {found.folds[0]} was read: every tensor is there"
        + ("; the tensors of the others are checked at import" if len(found.folds) > 1 else ""),
    ]
    return "\n".join(lines)


def describe_network(network: Network) -> str:
    """A network in a few words."""
    organs = f", organ head of {network.organs} classes" if network.organs else ""
    return f"{network.fusion} of widths {list(network.widths)}, {parameters(network):,} parameters{organs}"


def parameters(network: Network) -> int:
    """How many numbers a network learns."""
    return sum(tensor.numel() for tensor in skeleton(network).parameters())
