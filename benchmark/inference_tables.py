"""The tables and figures of benchmark.inference: seconds, memory and masks of each contender."""

import statistics
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.contenders.start import Runs
from benchmark.record import figure, table

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


def tables(what: str, runs: Runs, agreements: dict[str, Agreement], roofline_s: float) -> list[str]:
    """The tables of one comparison: seconds, memory and masks of each contender, and its seconds stage by stage."""
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
        f"Windows of {what}, medians of {len(ours)}; roofline {roofline_s:.3g} s; threads of each: {threads}; "
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


def figures_of(what: str, runs: Runs, agreements: dict[str, Agreement], roofline_s: float) -> dict[str, dict[str, Any]]:
    """The figures of one comparison, for benchmark.compare."""
    out = {f"roofline at {what}": figure([roofline_s], "s")}
    for name, measured in runs.items():
        key = f"{name} at {what}"
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
