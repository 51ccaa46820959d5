"""Lesions of the phantom: where each disease puts them, their shape, uptake and truth.

A lesion is a cloud of small cubes on a lattice of its own, so its share of every voxel can be computed on any
grid. Lesions lie where each disease usually spreads. Uptake ranges from hardly above the surroundings to
SUV 25, volume from 0.3 to 300 ml. Lymphoma is the greatest burden:
220 ml of MTV divide low from high (Vercellino et al., Blood 135:1396, 2020).
"""

from dataclasses import dataclass

import numpy as np

from training.phantom.shapes import Box, Frame, Triple, Vector, to_phantom_mm
from training.phantom.tissues import LABELS

SMALLEST_ML, LARGEST_ML = 0.3, 300.0
OUTSIDE = 255  # no tissue's label
LOW_CONTRAST_SHARE, LOW_CONTRAST = 0.12, (1.7, 2.4)  # of the lesions; their uptake over what lies beneath
COLD_SHARE, COLD_FROM_ML = 0.35, 4.0  # of the lesions above this volume: with a dead, cold centre
DIAGNOSES = {"negative": 0.50, "melanoma": 0.18, "lung cancer": 0.16, "lymphoma": 0.13, "sarcoma": 0.03}
# Chains of lymph nodes as lines of body coordinates; the ones that are not in MIDLINE have a mirror image.
CHAINS: dict[str, list[Triple]] = {
    "cervical": [(42, 2, 735), (48, 5, 700), (50, 15, 668)],
    "supraclavicular": [(40, 0, 655), (85, 5, 645)],
    "axillary": [(128, 10, 590), (140, 25, 545), (132, 30, 510)],
    "mediastinal": [(-18, -4, 600), (-16, 2, 560), (4, 12, 535), (4, 18, 505)],
    "hilar": [(40, 8, 525), (50, 14, 500)],
    "para-aortic": [(12, 18, 330), (18, 14, 280), (10, 10, 225)],
    "mesenteric": [(-20, -25, 270), (15, -30, 220)],
    "iliac": [(20, 15, 210), (55, 8, 130), (62, -20, 85)],
    "inguinal": [(70, -55, 45), (78, -60, 5)],
}
MIDLINE = {"mediastinal", "para-aortic", "mesenteric"}
SOFT = ("muscle", "fat", "cavity fat", "lung", "skin", "breast", "vessel wall", "small bowel", "gland")
# For each kind of lesion: where its centre is sought (in no tissue: see _seek), and which tissues it may cover.
GROUND: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "node": ((), SOFT),
    "skin": (("skin",), ("skin", "fat", "muscle", "air")),
    "soft tissue": (("muscle", "fat"), ("muscle", "fat", "skin", "fatty marrow", "cortical bone", "blood")),
    "liver": (("liver",), ("liver",)),
    "spleen": (("spleen",), ("spleen",)),
    "bone": (("marrow",), ("marrow", "cortical bone", "muscle", "disc")),
    "lung": (("lung",), ("lung", "blood", "muscle", "cavity fat", "airway")),
    "adrenal": ((), ("cavity fat", "muscle", "liver", "pancreas")),
}
# For each disease: (kind, chance that it occurs, most of them, median ml, SUV low, SUV high).
SPREAD: dict[str, list[tuple[str, float, int, float, float, float]]] = {
    "melanoma": [
        ("skin", 0.35, 3, 2.0, 3, 15),
        ("soft tissue", 0.4, 4, 4.0, 3, 18),
        ("node", 0.65, 5, 6.0, 4, 25),
        ("liver", 0.3, 5, 12.0, 5, 18),
        ("lung", 0.35, 5, 3.0, 2, 12),
        ("bone", 0.3, 6, 6.0, 4, 18),
    ],
    "lung cancer": [
        ("lung", 1.0, 2, 30.0, 3, 20),
        ("node", 0.65, 5, 8.0, 3.5, 16),
        ("liver", 0.15, 4, 12.0, 5, 14),
        ("bone", 0.25, 6, 6.0, 4, 14),
        ("adrenal", 0.15, 2, 10.0, 4, 14),
    ],
    "lymphoma": [("node", 1.0, 12, 25.0, 3, 25), ("spleen", 0.2, 3, 20.0, 5, 15), ("bone", 0.15, 5, 8.0, 4, 15)],
    "sarcoma": [("soft tissue", 1.0, 1, 90.0, 3, 16), ("lung", 0.25, 4, 3.0, 2, 8)],
}


