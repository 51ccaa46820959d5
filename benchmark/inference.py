"""One study, the same weights, in turn: ours, the published way with MONAI, and nnU-Net v2's predictor.

    python -m benchmark.inference                                    # 400 x 400 x 326, four full networks: for a GPU
    python -m benchmark.inference --size 200 200 160 --widths 4 16 32 48 64 --windows 96 --runs 3
    python -m benchmark.inference --size 48 40 44 --widths 2 4 --windows 32 --runs 1 --json toy.json

The study is synthetic, the weights are random: time and memory do not depend on either. Four networks vote with weights
2, 1, 1, 1. MONAI's loop is run with four passes, equal work, and with five, as the authors' container runs the first
network twice. Every run is a process of its own, contenders in turn, another one first each time; seconds are medians,
from the process's start to its end, memory is the most of any run, masks are the least alike of all runs. x floor: the
networks' seconds over those of benchmark.floor for four passes. Who cannot take part is named.

nnU-Net takes part where --nnunet names the Python of an environment that has it (benchmark/requirements.txt says how):

    python3.11 -m venv .nnunet && .nnunet/bin/pip install -r requirements.txt
    .nnunet/bin/pip install --no-deps -r benchmark/requirements.txt
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from benchmark.contenders.monai import Task
from benchmark.floor import EDGE, PAPER_WIDTHS, matrix_rate, operations
from benchmark.record import ROOT, figure, record, table, told
from benchmark.road import make_study
from model.bundle.format import Manifest, Provenance
from model.bundle.settings import Crop, Intensity, Network, Window
from model.inference.device import choose_device
from model.networks.unet import build
from training.bundles.write import write_bundle

WEIGHTS = (2.0, 1.0, 1.0, 1.0)  # of the authors' submission
CT_SIZE = (1.28, 1.28, 1.84)  # voxels of CT for one of PET on each axis: 512 x 512 x 600 for 400 x 400 x 326
LEAST_DICE = 0.0005  # a change of agreement that counts
MODULES = {  # of --only
    "ours": "benchmark.contenders.ours",
    "monai": "benchmark.contenders.monai",
    "nnunet": "benchmark.contenders.nnunet",
}
STAGES = (
    "import",
    "weights",
    "read",
    "resample",
    "crop",
    "intensity",
    "to device",
    "network",
    "sums",
    "argmax",
    "paste",
    "write",
)
Runs = dict[str, list[dict[str, Any]]]  # of each contender, what its processes say of themselves


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A way to run: the module that does it, what that imports, under which Python, and how many passes it takes."""

    name: str
    module: str
    needs: str
    python: str = sys.executable
    passes: int = len(WEIGHTS)


def main() -> None:
    options = arguments()
    network = Network(fusion="middle", widths=tuple(options.widths))
    device = choose_device(options.device)
    rate = matrix_rate(device.torch_device, options.matrix)
    those, absent = contenders(options)
    printed, figures = absent, {"matrix rate": figure([rate / 1e9], "GFLOP/s", "more")}
    with tempfile.TemporaryDirectory() as place:
        study = Path(place) / "study"
        make_study(study, tuple(options.size), ct_size(options), compressed=True)
        for edge in options.windows:
            bundle = make_bundle(Path(place) / f"bundle-{edge}", network, edge)
            task = Task(str(study), str(bundle), "", edge, 0, device.torch_device.type, options.gpu_gb)
            runs = in_turn(those, task, options.runs, Path(place))
            floor_s = runs["ours"][0]["windows"] * operations(network, (edge, edge, edge)) / rate
            alike = {name: least_alike(said, runs["ours"]) for name, said in runs.items()}
            printed += [*tables(edge, runs, alike, floor_s), ""]
            figures |= figures_of(edge, runs, alike, floor_s)
    size = " x ".join(map(str, options.size))
    title = f"Inference: PET of {size} voxels, CT of {' x '.join(map(str, ct_size(options)))}, four networks of widths "
    title += f"{' '.join(map(str, options.widths))}, {device.name}"
    told(record(title, printed, figures), options.json)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--size", type=int, nargs=3, default=(400, 400, 326), help="PET voxels x y z (default 400 400 326)")
    add("--ct", type=int, nargs=3, help="CT voxels x y z (default: 1.28, 1.28 and 1.84 times those of PET)")
    add("--widths", type=int, nargs="+", default=PAPER_WIDTHS, help="channels of the stages (default 32 32 64 128 256)")
    add("--windows", type=int, nargs="+", default=(192, 160), help="window edges in voxels (default 192 160)")
    add("--runs", type=int, default=3, help="runs of each contender; medians are printed (default 3)")
    add("--device", default="auto", help="auto, cuda or cpu (default auto)")
    add("--gpu-gb", type=float, help="GB of the GPU's memory that a contender may take, 14 for a T4 (default: all)")
    add("--only", nargs="+", choices=MODULES, default=tuple(MODULES), help="who takes part, ours always (default: all)")
    add("--nnunet", help="Python of an environment with nnU-Net v2 (default .nnunet/bin/python if it is there)")
    add("--matrix", type=int, help=f"edge of the matrices that the rate is measured with (default {EDGE})")
    add("--json", type=Path, help="also write the figures here, for benchmark.compare and benchmark.document")
    return parser.parse_args()


