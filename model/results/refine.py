"""Draw a found lesion as readers are used to: the voxels above a threshold, in it and a given way around it.

Thresholds: a share of the lesion's SUVmax (41 % and 50 %: EANM's procedure guidelines 2.0, Boellaard et al., Eur J Nucl
Med Mol Imaging 2015); SUV 4.0 or 2.5, fixed (Barrington et al., J Nucl Med 2021, compares them in lymphoma); or the
liver's, by PERCIST: 1.5 x mean + 2 standard deviations (Wahl et al., J Nucl Med 2009).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from model.results.metrics import components
from model.results.rule_options import FIXED_SUV, OF_MAXIMUM

PERCIST_LIVER = (1.5, 2.0)  # x the liver's mean, x its standard deviation


def threshold_of(refinement: str, suv_max: float, liver_suv: tuple[float, float] | None) -> float | None:
    """The SUV from which on a voxel is in a lesion of this SUVmax; None for `liver` without the liver's SUV.

    liver_suv: mean and standard deviation.
    """
    if refinement in OF_MAXIMUM:
        return OF_MAXIMUM[refinement] * suv_max
    if refinement in FIXED_SUV:
        return FIXED_SUV[refinement]
    if liver_suv is None:
        return None
    mean, deviation = liver_suv
    return PERCIST_LIVER[0] * mean + PERCIST_LIVER[1] * deviation


def widened(
    box: tuple[slice, ...], shape: tuple[int, ...], within_mm: float, spacing_mm: tuple[float, float, float]
) -> tuple[slice, ...]:
    """The box (z, y, x) in which a lesion can be drawn anew: wide enough to see every lesion that lies nearer."""
    reach = [int(np.ceil(2 * within_mm / mm)) for mm in spacing_mm[::-1]]
    return tuple(
        slice(max(0, part.start - r), min(n, part.stop + r)) for part, r, n in zip(box, reach, shape, strict=True)
    )


def refined(
    suv: NDArray[Any],
    labels: NDArray[Any],
    number: int,
    threshold_suv: float,
    within_mm: float,
    spacing_mm: tuple[float, float, float],
) -> NDArray[np.bool_]:
    """A lesion drawn anew; empty if no voxel of it reaches the threshold.

    suv, labels: (z, y, x) in the lesion's box by `widened`, labels 0 outside lesions; spacing (x, y, z). Taken are the
    voxels at or above the threshold in the lesion, and those at most `within_mm` from it that hang together with them
    and lie nearer to no other lesion.
    """
    inside = labels == number
    hot = suv >= threshold_suv
    if within_mm <= 0:
        return np.asarray(inside & hot)
    distance_mm, nearest = ndimage.distance_transform_edt(labels == 0, sampling=spacing_mm[::-1], return_indices=True)
    own = (labels[tuple(nearest)] == number) & (distance_mm <= within_mm)
    parts, _ = components(hot & own)
    touched = np.unique(parts[inside & hot])
    return np.isin(parts, touched[touched > 0])
