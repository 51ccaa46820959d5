"""Outlines of masks as polygons along the edges of pixels, so that they enclose exactly the mask's pixels."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

EIGHT_NEIGHBOURS = np.ones((3, 3), int)  # pixels that touch at a corner are connected
ON_CENTRE = 0.02  # of a pixel: how far a corner may lie from a pixel's centre that is drawn there (rounded to 0.01 mm)
ROUNDING = 1e-9  # of a pixel
Polygon = NDArray[np.float64]  # (n, 2): column and row, in pixels, (0, 0) is the centre of the first pixel


def outlines(plane: NDArray[Any]) -> list[Polygon]:
    """Closed polygons that together cover exactly the pixels set in a (y, x) mask, and do not overlap.

    A region with a hole is cut in two along a row of the hole, since a DICOM contour has no holes. An empty mask has
    no polygons.
    """
    found = []
    pieces = [(plane.astype(bool), 0, 0)]  # each with its top row and left column
    while pieces:
        piece, top, left = pieces.pop()
        labels, _ = ndimage.label(piece)  # 4-connected, so that no outline crosses itself
        for label, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
            region = labels[rows, columns] == label
            y, x = top + rows.start, left + columns.start
            row = _row_of_a_hole(region)
            if row is None:
                found.append(_outline(region) + (x, y))
            else:
                pieces += [(region[: row + 1], y, x), (region[row + 1 :], y + row + 1, x)]
    return sorted(found, key=lambda polygon: polygon[0].tolist())


def _row_of_a_hole(region: NDArray[np.bool_]) -> int | None:
    """First row of the first hole, or None. A hole is background that is not connected to the border (8-connected)."""
    labels, count = ndimage.label(np.pad(~region, 1, constant_values=True), structure=EIGHT_NEIGHBOURS)
    if count < 2:
        return None
    outside = labels[0, 0]
    return int(np.argwhere((labels != 0) & (labels != outside))[0][0]) - 1


def _outline(region: NDArray[np.bool_]) -> Polygon:
    """The outer edge of a region without holes: its corners in order, clockwise on a screen."""
    edges = _edges(region)
    start = min(edges)
    corners: list[tuple[int, int]] = []
    corner, heading = start, (1, 0)
    while True:
        options = edges[corner]
        # where two pixels touch at a corner, the sharpest right turn stays on the present pixel
        step = max(options, key=lambda s: heading[0] * s[1] - heading[1] * s[0]) if len(options) > 1 else options[0]
        options.remove(step)
        if step != heading or not corners:
            corners.append(corner)
        corner, heading = (corner[0] + step[0], corner[1] + step[1]), step
        if corner == start and not edges[start]:
            break
    return np.array(corners, np.float64) - 0.5


def _edges(region: NDArray[np.bool_]) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """Edges between set and unset pixels: the corner (x, y) where they start -> their steps, clockwise on a screen."""
    padded = np.pad(region, 1)
    inside = padded[1:-1, 1:-1]
    sides = (
        (~padded[:-2, 1:-1], (0, 0), (1, 0)),  # the pixel above is unset: along its upper edge, to the right
        (~padded[1:-1, 2:], (1, 0), (0, 1)),  # right edge, downwards
        (~padded[2:, 1:-1], (1, 1), (-1, 0)),  # lower edge, to the left
        (~padded[1:-1, :-2], (0, 1), (0, -1)),  # left edge, upwards
    )
    edges: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for open_side, (dx, dy), step in sides:
        for y, x in np.argwhere(inside & open_side):
            edges.setdefault((int(x) + dx, int(y) + dy), []).append(step)
    return edges


def filled(polygon: Polygon, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels (y, x) whose centres lie in a closed polygon, by the even-odd rule.

    Of centres on an edge, those on a left or an upper edge are inside. A keyhole, whose two sides lie on each other,
    leaves its hole out. Parts outside the picture are cut off.
    """
    inside = np.zeros(shape, bool)
    x, y = polygon[:, 0], polygon[:, 1]
    x_next, y_next = np.roll(x, -1), np.roll(y, -1)
    rows = np.arange(max(0, int(np.ceil(y.min()))), min(shape[0], int(np.floor(y.max())) + 1))
    crossed = (np.minimum(y, y_next) <= rows[:, None]) & (rows[:, None] < np.maximum(y, y_next))  # (rows, edges)
    row, edge = np.nonzero(crossed)
    share = (rows[row] - y[edge]) / (y_next[edge] - y[edge])
    columns = np.ceil(x[edge] + share * (x_next[edge] - x[edge])).clip(0, shape[1]).astype(int)
    turns = np.zeros((len(rows), shape[1] + 1), int)
    np.add.at(turns, (row, columns), 1)
    inside[rows] = turns.cumsum(axis=1)[:, :-1] % 2 == 1
    return inside


def filled_together(polygons: list[Polygon], shape: tuple[int, int], xor: bool = False) -> NDArray[np.bool_]:
    """The pixels (y, x) that the contours of one region in one slice enclose: one that lies inside others is a hole, or
    an island in a hole, by turns; others are added. Equal contours count once.

    Pixels whose centres lie on a contour are of the region, if all its corners are centres of pixels: OpenCV and
    cornerstone (rt-utils, OHIF) draw through the centres of the outermost pixels, around holes, too. xor: pixels inside
    an odd number of contours, as CLOSEDPLANAR_XOR says (PS3.3, C.8.8.6).
    """
    different = list({polygon.tobytes(): polygon for polygon in polygons}.values())
    parts = [_with_and_without_line(polygon, shape) for polygon in different]
    inside = np.zeros(shape, bool)
    for part, without_line in sorted(parts, key=lambda both: -np.count_nonzero(both[0])):
        if part.any() and inside[part].all():
            inside = inside ^ without_line if xor else inside & ~without_line
        else:
            inside = inside ^ part if xor else inside | part
    return inside


def on_centres(polygon: Polygon) -> bool:
    """Whether all corners of a polygon, which may be a line or a point, are centres of pixels."""
    return bool(np.abs(polygon - np.round(polygon)).max() <= ON_CENTRE)


def _with_and_without_line(polygon: Polygon, shape: tuple[int, int]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The pixels that a polygon holds: with those on its line, and without; the same unless its corners are centres."""
    if not on_centres(polygon):
        held = filled(polygon, shape)
        return held, held
    whole = np.round(polygon)
    held, line = filled(whole, shape), _on_line(whole, shape)
    return held | line, held & ~line


def _on_line(polygon: Polygon, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels (y, x) whose centres lie on a closed polygon, whose corners are centres of pixels."""
    found = np.zeros(shape, bool)
    for (x, y), (x_next, y_next) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        rows = np.arange(np.ceil(min(y, y_next)), np.floor(max(y, y_next)) + 1)
        if y == y_next:
            columns = np.arange(np.ceil(min(x, x_next)), np.floor(max(x, x_next)) + 1)
            rows = np.repeat(rows, len(columns))
        else:
            columns = x + (rows - y) / (y_next - y) * (x_next - x)
            whole = np.abs(columns - np.round(columns)) < ROUNDING
            rows, columns = rows[whole], columns[whole]
        row, column = rows.astype(int), np.round(columns).astype(int)
        within = (row >= 0) & (row < shape[0]) & (column >= 0) & (column < shape[1])
        found[row[within], column[within]] = True
    return found
