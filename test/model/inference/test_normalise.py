"""nnU-Net's normalisations, by their formulas."""

import numpy as np
import pytest

from model.bundle.nnunet import Normalisation, Preprocessing
from model.inference.normalise import network_channels, nonzero_box, normalised

IMAGE = np.array([[[0.0, 2.0], [4.0, 10.0]]])
NONE = Normalisation(scheme="none")


def test_clip_subtracts_the_mean_and_divides_by_the_deviation() -> None:
    settings = Normalisation(scheme="clip", low=1.0, high=5.0, mean=3.0, deviation=2.0)
    assert normalised(IMAGE, settings, None).tolist() == [[[-1.0, -0.5], [0.5, 1.0]]]


def test_zscore_has_mean_0_and_deviation_1() -> None:
    found = normalised(IMAGE, Normalisation(scheme="zscore"), None)
    assert found.mean() == pytest.approx(0, abs=1e-6) and found.std() == pytest.approx(1)


def test_zscore_inside_leaves_the_voxels_outside_as_they_are() -> None:
    inside = np.array([[[False, True], [True, True]]])
    found = normalised(IMAGE + 7, Normalisation(scheme="zscore", inside=True), inside)
    assert found[0, 0, 0] == 7 and found[inside].mean() == pytest.approx(0, abs=1e-6)


def test_a_constant_image_divides_by_no_zero() -> None:
    for scheme in ("zscore", "zero_to_one"):
        assert (
            normalised(np.full((2, 2, 2), 3.0), Normalisation(scheme=scheme), None).tolist()
            == np.zeros((2, 2, 2)).tolist()
        )


def test_zero_to_one_spans_the_range() -> None:
    assert normalised(IMAGE, Normalisation(scheme="zero_to_one"), None).ravel().tolist() == pytest.approx(
        [0, 0.2, 0.4, 1]
    )


def test_the_box_holds_what_is_not_zero_in_one_channel() -> None:
    hu, suv = np.zeros((4, 5, 6)), np.zeros((4, 5, 6))
    assert nonzero_box(hu, suv) is None
    hu[1, 2, 3], suv[2, 2, 4] = -5, 0.1
    assert nonzero_box(hu, suv) == (slice(1, 3), slice(2, 3), slice(3, 5))


def test_channels_are_ct_before_pet_and_the_study_stays() -> None:
    hu, suv = np.full((2, 2, 2), 40.0, np.float32), np.full((2, 2, 2), 5.0, np.float32)
    settings = Preprocessing(ct=NONE, pet=NONE, spacing_mm=(2.0, 2.0, 2.0))
    found = network_channels(hu, suv, settings)
    assert found[0].ravel()[0] == 40 and found[1].ravel()[0] == 5
    found[:] = 0
    assert hu.ravel()[0] == 40
