"""Match the lesions of two dates over a transform: by overlap first, then by the nearest surface.

Two lesions overlap if they share a tenth of the smaller one or more. A lesion that overlaps none is matched with the
nearest one that overlaps none either, if their surfaces are at most 10 mm apart. What overlaps several is matched with
all of them: a lesion that split, several that merged. A lesion without a match is new or gone, unless it lies where the
other date's PET does not reach.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from model.hospital.dates.numbering import Numbered
from model.study.geometry import Grid, image_on

LEAST_SHARED = 0.1  # of the smaller lesion's volume
NEAREST_MM = 10.0  # between the surfaces of two lesions that do not overlap
INVERSE_STEPS = 30  # of the search for a point; a smooth movement needs about ten


@dataclass(frozen=True, kw_only=True)
class Match:
    """Lesions of the first and of the second date, by number, that are one. One side is empty for new or gone.

    near_mm: the distance of their surfaces if they do not overlap, else None. beyond: it lies where the other date's
    PET does not reach, so nobody knows whether it is new or gone.
    """

    first: tuple[int, ...]
    second: tuple[int, ...]
    near_mm: float | None = None
    beyond: bool = False


def match(first: Numbered, second: Numbered, transform: sitk.Transform) -> tuple[Match, ...]:
    """The lesions of both dates, matched; matches first, then new, then gone, each by number.

    transform: from points (mm) of the second date to points of the first.
    """
    moved, later, spacing_mm = _on_one_grid(first, second, transform)
    sizes = [np.bincount(volume.ravel()) for volume in (moved, later)]
    edges = {
        (one, other)
        for (one, other), count in _overlaps(moved, later).items()
        if count >= LEAST_SHARED * min(sizes[0][one], sizes[1][other])
    }
    near = _nearest(moved, later, spacing_mm, edges, (set(first.centres_mm), set(second.centres_mm)))
    matches = [Match(first=one, second=other) for one, other in _groups(edges)]
    matches += [Match(first=(one,), second=(other,), near_mm=round(mm, 1)) for (one, other), mm in near.items()]
    known = [{number for one in matches for number in getattr(one, side)} for side in ("first", "second")]
    new = [
        Match(
            first=(),
            second=(number,),
            beyond=not _inside(first.grid, np.array(transform.TransformPoint(centre.tolist()))),
        )
        for number, centre in second.centres_mm.items()
        if number not in known[1]
    ]
    gone = [
        Match(first=(number,), second=(), beyond=not _inside(second.grid, inverse_point(transform, centre)))
        for number, centre in first.centres_mm.items()
        if number not in known[0]
    ]
    return tuple(
        sorted(matches, key=lambda one: one.first)
        + sorted(new, key=lambda one: one.second)
        + sorted(gone, key=lambda one: one.first)
    )


def inverse_point(transform: sitk.Transform, point_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """The point (mm) that a transform, a pose with a smooth movement, takes to `point_mm`, to about 0.01 mm."""
    found = np.array(point_mm, float)
    for _ in range(INVERSE_STEPS):
        off = np.array(transform.TransformPoint(found.tolist())) - point_mm
        found -= off
        if np.abs(off).max() < 0.01:
            break
    return found


def _on_one_grid(
    first: Numbered, second: Numbered, transform: sitk.Transform
) -> tuple[NDArray[np.int32], NDArray[np.int32], tuple[float, ...]]:
    """Both dates' numbers on the second's place, in the smaller voxels of the two, and these voxels, mm (z, y, x).

    A lesion of the first date that falls between the voxels keeps the one voxel at its centre.
    """
    fine = min(first.grid.spacing_mm)
    spacing = [min(mm, fine) for mm in second.grid.spacing_mm]
    size = [
        int(np.ceil(n * mm / new)) for n, mm, new in zip(second.grid.size, second.grid.spacing_mm, spacing, strict=True)
    ]
    arrays = []
    for one, how in ((first, transform), (second, sitk.Transform())):
        image = image_on(one.numbers, one.grid)
        resampled = sitk.Resample(
            image, size, how, sitk.sitkNearestNeighbor, second.grid.origin_mm, spacing, second.grid.direction, 0
        )
        arrays.append(sitk.GetArrayFromImage(resampled))
    moved = arrays[0]
    reference = sitk.Image(size, sitk.sitkUInt8)
    reference.SetSpacing(spacing)
    reference.SetOrigin(second.grid.origin_mm)
    reference.SetDirection(second.grid.direction)
    there = set(np.unique(moved).tolist())
    for number, centre in first.centres_mm.items():
        if number not in there:
            at = np.array(reference.TransformPhysicalPointToIndex(inverse_point(transform, centre).tolist()))[::-1]
            if (at >= 0).all() and (at < moved.shape).all():
                moved[tuple(at)] = number
    return moved, arrays[1], tuple(spacing[::-1])


def _overlaps(one: NDArray[np.int32], other: NDArray[np.int32]) -> dict[tuple[int, int], int]:
    """How many voxels each two lesions share."""
    both = (one > 0) & (other > 0)
    pairs, counts = np.unique(np.stack([one[both], other[both]]), axis=1, return_counts=True)
    return {(int(a), int(b)): int(count) for (a, b), count in zip(pairs.T, counts, strict=True)}


def _nearest(
    one: NDArray[np.int32],
    other: NDArray[np.int32],
    spacing_mm: tuple[float, ...],
    edges: set[tuple[int, int]],
    numbers: tuple[set[int], set[int]],
) -> dict[tuple[int, int], float]:
    """Pairs of lesions without overlap, the nearest first, each lesion once, with the distance of their surfaces."""
    alone = [sorted(numbers[side] - {edge[side] for edge in edges}) for side in (0, 1)]
    points = [_points(volume, side, spacing_mm) for volume, side in zip((one, other), alone, strict=True)]
    trees = [{number: cKDTree(place) for number, place in side.items()} for side in points]
    distances = {}
    for a, tree in trees[0].items():
        for b in trees[1]:
            between, _ = tree.query(points[1][b], distance_upper_bound=NEAREST_MM + max(spacing_mm))
            distances[a, b] = max(0.0, float(between.min()) - float(np.mean(spacing_mm)))  # of surfaces, not of centres
    chosen: dict[tuple[int, int], float] = {}
    for (a, b), mm in sorted(distances.items(), key=lambda item: (item[1], item[0])):
        if mm <= NEAREST_MM and not any(a == pair[0] or b == pair[1] for pair in chosen):
            chosen[a, b] = mm
    return chosen


def _points(
    volume: NDArray[np.int32], numbers: Sequence[int], spacing_mm: tuple[float, ...]
) -> dict[int, NDArray[np.float64]]:
    """The voxels (n, 3) of each lesion that is there, mm (z, y, x)."""
    boxes = ndimage.find_objects(volume)
    found = {}
    for number in numbers:
        box = boxes[number - 1] if number <= len(boxes) else None
        if box is not None:
            start = [part.start for part in box]
            found[number] = (np.argwhere(volume[box] == number) + start) * spacing_mm
    return found


def _groups(edges: set[tuple[int, int]]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The lesions that hang together by overlaps: numbers of the first and of the second date."""
    if not edges:
        return []
    pairs = np.array(sorted(edges))
    ones, others = np.unique(pairs[:, 0]), np.unique(pairs[:, 1])
    rows, columns = np.searchsorted(ones, pairs[:, 0]), len(ones) + np.searchsorted(others, pairs[:, 1])
    size = len(ones) + len(others)
    count, group = connected_components(coo_array((np.ones(len(pairs)), (rows, columns)), (size, size)), directed=False)
    return [
        (
            tuple(int(n) for n in ones[group[: len(ones)] == which]),
            tuple(int(n) for n in others[group[len(ones) :] == which]),
        )
        for which in range(count)
    ]


def _inside(grid: Grid, point_mm: NDArray[np.float64]) -> bool:
    """Whether a point (mm) lies within a grid's voxels."""
    matrix = np.array(grid.direction).reshape(3, 3) * grid.spacing_mm
    index = np.linalg.solve(matrix, point_mm - np.array(grid.origin_mm))
    return bool((index >= -0.5).all() and (index <= np.array(grid.size) - 0.5).all())
