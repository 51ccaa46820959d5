"""What a mask holds: lesions and volume; and how it compares with a truth: Dice, FPV, FNV.

Components are 18-connected, as in autoPET's evaluation. Empty masks (convention of autoPET I and II):
both empty gives NaN for Dice, an empty truth with a prediction gives 0.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

EIGHTEEN = ndimage.generate_binary_structure(3, 2)


@dataclass(frozen=True, kw_only=True)
class Scores:
    """One case against its truth: Dice in [0, 1] or NaN; volumes in ml."""

    dice: float
    fpv_ml: float
    fnv_ml: float
    lesions_true: int
    lesions_found: int  # true components that the prediction touches


def components(mask: NDArray[Any]) -> tuple[NDArray[Any], int]:
    """Label the 18-connected components of a (z, y, x) mask: (labels, how many); zero for an empty mask."""
    labels, count = ndimage.label(mask, structure=EIGHTEEN)
    return labels, int(count)


def score(predicted: NDArray[Any], truth: NDArray[Any], voxel_ml: float) -> Scores:
    """Dice, false-positive and false-negative volume of a (z, y, x) mask against its truth.

    FPV: ml of predicted components that touch no true voxel. FNV: ml of true components that touch
    no predicted voxel (autoPET's published evaluation). Raises ValueError if the shapes differ.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"mask has shape {predicted.shape}, truth has {truth.shape}")
    predicted, truth = predicted.astype(bool), truth.astype(bool)
    both = int(np.count_nonzero(predicted & truth))
    total = int(np.count_nonzero(predicted)) + int(np.count_nonzero(truth))
    missed, lesions, missed_lesions = _untouched(truth, predicted)
    extra, _, _ = _untouched(predicted, truth)
    return Scores(
        dice=2 * both / total if total else float("nan"),
        fpv_ml=extra * voxel_ml,
        fnv_ml=missed * voxel_ml,
        lesions_true=lesions,
        lesions_found=lesions - missed_lesions,
    )


def _untouched(mask: NDArray[Any], other: NDArray[Any]) -> tuple[int, int, int]:
    """Voxels in components of `mask` that touch no voxel of `other`; how many components; how many untouched."""
    labels, count = components(mask)
    if count == 0:
        return 0, 0, 0
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    alone = np.ones(count + 1, dtype=bool)
    alone[0] = False
    alone[np.unique(labels[other])] = False
    return int(sizes[alone].sum()), count, int(np.count_nonzero(alone))