@dataclass(frozen=True)
class PhantomLesion:
    """One lesion: kind, volume of its shape, mean SUV of its live part, centre (x, y, z) in mm."""

    kind: str
    volume_ml: float
    suv: float
    centre_mm: Triple


@dataclass(frozen=True)
class Cloud:
    """A lesion's shape: its points (n, 3) in the phantom's mm, each standing for point_ml."""

    points_mm: np.ndarray
    dead: np.ndarray  # bool (n,): in the cold, necrotic centre
    point_ml: float
    dead_suv: float
    hu: float


@dataclass(frozen=True)
class Body:
    """What lesions are put into: a grid, its labels (z, y, x), and the SUV of each label."""

    frame: Frame
    labels: np.ndarray
    suv: np.ndarray

    def labels_at(self, points_mm: np.ndarray) -> np.ndarray:
        """Labels (n,) under points; OUTSIDE where the PET may not reach, near the ends of the grid or beyond."""
        index = np.rint((points_mm - self.frame.origin_mm) / self.frame.spacing_mm).astype(int)[:, ::-1]
        edge = np.array([int(np.ceil(15 / self.frame.spacing_mm[2])), 0, 0])
        inside = np.all((index >= edge) & (index < np.subtract(self.labels.shape, edge)), axis=1)
        return np.where(inside, self.labels[tuple(np.where(inside[:, None], index, 0).T)], OUTSIDE)


def draw_diagnosis(rng: np.random.Generator, wanted: str | None) -> str:
    """A diagnosis by the shares of DIAGNOSES; wanted: a name, "positive", or None for any.

    Raises ValueError for an unknown name.
    """
    share = rng.random()
    if wanted in DIAGNOSES:
        return wanted
    if wanted not in (None, "positive"):
        raise ValueError(f"unknown diagnosis {wanted!r}: must be one of {[*DIAGNOSES, 'positive']}")
    names = [name for name in DIAGNOSES if wanted is None or name != "negative"]
    edges = np.cumsum([DIAGNOSES[name] for name in names])
    return names[int(np.searchsorted(edges / edges[-1], share, side="right"))]


def draw_lesions(
    rng: np.random.Generator, frame: Frame, labels: np.ndarray, suv: np.ndarray, diagnosis: str
) -> list[tuple[PhantomLesion, Cloud]]:
    """Draw the lesions of a disease: at least one, or none if it is "negative"."""
    found: list[tuple[PhantomLesion, Cloud]] = []
    if diagnosis == "negative":
        return found
    body = Body(frame, labels, suv)
    for _ in range(20):
        for kind, chance, most, median_ml, low, high in SPREAD[diagnosis]:
            if rng.random() >= chance:
                continue
            count = 1 + int(rng.geometric(min(1.0, 2.2 / most)) - 1) if most > 1 else 1
            chains = _draw_chains(rng, diagnosis)
            for _ in range(min(count, most)):
                volume_ml = float(np.clip(median_ml * np.exp(rng.normal(0, 1.1)), 0.36, 0.93 * LARGEST_ML))
                lesion_suv = low * (high / low) ** rng.random()
                pair = _place(rng, body, kind, chains, volume_ml, lesion_suv)
                found += [pair] if pair else []
        if found:
            return found
    raise RuntimeError(f"no place was found for a lesion of {diagnosis}")


