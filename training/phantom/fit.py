"""The model's body fitted to a real patient's organ map: the height of every slice, its width and depth.

Heights are fitted at landmarks that every map or most maps have (bladder, kidneys, heart, lungs' tips, salivary glands,
brain), width, depth and position at the lungs, the upper abdomen, the bladder and the brain. Between them all goes
straight, then it is smoothed. What is fitted this way is the body around the organs; the organs are the map's own.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from training.phantom.maps import OrganMap
from training.phantom.shapes import Frame, Triple, fitted_frame

LEAST_SCALE, MOST_SCALE = 0.72, 1.4  # mm of a patient for a mm of the model, along any axis
SMOOTH_MM = 25.0
MOST_TILT_MM = 12.0  # of the pelvis against the kidneys, along y: the bladder may lie anywhere in it
HALF_X_MM, HALF_Y_MM = 330.0, 230.0  # of the model grid
FEET_Z = -240.0  # body z; the model's legs end below
CHEST = np.array(
    [(335, 122, 86, 80), (420, 128, 87, 86), (520, 122, 78, 84), (600, 95, 50, 82)]
)  # z, half, front, back
ABDOMEN_HALF, KIDNEY_Y, LIVER_FRONT_Y = 116.0, 48.0, -80.0  # of the model, mm
HEAD_HALF, HEAD_DEPTH, HEAD_Y = 62.0, 83.0, 4.0


@dataclass(frozen=True)
class Landmarks:
    """Positions in an organ map's mm. heights: (mm, body z), rising. lines: mm, and there scale of x and y, shift of x
    and y (`training.phantom.shapes.fitted_frame`).
    """

    heights: np.ndarray
    lines: np.ndarray


class Extent:
    """Where an organ lies in a map: its voxels' mm along x, y and z, for percentiles."""

    def __init__(self, mm: np.ndarray) -> None:
        self.mm, self.count = mm, len(mm)

    def at(self, axis: int, percent: float) -> float:
        """The position along an axis (0 = x) below which so many percent of the organ lie."""
        return float(np.percentile(self.mm[:, axis], percent))

    def near(self, z_mm: float, within_mm: float) -> "Extent":
        """The part of the organ that lies near a height."""
        return Extent(self.mm[np.abs(self.mm[:, 2] - z_mm) <= within_mm])


def find_landmarks(map: OrganMap) -> Landmarks:
    """The landmarks of a map."""
    found = {
        organ: Extent(np.argwhere(map.mask(organ))[:, ::-1] * np.asarray(map.spacing_mm))
        for organ in ("bladder", "kidneys", "heart", "lungs", "liver", "spleen", "stomach", "glands", "brain")
    }
    return Landmarks(heights=_heights(map, found), lines=_lines(found))


def fit_frame(map: OrganMap, spacing_mm: Triple, top_z: float | None) -> tuple[Frame, np.ndarray]:
    """The fitted frame on a grid of this spacing, and the map's mm (x, y, z) of the phantom's zero.

    The grid reaches from the map's lower end, or the thighs, to its upper end, or to top_z (body z).
    """
    marks = find_landmarks(map)
    middle = marks.lines[
        np.abs(marks.lines[:, 0] - np.interp(290.0, marks.heights[:, 1], marks.heights[:, 0])).argmin()
    ]
    zero = np.array([middle[3], middle[4], 0.0])
    end = map.spacing_mm[2] * (map.labels.shape[0] - 1)
    low = max(0.0, float(_straight(np.array([FEET_Z]), marks.heights[:, ::-1])[0]))
    high = end if top_z is None else min(end, float(_straight(np.array([top_z]), marks.heights[:, ::-1])[0]))
    shape = (int((high - low) / spacing_mm[2]), int(2 * HALF_Y_MM / spacing_mm[1]), int(2 * HALF_X_MM / spacing_mm[0]))
    z_mm = low + spacing_mm[2] * np.arange(shape[0])
    sigma = SMOOTH_MM / spacing_mm[2]
    heights = gaussian_filter1d(_straight(_padded(z_mm, spacing_mm[2]), marks.heights), sigma)[_PAD:-_PAD]
    lines = np.stack([np.interp(z_mm, marks.lines[:, 0], column) for column in marks.lines.T[1:]], axis=1)
    lines = gaussian_filter1d(lines, sigma, axis=0, mode="nearest")
    lines[:, 2:] -= zero[:2]
    origin = (-HALF_X_MM, -HALF_Y_MM, float(low))
    return fitted_frame(shape, spacing_mm, origin, heights, lines), zero


_PAD = 64  # slices added at each end before smoothing, so that the ends go on straight


def _padded(line: np.ndarray, step: float) -> np.ndarray:
    before, after = line[0] - step * np.arange(_PAD, 0, -1), line[-1] + step * np.arange(1, _PAD + 1)
    return np.concatenate([before, line, after])


