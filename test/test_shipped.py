"""What the shipped bundles find on the sample, a phantom that was never used in training or selection."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import ROOT, SAMPLE

from model.bundle.manifest import find_bundle, load_bundle
from model.bundle.settings import Limits
from model.inference.options import SegmentOptions
from model.inference.segment import segment
from model.results.metrics import score
from model.study.geometry import grid_of
from model.study.reading import read_case
from training.bundles.trained_on import TRAINED_ON
from training.phantom.physics import HELD_OUT_SITE
from training.phantom.study import TEST_SEEDS_FROM

EXPECTED = "test/expected_output/images/automated-petct-lesion-segmentation"


def sample_truth(name: str) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(ROOT / f"test/truth/{name}.mha"))).astype(bool)


@pytest.fixture(scope="module")
def sample_mask(cpu) -> tuple[str, np.ndarray, float]:
    case = read_case([SAMPLE], Limits())
    mask = segment(case, SegmentOptions(bundle=load_bundle(find_bundle("eoa", None)), device=cpu)).mask
    return case.name, mask, case.pet.grid.voxel_ml


@pytest.mark.slow
@pytest.mark.parametrize("bundle", ["eoa", "diwa"])
def test_half_of_the_lesions_of_the_sample_are_found_with_little_else(bundle: str, sample_mask, cpu) -> None:
    name, mask, voxel_ml = sample_mask
    members = [load_bundle(find_bundle(name, None)).manifest.members for name in ("eoa", bundle)]
    if [one.sha256 for one in members[0]] != [one.sha256 for one in members[1]]:  # else the networks are the same
        mask = segment(
            read_case([SAMPLE], Limits()), SegmentOptions(bundle=load_bundle(find_bundle(bundle, None)), device=cpu)
        ).mask
    scores = score(mask, sample_truth(name), voxel_ml)
    assert scores.lesions_found >= scores.lesions_true / 2 and scores.fpv_ml < 25 and scores.dice > 0.6, scores


@pytest.mark.slow
def test_reading_weights_leaves_nothing_behind_and_loads_no_compiler(tiny_slices_bundle, tmp_path) -> None:
    """torch's compiler takes seconds to load, and makes a folder where temporary files are."""
    code = (
        "import sys; from pathlib import Path; from model.bundle.manifest import load_bundle; "
        "from model.networks.weights import voters; "
        "[voter.load() for folder in sys.argv[1:] for voter in voters(load_bundle(Path(folder)))]; "
        "sys.exit('torch._inductor' in sys.modules)"
    )
    command = [sys.executable, "-c", code, "weights/eoa", "weights/diwa", str(tiny_slices_bundle)]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "TMPDIR": str(tmp_path)}, check=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_sample_gives_the_expected_output(sample_mask) -> None:
    """A regression test: test/expected_output is this program's own output."""
    name, mask, _ = sample_mask
    expected = sitk.ReadImage(str(ROOT / EXPECTED / f"{name}.mha"))
    array = sitk.GetArrayFromImage(expected).astype(bool)
    assert 2 * np.count_nonzero(array & mask) / (array.sum() + mask.sum()) >= 0.99
    assert grid_of(expected) == grid_of(sitk.ReadImage(str(next((SAMPLE / "images/pet").glob("*.mha")))))


def test_both_bundles_come_from_one_start() -> None:
    """Weights may be averaged only if they were fine-tuned from one network."""
    eoa, diwa = (load_bundle(find_bundle(name, None)) for name in ("eoa", "diwa"))
    starts = {member.start_sha256 for bundle in (eoa, diwa) for member in bundle.manifest.members}
    assert len(starts) == 1 and None not in starts and len(diwa.manifest.members) == 1


def test_the_manifests_name_what_trained_the_bundles_and_no_test_phantom_is_among_it() -> None:
    for name in ("eoa", "diwa"):
        cases = load_bundle(find_bundle(name, None)).manifest.provenance.scores[TRAINED_ON]
        seeds = {int(case[-6:]) for case in cases if re.fullmatch(r"[A-Z]r?p?\d{6}", case)}  # see study_name
        assert seeds and max(seeds) < TEST_SEEDS_FROM and not any(case.startswith(HELD_OUT_SITE) for case in cases)


def test_the_bundles_are_small_and_the_sample_is_too() -> None:
    def size(folder: Path) -> int:
        return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())

    assert size(ROOT / "weights/eoa") <= 16e6 and size(ROOT / "weights/diwa") <= 6e6
    assert size(ROOT / "test/input") < 6e6
