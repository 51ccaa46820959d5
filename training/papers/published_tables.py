"""The papers' tables as published, and ours beside them: as Markdown, JSON and a picture."""

import argparse
import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model.files import sha256_of
from model.inference.device import choose_device
from training.commit import commit
from training.judging.pictures import draw_bars
from training.judging.scores import CaseScore, cell, summary, without_empty
from training.papers.experiment_data import ExperimentData
from training.papers.procedure import CONVENTION
from training.weights import checkpoint

TABLE_2 = {  # network: (millions of parameters, Dice) of the paper's table 2
    "SwinUNETR": (15.7, 0.6817),
    "early": (5.7, 0.6723),
    "middle": (15.8, 0.6934),
    "late": (11.5, 0.6844),
    "early, matched": (15.4, 0.6691),
    "late, matched": (15.9, 0.6853),
}
TABLE_3 = {  # row: (Dice, FPV ml, FNV ml) of the paper's table 3
    "vanilla": (0.6948, 8.5077, 13.4579),
    "WA best": (0.7097, 9.7973, 10.8431),
    "EoA uniform": (0.7160, 9.9053, 11.3314),
    "DiWA uniform": (0.6597, 9.9179, 13.9808),
    "EoA greedy": (0.7242, 8.8002, 11.3881),
    "DiWA greedy": (0.7200, 8.6254, 11.5744),
}
NOT_PUBLISHED = (float("nan"),) * 3
WHOLE_BODY: dict[str, tuple[dict[str, Any], tuple[float, ...]]] = {  # row: (strategy, the paper's Dice, FPV, FNV)
    "lesion slices alone": ({"alpha": 0.0}, NOT_PUBLISHED),
    "whole bodies alone": ({"lesion": False}, NOT_PUBLISHED),
    # the paper heads both 5.2258 and 7.4603 "False Negative"; in its abstract FPV comes first
    "alpha 0.5": ({"alpha": 0.5}, NOT_PUBLISHED),
    "alpha 1": ({"alpha": 1.0}, (0.6863, 5.2258, 7.4603)),
    "alpha 2": ({"alpha": 2.0}, NOT_PUBLISHED),
}
VOLUMES = "volumes (3-D)"


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """One row of a table: its name, the paper's numbers, the parameters in millions, and our scores."""

    name: str
    paper: tuple[float, ...]
    parameters: float
    scores: list[CaseScore]


def markdown(table: str, rows: Sequence[TableRow], data: ExperimentData) -> str:
    """The table beside the paper's: all test cases, then each site of them."""
    groups = [
        (row, summary(row.scores, by=()).groups[0], summary(without_empty(row.scores), by=("site",)).groups)
        for row in rows
    ]
    sites = [group.value for group in groups[0][2][1:]]
    trained = sorted({data.studies[case].site for case in data.fold.train})
    head = ["", "M parameters", "Dice", "FPV ml", "FNV ml"]
    head += [*(f"Dice, site {site}" for site in sites), "Dice, all cases", "paper: Dice"]
    if table != "table2":
        head += ["paper: FPV", "paper: FNV"]
    lines = [head, ["---"] * len(head)]
    for row, everything, (with_lesion, *by_site) in groups:
        cells = [cell(with_lesion.dice, 4), cell(everything.fpv_ml, 2), cell(everything.fnv_ml, 2)]
        cells += [cell(group.dice, 4) for group in by_site] + [cell(everything.dice, 4)]
        published = row.paper[1:] if table == "table2" else row.paper
        paper = ["" if math.isnan(value) else f"{value:g}" for value in published]
        lines.append([row.name, f"{row.parameters:.3f}", *cells, *paper])
    note = (
        f"{len(data.fold.test)} test cases, {len(data.fold.train)} to train, {len(data.fold.validate)} to validate and "
        f"select; {data.text}. Trained on sites {', '.join(trained)}. Mean over cases (95 % "
        "bootstrap interval over patients). Dice is over the cases with lesion, as members are selected by; FPV, FNV "
        f"and 'Dice, all cases' are over all, empty masks by {CONVENTION}: there a study without lesion has Dice 0 as "
        "soon as one voxel is found in it."
    )
    if table == "wholebody":
        note += " The paper heads both of its last columns 'False Negative'; by its abstract's order FPV comes first."
    return "\n".join([*("| " + " | ".join(line) + " |" for line in lines), "", note])


def write_table_files(
    folder: Path, options: argparse.Namespace, text: str, rows: Sequence[TableRow], data: ExperimentData
) -> None:
    """Write table.md, table.json and table.png, with the scores of every case and a record of the run."""
    seconds, command = round(seconds_of(folder), 1), options.command_line
    ran = {
        "command": command,
        "training_seconds": seconds,
        "date": time.strftime("%Y-%m-%d"),
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "machine": choose_device(options.device).name,
        "commit": commit(),
        "plan": options.plan.name,
        "plan_sha256": sha256_of(options.plan),
    }
    lines = [
        {"name": row.name, "paper": row.paper, "parameters_m": row.parameters, "cases": [*map(vars, row.scores)]}
        for row in rows
    ]
    without_nan = json.loads(json.dumps({"ran": ran, "data": data.text, "lines": lines}), parse_constant=lambda _: None)
    checkpoint.write_json(folder / "table.json", without_nan)
    record = (
        f"{ran['date']}, {seconds / 3600:.2f} h of training, {ran['machine']}, "
        f"{ran['cores']} cores, torch {ran['torch']}, commit {ran['commit']}, {ran['plan']} of sha256 "
        f"{ran['plan_sha256']}"
    )
    checkpoint.write_text(folder / "table.md", f"{text}\n\nRun: `{' '.join(command)}`, {record}.\n")
    dice = [summary(without_empty(row.scores), by=()).groups[0].dice for row in rows]
    paper = [row.paper[1] if options.table == "table2" else row.paper[0] for row in rows]
    draw_bars([row.name for row in rows], [(d.mean, d.low, d.high) for d in dice], paper, folder / "table.png")


def seconds_of(folder: Path) -> float:
    """Seconds that the finished runs below a folder trained, in however many calls. Raises ConfigError."""
    return sum(sum(checkpoint.read_json(run)["seconds"].values()) for run in folder.rglob(checkpoint.RESULT))
