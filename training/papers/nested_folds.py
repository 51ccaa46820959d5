"""The folds of training nested: how patients are divided, what is trained on a fold, and how it is scored."""

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from training.command import option_words
from training.data.folds import Fold
from training.data.prepared import Prepared, load
from training.data.stratify import draw_share, strata, stratified_parts
from training.ensembles.candidates import read_candidates
from training.ensembles.field_of_view import table as views_table
from training.ensembles.field_of_view import views
from training.ensembles.processes import Engine
from training.ensembles.scoreboard import Scoreboard
from training.ensembles.side_by_side import run_side_by_side
from training.papers.nested_data import NestedData
from training.papers.procedure import MethodAndMembers, choices_of, score_choices, select_members, train_members
from training.papers.shipping import SCORED, SHIPPED, Shipping
from training.runs.checkpoint import read_json, write_json
from training.runs.leakage import check_not_seen
from training.runs.predict import scoring_device
from training.runs.scores import CaseScore, summary, table, without_empty, write
from training.runs.train import train_run
from training.stopping import check_time


def fold_of(
    name: str, train: set[str], validate: set[str], test: set[str], data: NestedData, originals: bool = False
) -> Fold:
    """A fold of the patients' re-cropped copies, since originals end at a fixed distance from tumours, and of phantoms.

    originals: the whole images train, too, so that a network also sees the surroundings of a tumour.
    """

    def cases(patients: set[str], of: Mapping[str, list[str]]) -> tuple[str, ...]:
        return tuple(case for patient in sorted(patients) for case in of[patient])

    whole = cases(train, data.originals) if originals else ()
    return Fold(
        name=name,
        train=data.phantoms.train + cases(train, data.copies) + whole,
        validate=cases(validate, data.copies) + data.phantoms.validate,
        test=cases(test, data.copies),
    )


def patients_of(data: NestedData) -> dict[str, str]:
    """The stratum of every real patient."""
    return strata([data.studies[case] for cases in data.originals.values() for case in cases], "diagnosis")


def shipped_fold(shipping: Shipping, data: NestedData, options: argparse.Namespace) -> Fold:
    """The fold of the shipped weights: all patients train or validate."""
    stratum_of = patients_of(data)
    validate = draw_share(stratum_of, options.validation, f"{shipping.seed}/all")
    return fold_of(SHIPPED, set(stratum_of) - validate, validate, set(), data, shipping.originals)


def outer_folds(shipping: Shipping, data: NestedData, options: argparse.Namespace) -> list[tuple[Fold, set[str]]]:
    """Every outer fold, and the patients that it tests with."""
    stratum_of, folds = patients_of(data), []
    for number, test in enumerate(stratified_parts(stratum_of, options.outer, str(shipping.seed))):
        rest = {patient: stratum for patient, stratum in stratum_of.items() if patient not in test}
        validate = draw_share(rest, options.validation, f"{shipping.seed}/{number}")
        fold = fold_of(f"outer-{number}", set(rest) - validate, validate, test, data, shipping.originals)
        folds.append((fold, test))
    return folds


def train_start(shipping: Shipping, data: NestedData, options: argparse.Namespace) -> Path | None:
    """Train the runs on phantoms alone. Returns the folder of the last; None if the plan has none."""
    before: Path | None = None
    for name, settings in shipping.start_settings().items():
        folder = options.run / name
        train_run(folder, settings, data.cache, data.phantoms, start=before, wanted=options.device)
        before = folder
    return before


def score_outer_folds(shipping: Shipping, data: NestedData, start: Path | None, options: argparse.Namespace) -> None:
    """Train and score every outer fold, then report the mean over all patients; with --fold only that fold."""
    rows: dict[str, list[CaseScore]] = {name: [] for name in shipping.bundles}
    if options.fold is None and options.parallel > 1:
        score_side_by_side(options)
    for number, (fold, test) in enumerate(outer_folds(shipping, data, options)):
        if options.fold not in (None, number):
            continue
        folder = options.run / fold.name
        members, choices = train_and_select(shipping, data, fold, folder, start, options)
        found = score(members, choices, fold.test, data, folder, options.device)
        whole = [case for patient in sorted(test) for case in data.originals[patient]]
        for name, scores in found.items():
            report(scores, folder / f"{name}.csv", f"{name}, outer fold {number}: {len(test)} patients not trained on")
            rows[name] += scores
            if options.views:
                report_views(choices[name], members, whole, data, folder / f"{name}-views.json", options.device)
        write_json(folder / SCORED, {"bundles": sorted(found), "views": options.views})
    if options.fold is not None:
        return
    for name, scores in rows.items():
        report(scores, options.run / f"{name}-outer-folds.csv", f"{name}, all {options.outer} outer folds")
    if start is not None:
        alone: dict[str, MethodAndMembers] = {"start": ("eoa", (start.resolve().name,))}
        report_phantoms([start], alone, data, options.run, options.device)


