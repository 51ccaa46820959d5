import numpy as np
import pytest
from matplotlib.path import Path as Polygon

from model.dicom.contours import filled, filled_together, outlines


def held_by(polygons: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
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
    np.testing.assert_array_equal(held_by(polygons, plane.shape), plane)


@pytest.mark.parametrize("seed", range(20))
def test_any_plane_is_covered_exactly_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    plane = rng.random((17, 23)) < rng.uniform(0.1, 0.9)
    np.testing.assert_array_equal(held_by(outlines(plane), plane.shape), plane)


def test_an_empty_plane_has_no_outline() -> None:
    assert outlines(np.zeros((3, 3))) == []


def box(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def test_a_box_fills_the_pixels_whose_middles_it_holds() -> None:
    plane = np.zeros((6, 7), bool)
    plane[1:4, 2:6] = True
    np.testing.assert_array_equal(filled(box(1.6, 0.9, 5.4, 3.2), (6, 7)), plane)
    np.testing.assert_array_equal(filled(box(2, 1, 6, 4), (6, 7)), plane)  # of edges, the left and the upper are inside
    assert not filled(box(2.1, 1.1, 2.9, 1.9), (6, 7)).any()
    assert filled(box(-50, -50, 50, 50), (6, 7)).all()


def test_any_polygon_fills_what_an_independent_tool_says() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        angle = np.sort(rng.uniform(0, 2 * np.pi, 25))
        polygon = np.stack([np.cos(angle), np.sin(angle)], 1) * rng.uniform(3, 11, (25, 1)) + (12.3, 10.6)
        np.testing.assert_array_equal(filled(polygon, (22, 26)), held_by([polygon], (22, 26)) == 1)


def test_a_contour_inside_another_is_a_hole_and_one_in_the_hole_an_island() -> None:
    shape = (12, 12)
    rings = [box(0.5, 0.5, 10.5, 10.5), box(2.5, 2.5, 8.5, 8.5), box(4.5, 4.5, 6.5, 6.5)]  # 100, 36 and 4 pixels
    for order in (rings, rings[::-1], [*rings, rings[1]]):  # in any order, and one of them twice
        assert np.count_nonzero(filled_together(order, shape)) == 100 - 36 + 4


def test_a_keyhole_leaves_its_hole_out() -> None:
    outer, inner = box(0.5, 0.5, 10.5, 10.5), box(2.5, 2.5, 8.5, 8.5)[::-1]
    keyhole = np.concatenate([outer, outer[:1], np.roll(inner, 1, axis=0), np.roll(inner, 1, axis=0)[:1]])
    assert np.count_nonzero(filled_together([keyhole], (12, 12))) == 100 - 36


def test_contours_that_overlap_are_added_unless_they_are_of_the_kind_xor() -> None:
    two = [box(0.5, 0.5, 4.5, 4.5), box(2.5, 2.5, 6.5, 6.5)]  # 16 pixels each, 4 of them in both
    assert np.count_nonzero(filled_together(two, (9, 9))) == 28
    assert np.count_nonzero(filled_together(two, (9, 9), xor=True)) == 24


def test_outlines_filled_are_the_mask_again() -> None:
    plane = np.random.default_rng(3).random((20, 24)) < 0.6  # with many holes
    np.testing.assert_array_equal(filled_together(outlines(plane), plane.shape), plane)


def test_contours_through_the_centres_of_pixels_hold_these_pixels() -> None:
    """As OHIF and rt-utils write them; a single pixel is a point, and two are a line."""
    plane = np.zeros((9, 11), bool)
    plane[1:7, 1:8], plane[3:5, 3:6] = True, False
    outer, hole = box(1, 1, 7, 6), np.array([(2, 3), (3, 2), (5, 2), (6, 3), (6, 4), (5, 5), (3, 5), (2, 4)], float)
    for rounded in (0.0, 0.004):
        held = filled_together([outer + rounded, hole - rounded, np.array([[9.0, 8.0]]), box(9, 2, 9, 3)], plane.shape)
        plane[8, 9] = plane[2, 9] = plane[3, 9] = True
        np.testing.assert_array_equal(held, plane)
        np.testing.assert_array_equal(
            filled_together([outer, hole], plane.shape, xor=True),
            np.where(np.indices(plane.shape)[1] < 9, plane, False),
        )
