"""Numbers of phantoms: Dice of thresholds, the healthy liver, what is printed; one small phantom made by hand."""

import numpy as np
import pytest
from conftest import ROOT

from model.results.metrics import score
from training.phantom.facts import THRESHOLDS, Facts, healthy_liver, statistics, tables, threshold_dice
from training.phantom.lesions import PhantomLesion
from training.phantom.study import Phantom
from training.phantom.tissues import LABELS


def facts(dice: np.ndarray, lesions: list[PhantomLesion]) -> Facts:
    return Facts(
        seed=3,
        site="A",
        diagnosis="lymphoma" if lesions else "negative",
        lesions=lesions,
        truth_ml=4.0,
        dice=dice,
        body_l=60.0,
        liver_suv=2.0,
        liver_variation=0.15,
        seconds=3.0,
        processor_seconds=2.0,
    )


def test_dice_of_thresholds_by_hand() -> None:
    dice = threshold_dice(np.array([1.0, 2, 3, 4]), np.array([0, 0, 1, 1], np.uint8), np.array([1.0, 3, 5]))
    np.testing.assert_allclose(dice, [4 / 6, 1, 0])  # 4 marked and 2 right; 2 and 2; none


def test_dice_of_a_threshold_is_that_of_the_evaluation() -> None:
    rng = np.random.default_rng(0)
    suv, truth = rng.gamma(2, 1, (6, 7, 8)), rng.random((6, 7, 8)) < 0.3
    for threshold, dice in zip(THRESHOLDS, threshold_dice(suv, truth, THRESHOLDS), strict=True):
        assert dice == pytest.approx(score(suv >= threshold, truth, 1.0).dice)


def test_dice_without_lesion_is_nan() -> None:
    assert np.isnan(threshold_dice(np.ones(4), np.zeros(4), THRESHOLDS)).all()


def test_healthy_liver_is_10_mm_from_its_surface_and_from_lesions() -> None:
    """Voxels of 4 mm: the third inside the surface is 12 mm from the nearest one outside, and so beside the lesion."""
    organs, truth = np.zeros((21, 21, 21), np.uint8), np.zeros((21, 21, 21), np.uint8)
    organs[2:19, 2:19, 2:19] = LABELS["liver"]
    truth[2:19, 2:19, 9] = 1
    origin, pet = (0.0, 0.0, 0.0), np.ones((21, 21, 21), np.float32)
    phantom = Phantom(
        pet, pet, truth, (4.0,) * 3, origin, (4.0,) * 3, origin, [], "melanoma", 0, "A", "phantom-0", organs
    )
    expected = np.zeros((21, 21, 21), bool)
    expected[4:17, 4:17, 4:7] = expected[4:17, 4:17, 12:17] = True
    np.testing.assert_array_equal(healthy_liver(phantom), expected)


def test_statistics_name_the_best_threshold_of_the_studies_with_lesion() -> None:
    lesion = PhantomLesion("node", 4.0, 6.0, (0.0, 0.0, 0.0))
    low, high, none = np.zeros(len(THRESHOLDS)), np.zeros(len(THRESHOLDS)), np.full(len(THRESHOLDS), np.nan)
    low[3], high[3], high[4] = 0.5, 0.3, 0.6  # SUV 3: mean 0.4; SUV 3.5: mean 0.3
    text = statistics([facts(low, [lesion]), facts(high, [lesion]), facts(none, [])])
    assert "best fixed threshold: SUV >= 3, Dice 0.400 (2 studies)" in text
    assert "diagnoses: lymphoma 2, negative 1" in text and "lesions: node 2" in text


def test_statistics_of_negative_studies_alone_have_no_threshold() -> None:
    text = statistics([facts(np.full(len(THRESHOLDS), np.nan), [])])
    assert "threshold" not in text and "lesions: none" in text


def test_the_page_on_phantoms_holds_the_tables_of_the_generator() -> None:
    assert tables() in (ROOT / "docs/phantoms.md").read_text(encoding="utf-8")
