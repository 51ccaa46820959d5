"""Train one network: the base run to theta_0, or a member from it whose weights are averaged (section 2.5).

    python -m training train --settings base.yaml --cache runs/cache --split split.json --fold 0 --run runs/base
    python -m training train --settings member.yaml ... --run runs/m1 --start runs/base

A run folder holds config.yaml, log.jsonl, checkpoint.pt, TensorBoard's files, curves.png, slices.png and, at
the end, the weights (theta_0 as last.safetensors, a member's average as mean.safetensors) and run.json. The
same command again resumes it. On N GPUs, with -- before the options that are not torchrun's:

    torchrun --nproc_per_node N -m training -- train --settings base.yaml --cache runs/cache ... --run runs/base
"""

import argparse
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from model.errors import ConfigError
from model.files import sha256_of
from model.inference.device import Device
from model.whole import recover, whole_folder
from training.batches.crops import CropDataset
from training.batches.device_crops import DeviceCrops
from training.batches.slices import SliceDataset
from training.command import add_device_option, add_fold_options
from training.compute.compiling import check_compile
from training.compute.device import choose_convolutions, device_for
from training.compute.finite import check_weights
from training.compute.torchrun import processes, rank
from training.data.folds import Fold, read_fold
from training.data.prepared import digest_of, load, one_crop
from training.judging.leakage import check_apart, check_not_seen, seen_by, seen_with
from training.judging.pictures import draw_curves
from training.judging.validation import BEST, BEST_NOTE, Validation, check_validation_cases, validation_cases
from training.runs.fitted_schedule import fit_schedule, fitted_settings
from training.runs.folder import FITTED, RESTARTS, opened
from training.runs.loop import steps_per_epoch, train
from training.runs.losses import loss_function
from training.runs.run import Run
from training.runs.start import starting_network, starting_point
from training.settings import Training, changed, read_settings, read_yaml, settings_from, settings_to
from training.stopping import add_minutes_option, check_time
from training.weights import checkpoint
from training.weights.averaging import WeightAverage


def run(options: argparse.Namespace) -> None:
    """Train to the end, and print what the run ended with. Raises the errors of `train_run`."""
    settings = read_settings(options.settings)
    if options.change:
        settings = changed(settings, read_yaml(options.change), str(options.change))
    result = train_run(
        options.run,
        settings,
        options.cache,
        read_fold(options.split, options.fold),
        start=options.start,
        ct_encoder=options.ct_encoder,
        encoder=options.encoder,
        wanted=options.device,
    )
    if result:
        validation = validated_text(result.get("validation", {}))
        print(f"'{options.run / result['result']}' is what the run ended with{validation}")
        if result.get("left_out"):
            print(
                f"warning: {result['left_out']} steps were left out, whose loss or gradients were not finite; "
                f"{checkpoint.LOG} counts them by epoch",
                file=sys.stderr,
            )


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Cost: schedule.epochs (or stop) x steps_per_epoch steps, each batch x accumulate crops forward and "
        "backward, and the validation cases once every validate_every epochs; training/README.md has a table of hours "
        "and hardware. On disk 12 bytes a parameter, 20 while weights are averaged, and 4 for the result."
    )
    parser.add_argument("--settings", type=Path, required=True, help="YAML of training.settings.Training")
    parser.add_argument("--change", type=Path, help="YAML of settings that differ from --settings (default none)")
    add_fold_options(parser)
    parser.add_argument("--run", type=Path, required=True, help="folder of this run; a used one is gone on with")
    parser.add_argument("--start", type=Path, help="folder of the finished base run that a member starts from")
    parser.add_argument("--ct-encoder", type=Path, help="CT encoder of training pretrain, for a base run")
    parser.add_argument("--encoder", type=Path, help="timm's weights for the RegNetY of a network for slices")
    add_device_option(parser)
    add_minutes_option(parser)


def train_run(
    folder: Path,
    settings: Training,
    cache: Path,
    fold: Fold,
    *,
    start: Path | None = None,
    ct_encoder: Path | None = None,
    encoder: Path | None = None,
    wanted: str = "auto",
) -> dict[str, Any]:
    """Train one run to its end. Returns what run.json says; a finished run is not done again.

    encoder: a file of timm's weights for the encoder of a network for slices. start: a finished run; this one begins
    with its result, at epoch `averaging.start`. Raises ConfigError, WeightsError, and TrainingError for a loss or
    weights that are not finite.
    """
    if processes() == 1:  # several processes stop together, after a step
        check_time(f"'{folder}' is to be trained")
    origin = starting_point(settings, start, ct_encoder, encoder)
    before = start or (ct_encoder.parent if ct_encoder else None)
    if before:
        check_not_seen(before, seen_by(before), (*fold.validate, *fold.test), cache, "validate or test with")
    if not fold.train:
        raise ConfigError(f"fold {fold.name} has no training case")
    device = device_for(settings.precision, wanted)
    if settings.compile:
        check_compile(device.torch_device.type)
    data = data_for(settings, cache, fold, device)  # whatever is wrong shows before the folder is made
    check_data(data, settings, cache, fold)
    choose_convolutions(settings)
    network, fitted = starting_network(settings, start, ct_encoder, encoder), dict[str, Any]()
    if settings.schedule.minutes is not None:
        settings, fitted = fit_schedule(folder, settings, network, data, device)
        network = starting_network(settings, start, ct_encoder, encoder)
        if settings.network.kind == "slices":
            data = data_for(settings, cache, fold, device)  # which slices an epoch shows depends on its steps
    config = {
        **config_of(settings, cache, fold, data),
        "seen": seen_with(data.studies, before),
        "start": origin,
        "processes": processes(),
        **({FITTED: fitted} if fitted else {}),
    }
    with opened(folder, config, device) as state:
        if done := checkpoint.finished(folder):
            return done
        validation = Validation(folder, settings, cache, fold, network, device)
        run = Run(
            folder=folder,
            settings=settings,
            network=network,
            data=data,
            loss=loss_function(settings.loss),
            device=device,
            average=WeightAverage() if settings.averaging else None,
            first_epoch=settings.averaging.start if settings.averaging and start else 0,
            at_epoch=validation,
            restarts=read_yaml(folder / checkpoint.CONFIG).get(RESTARTS, []),
        )
        validation.average = run.average
        train(run, state)
        check_weights(folder, settings, weights_of(run), settings.schedule.last * steps_per_epoch(run))
        if not validation.last:  # a run killed after its last checkpoint has not validated; all processes share it
            validation.scores(settings.schedule.last)
        if rank() == 0:
            return finish(run, validation, origin, {FITTED: fitted, RESTARTS: run.restarts})
    return {}


