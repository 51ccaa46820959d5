"""FROC, surfaces and calibration by hand-made probabilities."""

import numpy as np
import pytest

from training.bundles.detection import (
    FALSE_A_STUDY,
    Detection,
    calibration_bins,
    calibration_error,
    detect,
    froc,
    markdown,
    report,
    surfaces,
)

SPACING = (4.0, 5.0, 2.0)  # x, y, z: 0.04 ml a voxel


@pytest.fixture
def study() -> Detection:
    """Two lesions of 8 and 27 voxels, one at 0.9, one at 0.4; false candidates at 0.8 and 0.3; a voxel at 0.05."""
    probability, truth = np.zeros((20, 30, 40), np.float32), np.zeros((20, 30, 40), bool)
    truth[2:4, 2:4, 2:4] = True
    truth[10:13, 10:13, 10:13] = True
    probability[2:4, 2:4, 2:4] = 0.9
    probability[11, 11, 11] = 0.4
    probability[5:7, 20:22, 20:22] = 0.8
    probability[15, 5, 30] = 0.3
    probability[15, 15, 35] = 0.05
    return detect("one", probability, truth, SPACING)


def test_lesions_and_false_candidates_have_their_highest_probability(study) -> None:
    assert study.lesions == (pytest.approx((8 * 0.04, 0.9)), pytest.approx((27 * 0.04, 0.4)))
    assert sorted(study.false_scores) == pytest.approx([0.3, 0.8])


def test_froc_is_the_highest_sensitivity_with_so_many_false_ones(study) -> None:
    """At 0.9 one of two lesions and no false one; at 0.4 both lesions and one false one; two studies: half of that."""
    assert dict(zip(FALSE_A_STUDY, froc([study]), strict=True)) == {0.25: 0.5, 0.5: 0.5, 1: 1, 2: 1, 4: 1, 8: 1}
    none = Detection(
        case="two", lesions=(), false_scores=(), hd95_mm=np.nan, surface_dice=np.nan, bins=np.zeros((10, 3))
    )
    assert froc([study, none])[:2] == (0.5, 1.0)
    assert froc([study], (1.0, 2.0)) == (0, 0, 1, 1, 1, 1)  # the larger lesion alone
    assert np.isnan(froc([none])).all()


def test_surfaces_of_a_cube_moved_by_two_voxels() -> None:
    """Moved 8 mm along x: points of the two end faces lie 8 mm apart, all others of the long sides 0 to 8."""
    truth, mask = np.zeros((20, 20, 20), bool), np.zeros((20, 20, 20), bool)
    truth[5:11, 5:11, 5:11], mask[5:11, 5:11, 7:13] = True, True
    hd95, near = surfaces(mask, truth, SPACING)
    assert hd95 == pytest.approx(8.0) and 0.3 < near < 1
    assert surfaces(truth, truth, SPACING) == (0.0, 1.0)
    assert np.isnan(surfaces(mask & False, truth, SPACING)).all()


def test_calibration_counts_every_bin() -> None:
    probability = np.array([0.05, 0.15, 0.15, 0.95, 1.0], np.float32)
    truth = np.array([False, True, False, True, True])
    bins = calibration_bins(probability, truth)
    assert bins[:, 0].tolist() == [1, 2, 0, 0, 0, 0, 0, 0, 0, 2] and bins[:, 2].tolist() == [
        0,
        1,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        2,
    ]
    assert calibration_error(bins) == pytest.approx((0.05 + 0.7 + 0.05) / 5, abs=1e-6)


def test_the_report_counts_lesions_by_size(study) -> None:
    content = report([study])
    assert content["lesions"] == {"all": 2, "0 to 2 ml": 2, "2 to 10 ml": 0, "10 ml and more": 0}
    assert content["sensitivity"]["all"] == [0.5, 0.5, 1, 1, 1, 1]
    text = markdown(content)
    assert "| all | 2 | 0.500 | 0.500 | 1.000 |" in text and "| 2 to 10 ml | 0 | n/a |" in text
