import nifti_writer
import numpy as np
import pytest
import SimpleITK as sitk

from model.errors import CaseError
from model.study.geometry import grid_from, grid_of
from model.study.masks import DrawnMask, check_grid, placed_on, read_drawn, read_mask


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


def test_every_label_above_0_is_lesion_and_a_note_says_so(tmp_path) -> None:
    array = np.zeros((2, 3, 4), np.int16)
    array[0, 0, 0], array[1, 2, 3] = 2, 7
    write(tmp_path / "labels.nrrd", array)
    drawn = read_drawn(tmp_path / "labels.nrrd", "edit")
    np.testing.assert_array_equal(drawn.mask, array > 0)
    (note,) = drawn.notes
    assert note.endswith("all its labels (2, 7) are lesion")


@pytest.mark.parametrize("value", [0.5, -1.0, 70000.0])
def test_an_image_is_no_edited_mask(value: float, tmp_path) -> None:
    array = np.ones((2, 3, 4), np.float32)
    array[1, 1, 1] = value
    write(tmp_path / "pet.mha", array)
    with pytest.raises(CaseError, match=f"holds the value {value:g}, and a mask holds whole numbers"):
        read_drawn(tmp_path / "pet.mha", "edit")


def drawn_on(size, spacing, origin=(0.0, 0.0, 0.0), direction=np.eye(3), *voxels) -> DrawnMask:
    """A mask with these voxels (x, y, z)."""
    mask = np.zeros(size[::-1], bool)
    for x, y, z in voxels:
        mask[z, y, x] = True
    return DrawnMask(mask=mask, grid=grid_from(size, spacing, origin, direction))


PET = grid_from((10, 8, 6), (4.0, 4.0, 3.0), (0.0, 0.0, 0.0), np.eye(3))


def test_a_cut_out_and_turned_mask_lies_in_the_same_voxels_without_a_note() -> None:
    """Saved by a viewer in another order of axes, x and y flipped, without the empty borders."""
    flipped = np.diag([-1.0, -1.0, 1.0])
    drawn = drawn_on((3, 2, 2), (4.0, 4.0, 3.0), (20.0, 12.0, 6.0), flipped, (0, 0, 0), (2, 1, 1))
    placed = placed_on(drawn, PET, "edit 'e'", "PET 'p'")
    wanted = np.zeros(PET.shape, bool)
    wanted[2, 3, 5] = wanted[3, 2, 3] = True  # 20/4, 12/4, 6/3; and two voxels less in x, one less in y, one more in z
    np.testing.assert_array_equal(placed.mask, wanted)
    assert placed.notes == ()


def test_a_finer_mask_is_resampled_with_a_note_of_both_volumes() -> None:
    """Voxels of 2 mm: of the eight in a PET voxel, nearest neighbour takes the one at its centre."""
    fine = drawn_on((20, 16, 9), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0), np.eye(3), (4, 4, 3), (5, 4, 3))
    placed = placed_on(fine, PET, "edit 'e'", "PET 'p'")
    assert np.argwhere(placed.mask).tolist() == [[2, 2, 2]]  # 8 mm, 8 mm, 6 mm
    (note,) = placed.notes
    assert "was resampled (nearest neighbour): 0.02 ml became 0.05 ml" in note  # 2 x 8 mm3, and 48 mm3


def test_lesion_beyond_the_pet_is_left_out_with_a_note_and_none_left_is_an_error() -> None:
    long = drawn_on((10, 8, 8), (4.0, 4.0, 3.0), (0.0, 0.0, 0.0), np.eye(3), (1, 1, 1), (1, 1, 7), (2, 1, 7))
    (note,) = placed_on(long, PET, "edit 'e'", "PET 'p'").notes
    assert "0.10 of 0.14 ml of edit 'e' lie outside PET 'p' and are left out" in note
    for origin_mm, message in (
        (15.0, "no lesion of edit 'e' lies on PET 'p'"),
        (900.0, "edit 'e' does not lie on PET"),
    ):
        away = drawn_on((10, 8, 6), (4.0, 4.0, 3.0), (0.0, 0.0, origin_mm), np.eye(3), (1, 1, 1))
        with pytest.raises(CaseError, match=f"{message}.*size .* origin .0, 0, {origin_mm:g}. mm.* against size"):
            placed_on(away, PET, "edit 'e'", "PET 'p'")


@pytest.mark.parametrize(("size", "origin_mm"), [((3, 3, 3), 0.0), ((1, 1, 1), 5e3)])
def test_an_empty_mask_is_empty_on_the_pets_grid(size, origin_mm: float) -> None:
    placed = placed_on(drawn_on(size, (9.0, 9.0, 9.0), (origin_mm, 0.0, 0.0)), PET, "edit", "PET")
    assert placed.mask.shape == PET.shape and not placed.mask.any() and placed.notes == ()
