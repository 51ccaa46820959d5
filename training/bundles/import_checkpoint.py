r"""Make a weight bundle from checkpoints as Ahn and Park, or Zhong et al., published them.

    python -m training import c1.ckpt a2.ckpt a3.ckpt d2.ckpt --weights 2 1 1 1 --method eoa \
        --name ahn-park-eoa

makes weights/ahn-park-eoa: manifest.json and one safetensors file a checkpoint, float32, with the
intensity, crop and window of the authors' container. They state no licence for the weights: do not pass them on.
The tensors show which network a checkpoint is, and how many classes a network for slices has.
"""

import argparse
import math
import re
from pathlib import Path
from typing import Any

import torch

from model.bundle.format import FORMAT_VERSION, Manifest, Member, Provenance, channels_of
from model.bundle.licence import UNKNOWN, spelt_out
from model.bundle.manifest import WEIGHTS
from model.bundle.network import Network
from model.bundle.settings import METHODS, Crop, Intensity, Part, Window
from model.errors import ConfigError, WeightsError
from model.files import sha256_of
from model.networks.regnet import DESIGNS
from model.networks.unet import build
from training.bundles.import_nnunet import check_model, configurations, import_nnunet
from training.bundles.nnunet_folder import is_nnunet
from training.bundles.write import PAPERS, State, check_bundle_name, check_not_there, write_bundle
from training.data.table import some_of
from training.weights.checkpoint_reader import read_state_dict

PREFIX = "model."  # of the network in the authors' LightningModule
PARALLEL = "module."  # before every name where the network was trained on several GPUs
HEAD = "segmentation_head.0.weight"  # of Zhong et al.'s network, whose tensors have the same names as ours
NEWER_PREFIX = "encoder.model."  # segmentation_models_pytorch 0.6 and later; older versions write "encoder."
OURS = {"PET_encoder.": "pet_encoder.", "CT_encoder.": "ct_encoder.", "decoder.": "decoder."}
WINDOWS = {"volumes": (192, 192, 192), "slices": (256, 256, 1)}  # voxels (x, y, z) of the submissions
CROPS = {"volumes": 0.0, "slices": -1e6}  # SUV: Ahn and Park crop to PET > 0; Zhong et al. take slices as they are
DEFAULTS: dict[str, Any] = {"checkpoint": "final", "step": 0.5, "store": "float16"}  # of nnU-Net's models alone
OF_NNUNET = (
    "folds",
    "configuration",
    "and_model",
    "channels",
    "lesion",
    "organ_names",
    "no_mirroring",
    "citation",
    *DEFAULTS,
)
LEAST_STEP = 0.1  # of windows, as a share of their edge: already 125 times as many as nnU-Net's
DATA = "autoPET training data ({}), as stated by the authors"
AUTHORS = {"volumes": "Ahn and Park", "slices": "Zhong et al."}
USE = "Research only. Not a medical device. The weights are the authors': pass them on only by a licence they gave."


def run(options: argparse.Namespace) -> None:
    """Write the bundle, or with --check say what it would be. Raises ConfigError, WeightsError or OutputError."""
    nnunet = [path for path in options.checkpoints if is_nnunet(path)]
    check_options(options, bool(nnunet))
    if options.check:
        paths = nnunet + ([options.and_model] if options.and_model else [])
        for path, named in zip(paths, configurations(options), strict=False):
            print(check_model(path, named, options))
        return
    folder = import_nnunet(options) if nnunet else import_checkpoints(options)
    if options.licence == UNKNOWN:
        print("warning: the licence of these weights is unknown: --licence TEXT says it, in every report", flush=True)
    print(f"wrote '{folder}', licence {spelt_out(options.licence)}; segment with: process.py --weights '{folder}'")


def check_options(options: argparse.Namespace, nnunet: bool) -> None:
    """Raise ConfigError for options of the other kind of import. Puts in the defaults of nnU-Net's."""
    if options.name is None and not options.check:
        raise ConfigError("--name NAME is needed: the bundle's folder below --output-folder")
    if nnunet and len(options.checkpoints) > 1:
        raise ConfigError("give one model of nnU-Net; --and MODEL2 adds a second, with which it makes one bundle")
    if options.check and not nnunet:
        raise ConfigError(
            f"--check is for models of nnU-Net, and '{options.checkpoints[0]}' is no folder, nor a zip that holds "
            "plans.json; give the released zip or a model's folder"
        )
    of_others = ("weights", "window", "crop_suv_above")
    for name in of_others if nnunet else OF_NNUNET:
        if getattr(options, name) not in (None, False):
            kind = "checkpoints of the papers' authors" if nnunet else "models of nnU-Net"
            raise ConfigError(f"--{name.removesuffix('_model').replace('_', '-')} is for {kind}; leave it out")
    if len(options.configuration or []) > (2 if options.and_model else 1):
        raise ConfigError(
            f"--configuration takes one name, and with --and MODEL2 a second for that; got {len(options.configuration)}"
        )
    if nnunet and options.method == "diwa":
        raise ConfigError("--method diwa averages weights, and nnU-Net's folds have no common start; use --method eoa")
    if nnunet:
        for name, value in DEFAULTS.items():
            setattr(options, name, value if getattr(options, name) is None else getattr(options, name))
    if nnunet and not LEAST_STEP <= options.step <= 1:
        raise ConfigError(f"--step must be from {LEAST_STEP} to 1, got {options.step:g}; nnU-Net's is 0.5")


