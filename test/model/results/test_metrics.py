import itertools
import math

import numpy as np
import pytest
from grand_challenge_metrics.stats import calculate_confusion_matrix, dice_from_confusion_matrix

from model.errors import ConfigError
from model.results.metrics import CONVENTIONS, components, score

NAN = math.nan


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


# the three conventions, by hand; one voxel of 0.5 ml, which may be predicted (P) or true (T)
EMPTY = [
    # convention, prediction, truth, Dice, FPV ml, FNV ml
    ("autopet_1_2", "", "", NAN, 0, 0),
    ("autopet_1_2", "P", "", 0, 0.5, 0),
    ("autopet_1_2", "", "T", 0, 0, 0.5),
    ("autopet_3", "", "", NAN, 0, NAN),
    ("autopet_3", "P", "", NAN, 0.5, NAN),
    ("autopet_3", "", "T", 0, 0, 0.5),
    ("autopet_5", "", "", 1, 0, 0),
    ("autopet_5", "P", "", 0, 0.5, 0),
    ("autopet_5", "", "T", 0, 0, 0.5),
]


@pytest.mark.parametrize(("convention", "predicted", "truth", "dice", "fpv_ml", "fnv_ml"), EMPTY)
def test_empty_masks_by_convention(convention, predicted, truth, dice, fpv_ml, fnv_ml) -> None:
    one = volume((1, 2, 3))
    scores = score(one if predicted else volume(), one if truth else volume(), 0.5, convention)
    np.testing.assert_equal((scores.dice, scores.fpv_ml, scores.fnv_ml), (dice, fpv_ml, fnv_ml))
    assert scores.convention == convention


def test_the_convention_is_that_of_autopet_1_and_2_where_none_is_named() -> None:
    assert score(volume(), volume(), 1.0).convention == "autopet_1_2"


def test_conventions_agree_where_the_truth_holds_a_lesion() -> None:
    truth, predicted = volume((0, 0, 0), (2, 2, 2)), volume((0, 0, 0), (0, 3, 3))
    found = {(s.dice, s.fpv_ml, s.fnv_ml) for s in (score(predicted, truth, 1.0, name) for name in CONVENTIONS)}
    assert found == {(0.5, 1.0, 1.0)}


def test_an_unknown_convention_is_refused() -> None:
    with pytest.raises(ConfigError, match="autopet_1_2, autopet_3, autopet_5, got 'autopet_6'"):
        score(volume(), volume(), 1.0, "autopet_6")


def test_components_that_only_meet_outside_each_other_are_not_touched() -> None:
    """A prediction beside a lesion, without a voxel in common, is wholly false, and the lesion wholly missed."""
    scores = score(volume((1, 1, 1), (1, 1, 2)), volume((1, 1, 3)), 1.0)
    assert (scores.dice, scores.fpv_ml, scores.fnv_ml, scores.lesions_found) == (0, 2, 1, 0)


def test_lesions_at_the_faces_of_the_volume_count() -> None:
    truth = volume((0, 0, 0), (3, 3, 3), (0, 3, 0))
    scores = score(volume((0, 0, 0), (3, 3, 3)), truth, 1.0)
    assert (scores.lesions_true, scores.lesions_found, scores.fnv_ml) == (3, 2, 1)


def naive(predicted: np.ndarray, truth: np.ndarray, voxel_ml: float) -> tuple[float, float, float]:
    """Dice, FPV, FNV one component at a time; components grown voxel by voxel over the 18 neighbours."""

    def lone_ml(mask: np.ndarray, other: np.ndarray) -> float:
        left, total = set(map(tuple, np.argwhere(mask))), 0
        while left:
            open_, component = [left.pop()], []
            while open_:
                z, y, x = voxel = open_.pop()
                component.append(voxel)
                for step in itertools.product((-1, 0, 1), repeat=3):
                    near = (z + step[0], y + step[1], x + step[2])
                    if 1 <= np.abs(step).sum() <= 2 and near in left:
                        left.remove(near)
                        open_.append(near)
            total += len(component) * (not any(other[voxel] for voxel in component))
        return total * voxel_ml

    both = (predicted * truth).sum()
    return 2 * both / (predicted.sum() + truth.sum()), lone_ml(predicted, truth), lone_ml(truth, predicted)


@pytest.mark.parametrize("share", [0.01, 0.03, 0.08, 0.2])
def test_scores_equal_a_loop_over_components(share: float) -> None:
    rng = np.random.default_rng(int(share * 100))
    for _ in range(5):
        truth, predicted = rng.random((2, 13, 14, 15)) < share
        scores = score(predicted, truth, 0.25)
        assert (scores.dice, scores.fpv_ml, scores.fnv_ml) == naive(predicted, truth, 0.25)


def test_numbers_other_than_zero_are_lesion() -> None:
    truth = volume((1, 1, 1)).astype(np.uint8) * 255
    assert score(truth.astype(np.float32), truth, 1.0).dice == 1


def test_masks_of_different_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        score(np.zeros((2, 2, 2)), np.zeros((2, 2, 3)), 1.0)
