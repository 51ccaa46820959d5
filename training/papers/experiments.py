"""Run the papers' tables again: tables 2 and 3 of Ahn and Park, and the whole-body strategy of Zhong et al.

    python -m training experiment table2 --scale small
    python -m training experiment table3 --scale paper --index index.csv
    python -m training experiment wholebody --scale small

wholebody trains the network for slices on slices with lesion alone, on whole bodies alone, and by the paper's strategy
at three alphas; and the network for volumes, to compare. At small and smoke scale these take the same number of steps;
at paper scale an epoch shows its list of slices once, as published.

paper: as published, for autoPET on a GPU. small: minutes to three hours on a core. smoke: under 3 minutes. Without
--index, phantoms are generated: the networks train on some sites and are also tested on others, which is the domain
shift of the paper. With --index, the patients of the table are divided into train, validate and test, unless --split
divides them. With --start, table3's base run goes on from a finished run: an hour from random weights is too short to
learn the healthy uptake of whole bodies. The table, a picture and a record of the run go to runs/<table>-<scale>/; the
same command again goes on.
"""

import argparse
import json
import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model.errors import ConfigError
from model.files import sha256_of
from model.inference.device import choose_device
from model.networks.unet import skeleton
from training.bundles.export import commit
from training.command import add_device_option
from training.data.split import PARTS, Fold, make_fold, read_fold
from training.data.stratify import draw_share, strata
from training.data.table import Study, read_table
from training.papers.procedure import (
    CONVENTION,
    ExperimentPlan,
    Vote,
    choices_of,
    make_phantoms,
    prepare_cases,
    pretrain_encoder,
    read_plan,
    score_choices,
    select_members,
    train_members,
)
from training.parallel import cores
from training.runs import checkpoint
from training.runs.pictures import draw_bars
from training.runs.scores import CaseScore, cell, summary, without_empty
from training.runs.train import carry_on, train_run
from training.settings import Training, changed

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
SCALES = ("paper", "small", "smoke")
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
class ExperimentData:
    """The studies of an experiment, prepared and divided. start: the finished run that table3's base run continues."""

    studies: Mapping[str, Study]
    cache: Path
    fold: Fold
    text: str
    start: Path | None = None


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """One row of a table: its name, the paper's numbers, the parameters in millions, and our scores."""

    name: str
    paper: tuple[float, ...]
    parameters: float
    scores: list[CaseScore]


def run(options: argparse.Namespace) -> None:
    """Run one table's experiment, print the table and write it. Raises the errors of training and selection."""
    folder = options.run or Path("runs") / f"{options.table}-{options.scale}"
    options.plan = options.plan or CONFIGS / f"{options.scale}.yaml"
    plan = read_plan(options.plan)
    check_plan(options.table, plan)
    data = data_of(plan, options, folder)
    rows = row_function(options.table)(plan, data, folder, options.device)
    text = markdown(options.table, rows, data)
    print(text)
    write(folder, options, text, rows, data)


def check_plan(table: str, plan: ExperimentPlan) -> None:
    """Refuse a plan that lacks what a table needs, before hours of training. Raises ConfigError."""
    if table == "table2" and (missing := [name for name in TABLE_2 if name not in plan.networks]):
        raise ConfigError(f"the plan's networks lack {'; '.join(missing)}: table 2 compares {'; '.join(TABLE_2)}")
    if table == "table3" and not plan.members:
        raise ConfigError("the plan has no members, and table 3 is made of them: give it one or more")
    if table == "wholebody" and plan.slices is None:
        raise ConfigError("the plan has no slices: experiment wholebody needs the settings of its runs there")


