"""The phantom's outline and skeleton, painted into labels: skin, fat, muscle, cavities, bones. organs.py has the rest.

Every function paints its region onto a `Canvas`, later paint over earlier. All lengths are mm of body
coordinates (training/phantom/shapes.py). Sizes are of a reference adult (ICRP Publication 110,
2009: liver 1.8 l, spleen 0.2 l, a kidney 0.17 l, lungs 3 to 4 l), varied from patient to patient.
"""

from dataclasses import dataclass

import numpy as np

from training.phantom.shapes import Box, Canvas, blob, block, box_around, ellipsoid, paint, rotation, tube

CAVITY = ("cavity fat", "lung")
TRUNK = np.array(  # z, half-width, anterior and posterior half-depth, centre in y, of the muscle's surface
    [
        (-110, 120, 48, 50, 5),
        (-70, 143, 66, 72, 5),
        (-20, 157, 84, 98, 5),
        (0, 160, 90, 101, 5),
        (50, 163, 92, 103, 5),
        (120, 150, 88, 100, 3),
        (220, 132, 86, 92, 0),
        (320, 138, 96, 96, 0),
        (420, 147, 102, 100, 0),
        (520, 153, 96, 100, 0),
        (580, 160, 84, 98, 0),
        (620, 168, 66, 88, 4),
        (645, 130, 52, 76, 8),
        (665, 74, 50, 66, 5),
        (690, 56, 54, 62, 0),
        (710, 56, 84, 66, -6),
        (740, 64, 92, 82, -6),
        (780, 72, 92, 96, -4),
        (820, 75, 90, 98, 0),
        (860, 71, 82, 92, 2),
        (890, 56, 64, 74, 4),
        (908, 38, 42, 52, 6),
        (921, 6, 6, 8, 8),
    ]
)


@dataclass(frozen=True)
class Build:
    """The build of one patient."""

    female: bool
    fat_mm: float  # under the skin of the flank
    belly_mm: float  # more of it in front
    arms_up: bool
    bladder_fill: float  # radius, as a share of a full bladder's


def draw_build(rng: np.random.Generator, arms_up_share: float) -> Build:
    """Draw a build; fat between 5 and 38 mm, so that a body holds about 45 to 120 l."""
    return Build(
        female=bool(rng.random() < 0.45),
        fat_mm=float(np.clip(rng.lognormal(2.5, 0.5), 5, 38)),
        belly_mm=float(np.clip(rng.normal(10, 12), 0, 38)),
        bladder_fill=float(rng.uniform(0.55, 1.05)),
        arms_up=bool(rng.random() < arms_up_share),
    )


def jitter(rng: np.random.Generator, point: tuple[float, float, float], sd_mm: float = 3.0) -> np.ndarray:
    """A point moved at random, at most two standard deviations an axis."""
    return np.asarray(point) + np.clip(rng.normal(0, sd_mm, 3), -2 * sd_mm, 2 * sd_mm)


def vary(rng: np.random.Generator, sizes: tuple[float, ...], sd: float = 0.07) -> np.ndarray:
    """Each size times a factor of its own (at most 16 % off 1) and all times one in common (6 %)."""
    return np.asarray(sizes) * np.clip(rng.normal(1, sd, len(sizes)), 0.84, 1.16) * rng.uniform(0.94, 1.06)


def paint_body(canvas: Canvas, build: Build) -> None:
    """Paint the whole patient: what covers another tissue comes after it."""
    _paint_limbs(canvas, build)
    _paint_trunk(canvas, build)
    _paint_cavities(canvas)
    _paint_spine(canvas)
    _paint_cage(canvas)
    _paint_hips(canvas)


def _stack(
    canvas: Canvas, table: np.ndarray, power: float, extra_mm: np.ndarray | None = None
) -> tuple[Box, np.ndarray]:
    """A stack of superellipses: its box, and the level in it, which is 1 on the surface. TRUNK names the columns.

    extra_mm (z of the grid, 3) is added to the half-width and to the anterior and posterior half-depth.
    """
    extra = np.zeros((canvas.frame.shape[0], 3)) if extra_mm is None else extra_mm
    wide, front, back = table[:, 1:4].max(0) + extra.max(0) + 15
    box = box_around(canvas.frame, (-wide, -front, table[0, 0]), (wide, back, table[-1, 0]))
    x, y, z = block(canvas.frame, box)
    half, front, back = (
        np.maximum(np.interp(z, table[:, 0], table[:, i + 1]) + extra[box[0], i, None, None], 1) for i in range(3)
    )
    y = y - np.interp(z, table[:, 0], table[:, 4])
    x_part = np.abs(x / half).astype(np.float32) ** np.float32(power)
    y_part = np.where(y < 0, -y / front, y / back).astype(np.float32) ** np.float32(power)
    return box, x_part + y_part


