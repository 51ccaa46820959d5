"""The lesions of one date: which voxel of the mask belongs to which row of the lesion table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from model.results.metrics import components
from model.study.geometry import Grid

SAME_PLACE_MM, SAME_VOLUME_ML = 0.05, 0.01  # of a part of the mask and its row in the table, which is rounded
SHARED_PART_MM = 150.0  # no voxel of a lesion lies further from its centre


@dataclass(frozen=True)
class Numbered:
    """The lesions of one date: their number at every voxel, int32 (z, y, x) on `grid`; 0 outside."""

    numbers: NDArray[np.int32]
    grid: Grid
    centres_mm: Mapping[int, NDArray[np.float64]] = field(default_factory=dict)


def numbered(mask: NDArray[Any], grid: Grid, lesions: Sequence[Mapping[str, Any]]) -> Numbered:
    """The lesions of a mask with the numbers of its table (rows of lesions.json).

    A part of the mask whose centre and volume are those of a row is that lesion. Rows that share a part (lesions drawn
    so that they touch) divide it by the nearest centre. Parts without a row were left out of the table and count as no
    lesion. Raises ValueError if a row has no voxel.
    """
    labels, count = components(mask)
    centres = {int(one["number"]): _centre_of(one) for one in lesions}
    new = np.zeros(count + 1, np.int32)
    rest = dict(centres)
    if lesions and count:
        found, sizes_ml = _centres_mm(labels, count, grid), np.bincount(labels.ravel())[1:] * grid.voxel_ml
        for one in lesions:
            far = np.linalg.norm(found - centres[int(one["number"])], axis=1)
            far[(np.abs(sizes_ml - float(one["volume_ml"])) > SAME_VOLUME_ML) | (new[1:] > 0)] = np.inf
            if far.min() < SAME_PLACE_MM:
                new[1 + int(far.argmin())] = int(one["number"])
                del rest[int(one["number"])]
    numbers = new[labels]
    if rest:
        places = np.argwhere((labels > 0) & (numbers == 0))
        far, nearest = cKDTree(np.array(list(rest.values()))).query(_points_mm(places, grid))
        near = far < SHARED_PART_MM
        numbers[tuple(places[near].T)] = np.array(list(rest), np.int32)[nearest[near]]
    if lost := sorted(set(centres) - set(np.unique(numbers).tolist())):
        raise ValueError(f"lesion {lost[0]} of the table is not in the mask")
    return Numbered(numbers, grid, centres)


def _centres_mm(labels: NDArray[Any], count: int, grid: Grid) -> NDArray[np.float64]:
    """The mean of each component's voxel centres, (count, 3), mm."""
    places = np.argwhere(labels)
    which = labels[tuple(places.T)]
    sizes = np.bincount(which, minlength=count + 1)[1:, None]
    middle = np.stack([np.bincount(which, places[:, axis], count + 1)[1:] for axis in range(3)], -1) / sizes
    return _points_mm(middle, grid)


def _points_mm(places: NDArray[Any], grid: Grid) -> NDArray[np.float64]:
    """Places (n, 3) among a grid's voxels (z, y, x) as points (x, y, z) in mm."""
    matrix = np.array(grid.direction).reshape(3, 3) * grid.spacing_mm
    points: NDArray[np.float64] = places[:, ::-1] @ matrix.T + np.array(grid.origin_mm)
    return points


def _centre_of(row: Mapping[str, Any]) -> NDArray[np.float64]:
    return np.array([float(row[f"centroid_{axis}_mm"]) for axis in "xyz"])