def data_of(plan: ExperimentPlan, options: argparse.Namespace, folder: Path) -> ExperimentData:
    """Prepare and divide the plan's phantoms, or the studies of the user's index."""
    if options.split and not options.index:
        raise ConfigError("--split divides the studies of --index; give that, too")
    if options.start and options.table != "table3":
        raise ConfigError(f"--start is for table3, whose rows share one base run; {options.table} compares networks")
    start_sha256 = sha256_of(checkpoint.result_file(options.start)) if options.start else ""
    shared = options.data or folder.parent / f"data-{options.scale}"
    if options.index is None:
        index, fold = make_phantoms(plan, shared, options.workers)
        parts = [
            f"{part} " + ", ".join(f"{n} of site {site} from seed {first}" for site, (first, n) in sites.items())
            for part, sites in plan.phantoms.items()
        ]
        text = f"phantoms (synthetic): {'; '.join(parts)}"
        studies = read_table(index)
    else:
        studies = read_table(options.index)
        fold = read_fold(options.split, options.fold) if options.split else divide(studies)
        check_fold(fold, studies)
        text = f"{len(studies)} studies of {options.index.name}"
    cache = shared / "cache"
    prepare_cases(studies, (*fold.train, *fold.validate, *fold.test), cache, plan.crop, options.workers)
    if start_sha256:
        text += f"; the base run goes on from the run {options.start.resolve().name}, weights of sha256 {start_sha256}"
    return ExperimentData(studies=studies, cache=cache, fold=fold, text=text, start=options.start)


def check_fold(fold: Fold, studies: Mapping[str, Study]) -> None:
    """Refuse a fold with a part that cannot be used, before hours of training. Raises ConfigError."""
    parts = {part: getattr(fold, part) for part in PARTS}
    for part, cases in parts.items():
        if unknown := sorted(set(cases) - studies.keys()):
            raise ConfigError(
                f"fold {fold.name}, {part}: not in the index: {', '.join(unknown[:5])}; give the index that was divided"
            )
        if not any(studies[case].lesion_ml > 0 for case in cases):
            raise ConfigError(
                f"fold {fold.name} has no case with lesion to {part} ({len(cases)} cases in all): an experiment needs "
                f"all of {', '.join(PARTS)}; training split --test or --folds with --nested makes a part to test"
            )
    patients = {part: {studies[case].patient for case in cases} for part, cases in parts.items()}
    for one, other in (("train", "validate"), ("train", "test"), ("validate", "test")):
        if both := sorted(patients[one] & patients[other]):
            raise ConfigError(
                f"fold {fold.name}: patients both to {one} and to {other}: {', '.join(both[:5])}; give a patient one "
                "part"
            )


def divide(studies: Mapping[str, Study]) -> Fold:
    """20 % of the patients test, 20 % of the rest validate; stratified over diagnosis, seed 0."""
    stratum_of = strata(studies.values(), "diagnosis")
    test = draw_share(stratum_of, 0.2, "0/test")
    rest = {patient: stratum for patient, stratum in stratum_of.items() if patient not in test}
    validate = draw_share(rest, 0.2, "0")
    return make_fold("0", rest.keys() - validate, validate, test, dict(studies))


def table2(plan: ExperimentPlan, data: ExperimentData, folder: Path, device: str) -> list[TableRow]:
    """Six networks, each trained as the base run to the last epoch, scored on the test cases."""
    rows = []
    for name, paper in TABLE_2.items():
        settings = changed(plan.base, {"network": plan.networks[name], "schedule": {"stop": None}}, f"networks: {name}")
        rows.append(one_network_row(name, settings, paper, data, folder / name.replace(", ", "-"), device))
    return rows


def one_network_row(
    name: str, settings: Training, paper: tuple[float, ...], data: ExperimentData, run: Path, device: str
) -> TableRow:
    """Train one network in the folder `run`, and score it alone on the test cases."""
    train_run(run, settings, data.cache, data.fold, wanted=device)
    scores = score_on_test([run], {name: ("eoa", (run.name,))}, data, run.parent, device)
    return TableRow(name=name, paper=paper, parameters=millions(settings.network), scores=scores[name])


def score_on_test(
    runs: Sequence[Path], choices: Mapping[str, Vote], data: ExperimentData, folder: Path, device: str
) -> dict[str, list[CaseScore]]:
    """Score choices among these runs on the test cases."""
    cases, keep = data.fold.test, folder / "margins"
    return score_choices(runs, choices, data.studies, cases, cache=data.cache, keep=keep, device=device)


