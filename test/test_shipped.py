"""The shipped bundles: what they find on the sample and on fresh phantoms, never used in training or selection."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import ROOT, SAMPLE

from benchmark.scores import phantom_case
from model.config import Limits
from model.geometry import grid_of
from model.lesions import score
from model.manifest import find_bundle, load_bundle
from model.reading import read_case
from model.segment import Stopwatch, segment
from model.weights import read_state
from training.bundle import write_bundle

FRESH_SEEDS = range(200_200, 200_205)
EXPECTED = "test/expected_output/images/automated-petct-lesion-segmentation"


def sample_truth(name: str) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(ROOT / f"test/truth/{name}.mha"))).astype(bool)


@pytest.fixture(scope="module")
def sample_mask(cpu) -> tuple[str, np.ndarray, float]:
    case = read_case([SAMPLE], Limits())
    mask = segment(case, load_bundle(find_bundle("eoa", None)), cpu, Stopwatch()).mask
    return case.name, mask, case.pet.grid.voxel_ml


def test_eoa_finds_half_of_the_lesions_of_the_sample_with_little_else(sample_mask) -> None:
    name, mask, voxel_ml = sample_mask
    scores = score(mask, sample_truth(name), voxel_ml)
    assert scores.lesions_found >= scores.lesions_true / 2 and scores.fpv_ml < 50, scores


def test_the_sample_gives_the_expected_output(sample_mask) -> None:
    """A regression test: test/expected_output is this program's own output."""
    name, mask, _ = sample_mask
    expected = sitk.ReadImage(str(ROOT / EXPECTED / f"{name}.mha"))
    array = sitk.GetArrayFromImage(expected).astype(bool)
    assert 2 * np.count_nonzero(array & mask) / (array.sum() + mask.sum()) >= 0.99
    assert grid_of(expected) == grid_of(sitk.ReadImage(str(next((SAMPLE / "images/pet").glob("*.mha")))))


def test_eoa_finds_half_of_the_lesions_of_fresh_phantoms_with_little_else(cpu) -> None:
    """Half of all lesions of the five together; FPV below 50 ml on each."""
    bundle, found, true = load_bundle(find_bundle("eoa", None)), 0, 0
    for seed in FRESH_SEEDS:
        case, truth = phantom_case(seed)
        scores = score(segment(case, bundle, cpu, Stopwatch()).mask, truth, case.pet.grid.voxel_ml)
        assert scores.fpv_ml < 50, (seed, scores)
        found, true = found + scores.lesions_found, true + scores.lesions_true
    assert found >= true / 2, f"{found} of {true}"


def test_diwa_is_the_soup_of_the_members_of_eoa() -> None:
    eoa, diwa = (load_bundle(find_bundle(name, None)) for name in ("eoa", "diwa"))
    states = [read_state(eoa, member) for member in eoa.manifest.members]
    (soup,) = (read_state(diwa, member) for member in diwa.manifest.members)
    starts = {member.start_sha256 for bundle in (eoa, diwa) for member in bundle.manifest.members}
    assert len(starts) == 1 and None not in starts
    for name, tensor in soup.items():
        np.testing.assert_allclose(tensor, sum(s[name].double() for s in states) / len(states), atol=1e-6)


def test_float16_storage_of_the_shipped_weights_gives_the_same_mask(cpu, tmp_path) -> None:
    bundle = load_bundle(find_bundle("diwa", None))
    (member,) = bundle.manifest.members
    write_bundle(
        tmp_path / "half", {"soup": read_state(bundle, member)},
        lambda members: type(bundle.manifest)(**{**vars(bundle.manifest), "members": members}),
        weights=[1.0], start_sha256=member.start_sha256, half=True,
    )  # fmt: skip
    case = read_case([SAMPLE], Limits())
    masks = [segment(case, b, cpu, Stopwatch()).mask for b in (bundle, load_bundle(tmp_path / "half"))]
    assert 2 * np.count_nonzero(masks[0] & masks[1]) / (masks[0].sum() + masks[1].sum()) >= 0.9995


def test_the_bundles_are_small_and_the_sample_is_too() -> None:
    def size(folder: Path) -> int:
        return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())

    assert size(ROOT / "weights/eoa") <= 16e6 and size(ROOT / "weights/diwa") <= 6e6
    assert size(ROOT / "test/input") < 6e6
