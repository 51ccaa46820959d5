"""Bundles of nnU-Net's kind with random weights: without nnU-Net, and, but for `write_nnunet_bundle`, without files."""

from collections.abc import Sequence
from pathlib import Path

import torch
from msgspec.structs import replace

from model.bundle.format import Manifest, Member, Provenance
from model.bundle.manifest import Bundle
from model.bundle.network import Network
from model.bundle.nnunet import Normalisation, Preprocessing, UNetStage
from model.bundle.settings import Crop, Intensity, Window
from model.networks.unet import build
from training.bundles.write import write_bundle

MIRRORED = ("x", "y", "z")


def manifest_of(folds: Sequence[str], mirrored: tuple[str, ...] = MIRRORED, edge: int = 32) -> Manifest:
    """A manifest of plain U-Nets of two stages, a member for each fold; edge: of the window, in voxels."""
    stages = [UNetStage(kernel=(3, 3, 3), stride=(step,) * 3, blocks=1) for step in (1, 2)]
    return Manifest(
        format_version=1,
        name="random",
        kind="volumes",
        network=Network(fusion="plain_unet", widths=(2, 4), stages=tuple(stages)),
        channels=("CT", "PET"),
        intensity=Intensity(),
        crop=Crop(),
        window=Window(size=(edge,) * 3, placing="even", weighting="nnunet", mirrored=mirrored),
        preprocessing=Preprocessing(
            ct=Normalisation(scheme="clip", low=-1000.0, high=1000.0, mean=0.0, deviation=500.0),
            pet=Normalisation(scheme="clip", low=0.0, high=20.0, mean=2.0, deviation=3.0),
            spacing_mm=(4.0, 4.0, 4.0),
        ),
        method="eoa",
        members=tuple(Member(file=f"fold-{fold}.safetensors", sha256="0" * 64, fold=fold) for fold in folds),
        provenance=Provenance(data="random", commit="", date="", scores={}, attribution=""),
        intended_use="tests",
        licence="MIT",
    )


def nnunet_bundle(folds: Sequence[str], mirrored: tuple[str, ...] = MIRRORED) -> Bundle:
    """Such a bundle that has no files."""
    return Bundle(folder=Path("random"), manifest=manifest_of(folds, mirrored), sha256="0" * 64)


def write_nnunet_bundle(folder: Path, folds: Sequence[str], mirrored: tuple[str, ...] = MIRRORED) -> Path:
    """Such a bundle with its files; its networks find both classes."""
    manifest, states = manifest_of(folds, mirrored), {}
    for number, fold in enumerate(folds):
        torch.manual_seed(number)
        states[f"fold-{fold}"] = build(manifest.network).state_dict()

    def with_folds(written: tuple[Member, ...]) -> Manifest:
        members = [replace(member, fold=fold) for member, fold in zip(written, folds, strict=True)]
        return replace(manifest, name=folder.name, members=tuple(members))

    write_bundle(folder, states, with_folds, weights=[1.0] * len(folds), start_sha256=None)
    return folder