def table3(plan: ExperimentPlan, data: ExperimentData, folder: Path, device: str) -> list[TableRow]:
    """Vanilla, the best average, EoA and DiWA, uniform and greedy; chosen on validation, scored on the test cases."""
    encoder = None if data.start else pretrain_encoder(plan, folder, data.cache, data.fold, device)
    start: dict[str, Path | None] = {"ct_encoder": encoder, "start": data.start}
    members = train_members(plan, folder, data.cache, data.fold, device, **start)
    vanilla = folder / "vanilla"
    carry_on(folder / "base", vanilla, changed(plan.base, {"schedule": {"stop": None}}))
    train_run(vanilla, changed(plan.base, {"schedule": {"stop": None}}), data.cache, data.fold, wanted=device, **start)
    report = select_members(members, data.cache, data.fold, folder, device)
    choices = {"vanilla": ("eoa", (vanilla.name,))} | choices_of(report)
    scores = score_on_test([vanilla, *members], choices, data, folder, device)
    return [
        TableRow(
            name=name,
            paper=paper,
            parameters=millions(plan.base.network) * networks_in(choices[name]),
            scores=scores[name],
        )
        for name, paper in TABLE_3.items()
    ]


def wholebody(plan: ExperimentPlan, data: ExperimentData, folder: Path, device: str) -> list[TableRow]:
    """The network for slices by five strategies, and the one for volumes, scored on the test cases."""
    assert plan.slices is not None  # see check_plan
    common = changed(changed(plan.base, {"schedule": {"stop": None}}), plan.slices, "slices")
    runs: dict[str, tuple[Training, tuple[float, ...]]] = {
        VOLUMES: (changed(plan.base, {"schedule": {"stop": None}}), NOT_PUBLISHED)
    }
    for name, (strategy, paper) in WHOLE_BODY.items():
        runs[name] = changed(common, {"whole_body": strategy}, name), paper
    return [
        one_network_row(name, settings, paper, data, folder / re.sub("[()]", "", name.replace(" ", "-")), device)
        for name, (settings, paper) in runs.items()
    ]


def row_function(table: str) -> Callable[[ExperimentPlan, ExperimentData, Path, str], list[TableRow]]:
    """The function that makes a table's rows."""
    return {"table2": table2, "table3": table3, "wholebody": wholebody}[table]


def networks_in(choice: Vote) -> int:
    """How many networks a choice runs; the soup of DiWA is one."""
    method, names = choice
    return len(set(names)) if method == "eoa" else 1


def millions(network: Any) -> float:
    """Parameters of a network, in millions."""
    return sum(parameter.numel() for parameter in skeleton(network).parameters()) / 1e6


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


def write(folder: Path, options: argparse.Namespace, text: str, rows: Sequence[TableRow], data: ExperimentData) -> None:
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


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Cost: see the scales above; phantoms take 10 s each, and 5 bytes a voxel of every study on disk."
    add = parser.add_argument
    add("table", choices=("table2", "table3", "wholebody"))
    add("--scale", choices=SCALES, default="small", help="default small")
    add("--plan", type=Path, help="YAML in place of training/configs/<scale>.yaml")
    add("--index", type=Path, help="index.csv of one's own studies (default: phantoms are generated)")
    add("--split", type=Path, help="split.json for --index (default: 20 %% test, 20 %% of the rest validate)")
    add("--fold", default="0", help="fold of --split (default 0)")
    add(
        "--start",
        type=Path,
        metavar="RUN",
        help="table3: finished run of the same network that the base run goes on "
        "from, training/start for one (default: random weights and a pre-trained CT encoder)",
    )
    add("--run", type=Path, help="folder of the runs (default runs/<table>-<scale>)")
    add("--data", type=Path, help="folder of phantoms and cache (default data-<scale> beside --run)")
    add("--workers", type=int, default=cores(), help="processes that make data (default all cores)")
    add_device_option(parser)
