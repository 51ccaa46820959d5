"""How much a mask depends on what else the image shows: the same studies with less of the body, and with air around.

Each prepared study is cut by the same length on every side, and has air added on every side. A network whose masks are
to be trusted scores the same on each view, and marks the same voxels where two views overlap.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from model.results.metrics import score
from training.data.prepared import Prepared

CUTS_MM = (0.0, 15.0, 30.0, 45.0)
AIR_VOXELS = (16, 32, 64)
FEWEST_VOXELS = 8  # on every axis of what a cut leaves
AIR_HU = -1000
Margin = Callable[[Prepared], NDArray[np.floating]]  # a study's logit difference (X, Y, Z); above 0 is lesion


@dataclass(frozen=True, kw_only=True)
class View:
    """One view of the studies: mean Dice of those with lesion in it, NaN where none has, and mean agreement with the
    whole image.

    agreement: Dice of the two masks where both look, mean over the studies; 1 where neither marks anything.
    """

    name: str
    studies: int
    dice: float
    agreement: float


def views(margin_of: Margin, studies: Sequence[Prepared]) -> list[View]:
    """The whole image first, then every cut, then every border of air."""
    rows: dict[str, list[tuple[float, float]]] = {}
    for study in studies:
        whole = margin_of(study) > 0
        for cut_mm in CUTS_MM:
            less, box = cut(study, cut_mm)
            mask = margin_of(less) > 0 if cut_mm else whole
            rows.setdefault(f"{cut_mm:g} mm cut", []).append(_judged(mask, less, whole[box]))
        for voxels in AIR_VOXELS:
            inner = tuple(slice(voxels, voxels + edge) for edge in study.suv.shape)
            mask = (margin_of(with_air(study, voxels)) > 0)[inner]
            rows.setdefault(f"{voxels} voxels of air", []).append(_judged(mask, study, whole))
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
    """The study with `cut_mm` less on every side, whole voxels rounded down, and the box (x, y, z) that is left.

    FEWEST_VOXELS are left on each axis. Points to draw crops around are left out.
    """
    box = []
    for edge, spacing in zip(study.suv.shape, study.spacing_mm, strict=True):
        off = min(int(cut_mm / spacing), max((edge - FEWEST_VOXELS) // 2, 0))
        box.append(slice(off, edge - off))
    x, y, z = box
    return replace(study, hu=study.hu[x, y, z], suv=study.suv[x, y, z], truth=study.truth[x, y, z]), (x, y, z)


def with_air(study: Prepared, voxels: int) -> Prepared:
    """The study with so many voxels of air on every side: AIR_HU, no uptake, no lesion."""
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


def _judged(mask: NDArray[np.bool_], study: Prepared, whole: NDArray[np.bool_]) -> tuple[float, float]:
    """Dice with the truth of a view, NaN where it has none; and the agreement of two masks."""
    truth = np.asarray(study.truth)
    dice = score(mask, truth, study.voxel_ml).dice if truth.any() else float("nan")
    both = np.count_nonzero(mask) + np.count_nonzero(whole)
    return dice, 2 * np.count_nonzero(mask & whole) / both if both else 1.0
