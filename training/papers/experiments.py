"""Tables 2 and 3 of Ahn and Park, and the whole-body strategy of Zhong et al.: one command each, at three scales.

    python -m training experiment table2 --scale small
    python -m training experiment table3 --scale paper --index index.csv
    python -m training experiment wholebody --scale small

wholebody trains the network for slices on those with lesion alone, on whole bodies alone, and by the paper's strategy
at three alphas, and the network for volumes beside it. At small and smoke scale the five take as many steps as
each other; at paper scale an epoch shows its list of slices once, as published.

paper: as published, for autoPET on a GPU. small: minutes to three hours on a core. smoke: under 3 minutes. Without
--index, phantoms are generated: some sites are trained on, others only tested on, the domain shift that the
paper is about. With it, the table's patients are divided into train, validate and test unless --split says
how. With --start, table3's base run goes on from a finished run: an hour from random weights is too short to
learn the healthy uptake of whole bodies. The table, a picture and what was run go to runs/<table>-<scale>/; the
same command again goes on.
"""

import argparse
import json
import math
import os
import sys
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
from training.command import ENDS, told
from training.commit import commit
from training.data.folds import PARTS, Fold, make_fold, read_fold
from training.data.stratify import draw_share, strata
from training.data.table import Study, read_table
from training.papers.procedure import (
    CONVENTION,
    Choice,
    Plan,
    base_and_members,
    choices_of,
    judged,
    make_phantoms,
    prepare_cases,
    pretrained,
    read_plan,
    selected,
)
from training.parallel import cores
from training.runs import checkpoint
from training.runs.pictures import draw_bars
from training.runs.scores import CaseScore, cell, summary, without_empty
from training.runs.train import carry_on, train_run
from training.settings import changed

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
NONE = (float("nan"),) * 3
WHOLE_BODY: dict[str, tuple[dict[str, Any], tuple[float, ...]]] = {  # row: (strategy, the paper's Dice, FPV, FNV)
    "lesion slices alone": ({"alpha": 0.0}, NONE),
    "whole bodies alone": ({"lesion": False}, NONE),
    # 5.2258 and 7.4603 both stand under "False Negative"; by the abstract's order FPV comes first
    "alpha 0.5": ({"alpha": 0.5}, NONE),
    "alpha 1": ({"alpha": 1.0}, (0.6863, 5.2258, 7.4603)),
    "alpha 2": ({"alpha": 2.0}, NONE),
}
VOLUMES = "volumes (3-D)"


@dataclass(frozen=True, kw_only=True)
class Data:
    """What an experiment works on. start: the finished run that table3's base run goes on from."""

    studies: Mapping[str, Study]
    cache: Path
    fold: Fold
    text: str
    start: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a table: its name, what the paper has, parameters in millions, and our scores."""

    name: str
    paper: tuple[float, ...]
    parameters: float
    scores: list[CaseScore]


def main(arguments: list[str] | None = None) -> int:
    """Run with the command line's arguments. Returns the exit code; an error is the last line on stderr."""
    options = parse(arguments)
    folder = options.run or Path("runs") / f"{options.table}-{options.scale}"
    try:
        plan = read_plan(options.plan or CONFIGS / f"{options.scale}.yaml")
        check_plan(options.table, plan)
        data = data_of(plan, options, folder)
        lines = of_table(options.table)(plan, data, folder, options.device)
        text = markdown(options.table, lines, data)
        print(text)
        write(folder, options, text, lines, data)
    except ENDS as error:
        return told(error)
    return 0


def check_plan(table: str, plan: Plan) -> None:
    """Refuse a plan that lacks what a table needs, before hours of training. Raises ConfigError."""
    if table == "table2" and (missing := [name for name in TABLE_2 if name not in plan.networks]):
        raise ConfigError(f"the plan's networks lack {'; '.join(missing)}: table 2 compares {'; '.join(TABLE_2)}")
    if table == "table3" and not plan.members:
        raise ConfigError("the plan has no members, and table 3 is made of them: give it one or more")
    if table == "wholebody" and plan.slices is None:
        raise ConfigError("the plan has no slices: experiment wholebody needs the settings of its runs there")


def data_of(plan: Plan, options: argparse.Namespace, folder: Path) -> Data:
    """Phantoms of the plan, or the user's index, prepared and divided."""
    if options.split and not options.index:
        raise ConfigError("--split says how the studies of --index are divided: give that, too")
    if options.start and options.table != "table3":
        raise ConfigError(f"--start is for table3, whose rows share one base run; {options.table} compares networks")
    began = sha256_of(checkpoint.result_file(options.start)) if options.start else ""
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
        fold = read_fold(options.split, options.fold) if options.split else divided(studies)
        check_fold(fold, studies)
        text = f"{len(studies)} studies of {options.index.name}"
    cache = shared / "cache"
    prepare_cases(studies, (*fold.train, *fold.validate, *fold.test), cache, plan.crop, options.workers)
    if began:
        text += f"; the base run goes on from the run {options.start.resolve().name}, weights of sha256 {began}"
    return Data(studies=studies, cache=cache, fold=fold, text=text, start=options.start)


