"""Shapes of the phantom: a frame of body coordinates, and ellipsoids and tubes painted into labels.

Body coordinates are mm of a reference adult: x to the left, y to posterior, z to superior, z = 0 at
the crotch, the vertex at 920. A frame maps voxels to them by a scale and a shift that may differ
from slice to slice, so that every organ follows the patient's size and the bend of the spine.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.phantom.tissues import LABELS

Box = tuple[slice, slice, slice]
Triple = tuple[float, float, float]
Vector = Sequence[float] | np.ndarray


@dataclass(frozen=True)
class Frame:
    """Body coordinates of a grid's voxels, as float32 arrays that broadcast to (z, y, x)."""

    x: np.ndarray  # (z, 1, x)
    y: np.ndarray  # (z, y, 1)
    z: np.ndarray  # (z, 1, 1)
    spacing_mm: Triple  # of the grid, x, y, z
    origin_mm: Triple  # of voxel 0, in the phantom's mm
    scale: Triple  # mm of the phantom per mm of body, x, y, z; of a fitted frame on average
    bend_mm: np.ndarray  # (z, 2): shift of x and y in body mm, slice by slice
    stretch: np.ndarray | None = None  # (z, 2): of a fitted frame, scale of x and y slice by slice

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels (z, y, x)."""
        return self.z.shape[0], self.y.shape[1], self.x.shape[2]


@dataclass(frozen=True)
class Canvas:
    """The grid and labels that organs are painted on, and the generator for their random choices."""

    frame: Frame
    labels: np.ndarray  # uint8 (z, y, x), painted in place
    rng: np.random.Generator


def make_frame(
    shape: tuple[int, int, int],
    spacing_mm: Triple,
    origin_mm: Triple,
    scale: Triple,
    waves: Sequence[Triple],
) -> Frame:
    """Frame of a grid: body = mm / scale - bend(z).

    shape (z, y, x); waves: (amplitude mm, wavelength mm, phase) of the bend in x, then in y.
    """
    line = [
        ((origin_mm[axis] + spacing_mm[axis] * np.arange(shape[2 - axis])) / scale[axis]).astype(np.float32)
        for axis in range(3)
    ]
    bend = np.stack([a * np.sin(2 * np.pi * line[2] / w + p) for a, w, p in waves], 1).astype(np.float32)
    x = line[0][None, None, :] - bend[:, 0, None, None]
    y = line[1][None, :, None] - bend[:, 1, None, None]
    return Frame(x, y, line[2][:, None, None], spacing_mm, origin_mm, scale, bend)


def fitted_frame(
    shape: tuple[int, int, int], spacing_mm: Triple, origin_mm: Triple, heights: np.ndarray, lines: np.ndarray
) -> Frame:
    """Frame of a grid that follows a patient slice by slice: heights (z) are the slices' body z, rising, and lines
    (z, 4) their scale of x and of y, and the shift of x and of y in mm of the phantom: body = (mm - shift) / scale.
    """
    stretch, shift = lines[:, :2].astype(np.float32), lines[:, 2:].astype(np.float32)
    x, y = (
        (origin_mm[axis] + spacing_mm[axis] * np.arange(shape[2 - axis])).astype(np.float32)[None, :] for axis in (0, 1)
    )
    bend = shift / stretch
    tall = spacing_mm[2] * (shape[0] - 1) / float(heights[-1] - heights[0])
    return Frame(
        x=((x - shift[:, :1]) / stretch[:, :1])[:, None, :],
        y=((y - shift[:, 1:]) / stretch[:, 1:])[:, :, None],
        z=heights.astype(np.float32)[:, None, None],
        spacing_mm=spacing_mm,
        origin_mm=origin_mm,
        scale=(float(stretch[:, 0].mean()), float(stretch[:, 1].mean()), tall),
        bend_mm=bend,
        stretch=stretch,
    )


def height_mm(frame: Frame, body_z: float) -> float:
    """The phantom's mm of a height in body coordinates; a fitted frame goes on evenly beyond its ends."""
    if frame.stretch is None:
        return body_z * frame.scale[2]
    return float(frame.origin_mm[2]) + float(frame.spacing_mm[2]) * _slice_of(frame, body_z)


