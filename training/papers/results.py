r"""Print a page of results from the scores of nested folds: patients as patients, with intervals over them.

    python -m training results runs/gpu [runs/gpu-seed-1 runs/gpu-seed-2] --baselines runs/baselines-* --output page.md

A run is a folder of `training nested` whose outer folds are scored; several runs are the same plan with other seeds.
A patient's random cuts are averaged first, so five cuts of one tumour count once, and a tumour is found if every cut
shows it. What nested --views wrote is in the page, too: fields of view, lesions found by size (FROC), surface
distances, calibration. --baselines are folders of training baselines on the same patients.
"""

import argparse
import time
from pathlib import Path

from model.errors import ConfigError
from model.results.writing import write_bytes
from model.whole import Staging
from training.bundles.compare import Rows, read_scores
from training.command import check_targets
from training.papers.result_tables import (
    COLUMNS,
    Scored,
    detail_tables,
    differences_table,
    facts_of,
    fold_files,
    methods_of,
    patients_table,
    phantoms_table,
    seeds_table,
    views_table,
)

DEFAULT = "eoa"  # the bundle that process.py takes: it comes first
TUNED = (
    "Networks, members and their weights in the average: on the fold's training and validation patients and phantoms "
    "alone; the patients of this page neither trained nor validated in their fold. Fixed thresholds: on the fold's "
    "training cases; those called upper bound on the scored cases themselves. BasicUNet: its last weights; nothing of "
    "it was chosen. The plan's settings are chosen by people, who may have seen earlier results on the same patients."
)


def run(options: argparse.Namespace) -> None:
    """Print the page, and write it. Raises ConfigError or OutputError."""
    if options.output:
        check_targets([options.output], [])
    methods = methods_of(options.baselines)
    if not (options.runs or methods):
        raise ConfigError("nothing to show: name folders of training nested, or --baselines")
    folders = [folder.resolve() for folder in options.runs]
    if twice := [folder for folder in folders if folders.count(folder) > 1]:
        raise ConfigError(f"'{twice[0]}' is named twice; name each run once, or the deviation over runs means nothing")
    runs = [scored_run(folder) for folder in options.runs] or [Scored(folder=Path(), bundles={})]
    text = page(runs, methods, options.note)
    if options.output:
        with Staging() as staging:
            write_bytes(text.encode(), options.output, staging)
            staging.commit()
    print(text)


def scored_run(folder: Path) -> Scored:
    """The scores of a nested run: of every bundle, all outer folds' cases. Raises ConfigError if there are none."""
    found: dict[str, Rows] = {}
    for path in fold_files(folder, ".csv"):
        rows = found.setdefault(path.stem, {})
        new = read_scores(path, COLUMNS)
        if both := sorted(set(rows) & set(new)):
            raise ConfigError(f"'{path}' scores cases that another fold has scored: {', '.join(both[:3])}")
        rows.update(new)
    if not found:
        raise ConfigError(f"'{folder}' holds no scores of outer folds (outer-N/NAME.csv); run training nested first")
    first = sorted(found, key=lambda name: (name != DEFAULT, name))
    return Scored(folder=folder, bundles={name: found[name] for name in first})


def page(runs: list[Scored], methods: dict[str, Rows], notes: list[str]) -> str:
    """The whole page in Markdown."""
    first = runs[0]
    facts = facts_of(first.bundles or methods, sorted({path.parent.name for path in fold_files(first.folder, ".csv")}))
    parts = [f"# Results, {time.strftime('%Y-%m-%d')}", "\n".join(f"- {note}" for note in [*facts, *notes])]
    parts += ["## Patients not trained on", patients_table(first, methods)]
    if len(runs) > 1:
        parts += ["## Seeds", seeds_table(runs)]
    if first.bundles:
        parts += ["## Paired differences of Dice", differences_table(first, methods)]
    if not first.bundles:
        return "\n\n".join([*parts, "## What was tuned on what", TUNED]) + "\n"
    for title, text in (
        ("## Fields of view", views_table(first)),
        ("## Lesions found, surfaces, calibration", detail_tables(first)),
        ("## Phantoms never used", phantoms_table(first)),
    ):
        parts += [title, text] if text else []
    parts += ["## What was tuned on what", TUNED]
    return "\n\n".join(part for part in parts if part) + "\n"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Cost: seconds; no image is read."
    add = parser.add_argument
    add(
        "runs",
        nargs="*",
        type=Path,
        metavar="RUN",
        help="folders of training nested: one plan, each with its own seed (default: baselines alone)",
    )
    add(
        "--baselines",
        nargs="*",
        type=Path,
        default=[],
        metavar="DIR",
        help="folders of training baselines, one a fold, of the first run's patients (default: none)",
    )
    add("--note", action="append", default=[], metavar="TEXT", help="a line for the top of the page; may be repeated")
    add("--output", type=Path, metavar="MD", help="the page (default: printed alone)")
