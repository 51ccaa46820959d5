"""Organs of the phantom, after its outline and skeleton: chest, abdomen, pelvis, neck and head.

Same conventions as training/phantom/anatomy.py. Everything here takes up FDG without being a lesion:
brain, heart wall, kidneys, ureters, bladder, bowel, tonsils, glands, brown fat, worked muscle.
"""

import numpy as np

from training.phantom.anatomy import CAVITY, Build, jitter, vary
from training.phantom.shapes import Canvas, blob, block, box_around, ellipsoid, paint, ripple, rotation, tube

SOFT = ("muscle", "fat", "cavity fat", "lung")
HEAD = ("muscle", "fat", "cortical bone", "marrow")


def paint_organs(canvas: Canvas, build: Build) -> None:
    """Paint all organs over the cavities and the muscle."""
    paint_bowel(canvas)
    _paint_upper_abdomen(canvas)
    paint_vessels(canvas)
    _paint_heart(canvas)
    _paint_kidneys(canvas)
    paint_pelvis(canvas, build)
    paint_head(canvas)
    paint_neck(canvas)
    paint_variants(canvas)


def paint_bowel(canvas: Canvas) -> None:
    """Small bowel (a random walk in the cavity) and colon, with gas and stretches of higher uptake."""
    rng = canvas.rng
    low, high = np.array([-72, -62, 85]), np.array([78, 20, 265])
    point, heading, path = jitter(rng, (30, -20, 260), 8), rng.normal(0, 1, 3), []
    for _ in range(240):
        heading = heading + rng.normal(0, 0.55, 3)
        heading /= np.linalg.norm(heading)
        point = point + 13 * heading
        heading = np.where((point < low) | (point > high), -heading, heading)
        point = np.clip(point, low, high)
        path.append(point)
    for start in range(0, 240, 10):
        stretch = path[start : start + 12]
        name = "active bowel" if rng.random() < 0.12 else "small bowel"
        tube(canvas, name, stretch, rng.uniform(8, 14, 5), CAVITY)
    corners = [(-92, 5, 105), (-98, 8, 200), (-92, -5, 285), (-45, -58, 285), (20, -68, 262), (70, -48, 300)]
    corners += [(98, 10, 320), (100, 22, 230), (96, 18, 140), (55, -5, 95), (20, 25, 120), (8, 50, 85), (0, 52, 22)]
    colon = [jitter(rng, corner, 5) for corner in corners]
    colon[-1] = np.array([0, 52, 22.0])
    radius = rng.uniform(15, 22)
    for first, last in zip(colon[:-1], colon[1:], strict=True):
        name = "active bowel" if rng.random() < 0.14 else "colon"
        stretch = [first, *(first + (last - first) * share + rng.normal(0, 7, 3) for share in (0.35, 0.7)), last]
        radii = radius * rng.uniform(0.6, 1.15, 7)  # the colon's pouches
        tube(canvas, name, stretch, radii, (*CAVITY, "small bowel"))
        if rng.random() < 0.55:
            gas = (radius * rng.uniform(0.3, 0.65),)
            tube(canvas, "gut gas", [first, (first + last) / 2], gas, ("colon", "active bowel"))


def _paint_upper_abdomen(canvas: Canvas) -> None:
    """Liver, spleen, stomach and pancreas."""
    rng = canvas.rng
    over = (*CAVITY, "small bowel", "colon", "active bowel", "gut gas")
    blob(canvas, "stomach", jitter(rng, (62, -12, 372)), vary(rng, (36, 38, 48)), over, rotation(about_y=-25), 0.06)
    tube(canvas, "stomach", [(55, -30, 345), (25, -52, 310), (-15, -42, 305), (-30, -15, 290)], (26, 18, 13, 11), over)
    if rng.random() < 0.7:
        blob(canvas, "gut gas", jitter(rng, (62, -24, 388)), vary(rng, (20, 14, 20)), ("stomach",))
    right = jitter(rng, (-70, -2, 362))
    blob(canvas, "liver", right, vary(rng, (62, 76, 80)), over, rotation(about_y=12), 0.05)
    left = right + (45, -38, 30)
    blob(canvas, "liver", left, vary(rng, (62, 38, 36)), (*over, "stomach"), rotation(about_y=10), 0.05)
    spleen = jitter(rng, (96, 40, 372)), vary(rng, (25, 38, 50), 0.12)
    blob(canvas, "spleen", *spleen, (*over, "stomach"), rotation(about_x=25), 0.08)
    tube(canvas, "pancreas", [(-28, -10, 285), (5, -16, 305), (70, 15, 335)], (14, 10, 9), over)


