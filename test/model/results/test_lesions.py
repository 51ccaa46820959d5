import numpy as np
import pytest
import SimpleITK as sitk

from model.results.lesions import measure, peak_offsets
from model.study.geometry import grid_of

IBSI_PHANTOM = [  # the digital phantom of arXiv:1612.07003, (z, y, x), 2 mm; 0: not in the mask
    [[1, 4, 4, 1, 1], [1, 4, 6, 1, 1], [4, 1, 6, 4, 1], [4, 4, 6, 4, 1]],
    [[1, 4, 4, 1, 1], [1, 1, 6, 1, 1], [0, 1, 3, 1, 1], [4, 4, 6, 1, 1]],
    [[1, 4, 4, 0, 0], [1, 1, 1, 1, 1], [1, 1, 0, 1, 1], [1, 1, 6, 1, 1]],
    [[1, 4, 4, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 6, 1, 1]],
]


def image(array: np.ndarray, spacing=(4.0, 4.0, 3.0), origin=(0.0, 0.0, 0.0)) -> sitk.Image:
    made = sitk.GetImageFromArray(array)
    made.SetSpacing(spacing)
    made.SetOrigin(origin)
    return made


def measured(suv: np.ndarray, mask: np.ndarray, **place):
    return measure(suv, mask.astype(bool), grid_of(image(suv, **place)))[:2]


def test_two_lesions_by_hand() -> None:
    suv = np.ones((10, 10, 10), np.float32)
    mask = np.zeros_like(suv, bool)
    suv[1, 1, 1], suv[1, 1, 2] = 4, 6  # two voxels in a row along x
    suv[7, 5, 1] = 10
    mask[1, 1, 1:3] = mask[7, 5, 1] = True
    (one, two), totals = measured(suv, mask, origin=(-10.0, 20.0, -500.0))
    voxel_ml = 4 * 4 * 3 / 1000
    assert (one.number, two.number) == (1, 2)
    assert one.volume_ml == pytest.approx(2 * voxel_ml) and two.volume_ml == pytest.approx(voxel_ml)
    assert (one.suv_max, one.suv_mean, two.suv_max, two.suv_mean) == (6, 5, 10, 10)
    assert one.tlg_suv_ml == pytest.approx(5 * 2 * voxel_ml)
    assert (one.centroid_x_mm, one.centroid_y_mm, one.centroid_z_mm) == (-10 + 1.5 * 4, 20 + 4, -500 + 3)
    assert (two.centroid_x_mm, two.centroid_y_mm, two.centroid_z_mm) == (-10 + 4, 20 + 5 * 4, -500 + 7 * 3)
    assert one.long_diameter_mm == pytest.approx(8) and two.long_diameter_mm == pytest.approx(4)
    assert totals.lesions == 2 and totals.suv_max == 10
    assert totals.mtv_ml == pytest.approx(3 * voxel_ml)
    assert totals.tlg_suv_ml == pytest.approx((5 * 2 + 10) * voxel_ml)
    assert totals.dmax_mm == pytest.approx(np.sqrt(2.0**2 + 16.0**2 + 18.0**2))


def test_peak_is_the_mean_of_the_voxels_within_one_millilitre() -> None:
    """5 mm voxels: the centre and its six neighbours lie within 6.2 mm, those across an edge at 7.07 mm do not."""
    suv = np.zeros((9, 9, 9), np.float32)
    suv[4, 4, 4], suv[4, 4, 5], suv[4, 5, 5] = 8, 6, 5
    mask = suv > 7
    (one,), _ = measured(suv, mask, spacing=(5.0, 5.0, 5.0))
    assert one.suv_peak == pytest.approx((8 + 6) / 7)
    assert peak_offsets((5.0, 5.0, 5.0)).sum() == 7
    assert peak_offsets((4.0, 4.0, 3.0)).sum() * 0.048 == pytest.approx(1, abs=0.15)


def test_peak_at_the_edge_of_the_image_is_over_what_is_there() -> None:
    suv = np.zeros((9, 9, 9), np.float32)
    suv[0, 0, 0], suv[0, 0, 1] = 8, 4
    (one,), totals = measured(suv, suv > 7, spacing=(5.0, 5.0, 5.0))
    assert one.suv_peak == totals.suv_peak == pytest.approx((8 + 4) / 4)


