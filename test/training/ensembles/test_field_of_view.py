from dataclasses import replace

import numpy as np
import pytest

from training.data.prepared import Prepared, load
from training.ensembles.field_of_view import cut, table, views, with_air


@pytest.fixture
def study(tiny_cache) -> Prepared:
    """60 x 40 x 40 voxels of 4 x 4 x 5 mm, a lesion of SUV 5 of 8 x 8 x 8 voxels in the middle of SUV 1."""
    truth = np.zeros((60, 40, 40), bool)
    truth[26:34, 16:24, 16:24] = True
    return replace(
        load(tiny_cache, "case0"),
        truth=truth,
        suv=np.where(truth, 5, 1).astype(np.float16),
        hu=np.zeros(truth.shape, np.int16),
        spacing_mm=(4.0, 4.0, 5.0),
    )


def test_a_cut_takes_whole_voxels_off_every_side(study) -> None:
    """30 mm of 4, 4 and 5 mm are 7, 7 and 6 voxels; 90 mm would leave less than 8 of 40, and so leaves 8."""
    less, box = cut(study, 30)
    assert box == (slice(7, 53), slice(7, 33), slice(6, 34))
    assert less.suv.shape == less.hu.shape == less.truth.shape == (46, 26, 28)
    assert cut(study, 90)[0].suv.shape == (16, 8, 8)


def test_air_has_no_uptake_and_no_lesion(study) -> None:
    wide = with_air(study, 5)
    assert wide.suv.shape == (70, 50, 50) and wide.truth.sum() == study.truth.sum()
    assert wide.hu[0, 0, 0] == -1000 and wide.suv[:5].max() == 0
    np.testing.assert_array_equal(wide.suv[5:-5, 5:-5, 5:-5], study.suv)


def test_a_threshold_says_the_same_whatever_it_sees(study) -> None:
    found = views(lambda one: np.asarray(one.suv, np.float32) - 2, [study])
    assert [view.name for view in found] == [
        "0 mm cut",
        "15 mm cut",
        "30 mm cut",
        "45 mm cut",
        "16 voxels of air",
        "32 voxels of air",
        "64 voxels of air",
    ]
    assert all((view.studies, view.dice, view.agreement) == (1, 1, 1) for view in found)


def test_what_hangs_on_the_field_of_view_agrees_less(study) -> None:
    """A mask that is all of a view: Dice 2 x 512 / (512 + its voxels); the whole image's mask is all of it, too, so a
    cut agrees wholly, and so does air, of which only the study's own voxels count.
    """
    found = {view.name: view for view in views(lambda one: np.ones(one.suv.shape), [study])}
    assert found["0 mm cut"].dice == pytest.approx(1024 / (512 + 60 * 40 * 40))
    assert found["30 mm cut"].dice == pytest.approx(1024 / (512 + 46 * 26 * 28))
    assert {view.agreement for view in found.values()} == {1.0}


def test_a_mask_that_a_view_makes_vanish_agrees_not_at_all(study) -> None:
    """The mean of the view stands in for a norm over the window: with air in it, everything lies above."""
    found = {v.name: v for v in views(lambda one: np.asarray(one.suv, np.float32) - 4 + (one.suv.min() == 0), [study])}
    assert found["0 mm cut"].dice == found["16 voxels of air"].dice == 1
    gone = views(lambda one: np.full(one.suv.shape, 1.0 if one.suv.shape[0] == 60 else -1.0), [study])
    assert [view.agreement for view in gone] == [1, 0, 0, 0, 0, 0, 0]
    assert "| 45 mm cut | 1 | 0.0000 | 0.0000 |" in table(gone)


def test_there_is_no_dice_where_no_view_has_a_lesion(study, recwarn) -> None:
    healthy = replace(study, truth=np.zeros_like(study.truth))
    found = views(lambda one: np.asarray(one.suv, np.float32) - 2, [healthy])
    assert all(np.isnan(view.dice) and view.agreement == 1 for view in found) and not recwarn.list
    assert "| 15 mm cut | 1 | n/a | 1.0000 |" in table(found)
