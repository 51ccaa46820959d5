import math

import numpy as np
import pytest
from grand_challenge_metrics.stats import calculate_confusion_matrix, dice_from_confusion_matrix

from model.lesions import components, score


def volume(*voxels: tuple[int, int, int]) -> np.ndarray:
    mask = np.zeros((4, 4, 4), bool)
    for voxel in voxels:
        mask[voxel] = True
    return mask


def test_voxels_that_share_an_edge_are_one_component_and_a_corner_does_not_join() -> None:
    assert components(volume((0, 0, 0), (0, 1, 1)))[1] == 1
    assert components(volume((0, 0, 0), (1, 1, 1)))[1] == 2


def test_scores_of_two_voxels_by_hand() -> None:
    truth, predicted = volume((0, 0, 0), (0, 0, 1), (3, 3, 3)), volume((0, 0, 1), (0, 3, 0))
    scores = score(predicted, truth, voxel_ml=0.5)
    assert scores.dice == pytest.approx(2 * 1 / (2 + 3))
    assert (scores.fpv_ml, scores.fnv_ml) == (0.5, 0.5)
    assert (scores.lesions_true, scores.lesions_found) == (2, 1)


def test_dice_equals_grand_challenge_metrics() -> None:
    rng = np.random.default_rng(0)
    truth, predicted = rng.random((2, 12, 12, 12)) > 0.7
    matrix = calculate_confusion_matrix(truth, predicted, labels=[0, 1])
    assert score(predicted, truth, 1.0).dice == pytest.approx(dice_from_confusion_matrix(matrix)[1])


def test_empty_masks() -> None:
    nothing, something = volume(), volume((1, 1, 1))
    assert math.isnan(score(nothing, nothing, 1.0).dice)
    assert score(something, nothing, 1.0).dice == 0 and score(something, nothing, 1.0).fpv_ml == 1
    assert score(nothing, something, 1.0).dice == 0 and score(nothing, something, 1.0).fnv_ml == 1


def test_fpv_and_fnv_equal_a_loop_over_components() -> None:
    rng = np.random.default_rng(1)
    truth, predicted = rng.random((2, 14, 14, 14)) > 0.93

    def alone(mask: np.ndarray, other: np.ndarray) -> float:
        labels, count = components(mask)
        return sum(float((labels == n).sum()) for n in range(1, count + 1) if not (other & (labels == n)).any())

    scores = score(predicted, truth, 0.25)
    assert scores.fpv_ml == 0.25 * alone(predicted, truth) > 0
    assert scores.fnv_ml == 0.25 * alone(truth, predicted) > 0


def test_masks_of_different_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        score(np.zeros((2, 2, 2)), np.zeros((2, 2, 3)), 1.0)
