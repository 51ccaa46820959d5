"""The runs of a table: what they need first, and those that can be trained side by side or as jobs of a cluster."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from model.errors import ConfigError, LesionError
from training.command import option_words
from training.ensembles.processes import Engine
from training.ensembles.side_by_side import OneRun, train_side_by_side
from training.ensembles.slurm_jobs import FIRST, RUNS, SUMMARY, write_jobs
from training.papers.experiment_data import ExperimentData
from training.papers.plan import ExperimentPlan
from training.papers.procedure import pretrain_encoder, write_fold
from training.papers.published_tables import TABLE_2, VOLUMES, WHOLE_BODY
from training.runs.train import carry_on, train_run
from training.settings import Training, changed
from training.weights import checkpoint

LOGS = "logs"  # folder of the runs' settings and output, beside their folders


def settings_of_rows(table: str, plan: ExperimentPlan) -> dict[str, Training]:
    """Settings of every row of table2 and wholebody, each a run of its own to the last epoch."""
    to_the_end = {"schedule": {"stop": None}}
    if table == "table2":
        return {n: changed(plan.base, {"network": plan.networks[n], **to_the_end}, f"networks: {n}") for n in TABLE_2}
    assert table == "wholebody" and plan.slices is not None  # see check_plan
    common = changed(changed(plan.base, to_the_end), plan.slices, "slices")
    rows = {name: changed(common, {"whole_body": strategy}, name) for name, (strategy, _) in WHOLE_BODY.items()}
    return {VOLUMES: changed(plan.base, to_the_end)} | rows


def folder_of_row(row: str) -> str:
    """The name of a row's run folder."""
    return re.sub("[()]", "", row.replace(", ", "-").replace(" ", "-"))


def run_folders(table: str, plan: ExperimentPlan, folder: Path) -> list[Path]:
    """The folders of the runs that can be trained side by side: the rows; of table3 the members and vanilla."""
    if table == "table3":
        return [folder / "vanilla", *(folder / "members" / name for name in plan.member_settings())]
    return [folder / folder_of_row(row) for row in settings_of_rows(table, plan)]


def first_runs(
    table: str, plan: ExperimentPlan, data: ExperimentData, folder: Path, device: str
) -> dict[str, Path | None]:
    """Train what the other runs of table3 begin with: the CT encoder, the base run, and vanilla's copy of it.

    Returns what the base run began with. Nothing for the other tables.
    """
    if table != "table3":
        return {}
    encoder = None if data.start else pretrain_encoder(plan, folder, data.cache, data.fold, device)
    begin: dict[str, Path | None] = {"ct_encoder": encoder, "start": data.start}
    train_run(folder / "base", plan.base, data.cache, data.fold, wanted=device, **begin)
    carry_on(folder / "base", folder / "vanilla", changed(plan.base, {"schedule": {"stop": None}}))
    return begin


def runs_of(
    table: str, plan: ExperimentPlan, data: ExperimentData, folder: Path, begin: dict[str, Path | None]
) -> list[OneRun]:
    """The runs that can be trained side by side once `first_runs` is done. begin: what it returned."""
    if table == "table3":
        vanilla = OneRun(folder=folder / "vanilla", settings=changed(plan.base, {"schedule": {"stop": None}}), **begin)
        base, members = folder / "base", plan.member_settings().items()
        return [vanilla, *(OneRun(folder=folder / "members" / n, settings=s, start=base) for n, s in members)]
    rows = settings_of_rows(table, plan)
    return [OneRun(folder=folder / folder_of_row(row), settings=settings) for row, settings in rows.items()]


def train_side(
    table: str, plan: ExperimentPlan, data: ExperimentData, folder: Path, device: str, parallel: int
) -> None:
    """Train all runs of a table, `parallel` at a time. Raises LesionError that names those that failed, at the end."""
    runs = runs_of(table, plan, data, folder, first_runs(table, plan, data, folder, device))
    train_side_by_side(
        runs,
        folder / LOGS,
        cache=data.cache,
        split=write_fold(data.fold, folder),
        fold=data.fold.name,
        device=device,
        engine=Engine(parallel=parallel),
    )


def train_only(name: str, table: str, plan: ExperimentPlan, data: ExperimentData, folder: Path, device: str) -> None:
    """Do one job's part: `first`, or the run of this name; of `summary`, only look whether all runs are finished.

    Raises ConfigError if there is no such run, LesionError that names the runs a summary lacks.
    """
    folders = run_folders(table, plan, folder)
    if name == SUMMARY:
        if missing := [run.name for run in folders if checkpoint.finished(run) is None]:
            raise LesionError(
                f"{len(missing)} of {len(folders)} runs in '{folder}' are not finished: {', '.join(missing)}; see the "
                "logs of their jobs, and submit them again"
            )
        return
    if name not in (FIRST, *(run.name for run in folders)):
        raise ConfigError(f"--only must be {FIRST}, {SUMMARY} or one of {', '.join(f.name for f in folders)}")
    begin = first_runs(table, plan, data, folder, device)
    for run in runs_of(table, plan, data, folder, begin):
        if run.folder.name == name:
            start = {"start": run.start, "ct_encoder": run.ct_encoder}
            train_run(run.folder, run.settings, data.cache, data.fold, wanted=device, **start)
    print(f"{name} of '{folder}' is done", flush=True)


def write_table_jobs(table: str, plan: ExperimentPlan, options: argparse.Namespace, folder: Path) -> None:
    """Write, and with --submit submit, the jobs of a table: data and first runs, every run, the table."""
    paths = ("plan", "index", "split", "start", "data", "maps")
    values: dict[str, object] = {n: getattr(options, n).resolve() for n in paths if getattr(options, n)}
    values |= {"run": folder.resolve(), "scale": options.scale, "fold": options.fold, "device": options.device}
    words = ["experiment", table, *option_words(values)]
    names: Sequence[str] = [run.name for run in run_folders(table, plan, folder)]
    stages = {FIRST: [[*words, "--only", FIRST]], RUNS: [[*words, "--only", name] for name in names]}
    write_jobs(folder, stages | {SUMMARY: [[*words, "--only", SUMMARY]]}, options, f"{table}-{options.scale}")