def import_checkpoints(options: argparse.Namespace) -> Path:
    """Read every checkpoint, check that they are one network, write the bundle. Returns its folder.

    Raises ConfigError, WeightsError or OutputError; then nothing is written, and a bundle of that name stays.
    """
    weights = options.weights or [1.0] * len(options.checkpoints)
    folder: Path = options.output_folder / options.name
    check(options, weights, folder)
    members, network, origin = read_members(options.checkpoints)
    kind = network.kind
    crop = Crop(suv_above=CROPS[kind] if options.crop_suv_above is None else options.crop_suv_above)
    part = Part(
        network=network,
        window=Window(size=tuple(options.window or WINDOWS[kind])),
        intensity=Intensity(ct_low_hu=-1000, ct_high_hu=1000, ct_clip=kind == "slices", suv_top=40, suv_clip=False),
    )

    def manifest(written: tuple[Member, ...]) -> Manifest:
        return Manifest(
            format_version=FORMAT_VERSION,
            name=options.name,
            kind=kind,
            network=network,
            channels=channels_of(network),
            intensity=part.intensity,
            crop=crop,
            window=part.window,
            method=options.method,
            combine="logits",
            members=written,
            provenance=Provenance(
                data=DATA.format(AUTHORS[kind]),
                commit="unknown",
                date="unknown",
                scores={},
                attribution=f"{PAPERS[kind]}; imported from {origin}",
            ),
            intended_use=USE,
            licence=options.licence,
        )

    write_bundle(folder, members, manifest, weights=weights, start_sha256=None, force=options.force)
    return folder


def check(options: argparse.Namespace, weights: list[float], folder: Path) -> None:
    """Raise ConfigError for what cannot become a bundle, before anything is read."""
    check_bundle_name(options.name)
    if len(weights) != len(options.checkpoints):
        raise ConfigError(f"--weights has {len(weights)} numbers, there are {len(options.checkpoints)} checkpoints")
    for weight in weights:
        if not (math.isfinite(weight) and 0 < weight < 1e6):
            raise ConfigError(f"--weights must be above 0 and below 1e6, got {weight:g}; leave out what weighs 0")
    if options.method == "diwa" and len(options.checkpoints) > 1:
        raise ConfigError(
            "--method diwa averages weights, which needs members fine-tuned from one network, and checkpoints do not "
            "say what they started from; give one checkpoint, or use --method eoa"
        )
    check_not_there(folder, options.force, "--name")


def read_members(paths: list[Path]) -> tuple[dict[str, State], Network, str]:
    """Every checkpoint's state under its member name, the one network they are, and the files with their sha256.

    Raises ConfigError if a file is given twice, WeightsError if one is wrong or of other widths.
    """
    members: dict[str, State] = {}
    sources: dict[str, Path] = {}  # by sha256
    common: Network | None = None
    for path in paths:
        state, network = read_authors(path)
        common = common or network
        if network != common:
            raise WeightsError(
                f"'{path}' is {describe(network)}, '{paths[0]}' is {describe(common)}; the members of a bundle must be "
                "one kind of network: import them apart"
            )
        digest = sha256_of(path)
        if digest in sources:
            raise ConfigError(f"'{path}' and '{sources[digest]}' are the same; give one, with a larger --weights")
        sources[digest] = path
        members[member_name(path, members)] = state
        print(f"read '{path}': {describe(network)}, {sum(t.numel() for t in state.values()):,} parameters")
    assert common is not None  # the command line asks for at least one
    return members, common, ", ".join(f"{path.name} (sha256 {digest})" for digest, path in sources.items())


def describe(network: Network) -> str:
    """A network in a few words."""
    return f"{network.fusion} of widths {list(network.widths)}, classes: {network.classes}"


