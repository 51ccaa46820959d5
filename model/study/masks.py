"""Read masks that others made, and check that they lie on the right grid."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.errors import CaseError
from model.study.geometry import Grid
from model.study.reading import read_volume


def read_mask(path: Path, what: str) -> tuple[NDArray[np.bool_], Grid]:
    """A mask (z, y, x) and its grid. Raises CaseError if it cannot be read or holds anything but 0 and 1."""
    volume = read_volume(path, what)
    lesion = volume.array == 1
    other = ~(lesion | (volume.array == 0))
    if other.any():
        raise CaseError(
            f"{what} '{path}' holds the value {volume.array[other][0]:g}, and a mask holds 0 and 1 alone; "
            "threshold or relabel it first"
        )
    return lesion, volume.grid


def read_labels(path: Path, what: str) -> tuple[NDArray[np.uint8], Grid]:
    """A map of labels (z, y, x) and its grid. Raises CaseError if it cannot be read or holds other than 0 to 255."""
    volume = read_volume(path, what)
    labels = volume.array.astype(np.uint8)
    if not np.array_equal(labels, volume.array):
        raise CaseError(f"{what} '{path}' holds values that are no labels from 0 to 255; make it anew")
    return labels, volume.grid


def check_grid(grid: Grid, what: str, wanted: Grid, of_what: str) -> None:
    """Raise CaseError unless both grids put every voxel in the same place."""
    if not wanted.equals(grid):
        raise CaseError(
            f"{what} does not lie on the grid of {of_what}: size {grid.size}, spacing {_short(grid.spacing_mm)} mm, "
            f"origin {_short(grid.origin_mm)} mm, direction {_short(grid.direction)} against size {wanted.size}, "
            f"spacing {_short(wanted.spacing_mm)} mm, origin {_short(wanted.origin_mm)} mm, direction "
            f"{_short(wanted.direction)}; resample it (nearest neighbour)"
        )


def _short(numbers: Sequence[float]) -> str:
    return "(" + ", ".join(f"{number:.6g}" for number in numbers) + ")"