def score_side_by_side(options: argparse.Namespace) -> None:
    """Train and score the outer folds, `options.parallel` at a time, each by a command of its own with --fold.

    Raises LesionError that names the folds that failed, after all have ended, and StoppedInTime when the time is over.
    """
    commands = {f"outer-{number}": fold_words(options, number) for number in range(options.outer)}

    def is_done(name: str) -> bool:
        path = options.run / name / SCORED
        return path.exists() and (not options.views or read_json(path)["views"])

    run_side_by_side(commands, options.run / "logs", Engine(parallel=options.parallel), is_done)


def fold_words(options: argparse.Namespace, number: int) -> list[str]:
    """The words of the command that does one outer fold as these options do all."""
    return [*common_words(options), "--fold", str(number), *["--views"] * options.views]


def common_words(options: argparse.Namespace) -> list[str]:
    """The words of a command that works on the same studies, plan and run folder as these options."""
    paths = ("real", "run", "start", "plan", "maps", "pack")
    values: dict[str, object] = {name: getattr(options, name).resolve() for name in paths if getattr(options, name)}
    values |= {name: getattr(options, name) for name in ("outer", "validation", "diagnosis", "site", "device")}
    return ["nested", *option_words(values)]


def train_and_select(
    shipping: Shipping, data: NestedData, fold: Fold, folder: Path, start: Path | None, options: argparse.Namespace
) -> tuple[list[Path], dict[str, MethodAndMembers]]:
    """Train base run and members on one fold, and select. Returns the members' folders and each bundle's choice."""
    engine = Engine(parallel=options.parallel)
    members = train_members(shipping.plan, folder, data.cache, fold, options.device, start=start, engine=engine)
    choices = choices_of(select_members(members, data.cache, fold, folder, options.device))
    return members, {name: choices[choice] for name, choice in shipping.bundles.items()}


def score(
    runs: list[Path],
    choices: dict[str, MethodAndMembers],
    cases: tuple[str, ...],
    data: NestedData,
    folder: Path,
    device: str,
) -> dict[str, list[CaseScore]]:
    """Scores of choices on cases that trained none of the runs."""
    keep = folder / "margins"
    return score_choices(runs, choices, data.studies, cases, cache=data.cache, keep=keep, device=device)


def report_views(
    choice: MethodAndMembers, runs: list[Path], cases: Sequence[str], data: NestedData, path: Path, device: str
) -> None:
    """Score a choice on cases that trained none of its runs, with parts cut off the image and with air around it."""
    method, names = choice
    candidates = read_candidates(run for run in runs if run.resolve().name in names)
    for one in candidates.values():
        check_not_seen(one.folder, one.seen, cases, data.cache, "score on")
    scoreboard = Scoreboard(candidates, data.cache, cases, path.parent / "margins", scoring_device(device))
    margin_of = scoreboard.margin_of(method, names)

    def margin_in_time(study: Prepared) -> NDArray[Any]:
        check_time(f"'{path.stem}' is to be scored on {len(cases)} studies with parts cut off")
        return margin_of(study)

    found = views(margin_in_time, [load(data.cache, case) for case in cases])
    print(f"\n{path.stem}: {method}, {len(cases)} studies not trained on\n\n{views_table(found)}\n", flush=True)
    write_json(path, [asdict(view) for view in found])


def report_phantoms(
    runs: list[Path], choices: dict[str, MethodAndMembers], data: NestedData, folder: Path, device: str
) -> None:
    """Score choices on phantoms never used, and report it."""
    for name, scores in score(runs, choices, data.phantoms.test, data, folder, device).items():
        report(scores, folder / f"{name}-phantoms.csv", f"{name}, phantoms never used")


def report(scores: list[CaseScore], path: Path, title: str) -> None:
    """Print the scores, Dice of the cases with lesion too, and write them as CSV and JSON."""
    result, with_lesion = (summary(rows, by=("site",)) for rows in (scores, without_empty(scores)))
    print(f"\n{title}\n\n{table(result)}\n\n{table(with_lesion)}\n", flush=True)
    write(scores, result, path, {"title": title, "date": time.strftime("%Y-%m-%d")})
