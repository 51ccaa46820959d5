"""A body painted around a real patient's organ map: organs as they are in the map, the rest from our model, fitted.

The order: skin, fat, muscle and bones of the fitted model; bowel and pancreas; lungs of the map and the vessels; the
map's other organs; what lies inside them (heart wall, kidneys' pelvis, grey and white matter) and between them
(ureters); neck; uptake that only some patients show. Where an organ of the map reaches out of the model's body, the
body grows.
"""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter

from training.phantom.anatomy import Build, paint_body, vary
from training.phantom.fit import fit_frame
from training.phantom.maps import OrganMap
from training.phantom.organs import paint_bowel, paint_head, paint_neck, paint_variants, paint_vessels
from training.phantom.shapes import (
    Canvas,
    Frame,
    Triple,
    blob,
    block,
    box_around,
    ellipsoid,
    paint,
    ripple,
    rotation,
    tube,
)
from training.phantom.tissues import LABELS

SOFT_MM, FAT_MM, SKIN_MM = 7.0, 6.0, 2.2  # that the body has at least around an organ of the map
FLUID_MM, SKULL_MM, SCALP_MM = 2.5, 8.0, 14.0  # from the brain's surface outwards
BONE_DEEP_MM = 7.0  # bones of the model stay within this distance of an organ's surface
STAMPS = {  # organs of the map, in the order in which they are painted, and the tissue of each
    "stomach": "stomach",
    "spleen": "spleen",
    "liver": "liver",
    "kidneys": "kidney",
    "bladder": "bladder",
    "prostate": "prostate",
    "glands": "gland",
    "heart": "blood",
}
BONES = ("cortical bone", "marrow", "fatty marrow")
INSIDE_HEAD = ("grey matter", "white matter", "brain fluid", "cortical bone", "marrow")


def paint_fitted(
    map: OrganMap, build: Build, spacing_mm: Triple, top_z: float | None, rng: np.random.Generator
) -> tuple[Frame, np.ndarray]:
    """Frame and labels (z, y, x) of a patient whose organs are a map's. top_z: where the scan ends, in body z."""
    frame, zero = fit_frame(map, spacing_mm, top_z)
    labels = np.zeros(frame.shape, np.uint8)
    canvas, organs = Canvas(frame, labels, rng), Organs(map, frame, zero)
    paint_body(canvas, build)
    labels[labels == LABELS["lung"]] = LABELS["cavity fat"]  # the map has the lungs
    _grow_body(canvas, organs)
    paint_bowel(canvas)
    tube(canvas, "pancreas", [(-28, -10, 285), (5, -16, 305), (70, 15, 335)], (14, 10, 9), ("cavity fat",))
    paint_head(canvas)
    _stamp(canvas, organs, "lungs", "lung")
    paint_vessels(canvas)
    for organ, tissue in STAMPS.items():
        _stamp(canvas, organs, organ, tissue)
    _paint_inside_stomach(canvas, organs)
    _paint_heart_wall(canvas, organs)
    _paint_urine(canvas, organs)
    _paint_brain(canvas, organs)
    paint_neck(canvas)
    paint_variants(canvas)
    _paint_more_variants(canvas)
    return frame, labels


class Organs:
    """A map's organs on the model's grid, each smoothed so that the map's voxels do not show."""

    def __init__(self, map: OrganMap, frame: Frame, zero_mm: np.ndarray) -> None:
        self.map = map
        self.places = [  # voxels of the map at the grid's lines, z, y, x
            (frame.origin_mm[axis] + frame.spacing_mm[axis] * np.arange(frame.shape[2 - axis]) + zero_mm[axis])
            / map.spacing_mm[axis]
            for axis in (2, 1, 0)
        ]

    def inside(self, organ: str) -> tuple[tuple[slice, slice, slice], np.ndarray]:
        """A box of the grid (z, y, x) and how deep its voxels lie in the organ, in mm: above 0 inside."""
        return self.depth(self.map.mask(organ))

    def depth(self, mask: np.ndarray, margin_mm: float = 9.0) -> tuple[tuple[slice, slice, slice], np.ndarray]:
        """As `inside`, for a mask on the map; the box reaches margin_mm beyond it."""
        index = np.argwhere(mask)
        if not len(index):
            return (slice(0, 0), slice(0, 0), slice(0, 0)), np.zeros((0, 0, 0), np.float32)
        spacing = np.asarray(self.map.spacing_mm[::-1])
        margin = np.ceil(margin_mm / spacing).astype(int) + 1
        low = np.maximum(index.min(0) - margin, 0)
        high = np.minimum(index.max(0) + margin + 1, mask.shape)
        part = mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        away = distance_transform_edt(part, spacing) - distance_transform_edt(~part, spacing)
        smooth = gaussian_filter(away.astype(np.float32), 0.6)
        box, grid = [], []
        for places, first, last in zip(self.places, low, high, strict=True):
            start, stop = np.searchsorted(places, first), np.searchsorted(places, last - 1, side="right")
            box.append(slice(int(start), int(stop)))
            grid.append(places[start:stop] - first)
        return (box[0], box[1], box[2]), linear(smooth, grid)


