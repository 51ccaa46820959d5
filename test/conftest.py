"""Fixtures: tiny bundles of random weights, tiny studies, the real data if there is any."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from random_bundles import random_bundle
from slices_bundles import slices_bundle
from tiny_studies import lesion_study, tiny_images, write_study

from model.bundle.settings import Crop
from model.inference.device import choose_device
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

    return random_bundle


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