def ct_size(options: argparse.Namespace) -> tuple[int, ...]:
    return tuple(options.ct or (round(n * factor) for n, factor in zip(options.size, CT_SIZE, strict=True)))


def contenders(options: argparse.Namespace) -> tuple[list[Contender], list[str]]:
    """Who takes part, their imports in the page cache; and lines on who does not, and why."""
    python = options.nnunet or str(ROOT / ".nnunet/bin/python")
    monai, nnunet = "monai.inferers", "nnunetv2.inference.predict_from_raw_data"
    found, absent = [], []
    for one in (
        Contender(name="ours", module="benchmark.contenders.ours", needs="model.inference.segment"),
        Contender(name="MONAI, 4 passes", module="benchmark.contenders.monai", needs=monai),
        Contender(name="MONAI, 5 passes", module="benchmark.contenders.monai", needs=monai, passes=5),
        Contender(name="nnU-Net v2", module="benchmark.contenders.nnunet", needs=nnunet, python=python),
    ):
        if one.module not in {MODULES[key] for key in ("ours", *options.only)}:
            continue
        if trouble := import_trouble(one):
            absent += [f"{one.name} took no part: {trouble} (benchmark/requirements.txt says how to install it).", ""]
            print(absent[-2], file=sys.stderr)
        else:
            found.append(one)
    if options.nnunet and "nnunet" in options.only and found[-1].python != options.nnunet:
        raise SystemExit(f"error: '{options.nnunet}' was asked for with --nnunet")
    return found, absent