def linear(volume: np.ndarray, places: Sequence[np.ndarray]) -> np.ndarray:
    """A volume (z, y, x) read between its voxels, linearly along each axis, at lines of places within it."""
    for axis, place in enumerate(places):
        low = np.clip(np.floor(place).astype(int), 0, max(volume.shape[axis] - 2, 0))
        share = (place - low).astype(np.float32)
        high = np.minimum(low + 1, volume.shape[axis] - 1)
        shape = [1, 1, 1]
        shape[axis] = len(place)
        first, last = volume.take(low, axis), volume.take(high, axis)
        volume = first + (last - first) * share.reshape(shape)
    return volume


def _stamp(canvas: Canvas, organs: Organs, organ: str, tissue: str) -> None:
    """Paint an organ of the map over all; over bones only deep inside, where the model's bones cannot be."""
    box, deep = organs.inside(organ)
    labels = canvas.labels[box]
    bone = np.isin(labels, [LABELS[name] for name in BONES])
    labels[(deep > 0) & (~bone | (deep > BONE_DEEP_MM))] = LABELS[tissue]


def _grow_body(canvas: Canvas, organs: Organs) -> None:
    """Muscle, fat and skin around every organ of the map that reaches too near to the model's skin, or out of it."""
    box, deep = organs.depth(organs.map.labels > 0, SOFT_MM + FAT_MM + SKIN_MM + 1)
    labels = canvas.labels[box]
    outside = -deep
    air, skin, fat = (LABELS[name] for name in ("air", "skin", "fat"))
    labels[(outside < SOFT_MM) & ((labels == air) | (labels == skin) | (labels == fat))] = LABELS["muscle"]
    labels[(outside < SOFT_MM + FAT_MM) & ((labels == air) | (labels == skin))] = fat
    labels[(outside < SOFT_MM + FAT_MM + SKIN_MM) & (labels == air)] = skin


def _paint_inside_stomach(canvas: Canvas, organs: Organs) -> None:
    """Gas in the front of some stomachs."""
    box, deep = organs.inside("stomach")
    if canvas.rng.random() < 0.6 and deep.size:
        rows = np.arange(deep.shape[1])[None, :, None]
        front = np.argmax((deep > 4).any((0, 2)))
        depth = canvas.rng.uniform(0.15, 0.5) * max(int((deep > 4).any((0, 2)).sum()), 1)
        canvas.labels[box][(deep > 4) & (rows < front + depth)] = LABELS["gut gas"]


def _paint_heart_wall(canvas: Canvas, organs: Organs) -> None:
    """The left ventricle's wall within the map's heart: to the left, in front and below of its middle."""
    rng = canvas.rng
    box, deep = organs.inside("heart")
    inside = deep > 0
    if not inside.any():
        return
    frame = canvas.frame
    lines = [
        frame.origin_mm[axis] + frame.spacing_mm[axis] * np.arange(frame.shape[2 - axis])[box[2 - axis]]
        for axis in (0, 1, 2)
    ]
    index = np.argwhere(inside)
    middle = [float(lines[axis][index[:, 2 - axis]].mean()) for axis in range(3)]
    radius = (3 * inside.sum() * float(np.prod(frame.spacing_mm)) / (4 * np.pi)) ** (1 / 3)
    turn = rotation(about_x=rng.uniform(28, 42)) @ rotation(about_y=rng.uniform(-48, -32))
    shift = radius * np.array([0.32, -0.25, -0.18])
    outer = vary(rng, (0.66, 0.66, 0.92)) * radius
    thick = 0.24 * radius * rng.uniform(0.9, 1.1)
    x, y, z = (
        line - at
        for line, at in zip(
            (lines[0][None, None, :], lines[1][None, :, None], lines[2][:, None, None]), middle + shift, strict=True
        )
    )
    along = [turn[0, i] * x + turn[1, i] * y + turn[2, i] * z for i in range(3)]
    level = sum((along[i] / outer[i]) ** 2 for i in range(3))
    cavity = sum((along[i] / (outer[i] - thick)) ** 2 for i in range(3))
    base = along[2] * np.sign(turn[2, 2]) > 0.5 * outer[2]  # the valves: no wall there
    canvas.labels[box][inside & (level < 1) & (cavity >= 1) & ~base] = LABELS["heart wall"]


