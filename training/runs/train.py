"""Train one network: the base run to theta_0, or a member from it whose weights are averaged (section 2.5).

    python -m training train --settings base.yaml --cache runs/cache --split split.json --fold 0 --run runs/base
    python -m training train --settings member.yaml ... --run runs/m1 --start runs/base

A run folder holds config.yaml, log.jsonl, checkpoint.pt, TensorBoard's files, curves.png, slices.png and, at
the end, the weights (theta_0 as last.safetensors, a member's average as mean.safetensors) and run.json. The
same command again goes on where it stopped. N GPUs, with -- before the options that are not torchrun's:

    torchrun --nproc_per_node N -m training -- train --settings base.yaml --cache runs/cache ... --run runs/base
"""

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from model.errors import ConfigError
from model.files import sha256_of
from model.inference.device import Device, make_deterministic
from model.networks.unet import build
from model.whole import recover, whole_folder
from training.batches.crops import CropDataset
from training.batches.device_crops import DeviceCrops
from training.batches.slices import SliceDataset
from training.command import ENDS, given, told
from training.data.folds import Fold, read_fold
from training.data.prepared import Prepared, digest_of, load, one_crop
from training.runs import checkpoint
from training.runs.averaging import WeightAverage
from training.runs.batch_norm import refreshed
from training.runs.finite import check_weights
from training.runs.imagenet import load_encoder
from training.runs.leakage import check_apart, check_unseen, seen_by, seen_with
from training.runs.loop import Run, opened, processes, rank, steps_per_epoch, train
from training.runs.losses import loss_function
from training.runs.pictures import draw_curves, draw_slices
from training.runs.predict import device_for, finite, margin, score_margin, validation_dice
from training.settings import Training, changed, read_settings, read_yaml, settings_from, settings_to

MEAN, LAST, BEST = "mean.safetensors", "last.safetensors", "best.safetensors"
BEST_NOTE = "best.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run with the command line's arguments. Returns the exit code; an error is the last line on stderr."""
    options = parse(arguments)
    try:
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
    except ENDS as error:
        return told(error)
    if result:
        said = validated_text(result.get("validation", {}))
        print(f"'{options.run / result['result']}' is what the run ended with{said}")
        if result.get("left_out"):
            print(
                f"warning: {result['left_out']} steps were left out, whose loss or gradients were not finite; "
                f"{checkpoint.LOG} counts them by epoch",
                file=sys.stderr,
            )
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training train",
        description=__doc__.splitlines()[0],
        epilog="Cost: schedule.epochs (or stop) x steps_per_epoch steps, each batch x accumulate crops forward and "
        "backward, and the validation cases once every validate_every epochs; training/README.md has a table of hours "
        "and hardware. On disk 12 bytes a parameter, 20 while weights are averaged, and 4 for the result.",
    )
    parser.add_argument("--settings", type=Path, required=True, help="YAML of training.settings.Training")
    parser.add_argument("--change", type=Path, help="YAML of settings that differ from --settings (default none)")
    parser.add_argument("--cache", type=Path, required=True, help="what training prepare wrote")
    parser.add_argument("--split", type=Path, required=True, help="what training split wrote")
    parser.add_argument("--fold", default="0", help="name of the fold (default 0)")
    parser.add_argument("--run", type=Path, required=True, help="folder of this run; a used one is gone on with")
    parser.add_argument("--start", type=Path, help="folder of the finished base run that a member starts from")
    parser.add_argument("--ct-encoder", type=Path, help="CT encoder of training pretrain, for a base run")
    parser.add_argument("--encoder", type=Path, help="timm's weights for the RegNetY of a network for slices")
    parser.add_argument("--device", default="auto", help="auto, cuda or cpu (default auto)")
    return parser.parse_args(given(arguments))


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
    """One run to its end; what run.json says of it. A finished run is not done again.

    encoder: a file of timm's weights for the encoder of a network for slices. start: a finished run whose result this
    one begins with, at epoch `averaging.start`. Raises ConfigError, WeightsError, and TrainingError for a loss or
    weights that are not finite.
    """
    origin = starting_point(settings, start, ct_encoder, encoder)
    before = start or (ct_encoder.parent if ct_encoder else None)
    if before:
        check_unseen(before, seen_by(before), (*fold.validate, *fold.test), cache, "validate or test with")
    if not fold.train:
        raise ConfigError(f"fold {fold.name} has no training case")
    device = device_for(settings.precision, wanted)
    data = data_for(settings, cache, fold, device)  # all that can be wrong is found before the folder is begun
    if isinstance(data, SliceDataset) and data.warning and rank() == 0:
        print(f"warning: {data.warning}", file=sys.stderr)
    one_crop(cache, (*fold.train, *fold.validate))
    check_apart(data.studies, fold, cache)
    check_validated(settings, cache, validated_cases(settings, fold))
    if settings.deterministic:
        make_deterministic()
    else:
        torch.backends.cudnn.benchmark = True  # the fastest convolution is looked for once, for each size of crops
    network = starting_network(settings, start, ct_encoder, encoder)
    config = {
        "settings": settings_to(settings),
        "train": list(fold.train),
        "validate": list(fold.validate),
        "data": digest_of((*data.studies, *(load(cache, case) for case in fold.validate))),
        "seen": seen_with(data.studies, before),
        "start": origin,
        "processes": processes(),
    }
    with opened(folder, config, device) as state:
        if done := checkpoint.finished(folder):
            return done
        watcher = Watcher(folder, settings, cache, fold, network, device)
        run = Run(
            folder=folder,
            settings=settings,
            network=network,
            data=data,
            loss=loss_function(settings.loss),
            device=device,
            average=WeightAverage() if settings.averaging else None,
            first_epoch=settings.averaging.start if settings.averaging and start else 0,
            at_epoch=watcher,
        )
        watcher.average = run.average
        train(run, state)
        if rank() == 0:
            return finish(run, watcher, origin)
    return {}


