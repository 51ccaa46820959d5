"""Count a mask's lesions, and compare a mask with the truth: Dice, FPV, FNV.

Components are 18-connected, as in autoPET's evaluation. The editions score empty masks differently, so the convention
(`CONVENTIONS`) is always named and is part of the scores.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from model.errors import ConfigError
from model.inference.preprocess import Box, foreground_box

NEIGHBOURS_18 = ndimage.generate_binary_structure(3, 2)
CONVENTIONS = {  # autoPET's editions: the scores if the truth, or both masks, are empty
    "autopet_1_2": "both empty: Dice NaN; truth alone empty: Dice 0",
    "autopet_3": "truth empty: Dice and FNV NaN",
    "autopet_5": "both empty: Dice 1; truth alone empty: Dice 0",
}
NOWHERE: Box = (slice(0), slice(0), slice(0))


@dataclass(frozen=True, kw_only=True)
class Scores:
    """One case compared with its truth: Dice in [0, 1] or NaN; volumes in ml; `convention` is one of CONVENTIONS."""

    dice: float
    fpv_ml: float
    fnv_ml: float
    lesions_true: int
    lesions_found: int  # true components that the prediction touches
    convention: str


def components(mask: NDArray[Any]) -> tuple[NDArray[Any], int]:
    """Label the 18-connected components of a (z, y, x) mask: (labels, how many); zero for an empty mask."""
    labels, count = ndimage.label(mask, structure=NEIGHBOURS_18)
    return labels, int(count)


def score(predicted: NDArray[Any], truth: NDArray[Any], voxel_ml: float, convention: str = "autopet_1_2") -> Scores:
    """Dice, false-positive and false-negative volume of a (z, y, x) mask against its truth.

    FPV: ml of predicted components without a true voxel. FNV: ml of true components without a predicted voxel
    (autoPET's published evaluation). `convention` decides for empty masks; volumes that it does not mention are 0.
    Raises ValueError if the shapes differ, ConfigError for an unknown convention.
    """
    check_convention(convention)
    if predicted.shape != truth.shape:
        raise ValueError(f"mask has shape {predicted.shape}, truth has {truth.shape}")
    predicted, truth = predicted.astype(bool, copy=False), truth.astype(bool, copy=False)
    box = foreground_box(predicted | truth, 0) or NOWHERE  # labelling takes time for every voxel
    predicted, truth = predicted[box], truth[box]
    both = predicted & truth
    true_voxels, voxels = int(np.count_nonzero(truth)), int(np.count_nonzero(predicted))
    missed_voxels, lesions, missed_lesions = _untouched(truth, both)
    false_voxels, _, _ = _untouched(predicted, both)
    unscored = convention == "autopet_3" and true_voxels == 0
    return Scores(
        dice=float("nan") if unscored else _dice(int(np.count_nonzero(both)), voxels + true_voxels, convention),
        fpv_ml=false_voxels * voxel_ml,
        fnv_ml=float("nan") if unscored else missed_voxels * voxel_ml,
        lesions_true=lesions,
        lesions_found=lesions - missed_lesions,
        convention=convention,
    )


def check_convention(name: str) -> None:
    """Raise ConfigError if there is no such convention."""
    if name not in CONVENTIONS:
        raise ConfigError(f"the convention of empty masks must be one of {', '.join(CONVENTIONS)}, got {name!r}")


def _dice(both: int, total: int, convention: str) -> float:
    """2 |A and B| / (|A| + |B|), from voxels in both and the sum of both."""
    if total == 0:
        return 1.0 if convention == "autopet_5" else float("nan")
    return 2 * both / total


def _untouched(mask: NDArray[np.bool_], both: NDArray[np.bool_]) -> tuple[int, int, int]:
    """Voxels in components of `mask` without a voxel of `both`; how many components; how many of these."""
    if not mask.any():
        return 0, 0, 0
    labels, count = components(mask)
    sizes = np.bincount(labels[mask], minlength=count + 1)
    untouched = np.ones(count + 1, dtype=bool)
    untouched[0] = False
    untouched[labels[both]] = False
    return int(sizes[untouched].sum()), count, int(np.count_nonzero(untouched))
