"""Fixtures: tiny bundles of random weights, tiny studies, the real data if there is any."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from slices_bundles import slices_bundle
from tiny_studies import lesion_study, tiny_images, write_study

from model.bundle.format import Manifest, Provenance
from model.bundle.network import Network
from model.bundle.settings import Crop, Intensity, Window
from model.inference.device import choose_device
from model.networks.unet import build
from training.bundles.write import write_bundle
from training.data.prepare import prepare_one

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("PETCT_DATA", ROOT.parent / "shared" / "data"))
SAMPLE = ROOT / "test" / "input"

os.environ.setdefault("LESION_PRECISION", "float32")  # masks are compared with masks that were made in it
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", min(2, os.cpu_count() or 1))))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, so that no process waits in the end for another one's slow file."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real studies. If there is none, the test is skipped."""
    if not (DATA / "sts").is_dir():
        pytest.skip(f"real data is not at '{DATA}' (set PETCT_DATA)")
    return DATA


@pytest.fixture(scope="session")
def cpu():
    return choose_device("cpu", "float32")


@pytest.fixture(scope="session")
def make_bundle() -> Callable[..., Path]:
    """make_bundle(folder, members=2, **changes of the manifest) writes a bundle of random networks."""

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
            with torch.no_grad():  # so that random networks find both classes
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


@pytest.fixture(scope="session")
def tiny_slices_bundle(make_bundle, tmp_path_factory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("weights") / "slices", members=1, **slices_bundle())


@pytest.fixture
def tiny_study(tmp_path) -> Path:
    return write_study(tmp_path / "study", *tiny_images())


@pytest.fixture(scope="session")
def tiny_studies(tmp_path_factory) -> list:
    """Four generated studies, the last without lesion."""
    folder = tmp_path_factory.mktemp("studies")
    return [lesion_study(folder, seed, lesions=int(seed < 3)) for seed in range(4)]


@pytest.fixture(scope="session")
def tiny_cache(tiny_studies, tmp_path_factory) -> Path:
    """The four studies, prepared."""
    cache = tmp_path_factory.mktemp("cache")
    for study in tiny_studies:
        prepare_one(study, cache, Crop())
    return cache
