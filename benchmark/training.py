"""Training: samples a second of our loop beside a plain MONAI loop, nnU-Net's own trainer and the least time possible.

    python -m benchmark.training --nnunet .nnunet/bin/python             # 96^3 and 160^3, full widths: for a GPU
    python -m benchmark.training --only ours unfused compile --crop 160  # three ways of normalisation and SELU
    python -m benchmark.training --widths 4 16 32 48 64 --crop 64 --only ours monai
    python -m benchmark.training --memory                                # which batch fits which card, by arithmetic

All train the same network on crops of the same size, as many at a time, from the same two synthetic studies. Ours is
training.runs.loop with crops cut and augmented on the device; the others are in benchmark/contenders. Each is a process
of its own: if one fails, or time is up, its row says why, and the others stay. Samples a second are medians over
--epochs of --steps steps, after one epoch that is not counted; in that time our loop also writes its checkpoint. The
roofline is the operations of three forward passes a sample over the machine's matrix rate (benchmark.roofline).
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from benchmark.command import joined, parser_for
from benchmark.contenders.start import NNUNET_PYTHON
from benchmark.contenders.training_loops import LOOPS, TrainingLoop, measured
from benchmark.contenders.training_task import CASES, TrainingTask
from benchmark.record import figure, print_and_write, record, table
from benchmark.roofline import matrix_rate
from benchmark.synthetic import make_study
from benchmark.training_memory import memory_tables
from model.bundle.network import Network
from model.bundle.settings import Crop
from model.inference.device import choose_device
from model.networks.operations import operations
from training.data.prepare import prepare_one
from training.data.table import Study, study_sha256

RADIUS = 0.06  # of the ball that is lesion, as a share of the study's edge
MOST_WORKERS = 12  # nnU-Net's default
HEAD = ["loop", "computes in", "samples a second", "ours beside it", "waits for data", "host GB", "GPU GB"]


Found = dict[int, dict[str, dict[str, Any] | str]]  # by edge and name: what was measured, or why it was not


def main() -> None:
    options = arguments()
    network = Network(fusion="middle", widths=tuple(options.widths))
    if options.memory:
        title = f"Memory of a training step: middle fusion of widths {joined(options.widths)}"
        print_and_write(record(title, memory_tables(network, options.crop), {}), options.json)
        return
    end, found = time.monotonic() + 60 * options.minutes, Found({edge: {} for edge in options.crop})
    rate = matrix_rate(choose_device(options.device).torch_device)
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            prepare_one(make_case(Path(folder) / case, case, tuple(options.size)), Path(folder) / "cache", Crop())
        for edge in options.crop:
            for key in options.only:
                one, place = LOOPS[key], Path(folder) / f"{key}-{edge}"
                python = options.nnunet if key == "nnunet" else sys.executable
                found[edge][one.name] = measured(one, task_of(options, edge, place, one), python, end)
                print(f"{one.name} at {edge}^3: {spoken(found[edge][one.name])}", file=sys.stderr, flush=True)
                if options.json:  # what is measured stays, whatever comes
                    print_and_write(result_of(options, network, found, rate), options.json, quiet=True)
    print_and_write(result_of(options, network, found, rate), options.json)
    if any(isinstance(one, str) for rows in found.values() for one in rows.values()):
        sys.exit("error: not every contender was measured; its row says why")


def arguments() -> argparse.Namespace:
    parser = parser_for(__doc__, "size", "widths", "device")
    add = parser.add_argument
    workers = min(os.cpu_count() or 1, MOST_WORKERS)
    add("--crop", type=int, nargs="+", default=[96, 160], help="edges of the crops in voxels (default 96 160)")
    add("--batch", type=int, default=2, help="crops at a time (default 2)")
    add("--steps", type=int, default=20, help="steps of an epoch (default 20)")
    add("--epochs", type=int, default=2, help="epochs that are counted (default 2)")
    add("--workers", type=int, default=workers, help=f"processes that augment, of the others (here default {workers})")
    default = ["ours", "monai", "nnunet"]
    add("--only", nargs="+", choices=LOOPS, default=default, help=f"which loops (default {joined(default)})")
    add("--nnunet", default=str(NNUNET_PYTHON), help="the Python with nnU-Net v2 (default .nnunet/bin/python)")
    add("--minutes", type=float, default=60.0, help="a loop that is not done by then is stopped (default 60)")
    add("--memory", action="store_true", help="only the tables of memory, by arithmetic: half a minute on a CPU")
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


def task_of(options: argparse.Namespace, edge: int, folder: Path, one: TrainingLoop) -> TrainingTask:
    return TrainingTask(
        cache=str(folder.parent / "cache"),
        folder=str(folder),
        widths=tuple(options.widths),
        crop=edge,
        batch=options.batch,
        steps=options.steps,
        epochs=options.epochs,
        device=options.device,
        workers=options.workers,
        **one.changes,
    )


def spoken(found: dict[str, Any] | str) -> str:
    return found if isinstance(found, str) else f"{statistics.median(found['samples_per_s']):.3f} samples a second"


def result_of(options: argparse.Namespace, network: Network, found: Found, rate: float) -> dict[str, Any]:
    """The result: a table for each size of crops."""
    printed, figures = [], {}
    for edge, rows in found.items():
        roofline = rate / (3 * operations(network, (edge, edge, edge)))
        printed += ["", f"Crops of {edge}^3:", "", *table(HEAD, table_rows(rows, roofline))]
        figures[f"roofline at {edge}^3: samples a second"] = figure([roofline], "1/s", "more")
        for name, one in rows.items():
            if isinstance(one, str):
                continue
            figures[f"{name} at {edge}^3: samples a second"] = figure(one["samples_per_s"], "1/s", "more")
            figures[f"{name} at {edge}^3: waits for data"] = figure(one["data_share"], "")
            figures[f"{name} at {edge}^3: host memory"] = figure([one["host_gb"]], "GB")
    title = f"Training: middle fusion of widths {joined(options.widths)}, batches of {options.batch}"
    first = f"Matrix rate {rate / 1e9:.4g} GFLOP/s; {options.workers} worker processes for the others' crops."
    return record(title, [first, *printed], figures)


def table_rows(rows: dict[str, dict[str, Any] | str], roofline: float) -> list[list[str]]:
    """A line for each contender and one for the roofline."""
    ours = rows.get("ours", "")
    own = statistics.median(ours["samples_per_s"]) if isinstance(ours, dict) else None
    out = []
    for name, one in rows.items():
        if isinstance(one, str):
            out.append([name, f"not measured: {one.replace('|', '/')}", *["n/a"] * (len(HEAD) - 2)])
            continue
        speed, share = statistics.median(one["samples_per_s"]), statistics.median(one["data_share"])
        gpu = "n/a" if one["gpu_gb"] is None else f"{one['gpu_gb']:.2f}"
        shares = f"{100 * share:.1f} %", f"{one['host_gb']:.2f}", gpu
        beside = f"{own / speed:.2f} times as fast" if own else "n/a"
        out.append([name, one["computed_in"], f"{speed:.3f}", beside, *shares])
    longer = f"takes {roofline / own:.2f} times as long" if own else "n/a"
    return [*out, ["roofline", "", f"{roofline:.3f}", longer, "", "", ""]]


if __name__ == "__main__":
    main()
