"""One study, the same weights, in turn: ours, the authors' way with MONAI, and nnU-Net v2's predictor.

    python -m benchmark.inference                                    # 400 x 400 x 326, four full networks: for a GPU
    python -m benchmark.inference --size 200 200 160 --widths 4 16 32 48 64 --windows 96 --runs 3
    python -m benchmark.inference --size 48 40 44 --widths 2 4 --windows 32 --runs 1 --json toy.json

The study is synthetic and the weights are random: time and memory do not depend on either. Four networks vote with
weights 2, 1, 1, 1. MONAI's loop runs with four passes, which is equal work, and with five: the authors' container runs
the first network twice. Every run is a process of its own. Contenders run in turn, another one first each time. Seconds
are medians, from the process's start to its end; memory is the most of any run; agreement is that of the mask that is
least like ours. "x roofline" is the networks' seconds over those of benchmark.roofline for four passes. A contender
that cannot take part is named.

nnU-Net takes part where --nnunet names the Python of an environment that has it (benchmark/requirements.txt says how):

    python3.11 -m venv .nnunet && .nnunet/bin/pip install -r requirements.txt
    .nnunet/bin/pip install --no-deps -r benchmark/requirements.txt
"""

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.command import joined, parser_for
from benchmark.contenders.monai import Task
from benchmark.contenders.start import MODULES, Runs, find_contenders, run_in_turn
from benchmark.record import figure, print_and_write, record, table
from benchmark.roofline import EDGE, matrix_rate
from benchmark.synthetic import ct_size_for, make_bundle, make_study
from model.bundle.settings import Network
from model.inference.device import choose_device
from model.networks.operations import operations

LEAST_DICE = 0.0005  # a smaller change of agreement does not count
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
HEAD = [
    "contender",
    "precision",
    "windows",
    "seconds",
    "of ours",
    "network, s",
    "x roofline",
    "host GB",
    "of ours",
    "GPU GB",
    "Dice with ours",
    "voxels that differ",
]
Agreement = tuple[float, int]  # Dice of two masks, and how many voxels differ


def main() -> None:
    options = arguments()
    network = Network(fusion="middle", widths=tuple(options.widths))
    device = choose_device(options.device)
    rate = matrix_rate(device.torch_device, options.matrix)
    found, absent = find_contenders(options.only, options.nnunet)
    printed, figures = [text for line in absent for text in (line, "")], {}
    figures["matrix rate"] = figure([rate / 1e9], "GFLOP/s", "more")
    ct_size = tuple(options.ct or ct_size_for(options.size))
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "study"
        make_study(study, tuple(options.size), ct_size, compressed=True)
        for edge in options.windows:
            bundle = make_bundle(Path(folder) / f"bundle-{edge}", network, edge)
            task = Task(str(study), str(bundle), "", edge, 0, device.torch_device.type, options.gpu_gb)
            runs = run_in_turn(found, task, options.runs, Path(folder))
            roofline_s = runs["ours"][0]["windows"] * operations(network, (edge, edge, edge)) / rate
            agreements = {name: least_agreement(measured, runs["ours"]) for name, measured in runs.items()}
            printed += [*tables(edge, runs, agreements, roofline_s), ""]
            figures |= figures_of(edge, runs, agreements, roofline_s)
    title = (
        f"Inference: PET of {joined(options.size, ' x ')} voxels, CT of {joined(ct_size, ' x ')}, four networks of "
        f"widths {joined(options.widths)}, {device.name}"
    )
    print_and_write(record(title, printed, figures), options.json)


def arguments() -> argparse.Namespace:
    parser = parser_for(__doc__, "size", "widths", "device")
    add = parser.add_argument
    add("--ct", type=int, nargs=3, help="CT voxels x y z (default: 1.28, 1.28 and 1.84 times those of PET)")
    add("--windows", type=int, nargs="+", default=(192, 160), help="window edges in voxels (default 192 160)")
    add("--runs", type=int, default=3, help="runs of each contender; medians are printed (default 3)")
    add("--gpu-gb", type=float, help="GB of the GPU's memory that a contender may take, 14 for a T4 (default: all)")
    add("--only", nargs="+", choices=MODULES, default=tuple(MODULES), help="who takes part, ours always (default: all)")
    add("--nnunet", help="Python of an environment with nnU-Net v2 (default .nnunet/bin/python if it exists)")
    add("--matrix", type=int, help=f"edge of the matrices that measure the matrix rate (default {EDGE})")
    return parser.parse_args()