def _paint_trunk(canvas: Canvas, build: Build) -> None:
    """Skin, fat and muscle of trunk, neck and head; tissue further inside stays as it is."""
    z = canvas.frame.z[:, 0, 0].astype(float)
    share = np.interp(z, [-20, 60, 220, 420, 580, 660, 690, 720, 921], [1.1, 1.2, 1, 0.7, 0.6, 0.3, 0.25, 0.12, 0.1])
    belly = np.exp(-(((z - 210) / 110) ** 2)) * build.belly_mm
    wave = 2.0 * np.sin(z / 47 + canvas.rng.uniform(0, 6)) + 1.5 * np.sin(z / 29 + canvas.rng.uniform(0, 6))
    wave *= np.interp(z, [640, 690], [1, 0])
    hips = (8 if build.female else -4) * np.exp(-(((z - 60) / 90) ** 2))
    shoulders = (-8 if build.female else 6) * np.exp(-(((z - 600) / 60) ** 2))
    muscle = np.stack([wave + hips + shoulders, 0.5 * wave, 0.5 * wave], 1)
    fat = build.fat_mm * share[:, None] * np.array([1.0, 0.9, 1.0]) + belly[:, None] * np.array([0.3, 1, 0.05])
    deep = ("air", "skin", "fat")
    for name, extra, power in (
        ("skin", muscle + fat + 2.2, 2.3),
        ("fat", muscle + fat, 2.3),
        ("muscle", muscle, 2.4),
    ):
        over = deep if name == "muscle" else deep[:2] if name == "fat" else deep[:1]
        box, level = _stack(canvas, TRUNK, power, extra)
        x, _, below = block(canvas.frame, box)
        apart = np.abs(x) >= np.clip(-below, 0, None) * 0.25  # the gap between the thighs
        paint(canvas.labels, box, (level < 1) & apart, name, over)
        if build.female and name != "muscle":
            grow = 2 if name == "skin" else 0
            for side in (-1, 1):
                blob(canvas, name, (76 * side, -84, 488), (50 + grow, 28 + grow + 0.9 * build.fat_mm, 60 + grow), over)
    if build.female:
        for side in (-1, 1):
            blob(
                canvas,
                "breast",
                (78 * side, -96 - 0.7 * build.fat_mm, 482),
                vary(canvas.rng, (28, 16, 27)),
                ("fat",),
                rough=0.2,
            )


def _paint_limbs(canvas: Canvas, build: Build) -> None:
    """Thighs and arms: skin, fat, muscle and bone, as tubes one inside the other."""
    rng, fat = canvas.rng, build.fat_mm
    knee = np.array([rng.uniform(86, 100), rng.uniform(-22, 5), -300])
    hand = np.array([rng.uniform(25, 85), rng.uniform(-55, 0), rng.uniform(930, 1000)])
    elbow = np.array([rng.uniform(195, 225), rng.uniform(-30, 15), 800.0])
    if not build.arms_up:
        elbow = np.array([rng.uniform(212, 228) + 0.6 * fat, 15, 350.0])
        hand = np.array([rng.uniform(190, 225) + 0.8 * fat, rng.uniform(-50, -10), 60.0])
    for side in (-1, 1):
        flip = np.array([side, 1, 1])
        leg = [np.array([86, 5, 70]) * flip, np.array([88, 2, -20]) * flip, knee * flip]
        arm = [np.array([150, 8, 612]) * flip, elbow * flip, hand * flip]
        for name, grow in (("skin", 1.0), ("fat", 0.0)):
            over = ("air",) if name == "skin" else ("air", "skin")
            thick = 2.2 * grow
            tube(canvas, name, leg, (62 + 0.9 * fat + thick, 70 + 0.9 * fat + thick, 58 + 0.7 * fat + thick), over)
            tube(canvas, name, arm, (36 + 0.6 * fat + thick, 33 + 0.35 * fat + thick, 22 + thick), over)
        tube(canvas, "muscle", leg, (60, 67, 56), ("air", "skin", "fat"))
        tube(canvas, "muscle", arm, (40, 32, 19), ("air", "skin", "fat"))
        tube(canvas, "cortical bone", [(84 * side, 10, 60), (98 * side, 4, 20), knee * flip], (14, 16, 14))
        tube(canvas, "fatty marrow", [(84 * side, 10, 60), (98 * side, 4, 20), knee * flip], (11, 11, 8))
        tube(canvas, "cortical bone", [(150 * side, 10, 622), elbow * flip, hand * flip], (13, 10, 8))
        tube(canvas, "fatty marrow", [(150 * side, 10, 622), elbow * flip, hand * flip], (9, 6, 4))
        blob(canvas, "cortical bone", (150 * side, 10, 622), (24, 22, 24), rough=0.08)
        blob(canvas, "fatty marrow", (150 * side, 10, 622), (21, 19, 21))