def read_authors(path: Path) -> tuple[State, Network]:
    """One checkpoint as our network's state, float32, and that network, as its tensors' shapes show it.

    Entries outside `model.` (buffers of the loss, say) are left out, and named on stdout. A file that is
    a bare state dict has no such prefix. Raises WeightsError naming what is missing, superfluous or wrong.
    """
    found = read_state_dict(path)
    for prefix in (PARALLEL, ""):
        if f"{prefix}{HEAD}" in found:
            return read_slices(
                {_with_older_prefix(name.removeprefix(prefix)): tensor for name, tensor in found.items()}, path
            )
    prefix = PREFIX if any(name.startswith(PREFIX) for name in found) else ""
    outside = sorted(name for name in found if not name.startswith(prefix))
    if outside:
        print(f"'{path}': left out {len(outside)} entries outside {PREFIX}: {some_of(outside)}")
    found = {name: tensor for name, tensor in found.items() if name.startswith(prefix)}
    network = network_of(found, prefix, path)
    with torch.device("meta"):
        wanted = {prefix + _theirs(name): tensor for name, tensor in build(network).state_dict().items()}
    check_tensors(found, wanted, network, path, f"the authors' middle-fusion network of widths {list(network.widths)}")
    return {_ours(name.removeprefix(prefix)): tensor.float() for name, tensor in found.items()}, network


def read_slices(found: State, path: Path) -> tuple[State, Network]:
    """A checkpoint of Zhong et al.'s kind, named as segmentation_models_pytorch names its Unet, and its network.

    The tensors show the encoder, the decoder's widths and the number of classes. Raises WeightsError.
    """
    network = slice_network_of(found, path)
    with torch.device("meta"):
        wanted = build(network).state_dict()
    what = f"the U-Net on {network.fusion} that segmentation_models_pytorch builds"
    check_tensors(found, wanted, network, path, what)
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in found.items()}, network


def slice_network_of(found: State, path: Path) -> Network:
    """The network for slices whose encoder and decoder have these tensors."""
    for name, tensor in found.items():
        if name.endswith("conv.weight") or name == HEAD or re.search(r"conv\d\.0\.weight$", name):
            if tensor.ndim != 4:
                raise WeightsError(f"'{path}': {name} has shape {tuple(tensor.shape)}, a 2-D convolution has four axes")
    first = [f"encoder.s{stage}.b1.conv3.conv.weight" for stage in range(1, 5)]
    stages = tuple(int(found[name].shape[0]) for name in first if name in found)
    blocks = [name for number in range(5) if (name := f"decoder.blocks.{number}.conv1.0.weight") in found]
    fusion = next(
        (name for name, design in DESIGNS.items() if tuple(width for _, width in design.stages()) == stages), None
    )
    if fusion is None:
        raise WeightsError(
            f"'{path}' has an encoder of stages {list(stages)}, which is none of {', '.join(DESIGNS)}; only these can "
            "be imported"
        )
    try:
        widths = tuple(int(found[name].shape[0]) for name in blocks)
        return Network(fusion=fusion, widths=widths, classes=int(found[HEAD].shape[0]))
    except ConfigError as error:
        raise WeightsError(f"'{path}': {error}; it is another network") from None


def check_tensors(found: State, wanted: State, network: Network, path: Path, what: str) -> None:
    """Raise WeightsError unless the tensors have the names and shapes of the network, called `what`, and are finite."""
    missing, extra = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if missing or extra:
        raise WeightsError(
            f"'{path}' is not {what}: {len(missing)} tensors missing: {some_of(missing)}; {len(extra)} superfluous: "
            f"{some_of(extra)}; give the files as published"
        )
    for name, tensor in found.items():
        if tensor.shape != wanted[name].shape:
            raise WeightsError(
                f"'{path}': {name} has shape {tuple(tensor.shape)}, widths {list(network.widths)} need "
                f"{tuple(wanted[name].shape)}; it is another network"
            )
        is_count = not wanted[name].is_floating_point()  # BatchNorm's count of batches
        if tensor.is_floating_point() == is_count or not torch.isfinite(tensor.float()).all():
            raise WeightsError(f"'{path}': {name} ({tensor.dtype}) holds no finite float32 numbers; fetch it again")


def network_of(state: State, prefix: str, path: Path) -> Network:
    """The middle-fusion network whose PET encoder has these tensors; `prefix` is what their names begin with."""
    stages = [re.match(r"PET_encoder\.layer(\d{1,2})\.", name.removeprefix(prefix)) for name in state]
    widths = []
    for stage in range(1, max((int(match[1]) for match in stages if match), default=1) + 1):
        name = f"{prefix}PET_encoder.layer{stage}.0.conv.weight"
        if name not in state or state[name].ndim != 5:
            raise WeightsError(
                f"'{path}' has no 3-D convolution {name}, which shows the stage's width; it holds "
                f"{some_of(sorted(state))}: only the authors' middle-fusion network can be imported"
            )
        widths.append(state[name].shape[0])
    try:
        return Network(fusion="middle", widths=tuple(widths))
    except ConfigError as error:
        raise WeightsError(f"'{path}': {error}; it is another network") from None