def paint_vessels(canvas: Canvas) -> None:
    """Mediastinum, aorta to the femoral arteries, caval veins, windpipe and bronchi, gullet."""
    rng = canvas.rng
    aorta = [(4, -22, 500), (-8, -24, 535), (2, -8, 572), (20, 26, 566)]
    aorta += [(24, 46, 530), (22, 44, 440), (8, 32, 330), (2, 26, 222)]
    tube(canvas, "blood", aorta, vary(rng, (15, 15, 13, 12, 12, 11, 10, 9)), SOFT)
    caval = [(-28, -12, 600), (-28, -10, 520), (-24, 0, 440), (-20, 22, 330), (-16, 26, 225)]
    tube(canvas, "blood", caval, (9, 10, 12, 12, 10))
    tube(canvas, "blood", [(0, -20, 520), (16, -4, 535), (-26, 4, 528)], (13, 12, 9), SOFT)
    for side in (-1, 1):
        corners = [(4, 26, 222), (52, 14, 120), (66, -48, 50), (72, -38, -40), (80, -26, -130), (74, 2, -300)]
        leg = [jitter(rng, corner, 4) * (side, 1, 1) for corner in corners]
        tube(canvas, "blood", leg, (8, 7, 6, 5, 4.5), ("muscle", "fat", "cavity fat"))
        tube(canvas, "blood", [(14 * side, -20, 590), (24 * side, -10, 660), (30 * side, -2, 730)], (5,), SOFT)
        arm = [(18 * side, -35, 600), (90 * side, -18, 615), (135 * side, 5, 590)]
        tube(canvas, "blood", arm, (6, 6, 4), ("muscle", "fat"))
    tube(canvas, "vessel wall", [(0, 24, 690), (6, 28, 560), (10, 22, 420)], (8,), SOFT)
    tube(canvas, "airway", [(0, -22, 690), (0, -6, 620), (2, 8, 552)], (9,))
    for side in (-1, 1):
        tube(canvas, "airway", [(2, 8, 552), (38 * side, 14, 522), (62 * side, 20, 500)], (7, 5, 3))
        tube(canvas, "blood", [(20 * side, 2, 528), (58 * side, 10, 505), (85 * side, 16, 470)], (9, 6, 3), ("lung",))
        for _ in range(9):
            end = (rng.uniform(60, 108) * side, rng.uniform(-50, 65), rng.uniform(440, 620))
            tube(canvas, "blood", [(42 * side, 8, 515), end], (4.5, 1.6), ("lung",))


def _paint_heart(canvas: Canvas) -> None:
    """Left ventricle's wall and cavity along an oblique axis, right heart and atria (blood)."""
    rng = canvas.rng
    over = ("lung", "cavity fat", "muscle", "fat", "blood")
    centre = jitter(rng, (38, -34, 468), 3)
    blob(canvas, "cavity fat", centre + (-22, 4, 8), (66, 52, 58), ("lung", "muscle"))
    blob(canvas, "blood", centre + (-44, 6, 8), vary(rng, (34, 36, 44)), over)
    blob(canvas, "blood", centre + (-8, 42, 24), vary(rng, (34, 22, 28)), over)
    turn = rotation(about_x=rng.uniform(28, 42), about_z=0) @ rotation(about_y=rng.uniform(-48, -32))
    outer = vary(rng, (32, 32, 46))
    blob(canvas, "blood", centre + (-24, -8, -4), outer * 0.95, over, turn)
    blob(canvas, "heart wall", centre, outer, (*over, "stomach"), turn, 0.04)
    blob(canvas, "blood", centre, outer - rng.uniform(9, 12), ("heart wall",), turn)
    box, level = ellipsoid(canvas.frame, centre, outer, turn)
    x, y, z = (c - np.float32(m) for c, m in zip(block(canvas.frame, box), centre, strict=True))
    axis = turn[:, 2] * np.sign(turn[2, 2])
    base = axis[0] * x + axis[1] * y + axis[2] * z > 0.5 * outer[2]  # the valves: no wall there
    paint(canvas.labels, box, (level < 1) & base, "blood", ("heart wall",))