def _paint_cavities(canvas: Canvas) -> None:
    """The abdominal cavity (fat, to be filled) and the two lungs, inside the muscle."""
    rng = canvas.rng
    belly = np.array(
        [
            (25, 30, 30, 40, 5),
            (60, 88, 60, 55, 5),
            (120, 100, 68, 52, 0),
            (220, 108, 74, 45, -2),
            (320, 118, 84, 68, 0),
            (400, 122, 86, 74, 0),
            (450, 118, 80, 76, 0),
        ]
    )
    box, level = _stack(canvas, belly, 2.3)
    paint(canvas.labels, box, level < 1, "cavity fat", ("muscle",))
    chest = np.array(
        [
            (335, 122, 86, 80, 0),
            (420, 128, 87, 86, 0),
            (520, 122, 76, 82, 2),
            (580, 106, 58, 74, 8),
            (625, 82, 38, 54, 18),
            (655, 60, 14, 26, 28),
            (668, 40, 4, 8, 30),
        ]
    )
    box, level = _stack(canvas, chest, 2.3)
    x, y, z = block(canvas.frame, box)
    dome = {side: rng.uniform(425, 450) - (14 if side > 0 else 0) for side in (-1, 1)}
    for side in (-1, 1):
        gap = np.interp(z, [420, 520, 600, 670], [34, 26, 22, 26])
        depth = (side * x - 68) / 72
        floor = dome[side] - 95 * depth**2 - 55 * np.clip((y + 20) / 80, 0, None) ** 2
        inside = (level < 1) & (side * x > gap + (6 if side > 0 else 0)) & (z > floor)
        paint(canvas.labels, box, inside, "lung", ("muscle", "cavity fat"))
        inside = (level < 1) & (side * x > -2) & (z < floor)
        paint(canvas.labels, box, inside, "cavity fat", ("muscle",))


def _paint_spine(canvas: Canvas) -> None:
    """Vertebrae and discs from the sacrum to the skull, their arches, cord and canal."""
    labels, frame = canvas.labels, canvas.frame
    box = box_around(frame, (-32, 0, 140), (32, 105, 735))
    x, y, z = block(frame, box)
    centre = np.interp(z, [140, 220, 330, 500, 640, 690, 735], [66, 52, 62, 72, 48, 26, 18])
    width = np.interp(z, [140, 300, 640, 735], [25, 22, 15, 13])
    pitch = np.interp(z, [140, 300, 640, 735], [35, 32, 23, 18])
    level = (x / width) ** 2 + ((y - centre) / (0.75 * width)) ** 2
    fine = np.arange(140, 736)
    turn = np.interp(z, fine, np.cumsum(1 / np.interp(fine, [140, 300, 640, 735], [35, 32, 23, 18]))) % 1
    edge = 2.5 / pitch
    paint(labels, box, level < 1, "cortical bone")
    paint(labels, box, (level < 0.78) & (turn > edge), "marrow")
    paint(labels, box, (level < 1) & (turn > 1 - 6 / pitch), "disc")
    back = centre + 0.75 * width
    arch = ((np.abs(x) < 14) & (y > back) & (y < back + 20)) | ((np.abs(x) < 3.5) & (y >= back + 20) & (y < back + 36))
    arch = arch & ((turn > 0.2) & (turn < 0.72))
    paint(labels, box, arch, "cortical bone", ("muscle", "cavity fat", "lung"))
    paint(labels, box, arch & (np.abs(x) < 10) & (y > back + 12) & (y < back + 18), "marrow")
    canal = (x / 9) ** 2 + ((y - back - 8) / 7.5) ** 2
    paint(labels, box, canal < 1, "fat")
    paint(labels, box, (canal < 0.6) & (z > 290), "cord")


