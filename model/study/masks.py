"""Read masks that others made, and put them on the grid that they are wanted on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from model.errors import CaseError
from model.study.geometry import Grid, image_on
from model.study.reading import read_volume
from model.study.segmentations import is_segmentation, read_segmentation

SAME_PLACE = 0.01  # of a voxel: how far apart centres of two grids may lie that are the same points
HIGHEST_LABEL = 65535  # a mask's values are labels; more is an image


@dataclass(frozen=True, kw_only=True)
class DrawnMask:
    """A mask that somebody drew, bool (z, y, x) on `grid`. notes: what a reader should know, such as joined labels."""

    mask: NDArray[np.bool_]
    grid: Grid
    notes: tuple[str, ...] = ()

    def noted(self, *notes: str) -> "DrawnMask":
        return replace(self, notes=(*self.notes, *notes))


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


def read_drawn(path: Path, what: str) -> DrawnMask:
    """A mask or label map (z, y, x): every label above 0 is lesion, except segments that are called an organ.

    Also a segmentation of 3D Slicer (.seg.nrrd), with layers where segments overlap. Raises CaseError if it cannot be
    read or holds values that are no labels.
    """
    if is_segmentation(path):
        mask, grid, notes = read_segmentation(path, what)
        return DrawnMask(mask=mask, grid=grid, notes=notes)
    volume = read_volume(path, what)
    low, high = float(volume.array.min()), float(volume.array.max())
    fraction = volume.array.dtype.kind == "f" and volume.array[volume.array != np.floor(volume.array)]
    if not (0 <= low <= high <= HIGHEST_LABEL) or np.any(fraction):
        value = low if not low >= 0 else high if not high <= HIGHEST_LABEL else float(np.ravel(fraction)[0])
        raise CaseError(
            f"{what} '{path}' holds the value {value:g}, and a mask holds whole numbers from 0 to {HIGHEST_LABEL}; "
            "is it an image? Threshold it first, or give the mask"
        )
    drawn = DrawnMask(mask=volume.array > 0, grid=volume.grid)
    labels = [str(label) for label in np.flatnonzero(np.bincount(volume.array.astype(np.uint16).ravel())) if label]
    return drawn.noted(f"{what} '{path}': all its labels ({listed(labels)}) are lesion") if labels[1:] else drawn


def placed_on(drawn: DrawnMask, wanted: Grid, what: str, of_what: str) -> DrawnMask:
    """The mask on another grid of the same patient coordinates. what, of_what: what messages call the two.

    Voxels that lie in the same places are copied. Another grid is resampled by nearest neighbour, with a note; lesion
    outside `wanted` is left out, with a note. A single voxel without lesion, as 3D Slicer saves an empty segmentation,
    has no place. Raises CaseError if the grids do not overlap, or nothing is left of the lesions.
    """
    if wanted.equals(drawn.grid):
        return drawn
    if drawn.grid.size != (1, 1, 1) and not _overlap(drawn.grid, wanted):
        raise CaseError(f"{what} does not lie on {of_what}: {_described(drawn.grid)} against {_described(wanted)}")
    if not drawn.mask.any():
        return replace(drawn, mask=np.zeros(wanted.shape, bool), grid=wanted)
    image = sitk.Resample(
        image_on(drawn.mask.astype(np.uint8), drawn.grid),
        wanted.size,
        sitk.Transform(),
        sitk.sitkNearestNeighbor,
        wanted.origin_mm,
        wanted.spacing_mm,
        wanted.direction,
        0,
        sitk.sitkUInt8,
    )
    placed = replace(drawn, mask=sitk.GetArrayFromImage(image) == 1, grid=wanted)
    drawn_ml = np.count_nonzero(drawn.mask) * drawn.grid.voxel_ml
    if not placed.mask.any():
        raise CaseError(f"no lesion of {what} lies on {of_what}: {_described(drawn.grid)} against {_described(wanted)}")
    if not _same_points(drawn.grid, wanted):
        placed_ml = np.count_nonzero(placed.mask) * wanted.voxel_ml
        placed = placed.noted(
            f"{what} does not lie on the grid of {of_what}, and was resampled (nearest neighbour): {drawn_ml:.2f} ml "
            f"became {placed_ml:.2f} ml ({_described(drawn.grid)} against {_described(wanted)})"
        )
    if outside_ml := _outside(drawn, wanted) * drawn.grid.voxel_ml:
        placed = placed.noted(f"{outside_ml:.2f} of {drawn_ml:.2f} ml of {what} lie outside {of_what} and are left out")
    return placed


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
            f"{what} does not lie on the grid of {of_what}: {_described(grid)} against {_described(wanted)}; "
            "resample it (nearest neighbour)"
        )


def indices_on(grid: Grid, points_mm: NDArray[Any]) -> NDArray[np.float64]:
    """Points (n, 3), in mm, as indices x, y, z of a grid, (n, 3); (0, 0, 0) is the centre of its first voxel."""
    matrix = np.array(grid.direction).reshape(3, 3) * grid.spacing_mm
    return np.asarray((points_mm - np.array(grid.origin_mm)) @ np.linalg.inv(matrix).T)


def points_of(grid: Grid, indices: NDArray[Any]) -> NDArray[np.float64]:
    """Indices x, y, z of a grid, (n, 3), as points in mm, (n, 3)."""
    matrix = np.array(grid.direction).reshape(3, 3) * grid.spacing_mm
    return np.asarray(indices @ matrix.T + np.array(grid.origin_mm))


def _overlap(grid: Grid, wanted: Grid) -> bool:
    (low, high), (wanted_low, wanted_high) = grid.corner_span_mm(), wanted.corner_span_mm()
    return bool((low < wanted_high).all() and (wanted_low < high).all())


def _same_points(grid: Grid, wanted: Grid) -> bool:
    """Whether the voxels of both grids are the same points, where both have some; axes may be in another order."""
    ends = np.array(np.meshgrid(*[(0, n - 1) for n in grid.size])).reshape(3, -1).T
    corners = indices_on(wanted, points_of(grid, ends))
    same_size = np.allclose(sorted(grid.spacing_mm), sorted(wanted.spacing_mm), rtol=SAME_PLACE / max(grid.size))
    return bool(same_size and np.abs(corners - np.round(corners)).max() <= SAME_PLACE)


def _outside(drawn: DrawnMask, wanted: Grid) -> int:
    """How many lesion voxels have their centre outside another grid."""
    indices = indices_on(wanted, points_of(drawn.grid, np.argwhere(drawn.mask)[:, ::-1]))
    inside = (indices >= -0.5 - SAME_PLACE) & (indices <= np.array(wanted.size) - 0.5 + SAME_PLACE)
    return int(np.count_nonzero(~inside.all(axis=1)))


def _described(grid: Grid) -> str:
    return (
        f"size {grid.size}, spacing {_short(grid.spacing_mm)} mm, origin {_short(grid.origin_mm)} mm, direction "
        f"{_short(grid.direction)}"
    )


def _short(numbers: Sequence[float]) -> str:
    return "(" + ", ".join(f"{number:.6g}" for number in numbers) + ")"


def listed(words: Sequence[str], most: int = 8) -> str:
    """The first words, and how many more there are."""
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")