def member_name(path: Path, taken: dict[str, State]) -> str:
    """A member's name, from its checkpoint's: letters that a file name may have, and no name of `taken` in any case."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", path.stem).lstrip("_.-")[:60] or "member"
    lower = {other.lower() for other in taken}
    if name.lower() not in lower:
        return name
    return next(new for number in range(2, len(taken) + 3) if (new := f"{name}-{number}").lower() not in lower)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Cost: the checkpoints are read one after the other, on the CPU; the bundle takes 4 bytes a parameter, of "
        "nnU-Net's models 2 unless --store float32. Nothing in a checkpoint is run."
    )
    add = parser.add_argument
    add(
        "checkpoints",
        nargs="+",
        type=Path,
        metavar="CKPT_OR_MODEL",
        help="files of torch.save (PyTorch 1.6 or later); or one model of nnU-Net v2: the released zip, the dataset's "
        "folder or the model's own folder",
    )
    add("--name", help="name of the bundle, a folder below --output-folder; needed without --check")
    add(
        "--method",
        choices=METHODS,
        default="eoa",
        help="eoa: mean of the members' logits; diwa: one network, so one checkpoint (default: eoa)",
    )
    add("--weights", nargs="+", type=float, metavar="W", help="one for each checkpoint, in order (default: all 1)")
    add(
        "--window",
        nargs=3,
        type=int,
        metavar=("X", "Y", "Z"),
        help="window in voxels (default: 192 192 192, the final submission of Ahn and Park, who use 160 elsewhere; "
        "256 256 1 for networks for slices)",
    )
    add(
        "--crop-suv-above",
        type=float,
        metavar="SUV",
        help="crop to PET above this (default: 0 as Ahn and Park, no crop as Zhong et al.; training mix needs the same "
        "in all its bundles)",
    )
    add("--licence", default=UNKNOWN, help="of the weights (default: unknown, so that you must not pass them on)")
    add("--output-folder", type=Path, default=WEIGHTS, metavar="DIR", help="where bundles lie (default: weights/)")
    add("--force", action="store_true", help="replace a bundle of that name (default: refuse)")
    add_nnunet_options(parser.add_argument_group("models of nnU-Net v2"))


def add_nnunet_options(group: Any) -> None:
    """Options of the import of nnU-Net's models."""
    add = group.add_argument
    add("--check", action="store_true", help="say whether the model can be run and what it costs; write nothing")
    add("--folds", nargs="+", metavar="FOLD", help="which folds: of 0 1 2 3 4, or all (default: all that are there)")
    add("--checkpoint", choices=("final", "best"), help="of each fold (default: final)")
    add(
        "--configuration",
        nargs="+",
        metavar="NAME",
        help="which, if there are several: 3d_fullres, or a folder as the error lists it; a second name is for MODEL2, "
        "which may lie in the same zip (default: the only one)",
    )
    add("--and", dest="and_model", type=Path, metavar="MODEL2", help="a second model; the bundle votes as both")
    add("--no-mirroring", action="store_true", help="see every window once (default: mirrored as the model allows)")
    add("--step", type=float, help="step of the windows, as a share of their edge, 0.1 to 1 (default: 0.5)")
    add(
        "--channels",
        nargs="+",
        metavar="CHANNEL",
        help="which channel is what, CT PET or PET CT, or PET of a model that sees PET alone (default: by "
        "dataset.json's names, else by the plans)",
    )
    add(
        "--lesion", metavar="LABEL", help="dataset.json's label of the lesion (default: tumor, lesion, or the only one)"
    )
    add(
        "--organ-names",
        nargs="+",
        metavar="NAME",
        help="of the organ head's classes in order, without the background, for example spleen kidneys (default: those "
        "of GLOW-FDG and LesionTracer if there are ten)",
    )
    add("--citation", metavar="TEXT", help="whom to cite; stands in the manifest and in every report")
    add("--store", choices=("float16", "float32"), help="numbers in the files (default: float16)")


def _with_older_prefix(name: str) -> str:
    return f"encoder.{name.removeprefix(NEWER_PREFIX)}" if name.startswith(NEWER_PREFIX) else name


def _ours(name: str) -> str:
    return next(ours + name.removeprefix(theirs) for theirs, ours in OURS.items() if name.startswith(theirs))


def _theirs(name: str) -> str:
    return next(theirs + name.removeprefix(ours) for theirs, ours in OURS.items() if name.startswith(ours))
