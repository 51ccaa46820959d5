"""The tables of a page of results, in Markdown. Everything is a mean over patients, whose cases are averaged first."""

import json
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import ConfigError
from training.bundles import detection
from training.bundles.compare import LESIONS, Rows, read_scores
from training.judging.scores import Estimate, cell, interval
from training.papers.nested_detail import ENDING, VIEWS, read_detail

CHOSEN = re.compile(r"SUV [\d.]+, best on the training cases")  # another number in every fold
COLUMNS = (*LESIONS, "site")  # of scores, beside what every comparison reads
PHANTOMS = "-phantoms.csv"


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A nested run: rows of scores by case, of every bundle."""

    folder: Path
    bundles: Mapping[str, Rows]


def facts_of(scored: Mapping[str, Rows], folds: Sequence[str]) -> list[str]:
    """What was scored, in lines. folds: names of the outer folds, none for baselines alone."""
    rows = next(iter(scored.values()))
    where = f" in {len(folds)} outer folds" if folds else ""
    return [
        f"{len(patients_of(rows))} patients{where}, {len(rows)} cases (random cuts of their images): a patient's cases "
        "are averaged first, and intervals (95 %, bootstrap) are over patients.",
        f"Empty masks by {' '.join({row['convention'] for row in rows.values()})}; 18-connected lesions.",
    ]


def fold_files(folder: Path, ending: str) -> list[Path]:
    """The files outer-N/NAME<ending> of a run, NAME a bundle's."""
    return sorted(folder.glob(f"outer-*/*{ending}"))


def methods_of(folders: Sequence[Path]) -> dict[str, Rows]:
    """The scores of baselines by method, of all folders together. Raises ConfigError if two score the same case."""
    found: dict[str, Rows] = {}
    for folder in folders:
        for method, name in _methods(folder / "baselines.json").items():
            rows = found.setdefault(CHOSEN.sub("fixed SUV, best on the training cases", method), {})
            new = read_scores(folder / name, COLUMNS)
            if both := sorted(set(rows) & set(new)):
                raise ConfigError(f"two of --baselines score {', '.join(both[:3])} by {method}; give one a fold")
            rows.update(new)
    return found


def patients_of(rows: Rows) -> dict[str, list[Mapping[str, str]]]:
    """The rows of each patient."""
    found: dict[str, list[Mapping[str, str]]] = {}
    for row in rows.values():
        found.setdefault(row["patient"], []).append(row)
    return found


def by_patient(rows: Rows, metric: str = "dice") -> dict[str, float]:
    """Each patient's mean over cases, of those that have a number; NaN for a patient without any."""
    return {patient: mean_of([_number(row[metric]) for row in of]) for patient, of in sorted(patients_of(rows).items())}


