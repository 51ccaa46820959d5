"""test/compare_output.py on a small sample."""

import io
import shutil
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from compare_output import main

MASK = "images/automated-petct-lesion-segmentation/ct-1.mha"


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """PET, CT and the expected mask: 200,000 of 1,000,000 voxels; the output is the same mask."""
    mask = np.zeros((100, 100, 100), np.uint8)
    mask[:20] = 1
    write(tmp_path / "input/images/pet/pet-1.mha", mask.astype(np.float32))
    write(tmp_path / "input/images/ct/ct-1.mha", mask.astype(np.int16))
    write(tmp_path / "expected" / MASK, mask)
    write(tmp_path / "output" / MASK, mask)
    return tmp_path


def test_the_same_mask_passes(sample: Path) -> None:
    assert "Dice 1.000000" in compare(sample, status=0)


def test_two_empty_masks_are_equal(sample: Path) -> None:
    write(sample / "expected" / MASK, np.zeros((100, 100, 100), np.uint8))
    write(sample / "output" / MASK, np.zeros((100, 100, 100), np.uint8))
    assert "Dice 1.000000" in compare(sample, status=0)


def test_an_empty_mask_is_not_the_expected_one(sample: Path) -> None:
    write(sample / "output" / MASK, np.zeros((100, 100, 100), np.uint8))
    assert "Dice 0.000000" in compare(sample, status=1)


def test_a_dice_of_0_99_passes_and_less_fails(sample: Path) -> None:
    mask = np.zeros(1_000_000, np.uint8)
    mask[:196_040] = 1  # of 200,000: 2 * 196,040 / 396,040 = 0.990001
    write(sample / "output" / MASK, mask.reshape(100, 100, 100))
    assert "Dice 0.990001" in compare(sample, status=0)
    mask[196_039] = 0  # 2 * 196,039 / 396,039 = 0.989998
    write(sample / "output" / MASK, mask.reshape(100, 100, 100))
    assert "Dice 0.989998" in compare(sample, status=1)


def test_a_shifted_mask_fails(sample: Path) -> None:
    mask = np.zeros((100, 100, 100), np.uint8)
    mask[1:21] = 1  # 19 of 20 slices in common: Dice 0.95
    write(sample / "output" / MASK, mask)
    assert "Dice 0.950000" in compare(sample, status=1)


def test_64000_wrong_voxels_fail(sample: Path) -> None:
    mask = np.zeros(1_000_000, np.uint8)
    mask[: 200_000 + 64_000] = 1  # 64,000 = 250 * 256: squared and summed as uint8 it is 0
    write(sample / "output" / MASK, mask.reshape(100, 100, 100))
    assert "64000 of 1000000 voxels differ" in compare(sample, status=1)


def test_one_value_2_fails(sample: Path) -> None:
    mask = np.zeros((100, 100, 100), np.uint8)
    mask[:20] = 1
    mask[50, 50, 50] = 2
    write(sample / "output" / MASK, mask)
    assert "holds the values [0, 1, 2]" in compare(sample, status=1)


def test_another_number_type_fails(sample: Path) -> None:
    write(sample / "output" / MASK, np.zeros((100, 100, 100), np.int16))
    assert "16-bit signed integer" in compare(sample, status=1)


@pytest.mark.parametrize("what", ["spacing", "origin", "direction"])
def test_geometry_off_by_a_thousandth_fails(sample: Path, what: str) -> None:
    image = sitk.ReadImage(str(sample / "output" / MASK))
    if what == "spacing":
        image.SetSpacing((4.0, 4.0, 3.001))
    elif what == "origin":
        image.SetOrigin((-100.001, 50.0, 7.0))
    else:
        c, s = np.cos(1e-3), np.sin(1e-3)
        image.SetDirection((c, -s, 0, s, c, 0, 0, 0, 1))
    sitk.WriteImage(image, str(sample / "output" / MASK))
    output = compare(sample, status=1)
    assert f"{what} is" in output and "the expected mask" in output and "the input PET" in output


def test_another_size_fails(sample: Path) -> None:
    write(sample / "output" / MASK, np.zeros((99, 100, 100), np.uint8))
    assert "size is (100, 100, 99)" in compare(sample, status=1)


@pytest.mark.parametrize("name", ["second.mha", "stray.json", "images/second.nii.gz"])
def test_two_files_fail(name: str, sample: Path) -> None:
    shutil.copy(sample / "output" / MASK, sample / "output" / name)
    assert "found 2 (" in compare(sample, status=1)


def test_no_file_fails(sample: Path) -> None:
    (sample / "output" / MASK).unlink()
    assert "no file at all" in compare(sample, status=1)


def test_a_file_at_another_place_fails(sample: Path) -> None:
    (sample / "output" / MASK).rename(sample / "output" / "ct-1.mha")
    assert "exactly one file must come out" in compare(sample, status=1)


def test_a_file_that_is_no_image_fails(sample: Path) -> None:
    (sample / "output" / MASK).write_text("not an image")
    assert "could not be read" in compare(sample, status=1)


@pytest.mark.parametrize("edition", ["1", "2", "3", "4", "5"])
def test_every_edition_has_its_folder_and_the_third_its_json(edition: str, sample: Path) -> None:
    folder = "images/automated-petct-lesion-segmentation" if edition < "4" else "images/tumor-lesion-segmentation"
    mask = (sample / "output" / MASK).rename(sample / "mask.mha")
    shutil.rmtree(sample / "output")
    (sample / "output" / folder).mkdir(parents=True)
    shutil.copy(mask, sample / "output" / folder / "ct-1.mha")
    if edition == "3":
        assert "exactly 2 files must come out" in compare(sample, 1, edition)
        for text, status in (("false", 0), ("true", 0), ("0", 1), ('"false"', 1), ("", 1)):
            (sample / "output/data-centric-model.json").write_text(text)
            compare(sample, status, edition)
        return
    assert "Dice 1.000000" in compare(sample, 0, edition)
    assert "exactly one file must come out" in compare(sample, 1, "1" if edition > "3" else "5")
    (sample / "output/data-centric-model.json").write_text("false")
    assert "exactly one file must come out" in compare(sample, 1, edition)


def test_the_expected_mask_may_lie_in_the_folder_of_any_edition(sample: Path) -> None:
    (sample / "expected/images/automated-petct-lesion-segmentation").rename(
        sample / "expected/images/tumor-lesion-segmentation"
    )
    assert "Dice 1.000000" in compare(sample, 0, "2")


def test_an_edition_that_is_none_is_refused(sample: Path) -> None:
    assert "usage" in compare(sample, 2, "6") and "usage" in compare(sample, 2, "")


def write(file: Path, array: np.ndarray) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((4.0, 4.0, 3.0))
    image.SetOrigin((-100.0, 50.0, 7.0))
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(file), True)


def compare(sample: Path, status: int, *edition: str) -> str:
    """What compare_output.py prints, after a check of its exit status."""
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        assert main([*(str(sample / name) for name in ("input", "expected", "output")), *edition]) == status
    return printed.getvalue()
