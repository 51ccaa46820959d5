"""The synthetic study and the bundle of random weights that benchmarks run on."""

from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from model.bundle.format import Manifest, Provenance
from model.bundle.network import Network
from model.bundle.settings import Crop, Intensity, Window
from model.networks.unet import build
from model.study.geometry import grid_of
from training.bundles.write import write_bundle

EXTENT_MM = (815.0, 815.0, 978.0)  # of the PET: 400 x 400 x 326 voxels of 2.04 x 2.04 x 3 mm
CT_EXTENT_MM = (700.0, 700.0, 978.0)
CT_SIZE = (1.28, 1.28, 1.84)  # voxels of CT for one of PET on each axis: 512 x 512 x 600 for 400 x 400 x 326
WEIGHTS = (2.0, 1.0, 1.0, 1.0)  # of the networks in the authors' submission


def ct_size_for(pet_size: Any) -> tuple[int, ...]:
    """The usual size of a CT, voxels x y z, beside a PET of this size."""
    return tuple(round(n * factor) for n, factor in zip(pet_size, CT_SIZE, strict=True))


def make_study(folder: Path, pet_size: tuple[int, ...], ct_size: tuple[int, ...], compressed: bool) -> None:
    """A noisy ellipsoid of water in air as PET (float32 SUV) and CT (int16 HU), written as MHA."""
    rng = np.random.default_rng(0)
    for what, size, extent in (("pet", pet_size, EXTENT_MM), ("ct", ct_size, CT_EXTENT_MM)):
        axes = [np.linspace(-1, 1, n, dtype=np.float32) * e / EXTENT_MM[0] for n, e in zip(size, extent, strict=True)]
        x, y, z = axes
        radius = (x / 0.5)[None, None] ** 2 + (y / 0.35)[None, :, None] ** 2 + (z / 1.3)[:, None, None] ** 2
        noise = rng.standard_normal(radius.shape, dtype=np.float32)
        if what == "pet":
            array = np.abs(np.where(radius < 1, 1.5 + 0.3 * noise, 0.02 * noise)).astype(np.float32)
        else:
            array = np.where(radius < 1, 40 + 15 * noise, -1000 + 5 * noise).astype(np.int16)
        image = sitk.GetImageFromArray(array)
        spacing = [e / n for e, n in zip(extent, size, strict=True)]
        image.SetSpacing(spacing)
        image.SetOrigin([-e / 2 + s / 2 for e, s in zip(extent, spacing, strict=True)])
        path = folder / "images" / what / f"{what}.mha"
        path.parent.mkdir(parents=True)
        sitk.WriteImage(image, str(path), compressed)
        assert grid_of(image).size == size


def make_bundle(folder: Path, network: Network, edge: int) -> Path:
    """A bundle of four networks of random weights, whose outputs are lesion and background about equally often.

    edge: of the windows, in voxels.
    """
    states = {}
    for number in range(len(WEIGHTS)):
        torch.manual_seed(number)
        states[f"m{number}"] = build(network).state_dict()
        for name, tensor in states[f"m{number}"].items():
            if name.endswith("fc.bias"):
                tensor.zero_()

    def manifest(members: Any) -> Manifest:
        return manifest_of(folder.name, network, edge, members)

    write_bundle(folder, states, manifest, weights=list(WEIGHTS), start_sha256=None)
    return folder


def manifest_of(name: str, network: Network, edge: int, members: Any) -> Manifest:
    """A manifest of the default settings."""
    return Manifest(
        format_version=1,
        name=name,
        kind="volumes",
        network=network,
        channels=("CT", "PET"),
        intensity=Intensity(),
        crop=Crop(),
        window=Window(size=(edge, edge, edge)),
        method="eoa",
        members=members,
        intended_use="benchmark",
        licence="MIT",
        provenance=Provenance(data="none", commit="", date="", scores={}, attribution=""),
    )
