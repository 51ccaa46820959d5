import numpy as np
import pytest
from matplotlib.path import Path as Polygon

from model.dicom.contours import outlines


def filled(polygons: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """How many polygons hold each pixel's middle, by matplotlib's point-in-polygon test."""
    y, x = np.indices(shape)
    middles = np.stack([x.ravel(), y.ravel()], axis=1)
    return sum((Polygon(p).contains_points(middles).reshape(shape).astype(int) for p in polygons), np.zeros(shape, int))


def test_one_pixel_is_a_square_about_its_middle() -> None:
    plane = np.zeros((4, 5), bool)
    plane[2, 3] = True
    (square,) = outlines(plane)
    assert sorted(map(tuple, square)) == [(2.5, 1.5), (2.5, 2.5), (3.5, 1.5), (3.5, 2.5)]


def test_a_bar_has_four_corners() -> None:
    plane = np.zeros((4, 9), bool)
    plane[1, 2:7] = True
    (bar,) = outlines(plane)
    assert sorted(map(tuple, bar)) == [(1.5, 0.5), (1.5, 1.5), (6.5, 0.5), (6.5, 1.5)]


def test_pixels_that_touch_at_a_corner_are_two_polygons() -> None:
    assert len(outlines(np.eye(2))) == 2


def test_a_ring_is_covered_without_its_hole() -> None:
    plane = np.ones((5, 5), bool)
    plane[2, 2] = False
    polygons = outlines(plane)
    assert len(polygons) > 1
    np.testing.assert_array_equal(filled(polygons, plane.shape), plane)


@pytest.mark.parametrize("seed", range(20))
def test_any_plane_is_covered_exactly_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    plane = rng.random((17, 23)) < rng.uniform(0.1, 0.9)
    np.testing.assert_array_equal(filled(outlines(plane), plane.shape), plane)


def test_an_empty_plane_has_no_outline() -> None:
    assert outlines(np.zeros((3, 3))) == []