def _straight(at: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Linear between points (n, 2), and on beyond the first and the last with the slope from the first to the last."""
    slope = (points[-1, 1] - points[0, 1]) / (points[-1, 0] - points[0, 0])
    beyond = np.minimum(at - points[0, 0], 0) + np.maximum(at - points[-1, 0], 0)
    found: np.ndarray = np.interp(at, points[:, 0], points[:, 1]) + slope * beyond
    return found


def _heights(map: OrganMap, found: dict[str, Extent]) -> np.ndarray:
    """Landmarks along z: those of NEEDED organs first; another is taken where the scale between it and the landmark
    before stays within the limits.
    """
    marks = [
        (found["kidneys"].at(2, 50), 290.0),
        (found["heart"].at(2, 50), 468.0),
        (found["lungs"].at(2, 99.5), 655.0),
    ]
    marks = _within_limits(marks)
    if found["bladder"].count > 200:
        marks = _within_limits([(found["bladder"].at(2, 3), 44.0), *marks])
    if found["glands"].count > 100:
        marks = _within_limits([*marks, (found["glands"].at(2, 50), 722.0)])
    brain = found["brain"]
    if brain.count > 4000:
        marks = _within_limits([*marks, (brain.at(2, 1), 768.0)])
        end = map.spacing_mm[2] * (map.labels.shape[0] - 1)
        if brain.mm[:, 2].max() < end - 2 * map.spacing_mm[2]:  # the scan goes beyond the vertex
            marks = _within_limits([*marks, (brain.at(2, 99.5), 900.0)])
    return np.array(marks)


def _within_limits(marks: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The marks, each moved in the body so that the scale between neighbours stays within the limits."""
    kept = list(marks)
    for number in range(1, len(kept)):
        (low_mm, low_z), (high_mm, high_z) = kept[number - 1], kept[number]
        scale = np.clip((high_mm - low_mm) / (high_z - low_z), LEAST_SCALE, MOST_SCALE)
        kept[number] = (high_mm, low_z + max(high_mm - low_mm, 1.0) / scale)
    return kept


def _lines(found: dict[str, Extent]) -> np.ndarray:
    """Scale of x and y, and shift of x and y, at the heights where they can be seen: (n, 5), rising."""
    rows = []
    lungs, kidneys, liver = found["lungs"], found["kidneys"], found["liver"]
    left = found["spleen"] if found["spleen"].count > 500 else found["stomach"]
    right_x = liver.at(0, 1)
    left_x = left.at(0, 99) if left.count > 500 else 2 * kidneys.at(0, 50) - right_x
    wide = (left_x - right_x) / 2 / ABDOMEN_HALF
    deep = (kidneys.at(1, 50) - liver.at(1, 2)) / (KIDNEY_Y - LIVER_FRONT_Y)
    wide, deep = np.clip([wide, deep], LEAST_SCALE, MOST_SCALE)
    rows.append((kidneys.at(2, 50), wide, deep, (left_x + right_x) / 2, kidneys.at(1, 50) - deep * KIDNEY_Y))
    bottom, top = lungs.at(2, 1), lungs.at(2, 99.5)
    for share, model in zip((0.3, 0.55, 0.8), CHEST[1:], strict=True):
        z_mm = bottom + share * (top - bottom)
        if z_mm <= rows[-1][0] + 30:
            continue
        part = lungs.near(z_mm, 6)
        (x0, x1), (y0, y1) = ((part.at(axis, 0.5), part.at(axis, 99.5)) for axis in (0, 1))
        _, half, front, back = model
        wide = np.clip((x1 - x0) / 2 / half, LEAST_SCALE, MOST_SCALE)
        deep = np.clip((y1 - y0) / (front + back), LEAST_SCALE, MOST_SCALE)
        rows.append((z_mm, wide, deep, (x0 + x1) / 2, (y0 + y1) / 2 - deep * (back - front) / 2))
    brain, bladder = found["brain"], found["bladder"]
    if bladder.count > 200:
        wide, deep = (1 + rows[0][1]) / 2, (1 + rows[0][2]) / 2
        straight = np.clip(bladder.at(1, 50) + deep * 22 - rows[0][4], -MOST_TILT_MM, MOST_TILT_MM)
        pelvis = (bladder.at(2, 50), wide, deep, bladder.at(0, 50), rows[0][4] + straight)
        if pelvis[0] < rows[0][0] - 60:
            rows.insert(0, pelvis)
    if brain.count > 4000:
        part = brain.near(brain.at(2, 50), 20)
        (x0, x1), (y0, y1) = ((part.at(axis, 0.5), part.at(axis, 99.5)) for axis in (0, 1))
        wide = np.clip((x1 - x0) / 2 / HEAD_HALF, LEAST_SCALE, MOST_SCALE)
        deep = np.clip((y1 - y0) / 2 / HEAD_DEPTH, LEAST_SCALE, MOST_SCALE)
        rows.append((brain.at(2, 50), wide, deep, (x0 + x1) / 2, (y0 + y1) / 2 - deep * HEAD_Y))
    return np.array(rows)
