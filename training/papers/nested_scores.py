"""The scores of training nested: outer folds, by patients that trained nothing, views of their images, and phantoms."""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from training.compute.device import scoring_device
from training.data.folds import Fold
from training.data.prepared import Prepared, digest_of, load
from training.ensembles.candidates import read_candidates
from training.ensembles.field_of_view import table as views_table
from training.ensembles.field_of_view import views
from training.ensembles.processes import Engine
from training.ensembles.scoreboard import Scoreboard
from training.ensembles.side_by_side import run_side_by_side
from training.judging.leakage import check_not_seen
from training.judging.predict import digest
from training.judging.scores import CaseScore, read_rows, summary, table, without_empty, write
from training.papers.nested_data import NestedData
from training.papers.nested_detail import ENDING as DETAIL
from training.papers.nested_detail import VIEWS, write_detail
from training.papers.nested_folds import fold_words, outer_folds, train_and_select
from training.papers.nested_progress import hours_of
from training.papers.procedure import MethodAndMembers, score_choices, write_fold
from training.papers.shipping import SCORED, Shipping
from training.settings import settings_to
from training.stopping import check_time
from training.weights.checkpoint import read_json, result_of, write_json


def score_outer_folds(shipping: Shipping, data: NestedData, start: Path | None, options: argparse.Namespace) -> None:
    """Train and score every outer fold, then report the mean over all patients; with --fold only that fold."""
    rows: dict[str, list[CaseScore]] = {name: [] for name in shipping.bundles}
    folds = {n: fold for n, fold in enumerate(outer_folds(shipping, data, options)) if options.fold in (None, n)}
    keys = {fold.name: key_of_fold(shipping, data, fold) for fold, _ in folds.values()}
    key_of_starts = start_key(shipping, options)

    def is_done(name: str) -> bool:
        return is_scored(options.run / name, {"key": keys[name], "start": key_of_starts}, shipping, options)

    if options.fold is None and options.parallel > 1:
        score_side_by_side(options, is_done)
    for number, (fold, test) in folds.items():
        folder = options.run / fold.name
        if is_done(fold.name):
            write_fold(fold, folder)  # for training baselines; a state does not carry it
            for name in shipping.bundles:
                rows[name] += read_rows(folder / f"{name}.csv")
            continue
        members, choices = train_and_select(shipping, data, fold, folder, start, options)
        found = score(members, choices, fold.test, data, folder, options.device)
        whole = [case for patient in sorted(test) for case in data.originals[patient]]
        for name, scores in found.items():
            report(scores, folder / f"{name}.csv", f"{name}, outer fold {number}: {len(test)} patients not trained on")
            rows[name] += scores
            if options.views:
                report_views(choices[name], members, whole, data, folder / f"{name}{VIEWS}", options.device)
        hours = hours_of(shipping, options.run, fold.name, options.start)
        ended = {"key": keys[fold.name], "start": key_of_starts, "views": options.views, "hours": round(hours, 4)}
        write_json(folder / SCORED, ended)
    if options.fold is not None:
        return
    for name, scores in rows.items():
        report(scores, options.run / f"{name}-outer-folds.csv", f"{name}, all {options.outer} outer folds")
    if start is not None:
        alone: dict[str, MethodAndMembers] = {"start": ("eoa", (start.resolve().name,))}
        report_phantoms([start], alone, data, options.run, options.device)


def key_of_fold(shipping: Shipping, data: NestedData, fold: Fold) -> str:
    """A hash of all that a fold's scores depend on but the machine and what base runs begin with: settings, choices,
    cases and studies.
    """
    settings = {"base": shipping.plan.base, **shipping.plan.member_settings()}
    cases = (*fold.train, *fold.validate, *fold.test)
    what = [{name: settings_to(one) for name, one in settings.items()}, dict(shipping.bundles), asdict(fold)]
    return digest([what, digest_of(load(data.cache, case) for case in cases)])


def start_key(shipping: Shipping, options: argparse.Namespace) -> str | None:
    """What base runs begin with: the sha256 of the weights of --start, or a hash of the settings of the plan's runs on
    phantoms, whose cases every fold has; None for random weights.
    """
    if options.start:
        return str(result_of(options.start)["sha256"])
    starts = [settings_to(settings) for settings in shipping.start_settings().values()]
    return digest(starts) if starts else None


def is_of(found: dict[str, Any], keys: dict[str, str | None]) -> bool:
    """Whether a record has these keys; one that it lacks, as an earlier version did not write it, counts as equal."""
    return all(found.get(name, key) == key for name, key in keys.items())


def is_scored(folder: Path, keys: dict[str, str | None], shipping: Shipping, options: argparse.Namespace) -> bool:
    """Whether a fold's scores are there, of the same procedure, start and studies."""
    path = folder / SCORED
    if not path.exists() or not all((folder / f"{name}.csv").exists() for name in shipping.bundles):
        return False
    found = read_json(path)
    return "key" in found and is_of(found, keys) and bool(found["views"] or not options.views)


def score_side_by_side(options: argparse.Namespace, is_done: Callable[[str], bool]) -> None:
    """Train and score the outer folds that are not done, `options.parallel` at a time, each by a command with --fold.

    Raises LesionError that names the folds that failed, after all have ended, and StoppedInTime when the time is over.
    """
    commands = {f"outer-{number}": fold_words(options, number) for number in range(options.outer)}
    run_side_by_side(commands, options.run / "logs", Engine(parallel=options.parallel), is_done)


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
    """Score a choice on cases that trained none of its runs, with parts cut off the image and with air around it; then
    lesions found, surfaces and calibration on the whole images, beside it.
    """
    method, names = choice
    candidates = read_candidates(run for run in runs if run.resolve().name in names)
    for one in candidates.values():
        check_not_seen(one.folder, one.seen, cases, data.cache, "score on")
    scoreboard = Scoreboard(candidates, data.cache, cases, path.parent / "margins", scoring_device(device))
    margin_of = scoreboard.margin_of(method, names)

    def margin_in_time(study: Prepared) -> NDArray[Any]:
        check_time(f"'{path.stem}' is to be scored on {len(cases)} studies with parts cut off")
        return margin_of(study)

    studies = [load(data.cache, case) for case in cases]
    found = views(margin_in_time, studies)
    print(f"\n{path.stem}: {method}, {len(cases)} studies not trained on\n\n{views_table(found)}\n", flush=True)
    write_json(path, [asdict(view) for view in found])
    write_detail(margin_in_time, studies, path.with_name(path.name.replace(VIEWS, DETAIL)))


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
