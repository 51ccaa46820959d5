"""Run a network over prepared studies as the container would, and score what it gives."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor, nn

from model.errors import ConfigError, WeightsError
from model.inference.device import (
    Device,
    computing,
    give_back_memory,
    is_out_of_memory,
)
from model.inference.ladder import SLICES_A_WINDOW, Rung
from model.inference.member import run_member
from model.inference.view import image_of
from model.results.metrics import Scores, score
from model.schema import to_plain
from training.compute.device import layout_of
from training.data.prepared import Prepared
from training.settings import Training
from training.weights.checkpoint import replacing

BATCH = {"cpu": 2, "cuda": 8}  # windows at a time


def margin(network: nn.Module, study: Prepared, settings: Training, device: Device) -> np.ndarray:
    """Lesion's logit minus background's, float16 (X, Y, Z) of the prepared study; above 0 is lesion."""
    hu, suv = (np.asarray(part).transpose(2, 1, 0) for part in (study.hu, study.suv))
    image = image_of(hu, suv.astype(np.float32), settings.part)
    modes = [(module, module.training) for module in network.modules()]
    layout, here, windows = layout_of(settings), device.torch_device, BATCH[device.torch_device.type]

    def predict(patches: Tensor) -> Tensor:
        logits: Tensor = network(patches.contiguous(memory_format=layout))
        return logits

    def compute(windows: int) -> Tensor | None:
        rung = Rung(device=here, windows=windows, slices=SLICES_A_WINDOW * windows, sums_on=here)
        try:
            return run_member(image, settings.part, predict, rung)[0]
        except (RuntimeError, MemoryError) as error:
            if windows == 1 or not is_out_of_memory(error):
                raise
            return None

    network.eval()
    with computing(device), torch.autocast(here.type, device.precision, device.precision != torch.float32):
        if (out := compute(windows)) is None:  # training leaves a GPU less memory than it has
            give_back_memory()
            out = compute(1)
    assert out is not None  # one window raises
    for module, trains in modes:
        module.training = trains
    return out[0].clamp(-6e4, 6e4).half().cpu().numpy()


def finite(compute: Callable[[Device], np.ndarray], device: Device, what: str) -> np.ndarray:
    """A margin, computed again in float32 if half precision overflows, as in the container. Raises WeightsError."""
    for on in dict.fromkeys((device, replace(device, precision=torch.float32))):
        if np.isfinite(out := compute(on)).all():
            return out
    raise WeightsError(f"{what}: the network gives NaN: its training went wrong; leave it out, or lower its rate")


def score_margin(out: np.ndarray, study: Prepared) -> Scores:
    """Scores of a margin (X, Y, Z) against the study's truth, including truth outside the crop.

    Truth outside counts as not found: exactly for Dice; for FNV and lesions only components wholly outside count.
    """
    mask, truth = out > 0, np.asarray(study.truth)
    inside = score(mask, truth, study.voxel_ml)
    if not study.lost_ml:
        return inside
    found = (np.count_nonzero(mask) + np.count_nonzero(truth)) * study.voxel_ml
    dice = inside.dice * found / (found + study.lost_ml) if truth.any() else 0.0
    return replace(
        inside,
        dice=dice,
        fnv_ml=inside.fnv_ml + study.missed_ml,
        lesions_true=inside.lesions_true + study.lost_lesions,
    )


def validation_dice(scores: Mapping[str, Scores]) -> float | None:
    """Mean Dice over the cases that have lesion, as selection ranks by; None if none has."""
    dice = [case.dice for case in scores.values() if case.lesions_true]
    return float(np.mean(dice)) if dice else None


def kept_margin(
    keep: Path, weights_sha256: str, study: Prepared, network: nn.Module, settings: Training, device: Device
) -> tuple[Path, float]:
    """File of a study's margin in the folder `keep`, and the seconds it took; it is computed if it is not there yet.

    The file is named by all that it depends on: weights, study, crop, intensity, window and precision.
    """
    path = keep / f"{study.case}-{digest([weights_sha256, study.sha256, how_computed(settings, device)])}.npz"
    if not path.exists():
        begun = time.perf_counter()
        out = margin(network, study, settings, device)
        seconds = time.perf_counter() - begun
        with replacing(path) as partial, partial.open("wb") as file:
            np.savez(file, margin=out, seconds=seconds)
    return path, float(_member(path, "seconds"))


def read_margin(path: Path) -> np.ndarray:
    """The float16 margin (X, Y, Z) in a file of `kept_margin`. Raises ConfigError if it is damaged."""
    return _member(path, "margin")


def how_computed(settings: Training, device: Device) -> list[object]:
    """All that a margin depends on besides weights and study."""
    body = [to_plain(settings.network.body)] if settings.network.norm == "body" else []  # no tensor tells it
    here = [device.torch_device.type, str(device.precision)]
    return [to_plain(settings.intensity), to_plain(settings.window), *here, *body]


def digest(what: object) -> str:
    """The first 16 letters of the sha256 of this as JSON."""
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def _member(path: Path, name: str) -> np.ndarray:
    try:
        with np.load(path) as file:
            found: np.ndarray = file[name]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise ConfigError(f"'{path}' is damaged: {error}; delete it, and it is computed again") from None
    return found
