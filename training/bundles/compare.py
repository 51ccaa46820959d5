"""Paired differences of scores of the same cases: what one bundle, or a threshold, scores more than another.

    python -m training compare runs/eoa/scores.csv runs/diwa/scores.csv --output runs/eoa-diwa.csv

Both tables are by training evaluate. A difference is the second's score less the first's, case by case; its interval
is a bootstrap over patients, as for means.
"""

import argparse
import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from model.errors import ConfigError
from model.results.writing import check_output, write_bytes
from model.whole import Staging
from training.command import check_targets
from training.data.table import some_of
from training.judging.scores import Estimate, cell, interval

LESIONS = ("lesions_true", "lesions_found")  # columns of counts, which a table may lack
COMPARED = {"dice": 4, "fpv_ml": 2, "fnv_ml": 2}  # digits shown of each
Rows = dict[str, dict[str, str]]


def read_scores(path: Path, more: Sequence[str] = ()) -> Rows:
    """The rows of a scores.csv by case. more: columns that it must have beside those that are compared.

    Raises ConfigError if it is none, names a case twice, or has something else where a number must be.
    """
    wanted = {"case", "patient", "convention", *COMPARED, *more}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"cannot read the scores '{path}': {error}; give what training evaluate wrote") from None
    if not rows or not wanted <= set(rows[0]):
        raise ConfigError(
            f"'{path}' must have the columns {', '.join(sorted(wanted))}; give what training evaluate wrote"
        )
    for line, row in enumerate(rows, start=2):
        columns = [name for name in (*COMPARED, *LESIONS) if name in row]
        if wrong := [name for name in columns if not is_number(row[name], name in LESIONS)]:
            raise ConfigError(f"'{path}', line {line}: {wrong[0]} is {row[wrong[0]]!r}, no number; make it again")
        if not row["patient"] or row["convention"] is None:
            raise ConfigError(f"'{path}', line {line}: no patient or no convention; make it again")
    by_case = {row["case"]: row for row in rows}
    if len(by_case) < len(rows):
        raise ConfigError(f"'{path}' names a case twice: score each once")
    return by_case


def is_number(text: str | None, whole: bool) -> bool:
    """Whether the text of a score is a number, a whole one for counts; None: the line ended before it."""
    try:
        (int if whole else float)(text or "")
    except ValueError:
        return False
    return True


def differences(first: Rows, second: Rows) -> dict[str, Estimate]:
    """The mean of the second's scores less the first's, with intervals, of every metric of COMPARED.

    Cases that have no number in either are left out. Raises ConfigError if the cases or conventions are not the same.
    """
    apart = set(first) ^ set(second)
    if apart:
        raise ConfigError(f"{len(apart)} cases are in one table alone: {some_of(apart)}; score the same cases")
    conventions = {row["convention"] for rows in (first, second) for row in rows.values()}
    if len(conventions) > 1:
        raise ConfigError(f"the tables score empty masks differently: {some_of(conventions)}; use one convention")
    found = {}
    for metric in COMPARED:
        values = [float(second[case][metric]) - float(first[case][metric]) for case in first]
        mean, low, high = interval(values, [row["patient"] for row in first.values()])
        missing = sum(map(math.isnan, values))
        found[metric] = Estimate(mean=mean, low=low, high=high, cases=len(values) - missing, left_out=missing)
    return found


def markdown(found: Mapping[str, Estimate], better: Mapping[str, int]) -> str:
    """The differences as a table. better: of each metric in how many cases the second scores better."""
    lines = [
        "| metric | cases | second less first (95 % interval over patients) | second better in |",
        "|---" * 4 + "|",
    ]
    for metric, digits in COMPARED.items():
        row = found[metric]
        lines.append(f"| {metric} | {row.cases} | {cell(row, digits)} | {better[metric]} |")
    return "\n".join(lines)


def run(options: argparse.Namespace) -> None:
    """Print the differences, and write them case by case where asked. Raises ConfigError or OutputError."""
    if options.output:
        check_targets([options.output], (options.first, options.second))
        check_output(options.output.parent)
    first, second = read_scores(options.first), read_scores(options.second)
    found = differences(first, second)
    signs = {"dice": 1, "fpv_ml": -1, "fnv_ml": -1}
    better = {
        metric: sum((float(second[case][metric]) - float(first[case][metric])) * sign > 0 for case in first)
        for metric, sign in signs.items()
    }
    if options.output:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["case", "patient", *COMPARED])
        for case, row in first.items():
            values = [float(second[case][metric]) - float(row[metric]) for metric in COMPARED]
            writer.writerow([case, row["patient"], *values])
        with Staging() as staging:
            write_bytes(text.getvalue().encode(), options.output, staging)
            staging.commit()
    print(markdown(found, better))


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Cost: none to speak of."
    parser.add_argument("first", type=Path, metavar="FIRST.csv", help="scores by training evaluate")
    parser.add_argument("second", type=Path, metavar="SECOND.csv", help="scores of the same cases")
    parser.add_argument(
        "--output", type=Path, metavar="CSV", help="the differences case by case (default: printed alone)"
    )
