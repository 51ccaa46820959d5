"""Our training loop on synthetic studies, in a process of its own; benchmark.training starts it."""

import time
from pathlib import Path
from typing import Any

from benchmark.contenders.training_task import CASES, End, TrainingTask, run, settings_of
from model.networks.unet import build
from training.batches.device_crops import DeviceCrops
from training.compute.compiling import check_compile
from training.compute.device import device_for
from training.runs.loop import train
from training.runs.losses import loss_function
from training.runs.run import Run


def main() -> None:
    run(our_loop)


def our_loop(task: TrainingTask) -> tuple[list[End], str]:
    settings, ends = settings_of(task), []
    device = device_for(settings.precision, task.device)
    if task.compile:
        check_compile(device.torch_device.type)

    def at_epoch(epoch: int, figures: dict[str, Any]) -> dict[str, Any]:
        ends.append((time.perf_counter(), figures["data_s"]))
        return {}

    train(
        Run(
            folder=Path(task.folder),
            settings=settings,
            network=build(settings.network),
            loss=loss_function(settings.loss),
            data=DeviceCrops(Path(task.cache), CASES, settings, device.torch_device),
            device=device,
            at_epoch=at_epoch,
        ),
        None,
    )
    return ends, str(device.precision).removeprefix("torch.")


if __name__ == "__main__":
    main()
