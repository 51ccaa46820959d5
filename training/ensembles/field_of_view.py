"""Measure how much a mask depends on the rest of the image: cut the same studies on every side, or add air around them.

A network whose masks can be trusted has the same scores on each view, and marks the same voxels where views overlap.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from model.results.metrics import score
from training.data.prepared import Prepared

CUTS_MM = (0.0, 15.0, 30.0, 45.0)
AIR_VOXELS = (16, 32, 64)
FEWEST_VOXELS = 8  # that a cut leaves on every axis
AIR_HU = -1000
Margin = Callable[[Prepared], NDArray[np.floating]]  # a study's logit difference (X, Y, Z); above 0 is lesion


@dataclass(frozen=True, kw_only=True)
class View:
    """One view of the studies. dice: mean over the studies with lesion in the view, NaN if none has.

    agreement: Dice of the masks of the view and of the whole image where they overlap, mean over the studies; 1 where
    neither marks anything.
    """

    name: str
    studies: int
    dice: float
    agreement: float


def views(margin_of: Margin, studies: Sequence[Prepared]) -> list[View]:
    """Compare views: first the whole image, then every cut, then every border of air."""
    rows: dict[str, list[tuple[float, float]]] = {}
    for study in studies:
        whole = margin_of(study) > 0
        for cut_mm in CUTS_MM:
            smaller, box = cut(study, cut_mm)
            mask = margin_of(smaller) > 0 if cut_mm else whole
            rows.setdefault(f"{cut_mm:g} mm cut", []).append(_dice_and_agreement(mask, smaller, whole[box]))
        for voxels in AIR_VOXELS:
            inner = tuple(slice(voxels, voxels + edge) for edge in study.suv.shape)
            mask = (margin_of(with_air(study, voxels)) > 0)[inner]
            rows.setdefault(f"{voxels} voxels of air", []).append(_dice_and_agreement(mask, study, whole))
    return [
        View(
            name=name,
            studies=len(found),
            dice=_mean([dice for dice, _ in found if not np.isnan(dice)]),
            agreement=float(np.mean([agreed for _, agreed in found])),
        )
        for name, found in rows.items()
    ]


def cut(study: Prepared, cut_mm: float) -> tuple[Prepared, tuple[slice, ...]]:
    """Cut `cut_mm` off every side, rounded down to whole voxels. Returns the study and the box (x, y, z) that is left.

    At least FEWEST_VOXELS are left on each axis. The points to draw crops around are not adjusted.
    """
    box = []
    for edge, spacing_mm in zip(study.suv.shape, study.spacing_mm, strict=True):
        voxels = voxels_of_cut(cut_mm, edge, spacing_mm)
        box.append(slice(voxels, edge - voxels))
    x, y, z = box
    return replace(study, hu=study.hu[x, y, z], suv=study.suv[x, y, z], truth=study.truth[x, y, z]), (x, y, z)


def voxels_of_cut(cut_mm: float, edge: int, spacing_mm: float) -> int:
    """How many whole voxels a cut takes off either end of an axis of `edge`; FEWEST_VOXELS at least are left."""
    return min(int(cut_mm / spacing_mm), max((edge - FEWEST_VOXELS) // 2, 0))


def agreement(mask: NDArray[np.bool_], whole: NDArray[np.bool_]) -> float:
    """Dice of two masks; 1 where neither marks anything."""
    both = np.count_nonzero(mask) + np.count_nonzero(whole)
    return 2 * np.count_nonzero(mask & whole) / both if both else 1.0


def with_air(study: Prepared, voxels: int) -> Prepared:
    """The study with `voxels` of air added on every side: AIR_HU, no uptake, no lesion."""
    hu = np.pad(study.hu, voxels, constant_values=AIR_HU)
    return replace(study, hu=hu, suv=np.pad(study.suv, voxels), truth=np.pad(study.truth, voxels))


def table(found: Sequence[View]) -> str:
    """The views as a table in Markdown."""
    lines = ["| view | studies | Dice | agreement with the whole image |", "|---|---|---|---|"]
    for view in found:
        dice = "n/a" if np.isnan(view.dice) else f"{view.dice:.4f}"
        lines.append(f"| {view.name} | {view.studies} | {dice} | {view.agreement:.4f} |")
    return "\n".join(lines)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _dice_and_agreement(mask: NDArray[np.bool_], study: Prepared, whole: NDArray[np.bool_]) -> tuple[float, float]:
    """Dice of the mask with the study's truth, NaN if that is empty; and the agreement of the mask with `whole`."""
    truth = np.asarray(study.truth)
    dice = score(mask, truth, study.voxel_ml).dice if truth.any() else float("nan")
    return dice, agreement(mask, whole)