def _paint_urine(canvas: Canvas, organs: Organs) -> None:
    """The kidneys' pelvis and calyces, and stretches of the ureters down to the bladder."""
    rng, frame = canvas.rng, canvas.frame
    box, deep = organs.inside("kidneys")
    index = np.argwhere(deep > 0)
    if not len(index):
        return
    body_x, body_y, body_z = block(frame, box)
    for side in (-1, 1):
        z, y, x = index.T
        half = index[np.sign(body_x[z, 0, x]) == side]
        if len(half) < 200:
            continue
        z, y, x = np.round(half.mean(0)).astype(int)
        centre = np.array([body_x[z, 0, x], body_y[z, y, 0], body_z[z, 0, 0]], float)
        for shift in (-18, 0, 18):
            if rng.random() < 0.75:
                blob(canvas, "urine", centre + (-4 * side, 0, shift), rng.uniform(3, 7, 3), ("kidney",))
        pelvis = centre - np.array([16 * side, 4, 4])
        blob(canvas, "urine", pelvis, rng.uniform(4, 9, 3) * (1, 0.8, 1.4), ("kidney", "cavity fat"))
        path = np.array([pelvis, (42 * side, 36, 215), (40 * side, 34, 150), (48 * side, 32, 100), (22 * side, 12, 72)])
        over = ("cavity fat", "muscle", "small bowel", "colon", "active bowel", "fat")
        for start in np.arange(0, 4, 0.25):
            if rng.random() < 0.3:
                ends = [[np.interp(start + d, range(5), path[:, a]) for a in range(3)] for d in (0, 0.25)]
                tube(canvas, "urine", ends, (rng.uniform(1.6, 3.0),), over)


def _paint_brain(canvas: Canvas, organs: Organs) -> None:
    """Grey and white matter in the map's brain, and its skull around it, in place of the model's."""
    mask = organs.map.mask("brain")
    if mask.sum() < 500:
        return
    box, deep = organs.depth(mask, SCALP_MM + 2)
    labels, rng = canvas.labels[box], canvas.rng
    model = np.isin(labels, [LABELS[name] for name in INSIDE_HEAD])
    low = canvas.frame.z[box[0]] > 770
    labels[model & low & (deep < 0)] = LABELS["muscle"]
    outside = -deep
    labels[(outside < SKULL_MM) & (outside >= 0)] = LABELS["cortical bone"]
    labels[(outside < SKULL_MM - 2) & (outside >= FLUID_MM + 1.5)] = LABELS["marrow"]
    labels[(outside < FLUID_MM) & (outside >= 0)] = LABELS["brain fluid"]
    x, y, z = block(canvas.frame, box)
    folds = 5.0 * ripple(rng, x, y, z, 26) + 3.0 * ripple(rng, x, y, z, 15)
    labels[deep > 0] = LABELS["grey matter"]
    labels[(deep > 7 + folds) & (deep > 2)] = LABELS["white matter"]
    labels[(deep > 0) & (np.abs(x) < 1.6) & (z > 790)] = LABELS["brain fluid"]
    for side in (-1, 1):
        blob(canvas, "grey matter", (18 * side, 0, 830), vary(rng, (13, 24, 15)), ("white matter",))
        blob(canvas, "brain fluid", (8 * side, 5, 842), (4, 26, 8), ("white matter", "grey matter"))


def _paint_more_variants(canvas: Canvas) -> None:
    """What else takes up FDG without being a lesion: inflamed joints, a thymus, scars, hot tonsils."""
    rng = canvas.rng
    joints = [(150, 10, 640), (104, 5, 40), (60, 55, 4), (84, 10, 58), (20, 50, 640), (16, 62, 300)]
    for joint in joints:
        for side in (-1, 1):
            if rng.random() < 0.08:
                centre = np.asarray(joint, float) * (side, 1, 1)
                box, level = ellipsoid(canvas.frame, centre, rng.uniform(10, 26, 3), None, rng, 0.2)
                paint(canvas.labels, box, (level < 1) & (level > 0.45), "inflamed joint", ("muscle", "fat", "disc"))
    if rng.random() < 0.2:
        box = box_around(canvas.frame, (-20, -85, 535), (20, -45, 595))
        x, y, z = block(canvas.frame, box)
        inside = np.abs(x) + np.abs(y + 66) < 18 - 0.25 * np.abs(z - 565)
        paint(canvas.labels, box, inside, "thymus", ("muscle", "cavity fat", "lung"))
    if rng.random() < 0.15:  # a cut along the belly, the breastbone or a hip
        start = np.array([(5, -96, 130), (0, -95, 430), (110, 10, 90)][rng.integers(3)], float)
        path = [start + (0, rng.normal(0, 3), step) for step in np.arange(0, rng.uniform(60, 160), 20.0)]
        tube(canvas, "scar", path, rng.uniform(3, 8, 3), ("fat", "muscle", "skin", "cavity fat"))