def occupancy(
    cloud: Cloud, keep: np.ndarray, shape: tuple[int, ...], spacing_mm: Vector, origin_mm: Vector
) -> tuple[Box, np.ndarray]:
    """The share of each voxel that a cloud fills: a box of slices (z, y, x), and the float32 shares in it.

    Every point is a small cube, cut exactly at the voxels' borders. keep: bool (n,) chooses the points;
    spacing_mm and origin_mm (x, y, z) are the grid's; a voxel must not be smaller than a cube.
    """
    side = (cloud.point_ml * 1000) ** (1 / 3)
    low = (cloud.points_mm[keep] - side / 2 - origin_mm) / spacing_mm + 0.5  # of the cubes, in voxels
    first = np.floor(low).astype(int)[:, ::-1]
    over = np.clip(1 - (first[:, ::-1] + 1 - low) * spacing_mm / side, 0, 1)[:, ::-1]  # share in the next voxel
    if len(first) == 0:
        nothing = slice(0, 0)
        return (nothing, nothing, nothing), np.zeros((0, 0, 0), np.float32)
    base, size = first.min(0), np.ptp(first, axis=0) + 2
    total = np.zeros(int(np.prod(size)))
    for corner in np.ndindex(2, 2, 2):
        weight = np.where(corner, over, 1 - over).prod(1)
        flat = np.ravel_multi_index((first - base + corner).T, size)
        total += np.bincount(flat, weight, minlength=total.size)
    share = np.minimum(total * (side**3 / np.prod(spacing_mm)), 1).astype(np.float32).reshape(size)
    start, stop = np.clip(base, 0, shape), np.clip(base + size, 0, shape)  # the part inside the grid
    share = share[tuple(slice(a, b) for a, b in zip(start - base, stop - base, strict=True))]
    z, y, x = (slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))
    return (z, y, x), share


def _draw_chains(rng: np.random.Generator, diagnosis: str) -> list[tuple[str, int]]:
    """The chains of nodes (name, side -1 or 1) with disease: neighbours in lymphoma."""
    names = list(CHAINS)
    if diagnosis == "lung cancer":
        return [("mediastinal", 1), ("hilar", int(rng.choice([-1, 1]))), ("supraclavicular", 1)]
    start, count = int(rng.integers(len(names))), int(rng.integers(1, 5 if diagnosis == "lymphoma" else 2))
    side = int(rng.choice([-1, 1]))
    return [(name, side if rng.random() < 0.7 else -side) for name in names[start : start + count + 1]]


def _place(
    rng: np.random.Generator, body: Body, kind: str, chains: list[tuple[str, int]], volume_ml: float, lesion_suv: float
) -> tuple[PhantomLesion, Cloud] | None:
    """The best of a few places for a lesion; None if none leaves it large enough."""
    allowed = np.zeros(256, bool)
    allowed[[LABELS[name] for name in GROUND[kind][1]]] = True
    best: tuple[np.ndarray, np.ndarray, np.ndarray, float] | None = None
    for _ in range(6):
        centre = _seek(rng, body, kind, chains)
        if centre is None:
            continue
        points, level, point_ml = _shape(rng, centre, volume_ml)
        stays = allowed[body.labels_at(points)]
        if best is None or stays.mean() > best[1].mean():
            best = points, stays, level, point_ml
        if best[1].mean() > 0.85:
            break
    if best is None:
        return None
    points, stays, level, point_ml = best
    actual_ml = float(stays.sum() * point_ml)
    if not SMALLEST_ML <= actual_ml <= LARGEST_ML:
        return None
    beneath = float(np.median(body.suv[body.labels_at(points[stays])]))
    if rng.random() < LOW_CONTRAST_SHARE:
        lesion_suv = rng.uniform(*LOW_CONTRAST) * max(beneath, 0.9)
    lesion_suv = max(lesion_suv, LOW_CONTRAST[0] * beneath)
    necrotic = actual_ml > COLD_FROM_ML and rng.random() < COLD_SHARE
    dead = level[stays] < (rng.uniform(0.3, 0.62) if necrotic else -1)
    hu = rng.uniform(40, 75) if kind != "bone" else rng.choice([60.0, 90.0, 550.0])
    kept = points[stays]
    x, y, z = (float(c) for c in kept.mean(0))
    lesion = PhantomLesion(kind, actual_ml, float(lesion_suv), (x, y, z))
    return lesion, Cloud(kept, dead, point_ml, float(rng.uniform(0.4, 1.4)), float(hu))