def import_trouble(one: Contender) -> str | None:
    """Why a contender cannot be imported; None if it can."""
    command = [one.python, "-c", f"import {one.module}, {one.needs}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    except OSError as error:
        return f"'{one.python}': {error.strerror}"
    return (done.stderr.splitlines() or ["it ended without a word"])[-1] if done.returncode else None


def make_bundle(folder: Path, network: Network, edge: int) -> Path:
    """Four networks of random weights, each saying lesion and background about equally often."""
    states = {}
    for number in range(len(WEIGHTS)):
        torch.manual_seed(number)
        states[f"m{number}"] = build(network).state_dict()
        for name, tensor in states[f"m{number}"].items():
            if name.endswith("fc.bias"):
                tensor.zero_()
    origin = Provenance(data="none", commit="", date="", scores={}, attribution="")

    def manifest(members: Any) -> Manifest:
        return Manifest(
            format_version=1,
            name=folder.name,
            kind="volumes",
            network=network,
            channels=("CT", "PET"),
            intensity=Intensity(),
            crop=Crop(),
            window=Window(size=(edge, edge, edge)),
            method="eoa",
            members=members,
            provenance=origin,
            intended_use="benchmark",
            licence="MIT",
        )

    write_bundle(folder, states, manifest, weights=list(WEIGHTS), start_sha256=None)
    return folder


def in_turn(those: list[Contender], task: Task, runs: int, place: Path) -> Runs:
    """What each contender's process says of itself in each run, its seconds and its mask."""
    found: Runs = {one.name: [] for one in those}
    for number in range(runs):
        first = number % len(those)
        for one in those[first:] + those[:first]:
            mask = place / f"{task.window}-{number}-{one.module}-{one.passes}" / "mask.mha"
            mask.parent.mkdir()
            said = start(one, replace(task, mask=str(mask), passes=one.passes))
            said["mask"] = sitk.GetArrayFromImage(sitk.ReadImage(str(mask))) != 0
            found[one.name].append(said)
            print(
                f"{one.name}, window {task.window}, run {number + 1} of {runs}: {said['total_s']:.1f} s",
                file=sys.stderr,
                flush=True,
            )
    return found


def start(one: Contender, task: Task) -> dict[str, Any]:
    """One run in a process of its own."""
    command = [one.python, "-m", one.module, json.dumps(asdict(task))]
    begun = time.perf_counter()
    places = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": places})
    total_s = time.perf_counter() - begun
    if done.returncode:
        raise SystemExit(f"error: {one.name} failed:\n{done.stderr[-2000:]}")
    said = next(line for line in reversed(done.stdout.splitlines()) if line.startswith("{"))
    return {**json.loads(said), "total_s": total_s}


def tables(edge: int, runs: Runs, alike: dict[str, tuple[float, int]], floor_s: float) -> list[str]:
    """The figures of a window's size: who took how long and how much, and stage by stage."""
    ours = runs["ours"]
    rows, stages = [], []
    for name, said in runs.items():
        total, network = median(said, "total_s"), statistics.median(one["seconds"]["network"] for one in said)
        peak = max(one["peak_bytes"] for one in said)
        gpu = f"{max(one['peak_gpu_bytes'] for one in said) / 1e9:.2f}" if said[0]["peak_gpu_bytes"] else "none"
        dice, differ = alike[name]
        rows.append(
            [
                name,
                said[0]["precision"],
                str(said[0]["windows"]),
                f"{total:.2f}",
                f"{total / median(ours, 'total_s'):.2f}",
                f"{network:.2f}",
                f"{network / floor_s:.2f}",
                f"{peak / 1e9:.2f}",
                f"{peak / max(one['peak_bytes'] for one in ours):.2f}",
                gpu,
                f"{dice:.5f}",
                str(differ),
            ]
        )
        medians = [statistics.median(one["seconds"].get(stage, 0.0) for one in said) for stage in STAGES]
        stages.append([name, *(f"{value:.2f}" for value in medians), f"{total - sum(medians):.2f}"])
    rungs = ", ".join(sorted({one["rung"] for one in ours}))
    threads = ", ".join(sorted({str(one["threads"]) for said in runs.values() for one in said}))
    head = [
        "contender",
        "precision",
        "windows",
        "seconds",
        "of ours",
        "network, s",
        "x floor",
        "host GB",
        "of ours",
        "GPU GB",
        "Dice with ours",
        "voxels that differ",
    ]
    return [
        f"Windows of {edge}^3, medians of {len(ours)}; floor {floor_s:.3g} s; threads of each: {threads}; ours ran at: "
        f"{rungs}",
        "",
        *table(head, rows),
        "",
        "Seconds, stage by stage:",
        "",
        *table(["contender", *STAGES, "rest"], stages),
    ]


def figures_of(edge: int, runs: Runs, alike: dict[str, tuple[float, int]], floor_s: float) -> dict[str, dict[str, Any]]:
    """Every run's figures of ours, and what to set beside them."""
    out = {f"floor at {edge}^3": figure([floor_s], "s")}
    for name, said in runs.items():
        key = f"{name} at {edge}^3"
        out[f"{key}: total"] = figure([one["total_s"] for one in said], "s")
        for stage in STAGES:
            values = [one["seconds"].get(stage, 0.0) for one in said]
            if any(values):
                out[f"{key}: {stage}"] = figure(values, "s")
        out[f"{key}: host memory"] = figure([one["peak_bytes"] / 1e9 for one in said], "GB")
        if said[0]["peak_gpu_bytes"]:
            out[f"{key}: GPU memory"] = figure([one["peak_gpu_bytes"] / 1e9 for one in said], "GB")
        out[f"{key}: Dice with ours"] = figure([alike[name][0]], "", "more", LEAST_DICE)
    return out


def least_alike(said: list[dict[str, Any]], ours: list[dict[str, Any]]) -> tuple[float, int]:
    """The agreement of the run whose mask is least like that of our first run."""
    return min(agreement(one["mask"], ours[0]["mask"]) for one in said)


def agreement(one: np.ndarray, other: np.ndarray) -> tuple[float, int]:
    """Dice and how many voxels differ; 1 where both are empty."""
    total = int(one.sum()) + int(other.sum())
    return 2 * int((one & other).sum()) / total if total else 1.0, int((one != other).sum())


def median(said: list[dict[str, Any]], key: str) -> float:
    return statistics.median(one[key] for one in said)


if __name__ == "__main__":
    main()
