"""FDG uptake of healthy organs as it was measured: SUV of 80 adults, with the correlations between organs.

uptake.csv and uptake_correlation.csv hold mean, deviation, percentiles and correlations of regions' mean SUV over 80
healthy adults (total-body FDG PET), computed from the readouts published with hedyPET (DEPICT-RH): aggregates alone, of
nobody. A draw is one patient: standard normal values of these correlations (a Gaussian copula), each turned into SUV by
its region's own distribution, which runs straight between the published percentiles. Patients who did not fast, take
metformin, are scanned late or have anaemia differ from healthy adults: EXTREMES.
"""

import csv
from functools import cache
from pathlib import Path

import numpy as np
from scipy.special import ndtr

from training.phantom.tissues import LABELS, MORE_TISSUES, draw_suv

TABLE = Path(__file__).with_name("uptake.csv")
CORRELATION = Path(__file__).with_name("uptake_correlation.csv")
SHARES = np.array([0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0])  # of the adults, below a region's knots
LEAST = 0.05  # SUV; no region lies below
REGIONS = {  # the measured regions whose mean a tissue has
    "fat": ("subcutaneous_fat",),
    "muscle": ("gluteus_maximus_left",),
    "lung": ("lung_upper_lobe_left",),
    "marrow": ("vertebrae_L1",),
    "fatty marrow": ("femur_left",),
    "blood": ("aorta",),
    "liver": ("liver",),
    "spleen": ("spleen",),
    "kidney": ("kidney_left", "kidney_right"),
    "bladder": ("urinary_bladder",),
    "small bowel": ("small_bowel",),
    "colon": ("colon",),
    "stomach": ("stomach",),
    "thyroid": ("thyroid_gland",),
    "pancreas": ("pancreas",),
    "cord": ("spinal_cord",),
    "vessel wall": ("esophagus",),
    "airway": ("trachea",),
    "disc": ("costal_cartilages",),
    "prostate": ("prostate",),
}
BRAIN = {"grey matter": 1.3, "white matter": 0.75, "brain fluid": 0.5}  # times the brain's mean
WALL_SHARE = 0.18  # of the heart's volume that training/phantom/fitted.py paints as the left ventricle's wall
EXTREMES = [  # tissues, chance, and the factor's range: what patients show and healthy adults do not
    (("kidney",), 0.2, 1.4, 4.0),  # late scans, and little urine
    (("urine",), 0.3, 1.5, 4.0),
    (("bladder",), 0.2, 1.5, 4.0),
    (("small bowel", "active bowel"), 0.1, 2.0, 6.0),  # metformin
    (("colon", "active bowel"), 0.15, 2.0, 6.0),
    (("small bowel", "colon", "active bowel"), 0.15, 0.15, 0.5),
    (("bladder",), 0.15, 0.1, 0.5),  # emptied, diluted
    (("marrow",), 0.12, 1.4, 3.0),  # anaemia, growth factors
    (("spleen",), 0.08, 1.2, 2.5),
    (("tonsil",), 0.15, 1.5, 4.0),
    (("gland",), 0.1, 1.3, 3.0),
    (("thyroid",), 0.06, 1.5, 4.0),
    (("stomach",), 0.12, 1.5, 3.0),
]


@cache
def published() -> dict[str, dict[str, str]]:
    """The rows of uptake.csv by region."""
    return {row["region"]: row for row in _rows(TABLE)}


@cache
def quantiles() -> dict[str, np.ndarray]:
    """Of each region the SUV at SHARES: the five percentiles, and two ends that give the table's mean and deviation."""
    return {
        region: _with_ends(
            np.array([float(row[name]) for name in ("p5", "p25", "p50", "p75", "p95")]),
            float(row["mean"]),
            float(row["sd"]),
        )
        for region, row in published().items()
    }


@cache
def correlated() -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """The regions that have correlations, those correlations, and the matrix that gives independent normal values
    them.
    """
    rows = _rows(CORRELATION)
    names = tuple(row["region"] for row in rows)
    matrix = np.array([[float(row[name]) for name in names] for row in rows])
    values, vectors = np.linalg.eigh(matrix)
    root = vectors * np.sqrt(np.maximum(values, 0))  # rounded correlations may be a little off a valid matrix
    return names, matrix, root / np.linalg.norm(root, axis=1, keepdims=True)