def _seek(rng: np.random.Generator, body: Body, kind: str, chains: list[tuple[str, int]]) -> np.ndarray | None:
    """A centre in the phantom's mm: on a chain, above a kidney, or in a tissue of GROUND. None if none is found."""
    if kind == "node":
        name, side = chains[int(rng.integers(len(chains)))]
        line = np.array(CHAINS[name])
        place = [np.interp(rng.uniform(0, len(line) - 1), range(len(line)), line[:, a]) for a in range(3)]
        point = np.array(place) * (1 if name in MIDLINE else side, 1, 1) + rng.normal(0, 4, 3)
        return to_phantom_mm(body.frame, point)
    if kind == "adrenal":
        return to_phantom_mm(body.frame, (rng.choice([-42, 45]), 40, 345) + rng.normal(0, 3, 3))
    wanted = [LABELS[name] for name in GROUND[kind][0]]
    for _ in range(2000):  # lines of the grid until one meets the tissue
        index = np.array([rng.integers(size) for size in body.labels.shape])
        hits = np.flatnonzero(np.isin(body.labels[index[0], index[1]], wanted))
        if hits.size:
            index[2] = int(rng.choice(hits))
            centre: np.ndarray = np.asarray(body.frame.origin_mm) + index[::-1] * np.asarray(body.frame.spacing_mm)
            return centre
    return None


def _shape(rng: np.random.Generator, centre: np.ndarray, volume_ml: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Points (n, 3) of an irregular shape, their level (0 in the centre, 1 on the surface), and ml per point.

    One to four overlapping ellipsoids with a rippled surface, scaled to volume_ml.
    """
    radius = (3 * volume_ml * 1000 / (4 * np.pi)) ** (1 / 3)
    lobes = 1 if volume_ml < 2 else int(rng.integers(1, 5))
    step = float(np.clip(radius / 13, 0.4, 1.5))
    line = np.arange(-2.3 * radius, 2.3 * radius, step)
    z, y, x = np.meshgrid(line, line, line, indexing="ij", sparse=True)
    level = np.full((line.size,) * 3, 9.0)
    for lobe in range(lobes):
        off = rng.normal(0, 0.55, 3) * radius if lobe else np.zeros(3)
        axes = rng.uniform(0.75, 1.3, 3) * (1 if lobe == 0 else rng.uniform(0.45, 0.85)) * radius
        level = np.minimum(level, sum(((c - m) / a) ** 2 for c, m, a in zip((x, y, z), off, axes, strict=True)))
    for wave in (2.2, 1.1):
        k, phase = 2 * np.pi / (wave * radius * rng.uniform(0.8, 1.3, 3)), rng.uniform(0, 6.3, 3)
        ripples = np.sin(k[0] * x + phase[0]) * np.sin(k[1] * y + phase[1]) * np.sin(k[2] * z + phase[2])
        level = level * (1 + rng.uniform(0.1, 0.55) * ripples)
    count = int(round(volume_ml * 1000 / step**3))
    edge = float(np.partition(level.ravel(), count)[count])
    index = np.argwhere(level < edge)
    points = line[index[:, ::-1]] + np.asarray(centre) + rng.uniform(-0.5, 0.5, 3) * step
    return points, level[tuple(index.T)] / edge, step**3 / 1000
