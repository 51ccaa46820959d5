"""Common steps of the experiments and of the shipped weights, by a plan: its data, its runs, its scores."""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from model.bundle.settings import Crop
from model.errors import CaseError, ConfigError
from model.inference.device import give_back_memory
from training.compute.device import scoring_device
from training.data.folds import PARTS, Fold
from training.data.prepare import prepare_all
from training.data.table import Study
from training.ensembles.candidates import read_candidates
from training.ensembles.processes import Engine
from training.ensembles.scoreboard import Scoreboard, SetScores
from training.ensembles.select import TITLES, select_runs, write_selection
from training.ensembles.sweep import Sweep, check_finished, sweep
from training.judging.leakage import check_not_seen
from training.judging.scores import CaseScore
from training.papers.plan import ExperimentPlan
from training.parallel import cores
from training.phantom.maps import OWN_MAPS
from training.runs.planned import differing_from_plan
from training.runs.pretrain import pretrain_run
from training.runs.train import train_run
from training.settings import Training, changed, read_yaml
from training.weights import checkpoint

CONVENTION = "autopet_1_2"
SPLIT = "split.json"  # in the folder of a fold's runs: the fold
MethodAndMembers = tuple[str, tuple[str, ...]]  # "eoa" or "diwa", and the members' names


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """--workers, --maps and --parallel: how, and from what, a plan's data is made, and how many runs at a time."""
    add = parser.add_argument
    add(
        "--parallel",
        type=int,
        default=1,
        metavar="N",
        help="runs to train at a time, each in a process: they take the GPUs in turn, or divide the cores. One that "
        "fails does not stop the others; it is named at the end (default 1)",
    )
    add("--workers", type=int, default=cores(), help="processes that make data (default all cores)")
    add(
        "--maps",
        type=Path,
        default=OWN_MAPS,
        metavar="FOLDER",
        help="folder of real patients' organ maps for the plan's on_maps (default: training/phantom/maps, for training "
        "alone)",
    )


def check_processes(options: argparse.Namespace) -> None:
    """Raise ConfigError for a --parallel or --workers that is no number of processes."""
    Engine(parallel=options.parallel)
    if options.workers < 1:
        raise ConfigError(f"--workers must be at least 1, got {options.workers}")


def prepare_cases(studies: Mapping[str, Study], cases: Iterable[str], cache: Path, crop: Crop, workers: int) -> None:
    """Prepare the cases that are not in the cache. Raises CaseError with the first reason if one cannot be."""
    failures = prepare_all([studies[case] for case in sorted(set(cases))], cache, crop, workers)
    for case, reason in failures.items():
        raise CaseError(f"{case} cannot be prepared: {reason} ({len(failures)} such cases in all)")


def write_fold(fold: Fold, folder: Path) -> Path:
    """Write a split file of one fold into its folder. Returns its path."""
    path = folder / SPLIT
    parts = {part: list(getattr(fold, part)) for part in PARTS}
    checkpoint.write_json(path, {"by": "plan", "seed": 0, "folds": [{"name": fold.name, **parts}]})
    return path


def pretrain_encoder(plan: ExperimentPlan, folder: Path, cache: Path, fold: Fold, device: str) -> Path | None:
    """Train the CT encoder of Models Genesis on the fold's training cases. Returns its file; None if not planned."""
    if plan.pretrain is None:
        return None
    run = folder / "pretrain"
    result = pretrain_run(run, changed(plan.base, plan.pretrain, "pretrain"), cache, fold, device)
    return run / str(result["result"])


def train_members(
    plan: ExperimentPlan,
    folder: Path,
    cache: Path,
    fold: Fold,
    device: str,
    *,
    ct_encoder: Path | None = None,
    start: Path | None = None,
    engine: Engine | None = None,
) -> list[Path]:
    """Train the base run to theta_0, then its members. Returns the members' folders. start: run that the base run
    continues. engine: where the members are trained (default: one after the other). A base run whose weights are gone
    is not trained again if all members that came of it are there.

    Raises ConfigError if the plan has no members.
    """
    if not plan.members:
        raise ConfigError("the plan has no members, and there is nothing to select: give it one or more")
    base, members = folder / "base", plan.member_settings()
    folders = [folder / "members" / name for name in members]
    split = write_fold(fold, folder)
    if need_no_base(members, folder, cache, fold):
        print(f"'{base}' is not trained again: all members that came of it are in '{folder / 'members'}'", flush=True)
        return folders
    train_run(base, plan.base, cache, fold, start=start, ct_encoder=ct_encoder, wanted=device)
    give_back_memory()  # members train in processes of their own, on the same GPU
    report = sweep(
        Sweep(
            members=members,
            base=base,
            cache=cache,
            split=split,
            fold=fold.name,
            runs=folder / "members",
            device=device,
        ),
        engine,
    )
    check_finished(report, folder / "members")
    return folders


def need_no_base(members: Mapping[str, Training], folder: Path, cache: Path, fold: Fold) -> bool:
    """Whether the base run's weights are gone, and every member is finished, as planned and from one base run."""
    if checkpoint.finished(folder / "base"):
        return False
    starts = set()
    for name, settings in members.items():
        run = folder / "members" / name
        result = checkpoint.finished(run)
        if not result or not result["start"]:
            return False
        if differing_from_plan(read_yaml(run / checkpoint.CONFIG), settings, fold, cache):
            return False
        starts.add(result["start"]["sha256"])
    return len(starts) == 1


def select_members(members: Sequence[Path], cache: Path, fold: Fold, folder: Path, device: str) -> dict[str, Any]:
    """Select among the members on the fold's validation cases, and write selection.json and .txt. Returns the report.

    Networks and soups run once: their margins are kept in margins/, so that doing it again takes seconds.
    """
    report = select_runs(members, cache, fold, folder / "margins", device=device)
    write_selection(report, folder / "selection.json")
    return report


def choices_of(report: Mapping[str, Any]) -> dict[str, MethodAndMembers]:
    """A selection's choices by their titles: the method, and the members, each as often as it counts."""
    return {
        TITLES[name]: (choice["method"], tuple(m for m, count in choice["weights"].items() for _ in range(count)))
        for name, choice in report["choices"].items()
    }


def score_choices(
    runs: Iterable[Path],
    choices: Mapping[str, MethodAndMembers],
    studies: Mapping[str, Study],
    cases: Sequence[str],
    *,
    cache: Path,
    keep: Path,
    device: str,
) -> dict[str, list[CaseScore]]:
    """Score choices among these runs on prepared cases; every network runs once a case.

    Raises ConfigError if a run, or one it started from, was trained on one of the cases or its patient.
    """
    used = {name for _, names in choices.values() for name in names}
    candidates = read_candidates(run for run in runs if run.resolve().name in used)
    for one in candidates.values():
        check_not_seen(one.folder, one.seen, cases, cache, "score on")
    scoreboard = Scoreboard(candidates, cache, cases, keep, scoring_device(device))
    scoreboard.run_all()
    return {
        title: _rows((scoreboard.eoa if method == "eoa" else scoreboard.diwa)(names), studies)
        for title, (method, names) in choices.items()
    }


def _rows(found: SetScores, studies: Mapping[str, Study]) -> list[CaseScore]:
    """Rows of scores, with patient, diagnosis, tracer and site from the index."""
    names = ("case", "patient", "diagnosis", "tracer", "site")
    return [
        CaseScore(**{n: getattr(studies[case], n) for n in names}, **asdict(scores), seconds=found.seconds_per_case)
        for case, scores in found.cases.items()
    ]