def validated_cases(settings: Training, fold: Fold) -> list[str]:
    """The cases a run validates with: at most `validate_at_most`, from all over the fold's."""
    most = min(settings.validate_at_most or len(fold.validate), len(fold.validate))
    return [fold.validate[number * len(fold.validate) // most] for number in range(most)]


def check_validated(settings: Training, cache: Path, cases: list[str]) -> None:
    """Warn if no case that is validated has a lesion: there is no Dice then. Raises ConfigError for keep: best, which
    chooses by it.
    """
    studies = (load(cache, case) for case in cases)
    if any(len(study.lesion) or study.lost_ml for study in studies):
        return
    remedy = "raise validate_at_most, or divide the cases anew"
    if settings.keep == "best":
        raise ConfigError(
            f"keep: best needs a lesion in the {len(cases)} cases that are validated, or no epoch is better than "
            f"another: {remedy}"
        )
    if cases and rank() == 0:
        print(
            f"warning: none of the {len(cases)} cases that are validated has a lesion: there will be no validation "
            f"Dice; {remedy}",
            file=sys.stderr,
        )


def validated_text(validation: Mapping[str, Any]) -> str:
    """What a run's last validation says, to be put after what it ended with; empty if nothing was validated."""
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
    """Begin `folder` where the base run stands, so that it goes on to `schedule.stop` of these settings.

    They may differ from the base run's in `stop` alone: "vanilla" in table 3 is the base run, never averaged.
    Raises ConfigError if they differ in anything else.
    """
    recover(folder)
    if folder.exists():
        return
    config = read_yaml(base / checkpoint.CONFIG)
    longer = settings_to(settings)
    there = settings_to(changed(settings_from(config["settings"]), {"schedule": {"stop": longer["schedule"]["stop"]}}))
    if there != longer:
        raise ConfigError(f"'{base}' was trained with other settings: only schedule.stop may differ to carry it on")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(folder) as partial:
        for name in (checkpoint.STATE, checkpoint.LOG):
            shutil.copy(base / name, partial / name)
        text = yaml.safe_dump(config | {"settings": longer}, sort_keys=False)
        (partial / checkpoint.CONFIG).write_text(text, encoding="utf-8")


def starting_point(
    settings: Training, start: Path | None, ct_encoder: Path | None, encoder: Path | None = None
) -> dict[str, str] | None:
    """What a run begins with, by sha256 of its file; None for random weights.

    Raises ConfigError, and WeightsError if a base run's weights are not those it ended with.
    """
    if sum(given is not None for given in (start, ct_encoder, encoder)) > 1:
        raise ConfigError("--start, --ct-encoder and --encoder exclude each other: theta_0 holds its encoders already")
    if encoder is not None and settings.network.kind != "slices":
        raise ConfigError("--encoder is for networks for slices; --ct-encoder for those for volumes")
    if ct_encoder is not None and settings.network.kind != "volumes":
        raise ConfigError("--ct-encoder is for networks for volumes; --encoder for those for slices")
    if settings.averaging and start is None and settings.averaging.start > 0:
        raise ConfigError("averaging.start is above 0: a member needs --start, the base run it is fine-tuned from")
    last = settings.schedule.last
    if settings.averaging and settings.averaging.start >= last:
        raise ConfigError(f"averaging.start is {settings.averaging.start}, the run ends at epoch {last}: lower the one")
    if start is not None:
        result = checkpoint.result_of(start)
        if settings.averaging and result["epoch"] != settings.averaging.start:
            raise ConfigError(
                f"base run '{start}' ended at epoch {result['epoch']}, averaging.start is {settings.averaging.start}: "
                "they must be the same t0"
            )
        checkpoint.check_weights(checkpoint.result_file(start), result["sha256"], "the base run")
        return {"run": str(start.resolve()), "sha256": result["sha256"]}
    if encoder is not None:
        if not encoder.is_file():
            raise ConfigError(f"encoder '{encoder}' is not there; give a file of timm's weights")
        return {"encoder": str(encoder.resolve()), "sha256": sha256_of(encoder)}
    if ct_encoder is not None and not ct_encoder.is_file():
        raise ConfigError(f"CT encoder '{ct_encoder}' is not there; training pretrain makes one")
    if ct_encoder is not None and not ct_encoder.with_name(checkpoint.CONFIG).is_file():
        raise ConfigError(
            f"CT encoder '{ct_encoder}' has no {checkpoint.CONFIG} beside it, which says whose CT it was trained on: "
            "leave it in the folder that training pretrain made"
        )
    return {"ct_encoder": str(ct_encoder.resolve()), "sha256": sha256_of(ct_encoder)} if ct_encoder else None


def starting_network(
    settings: Training, start: Path | None, ct_encoder: Path | None, encoder: Path | None = None
) -> nn.Module:
    """Random weights of the seed, theta_0 of the base run, or a pre-trained encoder in random weights."""
    torch.manual_seed(settings.seed)
    network = build(settings.network)
    try:
        if start is not None:
            network.load_state_dict(checkpoint.read_weights(checkpoint.result_file(start)))
        if ct_encoder is not None:
            network.get_submodule("ct_encoder").load_state_dict(checkpoint.read_weights(ct_encoder))
        if encoder is not None:
            load_encoder(network.get_submodule("encoder"), encoder)
    except (RuntimeError, AttributeError) as error:
        reason = str(error).splitlines()[-1].strip()
        given = start or ct_encoder or encoder
        raise ConfigError(f"'{given}' does not fit the network of these settings: {reason}") from None
    return network


class Watcher:
    """At the end of epochs: validation of what would be saved, curves, slices, TensorBoard."""

    def __init__(
        self, folder: Path, settings: Training, cache: Path, fold: Fold, network: nn.Module, device: Any
    ) -> None:
        self.folder, self.settings, self.cache, self.network, self.device = folder, settings, cache, network, device
        self.cases = validated_cases(settings, fold)
        self.average: WeightAverage | None = None
        self.train = fold.train
        self.board = SummaryWriter(str(folder / "tensorboard")) if rank() == 0 else None
        self.last: dict[str, Any] = {}

    def __call__(self, epoch: int, figures: dict[str, Any]) -> dict[str, Any]:
        found = self.validated(epoch)
        if self.board is not None:
            for kind, values in (("training", figures), ("validation", found)):
                for name, value in values.items():
                    if isinstance(value, (int, float)):
                        self.board.add_scalar(f"{kind}/{name}", value, epoch)
            self.board.flush()
        return found

    def validated(self, epoch: int) -> dict[str, float | None]:
        """Scores of the validation cases, where this epoch is one to validate; else nothing."""
        stop = self.settings.schedule.last
        if epoch % self.settings.validate_every and epoch != stop or not self.cases:
            return {}
        scores, shown = {}, None
        network = self.judged()
        for case in self.cases:
            study = load(self.cache, case)
            out = self.margin(network, study)
            scores[case] = score_margin(out, study)
            if shown is None or (len(study.lesion) and not len(shown[0].lesion)):
                shown = study, out
        if shown is not None:
            draw_slices(*shown, self.folder / "slices.png")
        self.last = {
            "dice": validation_dice(scores),
            "fpv_ml": float(np.mean([s.fpv_ml for s in scores.values()])),
            "fnv_ml": float(np.mean([s.fnv_ml for s in scores.values()])),
        }
        self.keep_best(epoch, network)
        if (self.folder / checkpoint.LOG).exists():
            draw_curves(self.folder / checkpoint.LOG, self.folder / "curves.png")
        return dict(self.last)

    def margin(self, network: nn.Module, study: Prepared) -> np.ndarray:
        """The study's margin, computed as in training, or in float32 where that overflows."""

        def compute(on: Device) -> np.ndarray:
            return margin(network, study, self.settings, on)

        return finite(compute, self.device, f"'{self.folder}', case {study.case}")

    def keep_best(self, epoch: int, network: nn.Module) -> None:
        """Write the weights down where they are the best so far, if those are kept."""
        if self.settings.keep != "best" or rank() != 0:
            return
        note = self.folder / BEST_NOTE
        before = checkpoint.read_json(note) if note.exists() else None
        if before is None or epoch <= before["epoch"] or self.last["dice"] > before["validation"]["dice"]:
            checkpoint.write_weights(self.folder / BEST, network.state_dict())
            checkpoint.write_json(note, {"epoch": epoch, "validation": self.last})

    def judged(self) -> nn.Module:
        """The network that is validated: the average where there is one."""
        if self.average is None:
            return self.network
        network = build(self.settings.network).to(self.device.torch_device)
        network.load_state_dict(self.average.state())
        return refreshed(network, self.settings, self.cache, self.train, self.device)


def finish(run: Run, watcher: Watcher, origin: dict[str, str] | None) -> dict[str, Any]:
    """Write the weights and run.json. Raises TrainingError if the weights are not finite."""
    name = MEAN if run.average else LAST
    stop = run.settings.schedule.last
    kept = run.average.state() if run.average else run.network.state_dict()
    check_weights(run.folder, run.settings, kept, stop * steps_per_epoch(run))
    validation = watcher.last or watcher.validated(stop)  # a run killed after its last checkpoint has not validated
    best = stop
    if run.settings.keep == "best" and (run.folder / BEST_NOTE).exists():
        name, note = BEST, checkpoint.read_json(run.folder / BEST_NOTE)
        best, validation = note["epoch"], note["validation"]
    else:
        checkpoint.write_weights(run.folder / name, watcher.judged().state_dict())
    result = {
        "result": name,
        "sha256": sha256_of(run.folder / name),
        "epoch": stop,
        "kept_epoch": best,
        "start": origin,
        "terms": run.average.terms if run.average else 0,
        "validation": validation,
        "seconds": {key: round(value, 1) for key, value in run.seconds.items()},
        "device": run.device.name,
        "precision": str(run.device.precision).removeprefix("torch."),
        "left_out": run.left_out.run,
    }
    draw_curves(run.folder / checkpoint.LOG, run.folder / "curves.png")
    checkpoint.write_json(run.folder / checkpoint.RESULT, result)
    return result
