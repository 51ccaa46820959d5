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
same command again goes on. --parallel trains several rows or members at a time, --slurm makes jobs of them.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from model.errors import ConfigError
from model.networks.unet import skeleton
from training.command import add_device_option
from training.ensembles.slurm_jobs import SUMMARY, add_slurm_options, check_slurm_options
from training.judging.scores import CaseScore
from training.papers.experiment_data import ExperimentData, data_of
from training.papers.experiment_runs import folder_of_row, settings_of_rows, train_only, train_side, write_table_jobs
from training.papers.plan import ExperimentPlan, read_plan
from training.papers.procedure import (
    MethodAndMembers,
    add_data_options,
    check_processes,
    choices_of,
    pretrain_encoder,
    score_choices,
    select_members,
    train_members,
)
from training.papers.published_tables import (
    NOT_PUBLISHED,
    TABLE_2,
    TABLE_3,
    VOLUMES,
    WHOLE_BODY,
    TableRow,
    markdown,
    write_table_files,
)
from training.runs.train import carry_on, train_run
from training.settings import Training, changed
from training.stopping import add_minutes_option

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
SCALES = ("paper", "small", "smoke")


def run(options: argparse.Namespace) -> None:
    """Run one table's experiment, print the table and write it. Raises the errors of training and selection."""
    folder = options.run or Path("runs") / f"{options.table}-{options.scale}"
    options.plan = options.plan or CONFIGS / f"{options.scale}.yaml"
    plan = read_plan(options.plan)
    check_plan(options.table, plan)
    check_slurm_options(options, ("only", "parallel", "minutes"))
    check_processes(options)
    if options.slurm:
        write_table_jobs(options.table, plan, options, folder)
        return
    data = data_of(plan, options, folder)
    if options.only:
        train_only(options.only, options.table, plan, data, folder, options.device)
        if options.only != SUMMARY:
            return
    elif options.parallel > 1:
        train_side(options.table, plan, data, folder, options.device, options.parallel)
    rows = row_function(options.table)(plan, data, folder, options.device)
    text = markdown(options.table, rows, data)
    print(text)
    write_table_files(folder, options, text, rows, data)


def check_plan(table: str, plan: ExperimentPlan) -> None:
    """Refuse a plan that lacks what a table needs, before hours of training. Raises ConfigError."""
    if table == "table2" and (missing := [name for name in TABLE_2 if name not in plan.networks]):
        raise ConfigError(f"the plan's networks lack {'; '.join(missing)}: table 2 compares {'; '.join(TABLE_2)}")
    if table == "table3" and not plan.members:
        raise ConfigError("the plan has no members, and table 3 is made of them: give it one or more")
    if table == "wholebody" and plan.slices is None:
        raise ConfigError("the plan has no slices: experiment wholebody needs the settings of its runs there")


def table2(plan: ExperimentPlan, data: ExperimentData, folder: Path, device: str) -> list[TableRow]:
    """Six networks, each trained as the base run to the last epoch, scored on the test cases."""
    return [
        one_network_row(name, settings, TABLE_2[name], data, folder / folder_of_row(name), device)
        for name, settings in settings_of_rows("table2", plan).items()
    ]


def one_network_row(
    name: str, settings: Training, paper: tuple[float, ...], data: ExperimentData, run: Path, device: str
) -> TableRow:
    """Train one network in the folder `run`, and score it alone on the test cases."""
    train_run(run, settings, data.cache, data.fold, wanted=device)
    scores = score_on_test([run], {name: ("eoa", (run.name,))}, data, run.parent, device)
    return TableRow(name=name, paper=paper, parameters=millions(settings.network), scores=scores[name])


def score_on_test(
    runs: Sequence[Path], choices: Mapping[str, MethodAndMembers], data: ExperimentData, folder: Path, device: str
) -> dict[str, list[CaseScore]]:
    """Score choices among these runs on the test cases."""
    cases, keep = data.fold.test, folder / "margins"
    return score_choices(runs, choices, data.studies, cases, cache=data.cache, keep=keep, device=device)


def table3(plan: ExperimentPlan, data: ExperimentData, folder: Path, device: str) -> list[TableRow]:
    """Vanilla, the best average, EoA and DiWA, uniform and greedy; chosen on validation, scored on the test cases."""
    encoder = None if data.start else pretrain_encoder(plan, folder, data.cache, data.fold, device)
    start: dict[str, Path | None] = {"ct_encoder": encoder, "start": data.start}
    members = train_members(
        plan, folder, data.cache, data.fold, device, ct_encoder=start["ct_encoder"], start=start["start"]
    )
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
    papers = {VOLUMES: NOT_PUBLISHED} | {name: paper for name, (_, paper) in WHOLE_BODY.items()}
    return [
        one_network_row(name, settings, papers[name], data, folder / folder_of_row(name), device)
        for name, settings in settings_of_rows("wholebody", plan).items()
    ]


def row_function(table: str) -> Callable[[ExperimentPlan, ExperimentData, Path, str], list[TableRow]]:
    """The function that makes a table's rows."""
    return {"table2": table2, "table3": table3, "wholebody": wholebody}[table]


def networks_in(choice: MethodAndMembers) -> int:
    """How many networks a choice runs; the soup of DiWA is one."""
    method, names = choice
    return len(set(names)) if method == "eoa" else 1


def millions(network: Any) -> float:
    """Parameters of a network, in millions."""
    return sum(parameter.numel() for parameter in skeleton(network).parameters()) / 1e6


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Cost: see the scales above; phantoms take 10 s each, and 5 bytes a voxel of every study on disk."
    add = parser.add_argument
    add("table", choices=("table2", "table3", "wholebody"))
    add("--scale", choices=SCALES, default="small", help="see above (default small)")
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
    add(
        "--only",
        metavar="NAME",
        help="do only this part, as a job of --slurm does: first (data, and what all runs begin with), the run of this "
        "name, or summary (the table, if all runs are finished; default: everything)",
    )
    add_data_options(parser)
    add_device_option(parser)
    add_minutes_option(parser)
    add_slurm_options(parser)
