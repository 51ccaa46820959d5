"""nnU-Net v2's own trainer with our network in it, in a process of its own; benchmark.training starts it.

The same network, patch and batch, so that the trainers are compared and not the networks. All else is nnU-Net's
default: batchgeneratorsv2 in worker processes, Dice and cross-entropy, SGD, clipped gradients, float16 on a GPU,
cuDNN's fastest convolutions, torch.compile where it can run. Deep supervision is off, since the network has one head.
Steps alone are timed, not its epochs' ends. It needs an environment of its own: benchmark/requirements.txt says how to
make it.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmark.contenders.training_task import CASES, End, TrainingTask, run
from benchmark.nnunet_models import dataset_of, plans_of
from model.bundle.network import Network
from model.inference.device import choose_device
from model.networks.unet import build
from training.compute.compiling import why_no_compile
from training.data.prepared import load

IDENTIFIER = "nnUNetPlans_3d_fullres"


def main() -> None:
    run(nnunet_loop)
    os._exit(0)  # its workers would be waited for


def nnunet_loop(task: TrainingTask) -> tuple[list[End], str]:
    home = Path(task.folder)
    for name in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{name}"] = str(home / name)
    os.environ["nnUNet_n_proc_DA"] = str(task.workers)
    device = choose_device(task.device).torch_device
    why = why_no_compile("cuda") if device.type == "cuda" else "it leaves a CPU's networks as they are"
    os.environ["nnUNet_compile"] = "f" if why else "t"
    plans = plans_for(task)
    write_studies(home / "preprocessed" / plans["dataset_name"], task, plans)
    trainer = trainer_of(task, plans, device)
    trainer.initialize()
    batches, _ = trainer.get_dataloaders()
    trainer.network.train()
    ends, data_s = [], 0.0
    for _ in range(task.epochs + 1):
        for _ in range(task.steps):
            begun = time.perf_counter()
            batch = next(batches)
            data_s += time.perf_counter() - begun
            trainer.train_step(batch)  # reads the loss, so the GPU is waited for
        ends.append((time.perf_counter(), data_s))
    return ends, ("float16" if device.type == "cuda" else "float32") + ("" if why else ", compiled")


def plans_for(task: TrainingTask) -> dict[str, Any]:
    """Plans of the task's patch and batch."""
    return plans_of(patch_size=[task.crop] * 3, batch_size=task.batch, batch_dice=False, data_identifier=IDENTIFIER) | {
        "continue_training": False
    }


def trainer_of(task: TrainingTask, plans: dict[str, Any], device: torch.device) -> Any:
    """nnU-Net's trainer, whose network is ours."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer  # type: ignore[import-not-found]

    class TrainerOfOurs(nnUNetTrainer):  # type: ignore[misc]
        @staticmethod
        def build_network_architecture(
            plans_manager: Any, configuration_manager: Any, inside: int, outside: int, enable_deep_supervision: bool
        ) -> torch.nn.Module:
            return build(Network(fusion="middle", widths=tuple(task.widths)))

    trainer = TrainerOfOurs(plans, "3d_fullres", 0, dataset_of(), device)
    trainer.enable_deep_supervision = False
    return trainer


def write_studies(folder: Path, task: TrainingTask, plans: dict[str, Any]) -> None:
    """The prepared studies as nnU-Net's preprocessing leaves them, all of them for training and for validation."""
    from nnunetv2.training.dataloading.nnunet_dataset import (  # type: ignore[import-not-found]
        comp_blosc2_params,
        nnUNetDatasetBlosc2,
    )

    (folder / IDENTIFIER).mkdir(parents=True)
    for case in CASES:
        study = load(Path(task.cache), case)
        image = np.stack([np.asarray(study.hu) / 1000.0, np.asarray(study.suv) / 40.0]).astype(np.float32)
        truth = np.asarray(study.truth)[None].astype(np.int8)
        blocks, chunks = comp_blosc2_params(image.shape, (task.crop,) * 3)
        lesion = np.argwhere(truth == 1)
        kept = np.random.default_rng(0).permutation(len(lesion))[:10000]
        properties = {"class_locations": {1: lesion[kept]}}
        name = str(folder / IDENTIFIER / case)
        nnUNetDatasetBlosc2.save_case(image, truth, properties, name, chunks, blocks)
    split = [{"train": list(CASES), "val": list(CASES)}]
    (folder / "splits_final.json").write_text(json.dumps(split))


if __name__ == "__main__":
    main()
