"""Threshold methods, which a network must beat: a fixed SUV, 41 % of the hottest voxel, and two upper bounds."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.bundle.settings import Limits
from model.study.reading import Case
from training.bundles.field_of_view import THRESHOLDS, Masking, ViewScore
from training.bundles.study_views import read_study, views_of
from training.bundles.views_page import best_threshold
from training.data.table import Study
from training.phantom.facts import threshold_dice

SHARE = 0.41  # of SUVmax: EANM procedure guidelines 2.0 (Boellaard et al. 2015)


def above(suv: float) -> Masking:
    """Marks every voxel of this SUV or more."""
    return _of_voxels(lambda array: array >= suv)


def above_share(share: float = SHARE) -> Masking:
    """Marks every voxel of this share of the image's hottest voxel or more: nobody says where the lesion is."""
    return _of_voxels(lambda array: array >= share * array.max())


def best_on(studies: Sequence[Study], copies: int, seed: int) -> float:
    """The SUV of THRESHOLDS with the highest mean Dice over these studies that have lesion, cut at random as they are
    scored, or whole for no copies; NaN if none has lesion. Raises CaseError if one cannot be read.
    """
    found = []
    for study in studies:
        if not study.lesion_ml > 0:
            continue
        case, truth = read_study(study, Limits())
        views = views_of(study, case, truth, copies=copies, seed=seed, air=False)
        views = views[-copies:] if copies else views[:1]
        dice = [threshold_dice(view.case.pet.array, view.truth, np.array(THRESHOLDS)) for view in views]
        found += [one for one in dice if not np.isnan(one).any()]
    return THRESHOLDS[int(np.mean(found, axis=0).argmax())] if found else math.nan


def best_of_each_view(rows: Sequence[ViewScore]) -> list[ViewScore]:
    """Dice of the fixed threshold that scores best on the rows of each view: chosen with their own truth."""
    best = {view: best_threshold([row for row in rows if row.view == view])[0] for view in {row.view for row in rows}}
    return [_dice_alone(row, _dice_at(row, best[row.view])) for row in rows]


def best_of_each_case(rows: Sequence[ViewScore]) -> list[ViewScore]:
    """Dice of the threshold that scores best on each row: chosen with its own truth."""
    return [_dice_alone(row, max(row.thresholds)) for row in rows]


def _of_voxels(marked: Callable[[NDArray[Any]], NDArray[np.bool_]]) -> Masking:
    def mask(case: Case) -> NDArray[np.bool_]:
        return marked(case.pet.array)

    return Masking(mask=mask, in_air=lambda case, voxels: mask(case))


def _dice_at(row: ViewScore, suv: float) -> float:
    """The row's Dice at one of THRESHOLDS; NaN where there is none."""
    return math.nan if math.isnan(suv) else row.thresholds[THRESHOLDS.index(suv)]


def _dice_alone(row: ViewScore, dice: float) -> ViewScore:
    """The row with another Dice, and without what would need a mask."""
    none = math.nan
    return replace(row, dice=dice, fpv_ml=none, fnv_ml=none, lesions_found=0, agreement=none, marked_ml=none)
