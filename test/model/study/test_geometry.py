import itertools

import numpy as np
import pytest
import SimpleITK as sitk

from model.study.geometry import array_of, grid_of, las_view

ORDERS = ["".join(code) for axes in itertools.permutations(("RL", "AP", "IS")) for code in itertools.product(*axes)]


def image_in(order: str, oblique: bool = False) -> sitk.Image:
    image = sitk.GetImageFromArray(np.arange(4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6))
    image.SetSpacing((1.1, 2.2, 3.3))
    image.SetOrigin((-10.1, 20.2, -30.3))
    if oblique:
        turn = sitk.Euler3DTransform((0, 0, 0), 0.2, -0.1, 0.3)
        image.SetDirection(turn.GetMatrix())
    return sitk.DICOMOrient(image, order)


@pytest.mark.parametrize("oblique", [False, True], ids=["straight", "oblique"])
def test_the_las_view_is_what_simpleitk_makes(oblique: bool) -> None:
    assert len(ORDERS) == 48
    for order in ORDERS:
        image = image_in(order, oblique)
        view = las_view(grid_of(image))
        expected = sitk.DICOMOrient(image, "LAS")
        np.testing.assert_array_equal(view.to_las(sitk.GetArrayFromImage(image)), sitk.GetArrayFromImage(expected))
        assert view.grid.equals(grid_of(expected), tolerance_voxel=1e-5)


def test_from_las_undoes_to_las_for_every_order() -> None:
    for order in ORDERS:
        image = image_in(order)
        view, array = las_view(grid_of(image)), sitk.GetArrayFromImage(image)
        np.testing.assert_array_equal(view.from_las(view.to_las(array)), array)


def test_the_las_grid_is_the_same_to_the_bit_however_the_volume_is_stored() -> None:
    grids = {las_view(grid_of(image_in(order, True))).grid for order in ORDERS}
    assert len(grids) == 1


def test_first_axis_grows_to_the_left_second_to_anterior_third_to_superior() -> None:
    grid = las_view(grid_of(image_in("RPI"))).grid
    assert np.array(grid.direction).reshape(3, 3).tolist() == [[1, 0, 0], [0, -1, 0], [0, 0, 1]]  # LPS coordinates


def test_span_reaches_half_a_voxel_beyond_the_centres() -> None:
    image = sitk.Image(10, 10, 10, sitk.sitkUInt8)
    image.SetSpacing((2.0, 3.0, 4.0))
    np.testing.assert_allclose(grid_of(image).corner_span_mm(), [[-1, -1.5, -2], [19, 28.5, 38]])


def test_grids_differ_when_moved_by_a_hundredth_of_a_voxel() -> None:
    image = image_in("LAS")
    moved = sitk.Image(image)
    moved.SetOrigin([o + 0.01 * s for o, s in zip(image.GetOrigin(), image.GetSpacing(), strict=True)])
    assert grid_of(image).equals(grid_of(image)) and not grid_of(image).equals(grid_of(moved))


def test_voxel_volume_is_in_millilitres() -> None:
    image = sitk.Image(2, 2, 2, sitk.sitkUInt8)
    image.SetSpacing((2.0, 5.0, 10.0))
    assert grid_of(image).voxel_ml == pytest.approx(0.1)


def test_an_array_keeps_its_image_alive_and_cannot_be_written() -> None:
    values = np.random.default_rng(0).random((60, 70, 80))
    array = array_of(sitk.GetImageFromArray(values))  # the image has no other owner
    others = [np.full(values.shape, 7.0) for _ in range(20)]
    np.testing.assert_array_equal(array, values)
    assert not array.flags.writeable and len(others) == 20