def _paint_cage(canvas: Canvas) -> None:
    """Ribs, breastbone, collar bones and shoulder blades around the lungs."""
    labels, frame = canvas.labels, canvas.frame
    box = box_around(frame, (-150, -110, 310), (150, 115, 650))
    x, y, z = block(frame, box)
    half = np.interp(z, [310, 420, 520, 600, 650], [133, 136, 131, 108, 62])
    deep = np.interp(z, [310, 420, 520, 600, 650], [95, 96, 88, 70, 40])
    level = (np.abs(x) / half) ** 2.3 + (np.abs(y - 2 - np.interp(z, [520, 650], [0, 22])) / deep) ** 2.3
    turn = ((z - 0.42 * y) / 27) % 1
    shell = (level < 1) & (level > 0.84) & (np.abs(x) > np.where(y < 0, 26 + 30 * (z < 400), 20))
    ribs = shell & (turn < 0.42)
    paint(labels, box, ribs, "cortical bone", ("muscle", "lung", "cavity fat", "fat"))
    paint(labels, box, ribs & (level < 0.96) & (level > 0.87) & (turn > 0.08) & (turn < 0.34), "marrow")
    for name, shrink in (("cortical bone", 0.0), ("marrow", 2.5)):
        tube(canvas, name, [(0, -90, 410), (0, -92, 500), (0, -72, 600)], (11 - shrink, 10 - shrink, 12 - shrink))
        for side in (-1, 1):
            tube(canvas, name, [(14 * side, -62, 612), (75 * side, -42, 632), (140 * side, -5, 632)], (8 - shrink,))
            blade = rotation(about_z=-28 * side)
            blob(
                canvas,
                name,
                (98 * side, 84, 560),
                (36 - shrink, 6 - shrink, 58 - shrink),
                ("muscle", "cortical bone"),
                blade,
            )
            blob(
                canvas,
                name,
                (128 * side, 45, 608),
                (20 - shrink, 12 - shrink, 10 - shrink),
                ("muscle", "cortical bone"),
            )


def _paint_hips(canvas: Canvas) -> None:
    """Iliac wings, sacrum, sit bones, pubis and the heads of the femurs."""
    for name, shrink in (("cortical bone", 0.0), ("marrow", 3.0)):
        over = ("muscle", "cavity fat", "fat", "cortical bone")
        blob(canvas, name, (0, 72, 115), (44 - shrink, 20 - shrink, 50 - shrink), over, rotation(about_x=-25))
        tube(canvas, name, [(0, 88, 75), (0, 78, 40)], (9 - shrink, 6 - shrink), over)
        for side in (-1, 1):
            box, outer = ellipsoid(canvas.frame, (62 * side, 20, 150), (76, 72, 84))
            x, y, z = block(canvas.frame, box)
            inner = ((x - 58 * side) / 66) ** 2 + ((y - 14) / 63) ** 2 + ((z - 156) / 84) ** 2
            rim = 0.045 * shrink
            wing = (outer < 1 - rim) & (inner > 1 + rim) & (side * x > 42) & (y > -35) & (z > 60) & (z < 218 - shrink)
            paint(canvas.labels, box, wing, name, over)
            blob(canvas, name, (86 * side, 10, 58), (30 - shrink, 30 - shrink, 32 - shrink), over)
            tube(canvas, name, [(74 * side, 36, 60), (58 * side, 48, 2)], (13 - shrink,), over)
            tube(canvas, name, [(74 * side, -8, 62), (14 * side, -48, 42)], (9 - shrink,), over)
            tube(canvas, name, [(14 * side, -46, 36), (52 * side, 38, 2)], (7 - shrink,), over)
            ball = "fatty marrow" if name == "marrow" else name
            blob(canvas, ball, (84 * side, 10, 58), (24 - shrink, 23 - shrink, 24 - shrink), rough=0.08)