def test_the_digital_phantom_of_the_ibsi_has_its_published_values() -> None:
    """Volume (approximate) 592 mm3, mean 2.15, maximum 6, maximum 3-D diameter 13.1 mm, global intensity peak 3.1."""
    suv = np.array(IBSI_PHANTOM, np.float32)
    mask = suv > 0
    suv[~mask], suv[2, 2, 2] = 1, 9  # what the phantom holds outside its mask: the peak's sphere sees it
    (one,), _ = measured(suv, mask, spacing=(2.0, 2.0, 2.0))
    assert one.suv_peak == pytest.approx(3.1, abs=0.05)
    assert one.volume_ml * 1000 == pytest.approx(592)
    assert one.suv_mean == pytest.approx(2.15, abs=0.005) and one.suv_max == 6
    assert one.long_diameter_mm == pytest.approx(13.1, abs=0.05)


def test_a_ball_has_its_diameter_and_the_volume_that_simpleitk_gives() -> None:
    z, y, x = np.indices((40, 40, 40))
    mask = ((z - 20) * 3.0) ** 2 + ((y - 20) * 4.0) ** 2 + ((x - 20) * 4.0) ** 2 <= 40**2
    suv = np.random.default_rng(0).gamma(2, 2, mask.shape).astype(np.float32)
    (one,), _ = measured(suv, mask)
    shape, values = sitk.LabelShapeStatisticsImageFilter(), sitk.LabelIntensityStatisticsImageFilter()
    shape.Execute(image(mask.astype(np.uint8)))
    values.Execute(image(mask.astype(np.uint8)), image(suv))
    assert one.long_diameter_mm == pytest.approx(80, abs=4)  # a voxel
    assert one.volume_ml * 1000 == pytest.approx(shape.GetPhysicalSize(1))
    assert one.suv_mean == pytest.approx(values.GetMean(1)) and one.suv_max == pytest.approx(values.GetMaximum(1))
    assert (one.centroid_x_mm, one.centroid_y_mm, one.centroid_z_mm) == pytest.approx(shape.GetCentroid(1))


def test_a_turned_grid_moves_the_centroid_and_nothing_else() -> None:
    suv = np.random.default_rng(1).gamma(2, 2, (12, 10, 8)).astype(np.float32)
    mask = np.zeros(suv.shape, bool)
    mask[3:6, 2:5, 1:3] = True
    turned = image(suv, origin=(5.0, 6.0, 7.0))
    turned.SetDirection(sitk.Euler3DTransform((0, 0, 0), 0.2, 0.1, np.pi).GetMatrix())
    (one,), _ = measured(suv, mask)
    (other,), _, _ = measure(suv, mask, grid_of(turned))
    centre = turned.TransformContinuousIndexToPhysicalPoint((1.5, 3.0, 4.0))
    assert (other.centroid_x_mm, other.centroid_y_mm, other.centroid_z_mm) == pytest.approx(centre)
    assert (one.suv_peak, one.long_diameter_mm, one.tlg_suv_ml) == (
        other.suv_peak,
        other.long_diameter_mm,
        other.tlg_suv_ml,
    )


def test_voxels_bear_the_number_of_their_lesion_in_the_table() -> None:
    suv = np.ones((10, 10, 10), np.float32)
    numbered = np.zeros(suv.shape, int)
    numbered[1, 1, 1:3] = 2  # found first, and smaller
    numbered[5:8, 5, 1] = 1
    numbered[9, 9, 9] = 4
    numbered[8, 0, 0], suv[8, 0, 0] = 3, 2.0  # as small as the last, and hotter
    _, _, numbers = measure(suv, numbered > 0, grid_of(image(suv)))
    np.testing.assert_array_equal(numbers, numbered)


def test_an_empty_mask_has_no_lesion_and_totals_of_nothing() -> None:
    lesions, totals = measured(np.ones((4, 4, 4), np.float32), np.zeros((4, 4, 4)))
    assert lesions == () and (totals.lesions, totals.mtv_ml, totals.tlg_suv_ml) == (0, 0, 0)
    assert totals.suv_max is totals.suv_peak is totals.dmax_mm is None
