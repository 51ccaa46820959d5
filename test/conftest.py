"""What the tests share: a tiny bundle of random weights, a tiny study, the sample, the real data if it is there."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from model.bundle.format import Manifest, Provenance
from model.bundle.settings import Crop, Intensity, Network, Window
from model.inference.device import choose_device
from model.networks.unet import build
from training.bundles.write import write_bundle

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("PETCT_DATA", ROOT.parent / "shared" / "data"))
SAMPLE = ROOT / "test" / "input"

torch.set_num_threads(min(2, os.cpu_count() or 1))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real studies; the test skips where it is absent."""
    if not (DATA / "sts").is_dir():
        pytest.skip(f"real data is not at '{DATA}' (set PETCT_DATA)")
    return DATA


@pytest.fixture(scope="session")
def cpu():
    return choose_device("cpu")


@pytest.fixture(scope="session")
def make_bundle() -> Callable[..., Path]:
    """make_bundle(folder, members=2, **changes of the manifest): a bundle of random networks, written as any other."""

    def make(
        folder: Path,
        members: int = 2,
        weights: list[float] | None = None,
        half: bool = False,
        start: str | None = "0" * 64,
        **changes: object,
    ) -> Path:
        settings = (
            dict(
                format_version=1,
                name=folder.name,
                kind="volumes",
                network=Network(fusion="middle", widths=(2, 2, 4)),
                channels=("CT", "PET"),
                intensity=Intensity(),
                crop=Crop(),
                window=Window(size=(32, 32, 32)),
                method="eoa",
                provenance=Provenance(data="random", commit="", date="", scores={}, attribution=""),
                intended_use="tests",
                licence="MIT",
            )
            | changes
        )
        states = {}
        for number in range(members):
            torch.manual_seed(number)
            network = build(settings["network"])
            with torch.no_grad():  # so that random networks say both classes
                for name, parameter in network.named_parameters():
                    if name.endswith("fc.bias"):
                        parameter.zero_()
            states[f"m{number}"] = network.state_dict()
        write_bundle(
            folder,
            states,
            lambda found: Manifest(members=found, **settings),
            weights=weights or [1.0] * members,
            start_sha256=start,
            half=half,
        )
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_bundle(make_bundle, tmp_path_factory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("weights") / "tiny")


def tiny_images() -> tuple[sitk.Image, sitk.Image]:
    """A PET of 40 x 36 x 50 voxels, zero in a border, and a CT on a finer grid of its own that covers it."""
    rng = np.random.default_rng(5)
    pet = np.zeros((50, 36, 40), np.float32)
    pet[4:46, 3:33, 5:36] = rng.gamma(2.0, 1.0, (42, 30, 31))
    ct = rng.normal(0, 300, (70, 80, 90)).astype(np.int16)
    ct[:, :4] = -1000
    pet_image, ct_image = sitk.GetImageFromArray(pet), sitk.GetImageFromArray(ct)
    pet_image.SetSpacing((4.07, 4.07, 3.0))
    pet_image.SetOrigin((-81.4, -73.26, -812.3))
    ct_image.SetSpacing((2.0, 2.0, 2.5))
    ct_image.SetOrigin((-88.1, -79.7, -820.6))
    return pet_image, ct_image


def write_study(folder: Path, pet: sitk.Image, ct: sitk.Image) -> Path:
    """The study as grand-challenge lays it out; returns the folder."""
    for what, image in (("pet", pet), ("ct", ct)):
        path = folder / "images" / what / f"{what}-{folder.name}.mha"
        path.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(image, str(path), True)
    return folder


@pytest.fixture
def tiny_study(tmp_path) -> Path:
    return write_study(tmp_path / "study", *tiny_images())


def lesion_study(folder: Path, seed: int, lesions: int = 1):
    """A row of an index: a generated study of 40 x 36 x 32 voxels of 4 mm with bright balls as lesions."""
    from training.data.table import Study, study_sha256

    rng = np.random.default_rng(seed)
    z, y, x = np.mgrid[:32, :36, :40]
    truth = np.zeros(z.shape, np.uint8)
    for _ in range(lesions):
        centre = rng.integers(8, 24, 3)
        truth |= ((z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 < 12).astype(np.uint8)
    body = ((y - 18) / 15) ** 2 + ((x - 20) / 17) ** 2 < 1
    pet = np.where(body, rng.gamma(4.0, 0.3, z.shape), 0.0).astype(np.float32) + 6 * truth.astype(np.float32)
    ct = np.where(body, rng.normal(30, 20, z.shape), -1000).astype(np.int16)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, array in (("pet", pet), ("ct", ct), ("truth", truth)):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing((4.0, 4.0, 4.0))
        paths.append(folder / f"case{seed}-{name}.mha")
        sitk.WriteImage(image, str(paths[-1]))
    return Study(
        case=f"case{seed}",
        patient=f"patient{seed}",
        diagnosis="lymphoma" if lesions else "negative",
        tracer="FDG",
        site="AB"[seed % 2],
        pet=paths[0],
        ct=paths[1],
        truth=paths[2],
        lesion_ml=float(truth.sum()) * 0.064,
        sha256=study_sha256(*paths),
    )


@pytest.fixture(scope="session")
def tiny_studies(tmp_path_factory) -> list:
    """Four generated studies, the last without lesion."""
    folder = tmp_path_factory.mktemp("studies")
    return [lesion_study(folder, seed, lesions=int(seed < 3)) for seed in range(4)]


@pytest.fixture(scope="session")
def tiny_cache(tiny_studies, tmp_path_factory) -> Path:
    """The four studies, prepared."""
    from training.data.prepare import prepare_one

    cache = tmp_path_factory.mktemp("cache")
    for study in tiny_studies:
        prepare_one(study, cache, Crop())
    return cache


def tiny_training(**changes: object):
    """Settings of a run that takes a second: a small network, two crops of 16^3 an epoch."""
    from training.settings import settings_from

    return settings_from(
        {
            "network": {"fusion": "middle", "widths": [2, 2, 4]},
            "crops": {"size": [16, 16, 16]},
            "window": {"size": [16, 16, 16]},
            "optimizer": {"name": "adamw", "rate": 1e-3},
            "schedule": {"epochs": 4, "warmup_epochs": 1, "steps_per_epoch": 2},
            "batch": 1,
            "accumulate": 1,
            "precision": "float32",
            "workers": 0,
            "validate_every": 2,
            "intensity": {"ct_clip": True, "suv_top": 20.0},
        }
        | changes
    )


def run_process(*arguments: object, timeout: float = 300, **environment: str) -> subprocess.CompletedProcess[str]:
    """process.py in a process of its own, with this environment added."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("LESION_", "AUTOPET_"))}
    return subprocess.run(
        [sys.executable, str(ROOT / "process.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=clean | environment,
    )


def tiny_slices(**changes: object):
    """Settings of a run on slices of 64 x 64 that takes a second or two."""
    from training.settings import settings_from

    return settings_from(
        {
            "network": {"fusion": "regnety_002", "widths": [8, 8, 4, 4, 4]},
            "window": {"size": [64, 64, 1]},
            "loss": {"kind": "dice_lovasz_bce"},
            "optimizer": {"name": "adamw", "rate": 1e-3, "betas": [0.5, 0.999]},
            "schedule": {"epochs": 4, "warmup_epochs": 0, "steps_per_epoch": 2},
            "batch": 4,
            "accumulate": 1,
            "precision": "float32",
            "workers": 0,
            "validate_every": 2,
            "flips": [0],
        }
        | changes
    )