def _slice_of(frame: Frame, body_z: float) -> float:
    """The place of a height among the slices of a fitted frame."""
    line = frame.z[:, 0, 0].astype(float)
    place = float(np.interp(body_z, line, np.arange(len(line))))
    step = float(line[-1] - line[0]) / (len(line) - 1)
    return place + (min(body_z - float(line[0]), 0.0) + max(body_z - float(line[-1]), 0.0)) / step


def to_phantom_mm(frame: Frame, point: Vector) -> np.ndarray:
    """A point of body coordinates (x, y, z) in the phantom's mm."""
    row = int(np.clip(np.searchsorted(frame.z[:, 0, 0], point[2]), 0, frame.shape[0] - 1))
    bend = np.append(frame.bend_mm[row], 0.0)
    if frame.stretch is not None:
        x, y = (np.asarray(point, float)[:2] + bend[:2]) * frame.stretch[row]
        return np.array([x, y, height_mm(frame, float(point[2]))])
    placed: np.ndarray = (np.asarray(point, float) + bend) * np.asarray(frame.scale)
    return placed


def box_around(frame: Frame, low: Vector, high: Vector) -> Box:
    """Slices (z, y, x) that hold the body coordinates from low to high, the bend included."""
    if frame.stretch is not None:
        return _fitted_box(frame, low, high)
    bounds = []
    for axis in (2, 1, 0):
        slack = 0.0 if axis == 2 else float(np.abs(frame.bend_mm[:, axis]).max())
        step = frame.spacing_mm[axis]
        start = ((low[axis] - slack) * frame.scale[axis] - frame.origin_mm[axis]) / step
        stop = ((high[axis] + slack) * frame.scale[axis] - frame.origin_mm[axis]) / step
        size = frame.shape[2 - axis]
        bounds.append(slice(int(np.clip(np.floor(start), 0, size)), int(np.clip(np.ceil(stop) + 1, 0, size))))
    return bounds[0], bounds[1], bounds[2]


def _fitted_box(frame: Frame, low: Vector, high: Vector) -> Box:
    """`box_around` for a fitted frame: first the slices, then the widest bounds among them."""
    assert frame.stretch is not None
    start = int(np.clip(np.floor(_slice_of(frame, float(low[2]))), 0, frame.shape[0]))
    stop = int(np.clip(np.ceil(_slice_of(frame, float(high[2]))) + 1, 0, frame.shape[0]))
    if start >= stop:
        return slice(0, 0), slice(0, 0), slice(0, 0)
    rows = slice(start, stop)
    bounds = [rows]
    for axis in (1, 0):
        size, origin, step = frame.shape[2 - axis], frame.origin_mm[axis], frame.spacing_mm[axis]
        bend, scale = frame.bend_mm[rows, axis], frame.stretch[rows, axis]
        first, last = ((low[axis] + bend) * scale).min(), ((high[axis] + bend) * scale).max()
        begin, end = np.floor((first - origin) / step), np.ceil((last - origin) / step) + 1
        bounds.append(slice(int(np.clip(begin, 0, size)), int(np.clip(end, 0, size))))
    return bounds[0], bounds[1], bounds[2]