def check_fold(fold: Fold, studies: Mapping[str, Study]) -> None:
    """Refuse a fold whose parts are not all there: what is found only after hours of training. Raises ConfigError."""
    parts = {part: getattr(fold, part) for part in PARTS}
    for part, cases in parts.items():
        if unknown := sorted(set(cases) - studies.keys()):
            raise ConfigError(f"fold {fold.name}, {part}: not in the index: {', '.join(unknown[:5])}")
        if not any(studies[case].lesion_ml > 0 for case in cases):
            raise ConfigError(
                f"fold {fold.name} has no case with lesion to {part} ({len(cases)} cases in all): an experiment needs "
                f"all of {', '.join(PARTS)}; training split --test or --folds with --nested makes a part to test"
            )
    whose = {part: {studies[case].patient for case in cases} for part, cases in parts.items()}
    for one, other in (("train", "validate"), ("train", "test"), ("validate", "test")):
        if both := sorted(whose[one] & whose[other]):
            raise ConfigError(f"fold {fold.name}: patients both to {one} and to {other}: {', '.join(both[:5])}")


def divided(studies: Mapping[str, Study]) -> Fold:
    """Test 20 %, of the rest 20 % validate; by patient, stratified over diagnosis, seed 0."""
    stratum_of = strata(studies.values(), "diagnosis")
    test = draw_share(stratum_of, 0.2, "0/test")
    rest = {patient: stratum for patient, stratum in stratum_of.items() if patient not in test}
    validate = draw_share(rest, 0.2, "0")
    return make_fold("0", rest.keys() - validate, validate, test, dict(studies))


def table2(plan: Plan, data: Data, folder: Path, wanted: str) -> list[Line]:
    """Six networks, each trained as the base run carried on to the last epoch, scored on the test cases."""
    lines = []
    for name, paper in TABLE_2.items():
        settings = changed(plan.base, {"network": plan.networks[name], "schedule": {"stop": None}}, f"networks: {name}")
        run = folder / name.replace(", ", "-")
        train_run(run, settings, data.cache, data.fold, wanted=wanted)
        alone = {name: ("eoa", (run.name,))}
        found = judged([run], alone, data.studies, data.fold.test, data.cache, folder / "margins", wanted)
        lines.append(Line(name=name, paper=paper, parameters=millions(settings.network), scores=found[name]))
    return lines


def table3(plan: Plan, data: Data, folder: Path, wanted: str) -> list[Line]:
    """Vanilla, the best average, EoA and DiWA, uniform and greedy; chosen on validation, scored on the test cases."""
    encoder = None if data.start else pretrained(plan, folder, data.cache, data.fold, wanted)
    begin: dict[str, Any] = {"ct_encoder": encoder, "start": data.start}
    members = base_and_members(plan, folder, data.cache, data.fold, wanted, **begin)
    vanilla = folder / "vanilla"
    carry_on(folder / "base", vanilla, changed(plan.base, {"schedule": {"stop": None}}))
    train_run(vanilla, changed(plan.base, {"schedule": {"stop": None}}), data.cache, data.fold, wanted=wanted, **begin)
    chosen = selected(members, data.cache, data.fold, folder, wanted)
    choices = {"vanilla": ("eoa", (vanilla.name,))} | choices_of(chosen)
    scores = judged([vanilla, *members], choices, data.studies, data.fold.test, data.cache, folder / "margins", wanted)
    return [
        Line(
            name=name,
            paper=paper,
            parameters=millions(plan.base.network) * networks_in(choices[name]),
            scores=scores[name],
        )
        for name, paper in TABLE_3.items()
    ]


def wholebody(plan: Plan, data: Data, folder: Path, wanted: str) -> list[Line]:
    """The network for slices by five strategies, and the one for volumes, scored on the test cases."""
    assert plan.slices is not None  # see check_plan
    common = changed(changed(plan.base, {"schedule": {"stop": None}}), plan.slices, "slices")
    runs = {VOLUMES: (changed(plan.base, {"schedule": {"stop": None}}), NONE)}
    for name, (strategy, paper) in WHOLE_BODY.items():
        runs[name] = changed(common, {"whole_body": strategy}, name), paper
    lines = []
    for name, (settings, paper) in runs.items():
        run = folder / name.replace(" ", "-").replace("(", "").replace(")", "")
        train_run(run, settings, data.cache, data.fold, wanted=wanted)
        alone = {name: ("eoa", (run.name,))}
        found = judged([run], alone, data.studies, data.fold.test, data.cache, folder / "margins", wanted)
        lines.append(Line(name=name, paper=paper, parameters=millions(settings.network), scores=found[name]))
    return lines