def mean_of(values: Sequence[float]) -> float:
    """The mean of those that are numbers; NaN for none."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def estimate(values: Mapping[str, float]) -> Estimate:
    """Mean over patients and its interval."""
    mean, low, high = interval(list(values.values()))
    missing = sum(map(math.isnan, values.values()))
    return Estimate(mean=mean, low=low, high=high, cases=len(values) - missing, left_out=missing)


def patients_table(run: Scored, methods: Mapping[str, Rows]) -> str:
    """A row a bundle and baseline: Dice, FPV, FNV over patients; patients with a lesion missed in some, in all cuts."""
    lines = [
        "| method | patients | Dice | FPV ml | FNV ml | a lesion missed in some cut | in every cut | Dice below 0.5 |"
    ]
    lines.append("|---" * 8 + "|")
    for name, rows in (*run.bundles.items(), *methods.items()):
        dice = by_patient(rows)
        missed = [
            [int(row["lesions_found"]) < int(row["lesions_true"]) for row in of] for of in patients_of(rows).values()
        ]
        volumes = [by_patient(rows, metric) for metric in ("fpv_ml", "fnv_ml")]
        has_masks = not all(math.isnan(value) for value in volumes[0].values())
        cells = [name, f"{len(dice)}", cell(estimate(dice), 4), *(cell(estimate(one), 2) for one in volumes)]
        cells += [f"{sum(map(any, missed))}", f"{sum(map(all, missed))}"] if has_masks else ["-", "-"]
        cells.append(f"{sum(value < 0.5 for value in dice.values())}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def seeds_table(runs: Sequence[Scored]) -> str:
    """Each bundle's Dice by run, their mean, the deviation over runs, and the interval of the mean over patients."""
    names = [name for name in runs[0].bundles if all(name in run.bundles for run in runs)]
    heads = [run.folder.name for run in runs]
    lines = [f"| bundle | {' | '.join(heads)} | mean of {len(runs)} | deviation over runs |"]
    lines.append("|---" * (len(runs) + 3) + "|")
    for name in names:
        dice = [by_patient(run.bundles[name]) for run in runs]
        if any(set(one) != set(dice[0]) for one in dice):
            raise ConfigError(
                f"the runs score other patients by {name}: {', '.join(heads)}; give runs of the same ones"
            )
        means = [estimate(one).mean for one in dice]
        together = estimate({patient: mean_of([one[patient] for one in dice]) for patient in dice[0]})
        cells = [name, *(f"{value:.4f}" for value in means), cell(together, 4), f"{statistics.stdev(means):.4f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def differences_table(run: Scored, methods: Mapping[str, Rows]) -> str:
    """Of every pair of a bundle with another bundle or a baseline: the mean difference over patients, and who wins."""
    lines = ["| first | second | patients | second less first | second better in |", "|---" * 5 + "|"]
    every = [*run.bundles.items(), *methods.items()]
    for number, (name, rows) in enumerate(list(run.bundles.items())):
        first = by_patient(rows)
        for other, others in every[number + 1 :]:
            second = by_patient(others)
            if set(first) != set(second):
                raise ConfigError(
                    f"{other} is scored on {len(second)} patients, {name} on {len(first)}: give all folds' --baselines"
                )
            found = {patient: second[patient] - first[patient] for patient in first}
            better = sum(value > 0 for value in found.values())
            lines.append(f"| {name} | {other} | {len(found)} | {cell(estimate(found), 4)} | {better} |")
    return "\n".join(lines)


def views_table(run: Scored) -> str:
    """A row a bundle: Dice of whole images in every view, over all folds, and agreement with the whole image.

    Empty if the run has none.
    """
    found: dict[str, dict[str, list[tuple[int, float, float]]]] = {}
    for path in fold_files(run.folder, VIEWS):
        of_bundle = found.setdefault(path.name.removesuffix(VIEWS), {})
        for view in _read(path):
            try:
                entry = (int(view["studies"]), _number(view["dice"]), _number(view["agreement"]))
                of_bundle.setdefault(view["name"], []).append(entry)
            except (KeyError, TypeError, ValueError) as error:
                raise ConfigError(
                    f"'{path}' holds no views ({error!r}); make it with training nested --views"
                ) from None
    if not found:
        return ""
    views = list(next(iter(found.values())))
    lines = [f"| bundle | | {' | '.join(views)} |", "|---" * (len(views) + 2) + "|"]
    for name, of_bundle in found.items():
        for place, what in ((1, "Dice"), (2, "agreement")):
            means = [weighted([(one[0], one[place]) for one in of_bundle.get(view, [])]) for view in views]
            lines.append(f"| {name} | {what} | {' | '.join(f'{value:.4f}' for value in means)} |")
    lines += ["", "Whole images, each patient once. Agreement: Dice with the mask of the whole image where both look."]
    return "\n".join(lines)


def weighted(pairs: Sequence[tuple[int, float]]) -> float:
    """The mean of values with their counts; NaN is left out."""
    known = [(count, value) for count, value in pairs if not math.isnan(value)]
    total = sum(count for count, _ in known)
    return sum(count * value for count, value in known) / total if total else math.nan


def detail_tables(run: Scored) -> str:
    """FROC by size, surfaces and calibration of every bundle on whole images; empty if the run has none."""
    found: dict[str, list[detection.Detection]] = {}
    for path in fold_files(run.folder, ENDING):
        found.setdefault(path.name.removesuffix(ENDING), []).extend(read_detail(path))
    parts = [f"### {name}\n\n{detection.markdown(detection.report(of))}" for name, of in found.items()]
    return "\n\n".join(parts)


def phantoms_table(run: Scored) -> str:
    """A row a bundle and site: Dice over phantoms with lesion, FPV over all; empty if the run has none."""
    lines = ["| scored by | site | phantoms | with lesion | Dice, those with lesion | FPV ml, all |", "|---" * 6 + "|"]
    paths = sorted(run.folder.glob(f"*{PHANTOMS}"))
    for path in paths:
        rows = read_scores(path, COLUMNS)
        for site in ("all", *sorted({row["site"] for row in rows.values()})):
            of = {case: row for case, row in rows.items() if site in ("all", row["site"])}
            ill = {case: row for case, row in of.items() if int(row["lesions_true"]) > 0}
            cells = [path.name.removesuffix(PHANTOMS), site, f"{len(of)}", f"{len(ill)}"]
            cells += [cell(estimate(by_patient(ill)), 4) if ill else "-", cell(estimate(by_patient(of, "fpv_ml")), 2)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) if paths else ""


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read '{path}': {error}; make it again by the command that wrote it") from None


def _methods(path: Path) -> dict[str, str]:
    """The methods of a baselines.json, and the file of each one's scores beside it. Raises ConfigError."""
    content = _read(path)
    methods = content.get("methods") if isinstance(content, dict) else None
    if not isinstance(methods, dict) or not all(isinstance(n, str) and Path(n).name == n for n in methods.values()):
        raise ConfigError(f"'{path}' names no methods with files beside it; make it with training baselines")
    return methods


def _number(value: str | float | None) -> float:
    return math.nan if value is None or value == "" else float(value)
