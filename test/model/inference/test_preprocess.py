from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage
from tiny_studies import tiny_images

from model.bundle.settings import Intensity
from model.errors import CaseError
from model.inference.preprocess import foreground_box, paste, resample_ct, scale_hu, scale_suv
from model.study.geometry import Grid, grid_of, las_view
from model.study.reading import Volume, volume_of


def volume(image: sitk.Image) -> Volume:
    return volume_of(image, Path("x.mha"))


def placed(pet: sitk.Image) -> tuple[Grid, np.ndarray]:
    view = las_view(grid_of(pet))
    return view.grid, view.to_las(sitk.GetArrayFromImage(pet))


@pytest.mark.parametrize("order", ["LPS", "RAI", "SAL"])
def test_it_is_linear_interpolation_as_scipy_does_it(order: str) -> None:
    pet, ct = tiny_images()
    las, suv = placed(pet)
    hu, share = resample_ct(volume(sitk.DICOMOrient(ct, order)), las, suv)
    z, y, x = np.indices(las.shape)
    points = np.einsum(
        "ij,j...->i...",
        np.array(las.direction).reshape(3, 3),
        np.stack([x, y, z]).astype(float) * np.reshape(las.spacing_mm, (3, 1, 1, 1)),
    ) + np.reshape(las.origin_mm, (3, 1, 1, 1))
    index = (points - np.reshape(ct.GetOrigin(), (3, 1, 1, 1))) / np.reshape(ct.GetSpacing(), (3, 1, 1, 1))
    expected = ndimage.map_coordinates(sitk.GetArrayFromImage(ct).astype(float), index[::-1], order=1, mode="nearest")
    size = np.reshape(ct.GetSize(), (3, 1, 1, 1))
    inside = ((index >= 0) & (index <= size - 1)).all(axis=0)
    np.testing.assert_allclose(hu[inside], expected[inside], atol=0.05)
    assert share == 1.0 and inside.mean() > 0.9


def test_outside_the_ct_is_air_and_the_share_of_uptake_is_returned() -> None:
    pet, ct = tiny_images()
    part = ct[:, :, 25:]  # from z = -820.6 + 25 * 2.5 - 1.25 mm upwards
    las, suv = placed(pet)
    hu, share = resample_ct(volume(part), las, suv)
    heights = -812.3 + 3.0 * np.arange(50)
    covered = heights >= part.GetOrigin()[2] - 1.25
    uptake = suv >= 0.5
    assert share == pytest.approx(uptake[covered].sum() / uptake.sum())
    assert (hu[~covered] == -1024).all() and (hu[covered] != -1024).any()


def test_a_ct_that_leaves_out_air_alone_covers_all_uptake() -> None:
    pet, ct = tiny_images()
    las, suv = placed(pet)
    hu, share = resample_ct(volume(ct[10:, :, :]), las, suv)  # from x = -69.1 mm; uptake begins at -61.05 mm
    assert share == 1.0 and (hu[:, :, 0] == -1024).all()
    assert resample_ct(volume(ct[20:, :, :]), las, suv)[1] < 1.0
    assert resample_ct(volume(ct[20:, :, :]), las, suv * 0)[1] == 1.0  # no uptake at all


def test_a_ct_on_the_grid_already_is_not_interpolated() -> None:
    pet, _ = tiny_images()
    rng = np.random.default_rng(0)
    ct = sitk.GetImageFromArray(rng.integers(-1000, 2000, (50, 36, 40)).astype(np.int16))
    ct.CopyInformation(pet)
    view = las_view(grid_of(pet))
    for stored in (ct, sitk.DICOMOrient(ct, "PIR")):
        hu, share = resample_ct(volume(stored), view.grid, np.zeros(view.grid.shape))
        assert share == 1.0 and hu.dtype == np.int16
        np.testing.assert_array_equal(hu, view.to_las(sitk.GetArrayFromImage(ct)))


def test_no_common_voxel_is_refused() -> None:
    pet, ct = tiny_images()
    ct.SetOrigin((500, 0, 0))
    with pytest.raises(CaseError, match="covers no voxel"):
        resample_ct(volume(ct), *placed(pet))


def test_the_box_is_tight_and_has_no_margin() -> None:
    suv = np.zeros((5, 6, 7), np.float32)
    suv[1, 2, 3] = suv[3, 2, 5] = 1
    assert foreground_box(suv, 0.0) == (slice(1, 4), slice(2, 3), slice(3, 6))


def test_the_threshold_itself_is_background() -> None:
    suv = np.full((2, 2, 2), 0.5)
    assert foreground_box(suv, 0.5) is None
    assert foreground_box(suv, 0.4) == (slice(0, 2),) * 3


def test_negative_values_are_background() -> None:
    assert foreground_box(np.full((2, 2, 2), -0.1), 0.0) is None


def test_paste_undoes_the_crop() -> None:
    suv = np.zeros((4, 4, 4))
    suv[1:3, 2:4, 0:2] = 7
    box = foreground_box(suv, 0)
    assert box is not None
    np.testing.assert_array_equal(paste(suv[box], box, (4, 4, 4)), suv)


def test_suv_is_divided_by_40_and_not_clipped() -> None:
    np.testing.assert_allclose(scale_suv(np.array([-1.0, 0, 20, 80]), Intensity()), [-0.025, 0, 0.5, 2])


def test_hu_of_minus_1000_to_1000_becomes_0_to_1_and_is_not_clipped() -> None:
    np.testing.assert_allclose(scale_hu(np.array([-1024, -1000, 0, 1000, 3000]), Intensity()), [-0.012, 0, 0.5, 1, 2])


def test_clipping_is_a_setting() -> None:
    settings = Intensity(ct_clip=True, suv_clip=True, suv_top=20)
    np.testing.assert_allclose(scale_hu(np.array([-1024, 0, 3000]), settings), [0, 0.5, 1])
    np.testing.assert_allclose(scale_suv(np.array([-1.0, 10, 30]), settings), [0, 0.5, 1])


@pytest.mark.parametrize("kind", [np.int16, np.uint16, np.float32, np.float64])
def test_any_real_type_gives_float32_and_stays_unchanged(kind: type) -> None:
    values = np.array([0, 1000], dtype=kind)
    for scale in (scale_hu, scale_suv):
        assert scale(values, Intensity()).dtype == np.float32
    assert values.tolist() == [0, 1000]
