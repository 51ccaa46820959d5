"""Measure lesions: volume, SUVmax, SUVmean, SUVpeak, TLG, centroid, long diameter; and totals: MTV, TLG, Dmax.

Lesions are 18-connected components, the largest first. SUVpeak and the long diameter follow the definitions of the
Image Biomarker Standardisation Initiative (arXiv:1612.07003, features 0F91 and L0JK).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

from model.results.metrics import components
from model.study.geometry import Grid

PEAK_ML = 1.0
PEAK_RADIUS_MM = (3 / (4 * np.pi) * PEAK_ML * 1000) ** (1 / 3)  # 6.2 mm: a sphere of 1 ml


@dataclass(frozen=True, kw_only=True)
class Lesion:
    """One lesion; the units are in the names. `number` counts from 1, by falling volume."""

    number: int
    volume_ml: float
    suv_max: float
    suv_mean: float
    suv_peak: float  # highest mean in a sphere of 1 ml around a voxel of the lesion
    tlg_suv_ml: float  # total lesion glycolysis: SUVmean x volume
    centroid_x_mm: float  # mean of the voxels' centres, patient coordinates (LPS)
    centroid_y_mm: float
    centroid_z_mm: float
    long_diameter_mm: float  # largest distance between two points of its surface


@dataclass(frozen=True, kw_only=True)
class Totals:
    """All lesions of a study together. None: not defined without lesions, or, for dmax_mm, for a single one."""

    lesions: int
    mtv_ml: float  # metabolic tumour volume
    tlg_suv_ml: float
    suv_max: float | None
    suv_peak: float | None
    dmax_mm: float | None  # largest distance between the centroids of two lesions


def measure(
    suv: NDArray[Any], mask: NDArray[Any], grid: Grid, labels: NDArray[np.int32] | None = None
) -> tuple[tuple[Lesion, ...], Totals, NDArray[np.int32]]:
    """The lesions of a mask, their totals, and the number of the lesion at every voxel; no lesions for an empty mask.

    suv, mask: (z, y, x) on `grid`, in any orientation. labels: likewise, the number of the lesion that each voxel of
    the mask belongs to, if it has one already: lesions keep it, so numbers may be missing. Numbers are int32 (z, y, x),
    0 outside lesions.
    """
    numbered = labels is not None
    labels = components(mask)[0] if labels is None else labels
    boxes = ndimage.find_objects(labels)
    there = [(label, box) for label, box in enumerate(boxes, start=1) if box is not None]
    found = [(_lesion(suv, labels, label, box, grid), label) for label, box in there]
    if not numbered:
        found.sort(key=lambda one: _rank(one[0]))
    new = [label if numbered else number for number, (_, label) in enumerate(found, start=1)]
    lesions = tuple(Lesion(number=number, **values) for number, (values, _) in zip(new, found, strict=True))
    count = len(lesions)
    numbers = np.zeros(len(boxes) + 1, np.int32)
    numbers[[label for _, label in found]] = new
    centroids = np.array([(lesion.centroid_x_mm, lesion.centroid_y_mm, lesion.centroid_z_mm) for lesion in lesions])
    totals = Totals(
        lesions=count,
        mtv_ml=float(np.count_nonzero(mask)) * grid.voxel_ml,
        tlg_suv_ml=sum(lesion.tlg_suv_ml for lesion in lesions),
        suv_max=max((lesion.suv_max for lesion in lesions), default=None),
        suv_peak=max((lesion.suv_peak for lesion in lesions), default=None),
        dmax_mm=_longest(centroids) if count > 1 else None,
    )
    return lesions, totals, numbers[labels]


def peak_offsets(spacing_mm: tuple[float, float, float]) -> NDArray[np.bool_]:
    """Which voxels have their centre within 6.2 mm of the middle one, (z, y, x); spacing (x, y, z)."""
    reach = [int(PEAK_RADIUS_MM / mm) for mm in spacing_mm]
    x, y, z = (np.arange(-r, r + 1) * mm for r, mm in zip(reach, spacing_mm, strict=True))
    inside = z[:, None, None] ** 2 + y[None, :, None] ** 2 + x[None, None, :] ** 2 <= PEAK_RADIUS_MM**2
    return np.asarray(inside)


def _rank(values: dict[str, float]) -> tuple[float, ...]:
    """The order of lesions: the largest first."""
    return (-values["volume_ml"], -values["suv_max"], *(values[f"centroid_{axis}_mm"] for axis in "zyx"))


def _lesion(
    suv: NDArray[Any], labels: NDArray[Any], label: int, box: tuple[slice, ...], grid: Grid
) -> dict[str, float]:
    inside = labels[box] == label
    values = np.asarray(suv[box][inside], np.float64)
    volume_ml = len(values) * grid.voxel_ml
    start = np.array([part.start for part in box[::-1]])
    centre = np.argwhere(inside)[:, ::-1].mean(axis=0) + start  # x, y, z
    matrix = np.array(grid.direction).reshape(3, 3) * grid.spacing_mm
    x_mm, y_mm, z_mm = (float(v) for v in matrix @ centre + np.array(grid.origin_mm))
    return {
        "volume_ml": volume_ml,
        "suv_max": float(values.max()),
        "suv_mean": float(values.mean()),
        "suv_peak": _peak(suv, inside, box, grid.spacing_mm),
        "tlg_suv_ml": float(values.mean()) * volume_ml,
        "centroid_x_mm": x_mm,
        "centroid_y_mm": y_mm,
        "centroid_z_mm": z_mm,
        "long_diameter_mm": long_diameter_mm(inside, grid.spacing_mm),
    }


def _peak(
    suv: NDArray[Any], inside: NDArray[np.bool_], box: tuple[slice, ...], spacing_mm: tuple[float, float, float]
) -> float:
    """Highest mean in the sphere around any voxel of the lesion; a sphere ends at the image's edge."""
    sphere = peak_offsets(spacing_mm).astype(np.float64)
    reach = [n // 2 for n in sphere.shape]
    wide = tuple(
        slice(max(0, part.start - r), min(n, part.stop + r)) for part, r, n in zip(box, reach, suv.shape, strict=True)
    )
    around = np.asarray(suv[wide], np.float64)
    total = ndimage.correlate(around, sphere, mode="constant")
    count = ndimage.correlate(np.ones_like(around), sphere, mode="constant")
    inner = tuple(slice(b.start - w.start, b.stop - w.start) for b, w in zip(box, wide, strict=True))
    return float((total[inner] / count[inner])[inside].max())


def long_diameter_mm(inside: NDArray[np.bool_], spacing_mm: tuple[float, float, float]) -> float:
    """Largest distance in mm between two points of the surface of one lesion (z, y, x); spacing (x, y, z).

    The surface is that of marching cubes at one half, whose points lie in the middle of the voxels' outer faces; so
    one voxel measures its longest edge, and a ball its diameter.
    """
    padded = np.pad(inside, 1)
    points = []
    for axis in range(3):
        steps = np.argwhere(np.diff(padded.astype(np.int8), axis=axis)).astype(np.float64)
        steps[:, axis] += 0.5  # the face between two voxels
        points.append(steps)
    surface = np.concatenate(points) * spacing_mm[::-1]
    return _longest(surface[ConvexHull(surface).vertices])


def _longest(points: NDArray[np.float64]) -> float:
    return float(pdist(points).max())