def of_table(name: str) -> Callable[[Plan, Data, Path, str], list[Line]]:
    """The function that makes a table's lines."""
    return {"table2": table2, "table3": table3, "wholebody": wholebody}[name]


def networks_in(choice: Choice) -> int:
    """How many networks a choice runs: DiWA's mean of weights is one."""
    method, names = choice
    return len(set(names)) if method == "eoa" else 1


def millions(network: Any) -> float:
    """Parameters of a network, in millions."""
    return sum(parameter.numel() for parameter in skeleton(network).parameters()) / 1e6


def markdown(table: str, lines: Sequence[Line], data: Data) -> str:
    """The table beside the paper's: all test cases, then every site of them."""
    groups = [
        (line, summary(line.scores, by=()).groups[0], summary(without_empty(line.scores), by=("site",)).groups)
        for line in lines
    ]
    sites = [group.value for group in groups[0][2][1:]]
    trained = sorted({data.studies[case].site for case in data.fold.train})
    head = ["", "M parameters", "Dice", "FPV ml", "FNV ml"]
    head += [*(f"Dice, site {site}" for site in sites), "Dice, all cases", "paper: Dice"]
    if table != "table2":
        head += ["paper: FPV", "paper: FNV"]
    rows = [head, ["---"] * len(head)]
    for line, everything, (ill, *by_site) in groups:
        cells = [cell(ill.dice, 4), cell(everything.fpv_ml, 2), cell(everything.fnv_ml, 2)]
        cells += [cell(group.dice, 4) for group in by_site] + [cell(everything.dice, 4)]
        theirs = line.paper[1:] if table == "table2" else line.paper
        paper = ["" if math.isnan(value) else f"{value:g}" for value in theirs]
        rows.append([line.name, f"{line.parameters:.3f}", *cells, *paper])
    said = (
        f"{len(data.fold.test)} test cases, {len(data.fold.train)} to train, {len(data.fold.validate)} to validate and "
        f"select; {data.text}. Trained on sites {', '.join(trained)}. Mean over cases (95 % "
        "bootstrap interval over patients). Dice is over the cases with lesion, as members are selected by; FPV, FNV "
        f"and 'Dice, all cases' are over all, empty masks by {CONVENTION}: there a study without lesion has Dice 0 as "
        "soon as one voxel is found in it."
    )
    if table == "wholebody":
        said += " The paper heads both of its last columns 'False Negative'; by its abstract's order FPV comes first."
    return "\n".join([*("| " + " | ".join(row) + " |" for row in rows), "", said])


def write(folder: Path, options: argparse.Namespace, text: str, lines: Sequence[Line], data: Data) -> None:
    """table.md, table.json, table.png and scores of every case, with what was run."""
    plan = options.plan or CONFIGS / f"{options.scale}.yaml"
    ran = {
        "command": ["python", "-m", "training", "experiment", *sys.argv[1:]],
        "training_seconds": round(seconds_of(folder), 1),
        "date": time.strftime("%Y-%m-%d"),
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "machine": choose_device(options.device).name,
        "commit": commit(),
        "plan": str(plan.name),
        "plan_sha256": sha256_of(plan),
    }
    table = [
        {"name": line.name, "paper": line.paper, "parameters_m": line.parameters, "cases": [*map(vars, line.scores)]}
        for line in lines
    ]
    finite = json.loads(json.dumps({"ran": ran, "data": data.text, "lines": table}), parse_constant=lambda _: None)
    checkpoint.write_json(folder / "table.json", finite)
    where = (
        f"{ran['date']}, {ran['training_seconds'] / 3600:.2f} h of training, {ran['machine']}, "
        f"{ran['cores']} cores, torch {ran['torch']}, commit {ran['commit']}, {ran['plan']} of sha256 "
        f"{ran['plan_sha256']}"
    )
    checkpoint.write_text(folder / "table.md", f"{text}\n\nRun: `{' '.join(ran['command'])}`, {where}.\n")
    dice = [summary(without_empty(line.scores), by=()).groups[0].dice for line in lines]
    paper = [line.paper[1] if options.table == "table2" else line.paper[0] for line in lines]
    draw_bars([line.name for line in lines], [(d.mean, d.low, d.high) for d in dice], paper, folder / "table.png")


def seconds_of(folder: Path) -> float:
    """Seconds that the finished runs below a folder trained, in however many calls. Raises ConfigError."""
    return sum(sum(checkpoint.read_json(run)["seconds"].values()) for run in folder.rglob(checkpoint.RESULT))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training experiment", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
    add("--device", default="auto", choices=("auto", "cuda", "cpu"), help="default auto")
    return parser.parse_args(arguments)
