from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from tiny_runs import small_studies

from model.bundle.settings import Crop
from model.errors import CaseError, WeightsError
from training.bundles.check_mask import compare, in_crop, run_process
from training.data.prepare import prepare_one
from training.data.table import study_sha256


def masks(both: int, one: int, other: int) -> tuple[np.ndarray, np.ndarray]:
    """Two masks with so many voxels in both, in the first alone, in the second alone."""
    first, second = np.zeros((2, 10, 10, 10), bool)
    first.flat[: both + one] = True
    second.flat[:both] = True
    second.flat[both + one : both + one + other] = True
    return first, second


def test_a_dice_of_99_percent_is_enough_and_the_numbers_are_returned() -> None:
    first, second = masks(198, 1, 3)  # 2 * 198 / (199 + 201) = 0.99
    assert compare("c", first, 0, second) == (
        "case c: the masks of process.py and of the selection have Dice 0.99000 (199 and 201 voxels, 4 differ)"
    )


def test_one_voxel_less_is_refused() -> None:
    first, second = masks(197, 2, 4)  # 2 * 197 / 400 = 0.985
    with pytest.raises(WeightsError, match=r"Dice 0.98500 \(199 and 201 voxels, 6 differ\); at least 0.99 is needed"):
        compare("c", first, 0, second)


def test_both_empty_agree_and_one_empty_does_not() -> None:
    empty, some = np.zeros((4, 4, 4), bool), np.ones((4, 4, 4), bool)
    assert "Dice 1.0" in compare("c", empty, 0, empty)
    with pytest.raises(WeightsError, match="Dice 0.0"):
        compare("c", empty, 0, some)


def test_a_voxel_outside_the_crop_is_refused() -> None:
    first, second = masks(200, 0, 0)
    with pytest.raises(WeightsError, match="and 1 voxels outside the crop"):
        compare("c", first, 1, second)


def test_a_mask_on_the_pets_grid_becomes_the_prepared_studys(tmp_path) -> None:
    """The truth as a mask must come out as the cache's truth, whatever was cropped and however PET is stored."""
    study, crop = small_studies(tmp_path)[1], Crop(suv_above=0.3)
    pet = sitk.ReadImage(str(study.pet))
    values = sitk.GetArrayFromImage(pet)
    values[:3], values[:, :, 20:] = 0, 0
    for path, array in ((study.pet, values), (study.truth, None)):
        image = sitk.ReadImage(str(path)) if array is None else sitk.GetImageFromArray(array)
        image.SetSpacing((5.0, 5.0, 5.0))
        sitk.WriteImage(sitk.DICOMOrient(image, "PIR"), str(path))
    study = replace(study, sha256=study_sha256(study.pet, study.ct, study.truth))
    prepare_one(study, tmp_path / "cache", crop)
    found, outside = in_crop(study.truth, study, crop)
    expected = np.load(tmp_path / "cache" / study.case / "truth.npy")
    assert np.array_equal(found, expected) and expected.any() and expected.size < 18 * 20 * 24
    assert outside == np.count_nonzero(sitk.GetArrayFromImage(sitk.ReadImage(str(study.truth)))) - expected.sum()


def test_what_process_says_is_handed_on(tmp_path) -> None:
    study = small_studies(tmp_path)[0]
    with pytest.raises(CaseError, match="process.py fails on case case0 .*no manifest.json"):
        run_process(study, tmp_path / "nothing", tmp_path / "output", "cpu")