def draw_uptake(rng: np.random.Generator) -> dict[str, float]:
    """Mean SUV of every region of uptake.csv in one healthy adult; regions without correlations are
    independent.
    """
    names, _, root = correlated()
    normal = dict(zip(names, root @ rng.standard_normal(root.shape[1]), strict=True))
    drawn = {}
    for region, knots in quantiles().items():
        value = normal.get(region)
        share = ndtr(rng.standard_normal() if value is None else value)
        drawn[region] = float(np.interp(share, SHARES, knots))
    return drawn


def draw_measured_suv(rng: np.random.Generator, labels: np.ndarray, extremes: bool = True) -> np.ndarray:
    """Mean SUV of each label in one patient, float32 (labels,), for a body painted into `labels`.

    Brain and heart are of several tissues: their tissues are set so that the mean over the organ is what was drawn.
    What was not measured is drawn as for the model's own phantoms. extremes: also what healthy adults after a fast do
    not show (EXTREMES); without, organs follow the tables.
    """
    suv = np.concatenate([draw_suv(rng), np.zeros(len(MORE_TISSUES), np.float32)])
    drawn = draw_uptake(rng)
    for tissue, regions in REGIONS.items():
        suv[LABELS[tissue]] = np.mean([drawn[region] for region in regions])
    for tissue in ("thymus", "inflamed joint", "scar"):
        low, high = MORE_TISSUES[tissue].suv_low, MORE_TISSUES[tissue].suv_high
        suv[LABELS[tissue]] = low * (high / low) ** rng.random()
    heart = drawn["heart"]
    if extremes:
        heart = _apply_extremes(rng, suv, heart)
    counts = np.bincount(labels.ravel(), minlength=len(LABELS))
    _set_brain(suv, counts, drawn["brain"])
    _set_heart(suv, heart)
    return suv


def _apply_extremes(rng: np.random.Generator, suv: np.ndarray, heart: float) -> float:
    """Change SUV in place as EXTREMES has it; returns the heart's."""
    for tissues, chance, low, high in EXTREMES:
        factor = low * (high / low) ** rng.random()
        if rng.random() < chance:
            for tissue in tissues:
                suv[LABELS[tissue]] *= factor
    fed, share = rng.random(), rng.random()
    if fed < 0.2:  # after a long fast: no wall to be seen
        return float(suv[LABELS["blood"]] * (0.8 + 0.2 * share))
    return heart if fed < 0.75 else float(3.5 * 1.6**share)  # fed: an intense wall


def _set_brain(suv: np.ndarray, counts: np.ndarray, mean: float) -> None:
    """Grey, white matter and fluid in the proportions of BRAIN, their mean over the painted brain as drawn."""
    weights = np.array([counts[LABELS[tissue]] * share for tissue, share in BRAIN.items()])
    total = sum(counts[LABELS[tissue]] for tissue in BRAIN)
    factor = mean * total / weights.sum() if weights.sum() else mean
    for tissue, share in BRAIN.items():
        suv[LABELS[tissue]] = share * factor


def _set_heart(suv: np.ndarray, mean: float) -> None:
    """The wall's SUV at which a heart that is wall by WALL_SHARE, and else blood, has this mean."""
    blood = float(suv[LABELS["blood"]])
    suv[LABELS["heart wall"]] = max((mean - (1 - WALL_SHARE) * blood) / WALL_SHARE, 0.5 * blood)


def _with_ends(percentiles: np.ndarray, mean: float, sd: float) -> np.ndarray:
    """The percentiles with a least and a greatest value.

    The two ends are those for which the distribution, straight between its knots, comes nearest to mean and deviation;
    each lies beyond its percentile, the least not below LEAST.
    """
    low, high = percentiles[0], percentiles[-1]
    width = high - low
    lows = np.linspace(max(LEAST, low - width), low, 60)
    highs = np.linspace(high, high + 4 * width, 400)
    grid = np.stack(np.meshgrid(lows, highs, indexing="ij"), -1).reshape(-1, 2)
    knots = np.concatenate([grid[:, :1], np.broadcast_to(percentiles, (len(grid), 5)), grid[:, 1:]], axis=1)
    found_mean, found_sd = moments(knots)
    best = int(np.argmin((found_mean - mean) ** 2 + (found_sd - sd) ** 2))
    kept: np.ndarray = knots[best]
    return kept


def moments(knots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of distributions whose quantiles run straight between knots (..., 7) at SHARES."""
    low, high, step = knots[..., :-1], knots[..., 1:], np.diff(SHARES)
    mean = ((low + high) / 2 * step).sum(-1)
    square = ((low**2 + low * high + high**2) / 3 * step).sum(-1)
    return mean, np.sqrt(np.maximum(square - mean**2, 0))


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
