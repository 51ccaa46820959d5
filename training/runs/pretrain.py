"""The CT encoder by the method of Models Genesis, on CT of the fold's training cases (Ahn and Park, section 3.1).

    python -m training pretrain --settings pretrain.yaml --cache runs/cache --split split.json --fold 0 --run runs/ct
    python -m training train ... --ct-encoder runs/ct/ct_encoder.safetensors

A run folder holds config.yaml, log.jsonl, checkpoint.pt, reconstructions.png and, at the end, the encoder and
run.json. The same command again resumes it; torchrun works as for training train. Of the settings,
`suv_tops`, `window`, `augmentation`, `loss` and where crops are sought change nothing here.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from model.errors import ConfigError
from model.files import sha256_of
from model.inference.device import Device, computing
from training.command import add_device_option, add_fold_options
from training.compute.compiling import check_compile
from training.compute.device import choose_convolutions, device_for
from training.compute.finite import check_weights
from training.compute.torchrun import processes, rank
from training.data.folds import Fold, read_fold
from training.data.prepared import digest_of
from training.judging.leakage import check_apart, seen_with
from training.runs.folder import opened
from training.runs.genesis import DistortedCrops, network_for, reconstruction_loss
from training.runs.loop import steps_per_epoch, train
from training.runs.run import Run
from training.settings import Training, read_settings, settings_to
from training.weights import checkpoint

ENCODER, PICTURE = "ct_encoder.safetensors", "reconstructions.png"
VALIDATION_CROPS = 8  # the same at every epoch
SHOWN = 4  # of them in the picture


def run(options: argparse.Namespace) -> None:
    """Pre-train to the end. Raises ConfigError or TrainingError."""
    settings, fold = read_settings(options.settings), read_fold(options.split, options.fold)
    result = pretrain_run(options.run, settings, options.cache, fold, options.device)
    if result:
        print(f"wrote '{options.run / result['result']}'")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Cost: schedule.epochs (or stop) x steps_per_epoch steps, each batch x accumulate crops forward and "
        "backward; as training train, with a network of one encoder. On disk 12 bytes a parameter and the encoder."
    )
    parser.add_argument("--settings", type=Path, required=True, help="YAML of training.settings.Training")
    add_fold_options(parser)
    parser.add_argument("--run", type=Path, required=True, help="folder of this run; a used one is gone on with")
    add_device_option(parser)


def pretrain_run(folder: Path, settings: Training, cache: Path, fold: Fold, wanted: str = "auto") -> dict[str, Any]:
    """Pre-train to the end. Returns what run.json says, {} in processes but the first; a finished run is not redone.

    Raises ConfigError, and TrainingError for a loss or weights that are not finite.
    """
    if settings.averaging is not None:
        raise ConfigError("averaging is set, and pre-training has none: leave `averaging` out of its settings")
    if not fold.train:
        raise ConfigError(f"fold {fold.name!r} has no training cases to pre-train on")
    torch.manual_seed(settings.seed)
    network = network_for(settings.network)
    device = device_for(settings.precision, wanted)
    if settings.compile:
        check_compile(device.torch_device.type)
    data = DistortedCrops(cache, fold.train, settings)
    check_apart(data.studies, fold, cache)
    held_out = DistortedCrops(cache, fold.validate, settings)
    config = {
        "command": "pretrain",
        "settings": settings_to(settings),
        "train": list(fold.train),
        "validate": list(fold.validate),
        "data": digest_of((*data.studies, *held_out.studies)),
        "seen": seen_with(data.studies, None),
        "processes": processes(),
    }
    with opened(folder, config, device) as state:
        if done := checkpoint.finished(folder):
            return done
        choose_convolutions(settings)
        last = settings.schedule.last

        run: Run

        def at_epoch(epoch: int, figures: dict[str, Any]) -> dict[str, float]:
            due = rank() == 0 and (epoch % settings.validate_every == 0 or epoch == last)
            return validate(run, held_out) if due else {}

        run = Run(
            folder=folder,
            settings=settings,
            network=network,
            data=data,
            loss=reconstruction_loss,
            device=device,
            at_epoch=at_epoch,
        )
        train(run, state)
        return finish(run, held_out) if rank() == 0 else {}


def validate(run: Run, held_out: DistortedCrops) -> dict[str, float]:
    """Mean loss over VALIDATION_CROPS crops of the validation cases, with a picture of some; {} without such cases."""
    if not len(held_out):
        return {}
    losses, shown = [], []
    for slices, loss in restored(run.network, held_out, run.device):
        losses.append(loss)
        shown.append(slices)
    draw(shown[:SHOWN], run.folder / PICTURE)
    return {"reconstruction": float(np.mean(losses))}


def restored(network: nn.Module, data: DistortedCrops, device: Device) -> Iterator[tuple[list[np.ndarray], float]]:
    """For the first crops of `data`: middle coronal slices (X, Z), original, distorted and restored; and the loss."""
    training = network.training
    network.eval()
    with computing(device):
        for number in range(VALIDATION_CROPS):
            image, original = (part.to(device.torch_device) for part in data[number])
            out = network(image[None])[0].float()
            middle = original.shape[2] // 2
            slices = [part[0, :, middle].cpu().numpy() for part in (original, image, out.sigmoid())]
            yield slices, float(reconstruction_loss(out, original))
    network.train(training)


def draw(shown: list[list[np.ndarray]], path: Path) -> None:
    """Crops below each other: original, distorted, restored, as PNG; [0, 1] from black to white."""
    from matplotlib.figure import Figure  # slow to import

    figure = Figure(figsize=(6.6, 2.2 * len(shown)), layout="constrained")
    axes = figure.subplots(len(shown), 3, squeeze=False)
    for row, slices in zip(axes, shown, strict=True):
        for axis, image in zip(row, slices, strict=True):
            axis.imshow(image.T, cmap="gray", vmin=0, vmax=1, origin="lower")
            axis.set_axis_off()
    for axis, title in zip(axes[0], ("original", "distorted", "restored"), strict=True):
        axis.set_title(title)
    with checkpoint.replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=90)


def finish(run: Run, held_out: DistortedCrops) -> dict[str, Any]:
    """Write the encoder and run.json. Raises TrainingError if the weights are not finite."""
    path, schedule = run.folder / ENCODER, run.settings.schedule
    state = run.network.get_submodule("encoder").state_dict()
    check_weights(run.folder, run.settings, state, schedule.last * steps_per_epoch(run))
    checkpoint.write_weights(path, state)
    result = {
        "result": ENCODER,
        "sha256": sha256_of(path),
        "epoch": schedule.last,
        "validation": validate(run, held_out),
        "device": run.device.name,
        "left_out": run.left_out.run,
        "precision": str(run.device.precision).removeprefix("torch."),
        "seconds": {key: round(value, 1) for key, value in run.seconds.items()},
    }
    checkpoint.write_json(run.folder / checkpoint.RESULT, result)
    return result