def tables(edge: int, runs: Runs, agreements: dict[str, Agreement], roofline_s: float) -> list[str]:
    """The tables of one window size: seconds, memory and masks of each contender, and its seconds stage by stage."""
    ours = runs["ours"]
    rows, stages = [], []
    for name, measured in runs.items():
        rows.append([name, *row(measured, ours, agreements[name], roofline_s)])
        medians = [statistics.median(one["seconds"].get(stage, 0.0) for one in measured) for stage in STAGES]
        rest = median(measured, "total_s") - sum(medians)
        stages.append([name, *(f"{value:.2f}" for value in medians), f"{rest:.2f}"])
    rungs = ", ".join(sorted({one["rung"] for one in ours}))
    threads = ", ".join(sorted({str(one["threads"]) for measured in runs.values() for one in measured}))
    return [
        f"Windows of {edge}^3, medians of {len(ours)}; roofline {roofline_s:.3g} s; threads of each: {threads}; "
        f"ours ran at: {rungs}",
        "",
        *table(HEAD, rows),
        "",
        "Seconds, stage by stage:",
        "",
        *table(["contender", *STAGES, "rest"], stages),
    ]


def row(
    measured: list[dict[str, Any]], ours: list[dict[str, Any]], agreement: Agreement, roofline_s: float
) -> list[str]:
    """One contender's cells under HEAD, without its name."""
    total, network = median(measured, "total_s"), statistics.median(one["seconds"]["network"] for one in measured)
    peak, our_peak = (max(one["peak_bytes"] for one in some) for some in (measured, ours))
    gpu = f"{max(one['peak_gpu_bytes'] for one in measured) / 1e9:.2f}" if measured[0]["peak_gpu_bytes"] else "none"
    return [
        measured[0]["precision"],
        str(measured[0]["windows"]),
        f"{total:.2f}",
        f"{total / median(ours, 'total_s'):.2f}",
        f"{network:.2f}",
        f"{network / roofline_s:.2f}",
        f"{peak / 1e9:.2f}",
        f"{peak / our_peak:.2f}",
        gpu,
        f"{agreement[0]:.5f}",
        str(agreement[1]),
    ]


def figures_of(edge: int, runs: Runs, agreements: dict[str, Agreement], roofline_s: float) -> dict[str, dict[str, Any]]:
    """The figures of one window size, for benchmark.compare."""
    out = {f"roofline at {edge}^3": figure([roofline_s], "s")}
    for name, measured in runs.items():
        key = f"{name} at {edge}^3"
        out[f"{key}: total"] = figure([one["total_s"] for one in measured], "s")
        for stage in STAGES:
            values = [one["seconds"].get(stage, 0.0) for one in measured]
            if any(values):
                out[f"{key}: {stage}"] = figure(values, "s")
        out[f"{key}: host memory"] = figure([one["peak_bytes"] / 1e9 for one in measured], "GB")
        if measured[0]["peak_gpu_bytes"]:
            out[f"{key}: GPU memory"] = figure([one["peak_gpu_bytes"] / 1e9 for one in measured], "GB")
        out[f"{key}: Dice with ours"] = figure([agreements[name][0]], "", "more", LEAST_DICE)
    return out


def least_agreement(measured: list[dict[str, Any]], ours: list[dict[str, Any]]) -> Agreement:
    """The agreement of the run whose mask is least like that of our first run."""
    return min(agreement_of(one["mask"], ours[0]["mask"]) for one in measured)


def agreement_of(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> Agreement:
    """Dice and how many voxels differ; Dice 1 where both are empty."""
    total = int(one.sum()) + int(other.sum())
    return 2 * int((one & other).sum()) / total if total else 1.0, int((one != other).sum())


def median(measured: list[dict[str, Any]], key: str) -> float:
    return float(statistics.median(one[key] for one in measured))


if __name__ == "__main__":
    main()