def config_of(settings: Training, cache: Path, fold: Fold, data: CropDataset | SliceDataset) -> dict[str, Any]:
    """What config.yaml says of the settings, and of the studies that train and validate."""
    return {
        "settings": settings_to(settings),
        "train": list(fold.train),
        "validate": list(fold.validate),
        "data": digest_of((*data.studies, *(load(cache, case) for case in fold.validate))),
    }


def check_data(data: CropDataset | SliceDataset, settings: Training, cache: Path, fold: Fold) -> None:
    """Print what may be wrong with a fold's cases. Raises ConfigError for what is wrong."""
    if isinstance(data, SliceDataset) and data.warning and rank() == 0:
        print(f"warning: {data.warning}", file=sys.stderr)
    one_crop(cache, (*fold.train, *fold.validate))
    check_apart(data.studies, fold, cache)
    check_validation_cases(settings, cache, validation_cases(settings, cache, fold))


def validated_text(validation: Mapping[str, Any]) -> str:
    """The last validation in words, as the end of a sentence; empty if nothing was validated."""
    if "dice" not in validation:
        return ""
    dice = validation["dice"]
    return ", validation Dice " + ("n/a: no validated case has a lesion" if dice is None else f"{dice:.4f}")


def data_for(settings: Training, cache: Path, fold: Fold, device: Device) -> CropDataset | SliceDataset:
    """Crops, or slices, of the fold's training cases."""
    if settings.network.kind == "slices":
        return SliceDataset(cache, fold.train, settings, processes())
    if settings.crops_on == "device":
        return DeviceCrops(cache, fold.train, settings, device.torch_device)
    return CropDataset(cache, fold.train, settings)


def carry_on(base: Path, folder: Path, settings: Training) -> None:
    """Copy the base run's checkpoint to `folder`, so that it can be trained on to `schedule.stop` of these settings.

    They may differ from the base run's only in `stop`: "vanilla" in table 3 is the base run, never averaged.
    Raises ConfigError if they differ in anything else.
    """
    recover(folder)
    if folder.exists():
        return
    config = read_yaml(base / checkpoint.CONFIG)
    longer = settings_to(fitted_settings(settings, config))
    there = settings_to(changed(settings_from(config["settings"]), {"schedule": {"stop": longer["schedule"]["stop"]}}))
    if there != longer:
        raise ConfigError(f"'{base}' was trained with other settings: only schedule.stop may differ to carry it on")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(folder) as partial:
        for name in (checkpoint.STATE, checkpoint.LOG):
            shutil.copy(base / name, partial / name)
        text = yaml.safe_dump(config | {"settings": longer}, sort_keys=False)
        (partial / checkpoint.CONFIG).write_text(text, encoding="utf-8")


def weights_of(run: Run) -> dict[str, Any]:
    """What the run ends with: the average where there is one, else the network's weights."""
    return run.average.state() if run.average else run.network.state_dict()


def finish(run: Run, validation: Validation, origin: dict[str, str] | None, more: Mapping[str, Any]) -> dict[str, Any]:
    """Write the weights and run.json. more: what else it says, where there is anything."""
    name = checkpoint.MEAN if run.average else checkpoint.LAST
    stop = run.settings.schedule.last
    scores, best = validation.last, stop
    if run.settings.keep == "best" and (run.folder / BEST_NOTE).exists():
        name, note = BEST, checkpoint.read_json(run.folder / BEST_NOTE)
        best, scores = note["epoch"], note["validation"]
    else:
        checkpoint.write_weights(run.folder / name, validation.network_to_save().state_dict())
    result = {
        "result": name,
        "sha256": sha256_of(run.folder / name),
        "epoch": stop,
        "kept_epoch": best,
        "start": origin,
        "terms": run.average.terms if run.average else 0,
        "validation": scores,
        "seconds": {key: round(value, 1) for key, value in run.seconds.items()},
        "device": run.device.name,
        "precision": str(run.device.precision).removeprefix("torch."),
        "left_out": run.left_out.run,
        **{key: value for key, value in more.items() if value},
    }
    draw_curves(run.folder / checkpoint.LOG, run.folder / "curves.png")
    checkpoint.write_json(run.folder / checkpoint.RESULT, result)
    return result
