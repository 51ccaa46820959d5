"""A network over prepared studies, as the container would run it; the scores of validation."""

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from model.device import Device, choose_device, computing
from model.lesions import Scores, score
from model.segment import network_image
from model.sliding import slide
from training.checkpoint import replacing
from training.prepare import Prepared, load
from training.settings import Training

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
BATCH = 2  # windows at a time


def device_for(precision: str, wanted: str = "auto") -> Device:
    """The device to train on, computing in `precision`; float32 where float16 is asked for and there is no GPU.

    Under torchrun each process takes the GPU of its LOCAL_RANK.
    """
    device = choose_device(wanted)
    if device.torch_device.type == "cpu":
        return replace(device, precision=PRECISIONS["float32" if precision == "float16" else precision])
    local = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return replace(device, torch_device=local, precision=PRECISIONS[precision])


def margin(network: nn.Module, study: Prepared, settings: Training, device: Device) -> np.ndarray:
    """Lesion's logit minus background's, float16 (X, Y, Z) of the prepared study; above 0 is lesion."""
    hu, suv = (np.asarray(part).transpose(2, 1, 0) for part in (study.hu, study.suv))
    image = network_image(hu, suv.astype(np.float32), settings.intensity).to(device.torch_device)
    layout = torch.channels_last_3d if settings.channels_last else torch.contiguous_format

    def predict(patches: Tensor) -> Tensor:
        said: Tensor = network(patches.contiguous(memory_format=layout)).float()
        return said[:, 1:] - said[:, :1]

    window = settings.window
    training = network.training
    network.eval()
    with computing(device):
        out = slide(
            image, predict, window=window.size, overlap=window.overlap, weighting=window.weighting, batch=BATCH
        )
    network.train(training)
    return out[0].clamp(-6e4, 6e4).half().cpu().numpy()


def validate(
    network: nn.Module, cases: Iterable[str], cache: Path, settings: Training, device: Device
) -> dict[str, Scores]:
    """Scores of every case on its prepared grid."""
    studies = (load(cache, case) for case in cases)
    return {study.case: score_margin(margin(network, study, settings, device), study) for study in studies}


def score_margin(out: np.ndarray, study: Prepared) -> Scores:
    """Scores of a margin (X, Y, Z) against the study's truth."""
    return score(out > 0, np.asarray(study.truth), study.voxel_ml)


def validation_dice(scores: Mapping[str, Scores]) -> float:
    """Mean Dice over the cases that have lesion, as selection ranks by; 0 if none has."""
    dice = [case.dice for case in scores.values() if case.lesions_true]
    return float(np.mean(dice)) if dice else 0.0


def kept_margin(
    folder: Path, case: str, network: nn.Module, cache: Path, settings: Training, device: Device
) -> tuple[np.ndarray, float]:
    """A case's margin and the seconds it took, from `folder` if it was computed before, else computed and kept."""
    path = folder / f"{case}.npz"
    if not path.exists():
        begun = time.perf_counter()
        out = margin(network, load(cache, case), settings, device)
        seconds = time.perf_counter() - begun
        with replacing(path) as partial, partial.open("wb") as file:
            np.savez(file, margin=out, seconds=seconds)
    with np.load(path) as file:
        return file["margin"], float(file["seconds"])
