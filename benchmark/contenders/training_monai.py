"""A plain MONAI loop that trains the same network, in a process of its own; benchmark.training starts it.

A CacheDataset holds the same studies in memory; worker processes run MONAI's transforms for the nine rows of table 1;
MONAI's DiceFocalLoss and torch's AdamW follow, contiguous images, torch's autocast in the precision of ours.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmark.contenders.training_task import CASES, End, TrainingTask, run, settings_of
from model.networks.unet import build
from training.compute.device import device_for
from training.data.prepared import load
from training.settings import Training


def main() -> None:
    run(plain_loop)


def plain_loop(task: TrainingTask) -> tuple[list[End], str]:
    from monai.losses import DiceFocalLoss

    settings = settings_of(task)
    on = device_for(settings.precision, task.device)
    network = build(settings.network).to(on.torch_device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.optimizer.rate)
    loss_of = DiceFocalLoss(softmax=True, to_onehot_y=True)
    scaler = torch.amp.GradScaler(on.torch_device.type, enabled=on.precision == torch.float16)
    ends, data_s, waiting = [], 0.0, iter(batches(settings, task))
    for _ in range(task.epochs + 1):
        for _ in range(task.steps):
            begun = time.perf_counter()
            batch = next(waiting)
            image, truth = (batch[key].to(on.torch_device, non_blocking=True) for key in ("image", "truth"))
            data_s += time.perf_counter() - begun
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(on.torch_device.type, on.precision, on.precision != torch.float32):
                out = network(image)
            loss = loss_of(out.float(), truth)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            float(loss.detach())  # a plain loop prints it
        ends.append((time.perf_counter(), data_s))
    return ends, str(on.precision).removeprefix("torch.")


def batches(settings: Training, task: TrainingTask) -> Any:
    """As many batches as the task has steps, drawn from the studies again and again by the same workers."""
    from monai.data import CacheDataset, DataLoader

    data = CacheDataset([as_dictionary(Path(task.cache), case) for case in CASES], transforms(settings), progress=False)
    number = task.batch * task.steps * (task.epochs + 1)
    sampler = torch.utils.data.RandomSampler(data, replacement=True, num_samples=number)
    pinned = torch.cuda.is_available() and task.device != "cpu"
    return DataLoader(data, task.workers, batch_size=task.batch, sampler=sampler, pin_memory=pinned)


def as_dictionary(cache: Path, case: str) -> dict[str, Any]:
    """A prepared study as MONAI takes it, in network units."""
    study = load(cache, case)
    image = np.stack([(np.clip(study.hu, -1000, 1000) + 1000.0) / 2000, np.asarray(study.suv) / 40.0])
    return {
        "image": torch.from_numpy(image.astype(np.float32)),
        "truth": torch.from_numpy(np.asarray(study.truth)[None].astype(np.float32)),
    }


def transforms(settings: Training) -> Any:
    """MONAI's transforms for the nine rows of table 1, after its crop."""
    from monai import transforms as mt

    both, size = ("image", "truth"), settings.crops.size
    return mt.Compose(
        [
            mt.SpatialPadd(both, size),
            mt.RandCropByPosNegLabeld(both, "truth", size, pos=1, neg=0.2, num_samples=1),
            *(mt.RandFlipd(both, prob=0.5, spatial_axis=axis) for axis in range(3)),
            mt.RandRotated(both, range_x=0.26, range_y=0.26, range_z=0.26, prob=0.2, mode=("bilinear", "nearest")),
            mt.Rand3DElasticd(
                both, sigma_range=(5, 13), magnitude_range=(100, 400), prob=0.2, mode=("bilinear", "nearest")
            ),
            mt.RandAdjustContrastd("image", prob=0.3, gamma=(0.7, 1.5)),
            mt.RandShiftIntensityd("image", offsets=0.1, prob=0.2),
            mt.RandScaleIntensityd("image", factors=0.25, prob=0.2),
            mt.RandGaussianSmoothd("image", (0.25, 1.1), (0.25, 1.1), (0.25, 1.1), prob=0.2),
            mt.RandSimulateLowResolutiond("image", prob=0.3, zoom_range=(0.6, 1.0)),
            mt.RandGaussianNoised("image", prob=0.2, mean=0.0, std=0.1),
            mt.ToTensord(both, track_meta=False),
        ]
    )


if __name__ == "__main__":
    main()
