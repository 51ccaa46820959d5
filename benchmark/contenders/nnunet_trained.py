r"""nnU-Net v2 trained by its own trainer on a fold, for so many minutes: a model's folder to import and score.

    .nnunet/bin/python -m benchmark.contenders.nnunet_trained --index index.csv --split split.json --fold 0 \
        --folder runs/nnunet-0 --prepare
    .nnunet/bin/python -m benchmark.contenders.nnunet_trained ... --folder runs/nnunet-0 --minutes 8
    python -m training import runs/nnunet-0/results/Dataset001_lesions --name nnunet-0
    python -m training baselines --index index.csv --split split.json --fold 0 --part test --weights nnunet-0 ...

The first command writes the fold's studies as nnU-Net wants them (LAS, CT on the PET's voxels) and runs its planning
and preprocessing, on the CPU; the second trains. All is nnU-Net's default: plans, augmentation, deep supervision, SGD,
the number of steps an epoch. Two things are not: its 1000 epochs end when the minutes are over, and its polynomial rate
falls to zero over the minutes. The last weights are kept. It needs an environment of its own:
benchmark/requirements.txt says how to make it.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import SimpleITK as sitk
import torch

from model.errors import ConfigError, LesionError
from training.command import report_error
from training.data.folds import Fold, read_fold
from training.data.table import Study, read_table

DATASET, NUMBER = "Dataset001_lesions", 1
CONFIGURATION, PLANS = "3d_fullres", "nnUNetPlans"
AIR_HU = -1024.0
POWER = 0.9  # of nnU-Net's polynomial rate
VALIDATION_STEPS = 2  # an epoch: what they find is only logged


def main() -> int:
    """Prepare or train. Returns the exit code."""
    options = arguments()
    try:
        os.environ["nnUNet_n_proc_DA"] = str(max(options.workers, int(options.prepare)))  # its planner needs 1
        for name in ("raw", "preprocessed", "results"):
            os.environ[f"nnUNet_{name}"] = str(options.folder.resolve() / name)
        (prepare if options.prepare else train)(options)
    except LesionError as error:
        return report_error(error)
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--device", default="cuda", choices=("cuda", "cpu"), help="where to train (default cuda)")
    add("--index", type=Path, required=True, help="of training index, or a nested run's index.csv")
    add("--split", type=Path, required=True, help="of training split, or a nested fold's split.json")
    add("--fold", required=True, help="fold of the split: its training cases train, its validation cases are logged")
    add("--folder", type=Path, required=True, help="of everything that nnU-Net writes")
    add("--prepare", action="store_true", help="write the studies, plan and preprocess (default: train)")
    add("--minutes", type=float, default=8.0, help="how long to train (default 8)")
    add("--steps", type=int, default=250, help="steps of an epoch (default 250, nnU-Net's)")
    add("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all processors)")
    return parser.parse_args()


def prepare(options: argparse.Namespace) -> None:
    """Write the fold's studies, and run nnU-Net's fingerprint, plans and preprocessing."""
    studies, fold = read_table(options.index), read_fold(options.split, options.fold)
    cases = [studies[case] for case in (*fold.train, *fold.validate)]
    raw = options.folder / "raw" / DATASET
    for name in ("imagesTr", "labelsTr"):
        (raw / name).mkdir(parents=True, exist_ok=True)
    for study in cases:
        write_case(study, raw)
    channels = {"0": "CT", "1": "PET"}
    facts = {"channel_names": channels, "labels": {"background": 0, "lesion": 1}, "numTraining": len(cases)}
    (raw / "dataset.json").write_text(json.dumps(facts | {"file_ending": ".nii.gz"}))
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api  # type: ignore[import-not-found]

    api.extract_fingerprints([NUMBER], num_processes=max(1, options.workers))
    api.plan_experiments([NUMBER])
    api.preprocess([NUMBER], PLANS, (CONFIGURATION,), (max(1, options.workers),))
    write_split(fold, options.folder / "preprocessed" / DATASET)


def write_case(study: Study, raw: Path) -> None:
    """CT, PET and truth of a study on the PET's voxels, in LAS."""
    pet = sitk.DICOMOrient(sitk.ReadImage(str(study.pet), sitk.sitkFloat32), "LAS")
    ct = sitk.Resample(sitk.ReadImage(str(study.ct), sitk.sitkFloat32), pet, sitk.Transform(), sitk.sitkLinear, AIR_HU)
    truth = sitk.DICOMOrient(sitk.Cast(sitk.ReadImage(str(study.truth)), sitk.sitkUInt8), "LAS")
    truth.CopyInformation(pet)
    sitk.WriteImage(ct, str(raw / f"imagesTr/{study.case}_0000.nii.gz"), True)
    sitk.WriteImage(pet, str(raw / f"imagesTr/{study.case}_0001.nii.gz"), True)
    sitk.WriteImage(truth, str(raw / f"labelsTr/{study.case}.nii.gz"), True)


def write_split(fold: Fold, folder: Path) -> None:
    """The fold as nnU-Net's own fold 0."""
    split = [{"train": list(fold.train), "val": list(fold.validate)}]
    (folder / "splits_final.json").write_text(json.dumps(split))


def train(options: argparse.Namespace) -> None:
    """Train for the minutes, and leave checkpoint_final.pth. Raises ConfigError where nothing was prepared."""
    home = options.folder / "preprocessed" / DATASET
    if not (home / "splits_final.json").exists():
        raise ConfigError(f"'{home}' holds no prepared fold; run this command with --prepare first")
    if options.minutes <= 0 or options.steps < 1:
        raise ConfigError(f"--minutes must be above 0 and --steps 1 or more, got {options.minutes:g}, {options.steps}")
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer  # type: ignore[import-not-found]

    plans = json.loads((home / f"{PLANS}.json").read_text()) | {"continue_training": False}
    dataset = json.loads((options.folder / "raw" / DATASET / "dataset.json").read_text())
    trainer = nnUNetTrainer(plans, CONFIGURATION, 0, dataset, torch.device(options.device))
    trainer.num_iterations_per_epoch = options.steps
    trainer.num_val_iterations_per_epoch = VALIDATION_STEPS
    steps, seconds = train_for(trainer, 60 * options.minutes)
    print(json.dumps({"steps": steps, "seconds": round(seconds, 1), "folder": trainer.output_folder}))


def train_for(trainer: Any, most_s: float) -> tuple[int, float]:
    """nnU-Net's own training loop until the time is over, the rate by the time. Returns steps and seconds."""
    trainer.on_train_start()
    begun, steps = time.perf_counter(), 0

    def share() -> float:
        return min((time.perf_counter() - begun) / most_s, 1.0)

    while share() < 1:
        trainer.on_epoch_start()
        trainer.on_train_epoch_start()
        outputs = []
        for _ in range(trainer.num_iterations_per_epoch):
            for group in trainer.optimizer.param_groups:
                group["lr"] = trainer.initial_lr * (1 - share()) ** POWER
            outputs.append(trainer.train_step(next(trainer.dataloader_train)))
            steps += 1
            if share() >= 1:
                break
        trainer.on_train_epoch_end(outputs)
        with torch.no_grad():
            trainer.on_validation_epoch_start()
            found = [
                trainer.validation_step(next(trainer.dataloader_val))
                for _ in range(trainer.num_val_iterations_per_epoch)
            ]
            trainer.on_validation_epoch_end(found)
        trainer.on_epoch_end()
    seconds = time.perf_counter() - begun
    trainer.on_train_end()
    return steps, seconds


if __name__ == "__main__":
    raise SystemExit(main())
