"""Write a weight bundle as the container reads it: manifest.json and one safetensors file a member."""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from model.bundle.format import Manifest, Member, manifest_from, manifest_to
from model.bundle.manifest import MANIFEST, load_bundle
from model.errors import ConfigError, OutputError
from model.files import sha256_of
from model.networks.weights import read_state
from model.whole import recover, whole_folder
from training.weights import checkpoint

PAPERS = {
    "volumes": 'Ahn and Park, "Domain-Adaptive PET/CT Tumor Lesion Segmentation Networks through Effective Training '
    'Methods"',
    "slices": 'Zhong, Mo and Liu, "AutoPET Challenge 2022: Automatic Segmentation of Whole-body Tumor Lesion Based on '
    'Deep Learning and FDG PET/CT"',
}
METHOD_OF = {  # of weights made here, by kind
    "volumes": f"method of {PAPERS['volumes']}",
    "slices": f"method of {PAPERS['slices']}; weight averaging and selection of {PAPERS['volumes']}",
}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
State = dict[str, Tensor]


def check_bundle_name(name: str) -> None:
    """Raise ConfigError if a bundle cannot have this name."""
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"--name must be at most 100 letters, digits, '_', '.' and '-', the first a letter or digit, got {name!r}; "
            "the folder it lies in is another option"
        )


def check_not_there(folder: Path, force: bool, option: str = "name") -> None:
    """Raise ConfigError if something is at `folder` and may not be replaced. option: what chooses the folder."""
    if folder.exists() and not force:
        raise ConfigError(f"'{folder}' is there already; choose another {option}, or --force to replace it")


def write_bundle(
    folder: Path,
    states: dict[str, State],
    make_manifest: Callable[[tuple[Member, ...]], Manifest],
    *,
    weights: list[float],
    start_sha256: str | None,
    half: bool = False,
    force: bool = False,
) -> None:
    """Write a bundle into a folder of its own, verify it as the container does, then rename it into place.

    states: {member name: state dict}, in order; weights: one for each. `half` stores float16 (shipped
    only where a test shows that the masks agree). Raises ConfigError if `folder` is there without `force`, OutputError
    if it cannot be written.
    """
    recover(folder)
    check_not_there(folder, force)
    if folder.exists() and not (folder / MANIFEST).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"'{folder}' holds no {MANIFEST}: it is no bundle, and is not replaced; choose another name")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with whole_folder(folder) as partial:
            members = []
            for (name, state), weight in zip(states.items(), weights, strict=True):
                path = partial / f"{name}.safetensors"
                save_file({k: _stored(t, half) for k, t in state.items()}, path)
                path.chmod(0o644)  # safetensors makes it private, and the container's user is another one
                members.append(Member(file=path.name, sha256=sha256_of(path), weight=weight, start_sha256=start_sha256))
            _write_manifest(make_manifest(tuple(members)), partial)
    except OSError as error:
        raise OutputError(
            f"cannot write '{folder}': {error.strerror or error}; check free space and write permission"
        ) from None


def state_sha256(state: State) -> str:
    """A hash of names, shapes and float32 values: what members of one start have in common."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().float().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write manifest.json beside the members, and read the whole bundle as the container does."""
    text = json.dumps(manifest_to(manifest), indent=2) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    if manifest_from(json.loads(text)) != manifest:
        raise ConfigError(f"manifest of '{folder}' does not read back as it was written")
    bundle = load_bundle(folder)
    for member in manifest.members:
        read_state(bundle, member)


def _stored(tensor: Tensor, half: bool) -> Tensor:
    tensor = tensor.detach().cpu().contiguous()
    return checkpoint.in_float16(tensor) if half and tensor.dtype == torch.float32 else tensor
