import nifti_writer
import numpy as np
import pytest
import SimpleITK as sitk

from model.errors import CaseError
from model.study.geometry import grid_of
from model.study.masks import check_grid, read_mask


def write(path, array: np.ndarray, spacing=(4.0, 4.0, 3.0)) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    sitk.WriteImage(image, str(path))
    return image


def test_a_mask_is_read_with_its_grid(tmp_path) -> None:
    array = (np.arange(24).reshape(2, 3, 4) % 2).astype(np.uint8)
    image = write(tmp_path / "m.mha", array)
    mask, grid = read_mask(tmp_path / "m.mha", "truth")
    np.testing.assert_array_equal(mask, array.astype(bool))
    assert mask.dtype == bool and grid == grid_of(image)


def test_another_value_is_refused(tmp_path) -> None:
    write(tmp_path / "m.mha", np.full((2, 3, 4), 3, np.uint8))
    with pytest.raises(CaseError, match="holds the value 3"):
        read_mask(tmp_path / "m.mha", "truth")


def test_another_grid_is_refused(tmp_path) -> None:
    array = np.zeros((2, 3, 4), np.uint8)
    one, other = (grid_of(write(tmp_path / f"{s}.mha", array, (4.0, 4.0, s))) for s in (3.0, 3.5))
    check_grid(one, "a", one, "b")
    with pytest.raises(CaseError, match="a does not lie on the grid of b"):
        check_grid(one, "a", other, "b")


@pytest.mark.parametrize(
    ("codes", "end", "message"),
    [((0, 0), None, "does not say where the patient is"), ((1, 1), -3, "cut off or damaged")],
)
def test_a_truth_is_read_by_the_same_rules_as_an_image(codes, end, message: str, tmp_path) -> None:
    content = nifti_writer.content(np.zeros((4, 5, 6), np.uint8), codes=codes)
    (tmp_path / "truth.nii").write_bytes(content[:end])
    with pytest.raises(CaseError, match=message):
        read_mask(tmp_path / "truth.nii", "truth")