def _paint_kidneys(canvas: Canvas) -> None:
    """Kidneys with their pelvis, and ureters of which only stretches hold urine."""
    rng = canvas.rng
    over = (*CAVITY, "muscle", "small bowel", "colon", "active bowel", "gut gas", "liver", "spleen", "pancreas")
    for side, top in ((-1, 282), (1, 298)):
        centre = jitter(rng, (66 * side, 48, top), 4)
        turn = rotation(about_y=-14 * side) @ rotation(about_x=-10)
        blob(canvas, "cavity fat", centre, (36, 32, 62), ("muscle",), turn)
        blob(canvas, "kidney", centre, vary(rng, (27, 24, 53)), over, turn, 0.05)
        blob(canvas, "cavity fat", centre - (15 * side, 4, 0), (13, 9, 20), ("kidney",), turn)
        for shift in (-20, 0, 20):
            if rng.random() < 0.75:
                blob(canvas, "urine", centre + (-6 * side, 0, shift), rng.uniform(3, 7, 3), ("kidney", "cavity fat"))
        pelvis = centre - np.array([18 * side, 4, 4])
        blob(canvas, "urine", pelvis, rng.uniform(4, 9, 3) * (1, 0.8, 1.4), ("kidney", *CAVITY))
        path = np.array([pelvis, (42 * side, 36, 215), (40 * side, 34, 150), (48 * side, 32, 100), (22 * side, 12, 72)])
        for start in np.arange(0, 4, 0.25):
            if rng.random() < 0.3:
                ends = [[np.interp(start + d, range(5), path[:, a]) for a in range(3)] for d in (0, 0.25)]
                tube(canvas, "urine", ends, (rng.uniform(1.6, 3.0),), (*over, "marrow"))


def paint_pelvis(canvas: Canvas, build: Build) -> None:
    """Bladder, and uterus, or prostate and testes."""
    rng, fill = canvas.rng, build.bladder_fill
    over = ("cavity fat", "muscle", "small bowel", "colon", "active bowel", "gut gas", "urine")
    blob(canvas, "bladder", jitter(rng, (0, -22, 58 + 14 * fill)), vary(rng, (44, 33, 30)) * fill, over, None, 0.05)
    if build.female:
        blob(canvas, "vessel wall", jitter(rng, (0, 22, 88)), vary(rng, (24, 18, 30)), over[:5], rotation(about_x=-30))
    else:
        blob(canvas, "gland", (0, -2, 30), vary(rng, (21, 16, 17)), over[:2])
        for side in (-1, 1):
            blob(canvas, "fat", (18 * side, -72, -38), (19, 22, 26), ("air",))
            blob(canvas, "gonad", (18 * side, -74, -40), vary(rng, (12, 14, 18)))


