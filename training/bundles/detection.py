"""Lesions found against false ones (FROC), surface distances and calibration of a bundle's probabilities.

FROC: a candidate is a component of the voxels whose probability is above FLOOR,
scored by its highest probability. A true lesion is found at a threshold that its highest probability reaches; a
candidate that touches no true lesion is false. Surface distances are MONAI's (symmetric, in mm). Calibration is over
the voxels of lesions and candidates, where there is something to decide.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from numpy.typing import NDArray
from scipy import ndimage

from model.inference.preprocess import foreground_box
from model.results.metrics import components

FLOOR = 0.1  # probability; what lies below is no candidate
FALSE_A_STUDY = (0.25, 0.5, 1, 2, 4, 8)
SIZES_ML = ((0.0, 2.0), (2.0, 10.0), (10.0, float("inf")))
TOLERANCE_MM = 4.0  # of the surface Dice: a voxel
BINS = 10


@dataclass(frozen=True, kw_only=True)
class Detection:
    """One study. lesions: ml and highest probability of each true lesion; false_scores: of each false candidate.

    hd95_mm and surface_dice: NaN where a mask is empty; bins: (BINS, 3) voxels, sum of probabilities, true voxels.
    """

    case: str
    lesions: tuple[tuple[float, float], ...]
    false_scores: tuple[float, ...]
    hd95_mm: float
    surface_dice: float
    bins: NDArray[np.float64]


def detect(
    case: str, probability: NDArray[np.float32], truth: NDArray[np.bool_], spacing_mm: Sequence[float]
) -> Detection:
    """Compare probabilities in [0, 1] with the truth, both (z, y, x); spacing (x, y, z). Above 0.5 is lesion."""
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    candidates = probability > FLOOR
    true_labels, count = components(truth)
    lesions = []
    for number, box in enumerate(ndimage.find_objects(true_labels), start=1):
        inside = true_labels[box] == number
        lesions.append((float(inside.sum()) * voxel_ml, float(probability[box][inside].max())))
    labels, found = components(candidates)
    touched = np.unique(labels[truth])
    numbers = np.setdiff1d(np.arange(1, found + 1), touched)
    scores = ndimage.maximum(probability, labels, numbers) if len(numbers) else np.zeros(0)
    hd95, surface = surfaces(probability > 0.5, truth, spacing_mm)
    return Detection(
        case=case,
        lesions=tuple(lesions),
        false_scores=tuple(float(value) for value in np.atleast_1d(scores)),
        hd95_mm=hd95,
        surface_dice=surface,
        bins=calibration_bins(probability[candidates | truth], truth[candidates | truth]),
    )


def surfaces(mask: NDArray[np.bool_], truth: NDArray[np.bool_], spacing_mm: Sequence[float]) -> tuple[float, float]:
    """95 % Hausdorff distance (mm) and surface Dice at TOLERANCE_MM of two masks (z, y, x); NaN if either is empty."""
    if not (mask.any() and truth.any()):
        return float("nan"), float("nan")
    box = foreground_box(mask | truth, 0)
    assert box is not None
    both = [torch.from_numpy(np.pad(part[box], 1))[None, None] for part in (mask, truth)]
    spacing = list(spacing_mm[::-1])
    far = compute_hausdorff_distance(both[0], both[1], include_background=True, percentile=95, spacing=spacing)
    near = compute_surface_dice(both[0], both[1], [TOLERANCE_MM], include_background=True, spacing=spacing)
    return float(far.squeeze()), float(near.squeeze())


def calibration_bins(probability: NDArray[np.float32], truth: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Voxels, sum of probabilities and true voxels in each of BINS equal bins of probability: (BINS, 3)."""
    place = np.minimum((probability * BINS).astype(int), BINS - 1)
    counts = np.bincount(place, minlength=BINS)
    sums = np.bincount(place, weights=probability, minlength=BINS)
    true = np.bincount(place, weights=truth, minlength=BINS)
    return np.stack([counts, sums, true], 1).astype(np.float64)


def calibration_error(bins: NDArray[np.float64]) -> float:
    """Expected calibration error: |mean probability - share of true voxels|, weighted by voxels. NaN without voxels."""
    total = bins[:, 0].sum()
    return float(np.abs(bins[:, 1] - bins[:, 2]).sum() / total) if total else float("nan")


def froc(found: Sequence[Detection], size_ml: tuple[float, float] = (0.0, float("inf"))) -> tuple[float, ...]:
    """The highest sensitivity that has at most each of FALSE_A_STUDY false candidates a study, over the true lesions of
    this size; NaN if there is none of it.
    """
    low, high = size_ml
    lesions = np.array([score for one in found for ml, score in one.lesions if low <= ml < high])
    if not len(lesions):
        return (float("nan"),) * len(FALSE_A_STUDY)
    false = np.sort([score for one in found for score in one.false_scores])[::-1]
    thresholds = np.concatenate([[np.inf], np.unique(np.concatenate([false, lesions]))[::-1]])
    sensitivity = np.array([(lesions >= level).mean() for level in thresholds])
    false_a_study = np.array([(false >= level).sum() for level in thresholds]) / len(found)
    return tuple(float(sensitivity[false_a_study <= most].max()) for most in FALSE_A_STUDY)


def report(found: Sequence[Detection]) -> dict[str, Any]:
    """All of it as plain values: FROC by size, medians of surface distances, calibration."""
    bins = np.sum([one.bins for one in found], axis=0)
    sizes = [("all", (0.0, float("inf"))), *((_size(size), size) for size in SIZES_ML)]
    hd95 = [one.hd95_mm for one in found if not np.isnan(one.hd95_mm)]
    near = [one.surface_dice for one in found if not np.isnan(one.surface_dice)]
    return {
        "false_candidates_a_study": list(FALSE_A_STUDY),
        "sensitivity": {name: list(froc(found, size)) for name, size in sizes},
        "lesions": {
            name: sum(size[0] <= ml < size[1] for one in found for ml, _ in one.lesions) for name, size in sizes
        },
        "hd95_mm_median": float(np.median(hd95)) if hd95 else float("nan"),
        "surface_dice_mean": float(np.mean(near)) if near else float("nan"),
        "surface_tolerance_mm": TOLERANCE_MM,
        "studies_with_surfaces": len(hd95),
        "calibration_error": calibration_error(bins),
        "calibration_bins": bins.tolist(),
    }


def markdown(content: dict[str, Any]) -> str:
    """The report as tables."""
    heads = [f"{number:g}" for number in content["false_candidates_a_study"]]
    lines = [
        f"| lesions found at false candidates a study of | n | {' | '.join(heads)} |",
        "|---" * (len(heads) + 2) + "|",
    ]
    for name, values in content["sensitivity"].items():
        cells = ["n/a" if np.isnan(value) else f"{value:.3f}" for value in values]
        lines.append(f"| {name} | {content['lesions'][name]} | {' | '.join(cells)} |")
    lines += [
        "",
        f"Surfaces ({content['studies_with_surfaces']} studies): 95 % Hausdorff distance, median "
        f"{content['hd95_mm_median']:.1f} mm; surface Dice at {content['surface_tolerance_mm']:g} mm, mean "
        f"{content['surface_dice_mean']:.4f}.",
        f"Calibration error over lesions and candidates: {content['calibration_error']:.4f}.",
    ]
    return "\n".join(lines)


def _size(size: tuple[float, float]) -> str:
    low, high = size
    return f"{low:g} ml and more" if np.isinf(high) else f"{low:g} to {high:g} ml"
