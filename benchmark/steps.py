"""A step of training without its network: crops drawn, cut and augmented, and optimizers, on host and device.

    python -m benchmark.steps                                        # crops of 160^3, the paper's network: for a GPU
    python -m benchmark.steps --device cpu --crop 96 --batches 4 --threads 1
    python -m benchmark.steps --device cpu --size 40 36 32 --widths 2 4 --crop 16 --batches 2 --json toy.json

Crops are of two studies of random values, with the paper's augmentation. `drawn`: all random numbers of a crop that the
host draws for a device. `one by one`: a crop as a worker process makes it. `together`: a batch on the device, as
crops_on: device makes it, from studies that lie there, and from studies in their files. A GPU is waited for at the end
of each batch and step. `launched`: until the host is done; `processor`: what it worked for that.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmark.command import joined, parser_for
from benchmark.record import figure, print_and_write, record, table
from model.bundle.settings import Crop
from model.networks.unet import build
from model.schema import to_plain
from training.batches.crops import CropDataset
from training.batches.device_crops import DeviceCrops
from training.compute.device import device_for
from training.compute.optimizers import optimizer_for, step_unless
from training.data.prepared import FORMAT, POINTS, store
from training.settings import OPTIMIZERS, Training, changed, settings_from

CASES = ("one", "two")
Seconds = list[tuple[float, float, float]]  # of the processor, until the host is done, until the device is


def main() -> None:
    options = arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = device_for("float32", options.device).torch_device
    edges = [options.crop] * 3
    settings = settings_from(
        {
            "network": {"fusion": "middle", "widths": list(options.widths)},
            "crops": {"size": edges},
            "window": {"size": edges},
            "batch": options.batch,
        }
    )
    measured: dict[str, Seconds] = {}
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            make_prepared(Path(folder) / case, tuple(options.size))
        measured |= crops(Path(folder), settings, device, options.batches)
    for name in OPTIMIZERS:
        measured |= optimizers(name, settings, device, options.batches)
    rows, figures = [], {}
    for name, seconds in measured.items():
        rows.append([name, *(f"{value:.2f}" for value in 1000 * np.median(seconds, axis=0))])
        figures[name] = figure([1000 * done for _, _, done in seconds], "ms")
    title = (
        f"Around the network in a step of training: crops of {options.crop}^3, batches of {options.batch}, widths "
        f"{joined(options.widths)}, medians of {options.batches}"
    )
    print_and_write(
        record(title, table(["what", "processor, ms", "launched, ms", "done, ms"], rows), figures), options.json
    )


def arguments() -> argparse.Namespace:
    parser = parser_for(__doc__, "size", "widths", "device")
    add = parser.add_argument
    add("--crop", type=int, default=160, help="edge of the crops in voxels (default 160)")
    add("--batch", type=int, default=2, help="crops at a time (default 2)")
    add("--batches", type=int, default=20, help="batches, and steps of an optimizer, that are counted (default 20)")
    add("--threads", type=int, default=0, help="threads of torch on a CPU (default 0: torch's choice)")
    return parser.parse_args()


def make_prepared(folder: Path, size: tuple[int, ...]) -> None:
    """A prepared study of random values, with lesion and uptake anywhere."""
    rng = np.random.default_rng(len(folder.name))
    hu = rng.integers(-1000, 1000, size, dtype=np.int16)
    suv = rng.random(size, dtype=np.float32).astype(np.float16)
    places = rng.integers(0, size, (20_000, 3)).astype(np.int16)
    parts = np.concatenate([np.sort(rng.integers(1, 30, (len(places), 1)), 0).astype(np.int16), places], axis=1)
    points = {name: parts if name.endswith("parts") else places for name in POINTS}
    facts = {
        "format": FORMAT,
        "case": folder.name,
        "patient": folder.name,
        "crop": to_plain(Crop()),
        "spacing_mm": [2.0, 2.0, 3.0],
        "lost_ml": 0.0,
        "lost_lesions": 0,
        "missed_ml": 0.0,
    }
    store(folder, {"hu": hu, "suv": suv, "truth": suv > 0.99}, points, facts)


def crops(cache: Path, settings: Training, device: torch.device, batches: int) -> dict[str, Seconds]:
    """Seconds a crop of each way to make crops."""
    numbers = [
        range(first, first + settings.batch) for first in range(0, (batches + 1) * settings.batch, settings.batch)
    ]
    worker = CropDataset(cache, CASES, settings)
    there, streamed = (DeviceCrops(cache, CASES, settings, device, share) for share in (0.9, 0.0))
    ways: dict[str, Callable[[range], object]] = {
        "a crop, drawn": lambda batch: [worker.plan(number, seeded=True) for number in batch],
        "a crop, one by one on the host": lambda batch: [worker[number] for number in batch],
        "a crop, together on the device": there.batch,
        "a crop, together, studies in files": streamed.batch,
    }
    return {
        name: [(a / settings.batch, b / settings.batch, c / settings.batch) for a, b, c in timed(way, numbers, device)]
        for name, way in ways.items()
    }


def optimizers(name: str, settings: Training, device: torch.device, steps: int) -> dict[str, Seconds]:
    """Seconds a step of an optimizer's two kinds."""
    found = {}
    for what, on_device in (("for a CPU", False), ("for a GPU", True)):
        step = optimizer_step(name, settings, device, on_device)
        found[f"{name}, a step, {what}"] = timed(step, [range(0)] * (steps + 1), device)
    return found


def optimizer_step(name: str, settings: Training, device: torch.device, on_device: bool) -> Callable[[range], None]:
    """A step of an optimizer over the settings' network, with gradients of random values."""
    network: nn.Module = build(settings.network).to(device)
    options = changed(settings, {"optimizer": {"name": name}}).optimizer
    optimizer = optimizer_for(network.parameters(), options, on_device)
    left_out = torch.zeros((), dtype=torch.bool, device=device)
    for parameter in network.parameters():
        parameter.grad = 1e-3 * torch.randn_like(parameter)
    return lambda batch: step_unless(optimizer, left_out)


def timed(work: Callable[[range], object], batches: list[range], device: torch.device) -> Seconds:
    """Seconds of the work on each of the batches but the first."""
    found: Seconds = []
    for batch in batches:
        begun, worked = time.perf_counter(), time.process_time()
        work(batch)
        launched, worked = time.perf_counter() - begun, time.process_time() - worked
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append((worked, launched, time.perf_counter() - begun))
    return found[1:]


if __name__ == "__main__":
    main()