def paint_head(canvas: Canvas) -> None:
    """Skull, brain with cortex and deep nuclei, face, jaw and sinuses."""
    rng = canvas.rng
    for name, shrink in (("cortical bone", 0), ("marrow", 2), ("cortical bone", 4.5), ("brain fluid", 6.5)):
        blob(canvas, name, (0, 4, 832), (70 - shrink, 91 - shrink, 82 - shrink), HEAD)
    box, level = ellipsoid(canvas.frame, (0, 4, 834), (62, 83, 72))
    x, y, z = block(canvas.frame, box)
    folds = ripple(rng, x, y, z, 26) * 0.16 + ripple(rng, x, y, z, 15) * 0.08
    brain = (level < 1 + 0.5 * folds) & (np.abs(x) > 1.6)
    paint(canvas.labels, box, brain & (z > 768 + 0.2 * np.abs(y - 4)), "grey matter", ("brain fluid",))
    white = (level < 0.62 + folds * 1.7) & (np.abs(x) > 5)
    paint(canvas.labels, box, white, "white matter", ("grey matter",))
    for side in (-1, 1):
        blob(canvas, "grey matter", (18 * side, 0, 830), vary(rng, (13, 24, 15)), ("white matter", "grey matter"))
        blob(canvas, "brain fluid", (8 * side, 5, 842), (4, 26, 8), ("grey matter",))
        blob(canvas, "grey matter", (24 * side, 42, 786), vary(rng, (26, 24, 20)), ("brain fluid",), rough=0.05)
        blob(canvas, "airway", (17 * side, -64, 770), (11, 14, 16), HEAD)
        blob(canvas, "white matter", (31 * side, -72, 802), (12, 12, 12), (*HEAD, "brain fluid", "grey matter"))
        jaw = [(48 * side, -10, 762), (44 * side, -30, 716), (10 * side, -78, 706)]
        tube(canvas, "cortical bone", jaw, (6, 7, 7), ("muscle", "fat"))
        tube(canvas, "cortical bone", [(36 * side, -66, 780), (56 * side, -20, 782)], (5,), ("muscle", "fat"))
    tube(canvas, "cord", [(0, 22, 790), (0, 28, 730)], (9, 6))
    tube(canvas, "airway", [(0, -45, 762), (0, -12, 752), (0, -14, 690)], (7, 7, 6), ("muscle", "fat"))


def paint_neck(canvas: Canvas) -> None:
    """Salivary glands, tonsils, tongue, vocal cords and thyroid."""
    rng = canvas.rng
    over = ("muscle", "fat")
    blob(canvas, "worked muscle", (0, -48, 724), (20, 24, 13), ("muscle", "airway"))
    for side in (-1, 1):
        blob(canvas, "gland", jitter(rng, (56 * side, 8, 742), 2), vary(rng, (9, 15, 19)), over)
        blob(canvas, "gland", jitter(rng, (28 * side, -36, 706), 2), vary(rng, (9, 13, 11)), over)
        blob(canvas, "tonsil", jitter(rng, (15 * side, -18, 738), 1.5), vary(rng, (6, 7, 10), 0.15), over)
        blob(canvas, "thyroid", jitter(rng, (16 * side, -22, 664), 1.5), vary(rng, (8, 8, 20)), over)
        blob(canvas, "tonsil", (6 * side, -30, 688), (3.5, 7, 4), over)
    blob(canvas, "tonsil", (0, -4, 762), (10, 4, 6), over)


def paint_variants(canvas: Canvas) -> None:
    """Uptake that only some patients show: brown fat, worked muscle, arthritis, a spot of thymus."""
    rng = canvas.rng
    if rng.random() < 0.10:
        for side in (-1, 1):
            for _ in range(9):
                share = rng.random()
                spot = (side * (34 + 75 * share), rng.uniform(-5, 35), 668 - 50 * share)
                blob(canvas, "brown fat", spot, rng.uniform(4, 9, 3), ("muscle", "fat"), None, 0.15)
            for z in np.arange(430, 610, 23.0):
                blob(canvas, "brown fat", (28 * side, 70, z), (4, 5, 5), ("muscle", "cavity fat", "lung"))
    if rng.random() < 0.2:
        side = rng.choice([-1, 1])
        belly = (side * rng.uniform(80, 120), rng.uniform(-30, 60), 625)
        blob(canvas, "worked muscle", belly, (30, 16, 20), ("muscle",), None, 0.2)
    if rng.random() < 0.2:
        side = rng.choice([-1, 1])
        joint = [(150 * side, 10, 640), (104 * side, 5, 40), (60 * side, 55, 4)][rng.integers(3)]
        box, level = ellipsoid(canvas.frame, joint, (24, 24, 20), None, rng, 0.2)
        paint(canvas.labels, box, (level < 1) & (level > 0.4), "worked muscle", ("muscle", "fat"))
    if rng.random() < 0.15:
        box = box_around(canvas.frame, (-14, -80, 545), (14, -55, 585))
        x, y, z = block(canvas.frame, box)
        inside = np.abs(x) + np.abs(y + 66) < 14 - 0.2 * np.abs(z - 565)
        paint(canvas.labels, box, inside, "gland", ("muscle", "cavity fat"))
