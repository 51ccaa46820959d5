"""Lesions as boxes on small grids: what is matched follows from where they lie."""

import numpy as np
import pytest
import SimpleITK as sitk
from two_date_results import rows_of

from model.hospital.dates.matching import Match, inverse_point, match
from model.hospital.dates.numbering import Numbered, numbered
from model.results.lesions import measure
from model.study.geometry import Grid

GRID = Grid(
    size=(40, 20, 20), spacing_mm=(2.0, 2.0, 2.0), origin_mm=(0.0, 0.0, 0.0), direction=(1, 0, 0, 0, 1, 0, 0, 0, 1)
)
SHIFT_MM = (8.0, 0.0, 0.0)  # the first date's coordinates lie so much further: four voxels


def lesions(boxes: dict[int, tuple[int, int]], shift: int = 0) -> Numbered:
    """Lesions 4 voxels high and deep, each from x to x (voxels)."""
    numbers = np.zeros(GRID.shape, np.int32)
    for number, (start, stop) in boxes.items():
        numbers[8:12, 8:12, start + shift : stop + shift] = number
    centres = {n: np.array([(a + b - 1 + 2 * shift), 19.0, 19.0]) for n, (a, b) in boxes.items()}
    return Numbered(numbers, GRID, centres)


def matched(first: dict[int, tuple[int, int]], second: dict[int, tuple[int, int]]) -> tuple[Match, ...]:
    return match(lesions(first, shift=4), lesions(second), sitk.TranslationTransform(3, SHIFT_MM))


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ({1: (2, 8)}, {1: (4, 8)}, [Match(first=(1,), second=(1,))]),
        ({1: (2, 12)}, {1: (2, 5), 2: (8, 12)}, [Match(first=(1,), second=(1, 2))]),  # split
        ({1: (2, 5), 2: (8, 12)}, {1: (2, 12)}, [Match(first=(1, 2), second=(1,))]),  # merged
        ({1: (2, 6)}, {1: (9, 13)}, [Match(first=(1,), second=(1,), near_mm=6.0)]),  # three voxels between them
        ({1: (2, 6)}, {1: (12, 16)}, [Match(first=(), second=(1,)), Match(first=(1,), second=())]),  # 12 mm
        ({}, {}, []),
    ],
)  # fmt: skip
def test_lesions_are_matched_by_overlap_then_by_distance(first, second, expected) -> None:
    assert list(matched(first, second)) == expected


def test_less_than_a_tenth_of_the_smaller_lesion_is_no_overlap() -> None:
    second = lesions({1: (9, 13)})
    second.numbers[8, 8, 8] = 1  # one voxel of 65 lies in the first lesion, which has 96
    (only,) = match(lesions({1: (3, 9)}, shift=4), second, sitk.TranslationTransform(3, SHIFT_MM))
    assert only.near_mm == 0.0


def test_a_lesion_where_the_other_pet_does_not_reach_is_neither_new_nor_gone() -> None:
    gone, new = (
        {1: (-3, -1)},
        {1: (37, 39)},
    )  # at the first date at x 1 to 2; at the second beyond the first's 40 voxels
    (beyond,) = matched(gone, {})
    assert beyond == Match(first=(1,), second=(), beyond=True)
    (beyond,) = matched({}, new)
    assert beyond == Match(first=(), second=(1,), beyond=True)


def test_a_lesion_of_one_small_voxel_is_not_lost_on_a_coarse_grid() -> None:
    fine = Grid(size=(80, 40, 40), spacing_mm=(0.5, 0.5, 0.5), origin_mm=(0.0, 0.0, 0.0), direction=GRID.direction)
    numbers = np.zeros(fine.shape, np.int32)
    numbers[37, 37, 41] = 1  # at (20.5, 18.5, 18.5) mm
    first = Numbered(numbers, fine, {1: np.array([20.5, 18.5, 18.5])})
    squeezed = sitk.AffineTransform(3)
    squeezed.Scale(1.7)  # steps of 0.5 mm become 0.85 mm: most voxels of the first date are passed over
    second = lesions({1: (6, 7)})  # holds 20.5 / 1.7 = 12.1 mm
    second.numbers[:] = 0
    second.numbers[5:6, 5:6, 6:7] = 1
    (only,) = match(first, second, squeezed)
    assert (only.first, only.second) == ((1,), (1,))


def test_the_numbers_of_the_table_are_found_in_the_mask_again() -> None:
    mask = np.zeros(GRID.shape, bool)
    mask[8:12, 8:12, 2:5] = mask[8:12, 8:12, 20:30] = mask[2, 2, 2] = True
    rows = rows_of(measure(np.ones(GRID.shape), mask, GRID)[0])
    found = numbered(mask, GRID, rows[:2])  # the smallest is left out of the table
    assert (found.numbers[10, 10, 25], found.numbers[10, 10, 3], found.numbers[2, 2, 2]) == (1, 2, 0)


def test_rows_that_share_a_part_of_the_mask_divide_it() -> None:
    mask = np.zeros(GRID.shape, bool)
    mask[8:12, 8:12, 2:22] = True
    labels = np.zeros(GRID.shape, np.int32)
    labels[8:12, 8:12, 2:12], labels[8:12, 8:12, 12:22] = 1, 2
    rows = [
        {"number": n, "volume_ml": 1.28, "centroid_x_mm": x, "centroid_y_mm": 19.0, "centroid_z_mm": 19.0}
        for n, x in ((1, 13.0), (2, 33.0))
    ]
    np.testing.assert_array_equal(numbered(mask, GRID, rows).numbers, labels)


def test_a_row_without_a_part_of_the_mask_is_an_error() -> None:
    row = {"number": 1, "volume_ml": 1.0, "centroid_x_mm": 1.0, "centroid_y_mm": 1.0, "centroid_z_mm": 1.0}
    with pytest.raises(ValueError, match="lesion 1 of the table is not in the mask"):
        numbered(np.zeros(GRID.shape, bool), GRID, [row])


def test_the_inverse_of_a_turn_is_the_turn_back() -> None:
    turn = sitk.Euler3DTransform((10.0, 0.0, 0.0), 0.1, 0.0, 0.2, (5.0, -3.0, 700.0))
    point = np.array([30.0, 40.0, 720.0])
    np.testing.assert_allclose(inverse_point(turn, point), turn.GetInverse().TransformPoint(point.tolist()), atol=0.02)
