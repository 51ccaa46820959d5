"""Pictures of a run: the curves of its log, and slices of a validation study with truth and prediction."""

import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from training.data.prepared import Prepared
from training.weights.checkpoint import replacing

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402  the backend must be chosen first

SHOWN_SUV = 10.0
CURVES = {"loss": "loss", "rate": "learning rate", "dice": "validation Dice", "fpv_ml": "FPV, FNV (ml)"}


def draw_curves(log: Path, path: Path) -> None:
    """Loss, learning rate, validation Dice, FPV and FNV over the epochs of log.jsonl, as PNG."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    figure, axes = pyplot.subplots(2, 2, figsize=(9, 6), layout="constrained")
    for axis, (name, title) in zip(axes.ravel(), CURVES.items(), strict=True):
        for key in (name, "fnv_ml") if name == "fpv_ml" else (name,):
            points = [(line["epoch"], line[key]) for line in lines if line.get(key) is not None]
            if points:
                axis.plot(*zip(*points, strict=True), marker=".", label=key.removesuffix("_ml").upper())
        axis.set(xlabel="epoch", ylabel=title)
        if name == "fpv_ml" and axis.lines:
            axis.legend()
    _save(figure, path)


def draw_slices(study: Prepared, margin: np.ndarray, path: Path) -> None:
    """Three coronal slices of PET and CT around the one with most truth and prediction, both outlined, as PNG.

    margin: (X, Y, Z) of the study; above 0 is lesion. Green: truth, red: prediction.
    """
    truth, found = np.asarray(study.truth), margin > 0
    amount = truth.sum((0, 2)) + found.sum((0, 2))
    best = int(amount.argmax()) if amount.any() else truth.shape[1] // 2
    rows = sorted({max(best - 4, 0), best, min(best + 4, truth.shape[1] - 1)})
    figure, axes = pyplot.subplots(2, len(rows), figsize=(3 * len(rows), 8), layout="constrained", squeeze=False)
    x_mm, _, z_mm = study.spacing_mm
    for column, y in enumerate(rows):
        pet, ct = np.asarray(study.suv[:, y]).astype(np.float32), np.asarray(study.hu[:, y]).astype(np.float32)
        for axis, image, low, high, shades in (
            (axes[0, column], pet, 0, SHOWN_SUV, "gray_r"),
            (axes[1, column], ct, -200, 300, "gray"),
        ):
            axis.imshow(image.T, cmap=shades, vmin=low, vmax=high, origin="lower", aspect=z_mm / x_mm)
            for mask, colour in ((truth[:, y], "tab:green"), (found[:, y], "tab:red")):
                if mask.any() and not mask.all():
                    axis.contour(mask.T, [0.5], colors=colour, linewidths=0.8)
            axis.set_axis_off()
        axes[0, column].set_title(f"{study.case}, y = {y}", fontsize=8)
    figure.suptitle("green: truth, red: prediction; PET 0 to 10 SUV, CT -200 to 300 HU", fontsize=8)
    _save(figure, path)


def draw_bars(names: list[str], ours: list[tuple[float, float, float]], paper: list[float], path: Path) -> None:
    """Mean Dice with its interval (mean, low, high) for each name, and the paper's on its own data, as PNG."""
    figure, axis = pyplot.subplots(figsize=(7, 0.5 * len(names) + 1.2), layout="constrained")
    rows = np.arange(len(names))
    means = np.array([mean for mean, _, _ in ours])
    spans = np.nan_to_num(np.abs(np.array([(mean - low, high - mean) for mean, low, high in ours]).T))
    axis.barh(rows, means, xerr=spans, color="tab:blue", alpha=0.6, label="ours (95 % interval)")
    axis.plot(paper, rows, "kd", label="paper, on autoPET")
    axis.set(yticks=rows, yticklabels=names, xlabel="mean Dice of cases with lesion", xlim=(0, 1))
    axis.invert_yaxis()
    axis.legend(fontsize=8)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    with replacing(path) as partial:
        figure.savefig(partial, dpi=90, format="png")
    pyplot.close(figure)