def block(frame: Frame, box: Box) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Body coordinates x, y, z inside a box, each to be broadcast to (z, y, x)."""
    z, y, x = box
    return frame.x[z, :, x], frame.y[z, y, :], frame.z[z]


def rotation(about_x: float = 0.0, about_y: float = 0.0, about_z: float = 0.0) -> np.ndarray:
    """Rotation matrix (3, 3) on (x, y, z) by angles in degrees, x first."""
    (cx, cy, cz), (sx, sy, sz) = (f(np.deg2rad([about_x, about_y, about_z])) for f in (np.cos, np.sin))
    turn_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    turn_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    turn_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    turn: np.ndarray = (turn_z @ turn_y @ turn_x).astype(np.float32)
    return turn


def ripple(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, z: np.ndarray, wavelength_mm: float) -> np.ndarray:
    """A smooth random field in about [-1, 1] on these coordinates: a sum of three products of sines."""
    field: np.ndarray = np.zeros((), np.float32)
    for _ in range(3):
        k = (2 * np.pi / (wavelength_mm * rng.uniform(0.6, 1.5, 3))).astype(np.float32)
        phase = rng.uniform(0, 2 * np.pi, 3).astype(np.float32)
        waves = [np.sin(k[i] * c + phase[i]) for i, c in enumerate((x, y, z))]
        field = field + waves[0] * waves[1] * waves[2]
    return np.float32(0.8) * field


def ellipsoid(
    frame: Frame,
    centre: Vector,
    radii: Vector,
    turn: np.ndarray | None = None,
    rng: np.random.Generator | None = None,
    rough: float = 0.0,
) -> tuple[Box, np.ndarray]:
    """Level of an ellipsoid in its box: 0 in the centre, 1 on the surface (the squared radius).

    turn: rotation of the ellipsoid's axes; rough: share by which a ripple moves the surface.
    """
    reach = np.asarray(radii) if turn is None else np.sqrt((turn**2) @ np.square(radii))
    reach = reach * (1 + rough)
    box = box_around(frame, np.asarray(centre) - reach, np.asarray(centre) + reach)
    x, y, z = (c - np.float32(m) for c, m in zip(block(frame, box), centre, strict=True))
    if turn is None:
        level = (x / radii[0]) ** 2 + (y / radii[1]) ** 2 + (z / radii[2]) ** 2
    else:
        level = sum(((turn[0, i] * x + turn[1, i] * y + turn[2, i] * z) / radii[i]) ** 2 for i in range(3))
    if rough and rng is not None:
        level = level * (1 + 2 * np.float32(rough) * ripple(rng, x, y, z, 1.6 * float(np.mean(radii))))
    return box, level.astype(np.float32, copy=False)


def paint(labels: np.ndarray, box: Box, inside: np.ndarray, name: str, over: Sequence[str] = ()) -> None:
    """Write the label of `name` where `inside`, only over the tissues in `over` (none given: over all)."""
    view = labels[box]
    if over:
        allowed = np.zeros(256, bool)
        allowed[[LABELS[tissue] for tissue in over]] = True
        inside = inside & allowed[view]
    view[np.broadcast_to(inside, view.shape)] = LABELS[name]


def blob(
    canvas: Canvas,
    name: str,
    centre: Vector,
    radii: Vector,
    over: Sequence[str] = (),
    turn: np.ndarray | None = None,
    rough: float = 0.0,
) -> None:
    """Paint an ellipsoid; see `ellipsoid` for turn and rough."""
    box, level = ellipsoid(canvas.frame, centre, radii, turn, canvas.rng, rough)
    paint(canvas.labels, box, level < 1, name, over)


def along(points: Sequence[Vector], step_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, 3) every step_mm on the line through `points`, and their place (n,) on [0, 1]."""
    corners = np.asarray(points, float)
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(corners, axis=0), axis=1))])
    place = np.linspace(0, length[-1], max(2, int(np.ceil(length[-1] / step_mm)) + 1))
    dense = np.stack([np.interp(place, length, corners[:, axis]) for axis in range(3)], 1)
    return dense, place / length[-1]


def tube(
    canvas: Canvas,
    name: str,
    points: Sequence[Vector],
    radii: Vector,
    over: Sequence[str] = (),
) -> None:
    """Paint balls along a line; radii in mm are spread evenly from its first to its last point."""
    dense, place = along(points, max(1.5, 0.45 * float(np.min(radii))))
    radius = np.interp(place, np.linspace(0, 1, len(radii)), radii)
    for centre, r in zip(dense, radius, strict=True):
        box, level = ellipsoid(canvas.frame, centre, (r, r, r))
        if level.size:
            paint(canvas.labels, box, level < 1, name, over)
