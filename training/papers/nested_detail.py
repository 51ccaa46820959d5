"""Lesions found, surfaces and calibration of a choice on whole images of patients that trained none of its runs."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.errors import ConfigError
from training.bundles.detection import Detection, detect
from training.data.prepared import Prepared
from training.judging.scores import without_nan
from training.weights.checkpoint import write_json

ENDING = "-detail.json"
VIEWS = "-views.json"  # of the file beside it: scores with parts cut off the image


def write_detail(
    margin_of: Callable[[Prepared], NDArray[np.floating]], studies: Sequence[Prepared], path: Path
) -> list[Detection]:
    """Compare a choice's probabilities with the truth of every study, and write what was found, a study an entry."""
    found = [detection_of(margin_of(study), study) for study in studies]
    write_json(path, [without_nan(asdict(one) | {"bins": one.bins.tolist()}) for one in found])
    return found


def detection_of(margin: NDArray[np.floating], study: Prepared) -> Detection:
    """One study. margin: logit of lesion less that of background, (X, Y, Z)."""
    probability = (1 / (1 + np.exp(-np.clip(np.asarray(margin, np.float32), -60, 60)))).transpose(2, 1, 0)
    truth = np.asarray(study.truth).transpose(2, 1, 0) > 0
    return detect(study.case, np.ascontiguousarray(probability), np.ascontiguousarray(truth), study.spacing_mm)


def read_detail(path: Path) -> list[Detection]:
    """What `write_detail` wrote. Raises ConfigError if it cannot be read."""
    try:
        entries: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        return [
            Detection(
                case=one["case"],
                lesions=tuple((float(ml), float(score)) for ml, score in one["lesions"]),
                false_scores=tuple(map(float, one["false_scores"])),
                hd95_mm=_number(one["hd95_mm"]),
                surface_dice=_number(one["surface_dice"]),
                bins=np.array(one["bins"], np.float64),
            )
            for one in entries
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"cannot read '{path}': {error}; make it with training nested --views") from None


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
