"""Training: samples a second and the share of data loading, of our loop and of a plain MONAI loop.

    python -m benchmark.training                                     # the paper's network, crops of 160^3: for a GPU
    python -m benchmark.training --widths 4 16 32 48 64 --crop 64 --steps 20
    python -m benchmark.training --size 40 36 32 --widths 2 4 --crop 16 --steps 2 --epochs 2 --json toy.json

Ours is training.runs.loop with the crops of training.batches.crops and the augmentation of training.batches.augment.
The plain loop trains the same network: a CacheDataset holds the same studies in memory, with MONAI's transforms for the
nine rows of table 1, its DiceFocalLoss and torch's AdamW, contiguous images, in the same precision. Neither loop starts
worker processes. Samples a second are medians over --epochs of --steps steps, after one epoch that is not counted; in
that time our loop also writes its checkpoint.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from benchmark.command import joined, parser_for, run_child
from benchmark.record import figure, print_and_write, record, table
from benchmark.synthetic import make_study
from model.bundle.settings import Crop
from model.files import peak_memory_bytes
from model.networks.unet import build
from training.batches.crops import CropDataset
from training.data.prepare import prepare_one
from training.data.prepared import load
from training.data.table import Study, study_sha256
from training.runs.loop import Run, train
from training.runs.losses import loss_function
from training.runs.predict import device_for
from training.settings import Training, settings_from

CASES = ("one", "two")
WAYS = ("ours", "plain MONAI")
RADIUS = 0.06  # of the ball that is lesion, as a share of the study's edge


def main() -> None:
    options = arguments()
    if options.child:
        print(json.dumps(measure(options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            prepare_one(make_case(Path(folder) / case, case, tuple(options.size)), Path(folder) / "cache", Crop())
        measured = {way: run_child(way, "--folder", folder) for way in WAYS}
    rows, figures = [], {}
    for way, values in measured.items():
        rate, share = statistics.median(values["samples_per_s"]), statistics.median(values["data_share"])
        rows.append([way, f"{rate:.3f}", f"{100 * share:.1f} %", f"{values['peak_gb']:.2f}"])
        figures[f"{way}: samples a second"] = figure(values["samples_per_s"], "1/s", "more")
        figures[f"{way}: data loading"] = figure(values["data_share"], "")
        figures[f"{way}: memory"] = figure([values["peak_gb"]], "GB")
    title = (
        f"Training: middle fusion of widths {joined(options.widths)}, crops of {options.crop}^3, "
        f"batches of {options.batch}"
    )
    printed = table(["loop", "samples a second", "data loading", "host GB"], rows)
    print_and_write(record(title, printed, figures), options.json)


def arguments() -> argparse.Namespace:
    parser = parser_for(__doc__, "size", "widths", "device")
    add = parser.add_argument
    add("--crop", type=int, default=160, help="edge of the crops in voxels (default 160)")
    add("--batch", type=int, default=2, help="crops at a time (default 2)")
    add("--steps", type=int, default=10, help="steps of an epoch (default 10)")
    add("--epochs", type=int, default=3, help="epochs that are counted (default 3)")
    return parser.parse_args()


def make_case(folder: Path, case: str, size: tuple[int, ...]) -> Study:
    """A synthetic study whose lesion is a ball in its middle."""
    make_study(folder, size, size, compressed=False)
    pet, ct, truth = (folder / f"images/{what}/{what}.mha" for what in ("pet", "ct", "truth"))
    image = sitk.ReadImage(str(pet))
    z, y, x = (np.linspace(-1, 1, n) for n in size[::-1])
    ball = (x**2)[None, None] + (y**2)[None, :, None] + (z**2)[:, None, None] < (2 * RADIUS) ** 2
    mask = sitk.GetImageFromArray(ball.astype(np.uint8))
    mask.CopyInformation(image)
    truth.parent.mkdir()
    sitk.WriteImage(mask, str(truth))
    return Study(
        case=case,
        patient=case,
        diagnosis="lymphoma",
        tracer="FDG",
        site="A",
        pet=pet,
        ct=ct,
        truth=truth,
        lesion_ml=1.0,
        sha256=study_sha256(pet, ct, truth),
    )


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Samples a second and the share of data loading of every counted epoch."""
    edges = [options.crop] * 3
    settings = settings_from(
        {
            "network": {"fusion": "middle", "widths": list(options.widths)},
            "crops": {"size": edges},
            "window": {"size": edges},
            "optimizer": {"name": "adamw"},
            "batch": options.batch,
            "accumulate": 1,
            "schedule": {"epochs": options.epochs + 1, "steps_per_epoch": options.steps, "warmup_epochs": 0},
            "workers": 0,
            "channels_last": True,
        }
    )
    torch.manual_seed(0)
    loop = our_loop if options.child == "ours" else plain_loop
    ends = loop(settings, options.folder, options.device)  # (seconds, seconds of data loading) at each epoch's end
    spent = [(b[0] - a[0], b[1] - a[1]) for a, b in zip(ends, ends[1:], strict=False)]
    return {
        "samples_per_s": [options.batch * options.steps / seconds for seconds, _ in spent],
        "data_share": [data / seconds for seconds, data in spent],
        "peak_gb": peak_memory_bytes() / 1e9,
    }


def our_loop(settings: Training, inputs: Path, device: str) -> list[tuple[float, float]]:
    ends: list[tuple[float, float]] = []

    def at_epoch(epoch: int, figures: dict[str, Any]) -> dict[str, Any]:
        ends.append((time.perf_counter(), figures["data_s"]))
        return {}

    folder = inputs / "run"
    folder.mkdir()
    train(
        Run(
            folder=folder,
            settings=settings,
            network=build(settings.network),
            loss=loss_function(settings.loss),
            data=CropDataset(inputs / "cache", CASES, settings),
            device=device_for(settings.precision, device),
            at_epoch=at_epoch,
        ),
        None,
    )
    return ends


def plain_loop(settings: Training, inputs: Path, device: str) -> list[tuple[float, float]]:
    from monai.data import CacheDataset, DataLoader
    from monai.losses import DiceFocalLoss

    on = device_for(settings.precision, device)
    data = CacheDataset([as_dictionary(inputs / "cache", case) for case in CASES], transforms(settings), progress=False)
    batches = DataLoader(data, batch_size=settings.batch, shuffle=True, num_workers=0)
    network = build(settings.network).to(on.torch_device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.optimizer.rate)
    loss_of = DiceFocalLoss(softmax=True, to_onehot_y=True)
    scaler = torch.amp.GradScaler(on.torch_device.type, enabled=on.precision == torch.float16)
    ends, data_s, waiting = [], 0.0, iter(batches)
    for _ in range(settings.schedule.epochs):
        for _ in range(settings.schedule.steps_per_epoch or 1):
            begun = time.perf_counter()
            batch = next(waiting, None)
            if batch is None:
                waiting = iter(batches)
                batch = next(waiting)
            image, truth = (batch[key].to(on.torch_device) for key in ("image", "truth"))
            data_s += time.perf_counter() - begun
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(on.torch_device.type, on.precision, on.precision != torch.float32):
                out = network(image)
            loss = loss_of(out.float(), truth)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            float(loss.detach())  # our loop reads the loss, too, to check that it is finite
        ends.append((time.perf_counter(), data_s))
    return ends


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
