"""Edits by hand: taken back from SEG, RTSTRUCT and masks, lesions dropped by number, and undone."""

import csv
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from tiny_batches import dicom_studies, image_study, score_here

from model.files import sha256_of


@pytest.fixture(scope="module")
def scored(make_bundle, tmp_path_factory) -> Path:
    """A folder with `in`, two DICOM studies and a pair of images, and `out`, their results."""
    root = tmp_path_factory.mktemp("edits")
    studies = dicom_studies(root / "in", 2)
    image_study(studies / "pair")
    bundle = make_bundle(root / "tiny")
    score_here(studies, "--output", root / "out", "--weights", bundle, "--rtstruct", "--device", "cpu")
    return root


@pytest.fixture
def results(scored, tmp_path) -> Path:
    """A copy of the results."""
    return Path(shutil.copytree(scored / "out", tmp_path / "out"))


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


def study(results: Path, source: str) -> Path:
    """The folder of a study's results, by its source folder."""
    (name,) = (row["study"] for row in table(results / "keys.csv") if Path(row["source"]).name == source)
    return results / "studies" / name


def voxels(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def edited_image(folder: Path, cut: int = 4) -> sitk.Image:
    """The study's mask without its first slices, and with one voxel more in a corner."""
    image = sitk.ReadImage(str(folder / "mask.mha"))
    array = sitk.GetArrayFromImage(image)
    array[:cut] = 0
    array[0, 0, 0] = 1
    new = sitk.GetImageFromArray(array)
    new.CopyInformation(image)
    return new


def row_of(results: Path, folder: Path) -> dict[str, str]:
    (row,) = (row for row in table(results / "summary.csv") if row["study"] == folder.name)
    return row


def test_a_mask_that_was_edited_in_the_results_gives_new_numbers(results) -> None:
    folder = study(results, "Smith_John_0")
    network = voxels(folder / "mask.mha")
    image = edited_image(folder)
    sitk.WriteImage(image, str(folder / "mine.nrrd"), True)
    sha = sha256_of(folder / "mine.nrrd")
    score_here(results, "--recompute")
    array = sitk.GetArrayFromImage(image)
    row = row_of(results, folder)
    assert float(row["mtv_ml"]) == pytest.approx(array.sum() * np.prod(image.GetSpacing()) / 1000, abs=1e-3)
    assert np.array_equal(voxels(folder / "mask.mha"), array) and np.array_equal(
        voxels(folder / "network-mask.mha"), network
    )
    assert sha in row["edited"]
