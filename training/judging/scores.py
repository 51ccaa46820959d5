"""Scores of cases: mean, 95 % bootstrap interval, by diagnosis and site; as a table, CSV and JSON."""

import csv
import dataclasses
import io
import math
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from model.errors import ConfigError
from model.results.metrics import CONVENTIONS
from model.results.writing import write_bytes, write_json
from model.whole import Staging

METRICS = ("dice", "fpv_ml", "fnv_ml", "seconds")
LEVEL, RESAMPLES, SEED = 0.95, 9999, 0  # of the bootstrap; 9999 is SciPy's own number


@dataclass(frozen=True, kw_only=True)
class CaseScore:
    """One case: Dice in [0, 1] or NaN; volumes in ml; seconds: reading and segmenting, NaN where masks were given."""

    case: str
    patient: str
    diagnosis: str
    tracer: str
    site: str
    dice: float
    fpv_ml: float
    fnv_ml: float
    lesions_true: int
    lesions_found: int
    seconds: float
    convention: str


def without_empty(rows: Sequence[CaseScore]) -> list[CaseScore]:
    """The same scores by convention autopet_3: neither Dice nor FNV without lesion, so means are over the rest."""
    return [
        dataclasses.replace(
            row,
            convention="autopet_3",
            dice=row.dice if row.lesions_true else math.nan,
            fnv_ml=row.fnv_ml if row.lesions_true else math.nan,
        )
        for row in rows
    ]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Mean over `cases` cases and its 95 % interval; left_out: cases that were NaN. NaN where there is none."""

    mean: float
    low: float
    high: float
    cases: int
    left_out: int


@dataclass(frozen=True, kw_only=True)
class Group:
    """All cases (by "all"), or the cases of one diagnosis or site."""

    by: str
    value: str
    cases: int
    dice: Estimate
    fpv_ml: Estimate
    fnv_ml: Estimate
    seconds: Estimate
    lesions_true: int
    lesions_found: int


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Means of every group, all cases first, and the convention that they were scored by."""

    convention: str
    groups: tuple[Group, ...]


def interval(values: Sequence[float], patients: Sequence[str] | None = None) -> tuple[float, float, float]:
    """Mean of the values and its 95 % bootstrap interval (percentile, always the same resamples); NaN is left out.

    patients: whose value each is (default: all of different patients). Patients are drawn with all their values,
    since several studies of one patient say less than as many patients. One patient: mean, NaN, NaN. No value: three
    times NaN. Source: scipy.stats.bootstrap.
    """
    of: dict[object, list[float]] = {}
    for value, patient in zip(values, patients or range(len(values)), strict=True):
        if not math.isnan(value):
            of.setdefault(patient, []).append(value)
    if not of:
        return math.nan, math.nan, math.nan
    sums, counts = np.array([sum(own) for own in of.values()]), np.array([float(len(own)) for own in of.values()])
    mean = float(sums.sum() / counts.sum())
    if len(of) < 2:
        return mean, math.nan, math.nan
    found = stats.bootstrap(
        (sums, counts),
        lambda s, n, axis: s.sum(axis) / n.sum(axis),
        paired=True,
        vectorized=True,
        confidence_level=LEVEL,
        n_resamples=RESAMPLES,
        method="percentile",
        batch=1000,
        rng=SEED,
    ).confidence_interval
    return mean, float(found.low), float(found.high)


def summary(rows: Sequence[CaseScore], by: Sequence[str] = ("diagnosis", "site")) -> Summary:
    """Means and intervals over all rows, then over the rows of each value of the columns `by`, sorted.

    Raises ConfigError if there is no row, or if rows were scored by different conventions.
    """
    conventions = sorted({row.convention for row in rows})
    if len(conventions) != 1:
        raise ConfigError(f"scores of one convention of empty masks are needed, got {conventions or 'no case'}")
    groups = [_group("all", "all", rows)]
    for column in by:
        for value in sorted({getattr(row, column) for row in rows}):
            groups.append(_group(column, value, [row for row in rows if getattr(row, column) == value]))
    return Summary(convention=conventions[0], groups=tuple(groups))


def table(result: Summary) -> str:
    """The summary as a Markdown table, with the convention above it."""
    lines = [
        f"18-connected components, empty masks by {result.convention} ({CONVENTIONS[result.convention]}); "
        "mean over cases (95 % bootstrap interval over patients)",
        "",
        "| cases of | n | Dice | FPV ml | FNV ml | lesions found | seconds a case |",
        "|---|---|---|---|---|---|---|",
    ]
    for group in result.groups:
        name = "all" if group.by == "all" else f"{group.by} {group.value}".replace("|", "\\|")
        cells = [cell(group.dice, 4), cell(group.fpv_ml, 2), cell(group.fnv_ml, 2)]
        seconds = "-" if math.isnan(group.seconds.mean) else f"{group.seconds.mean:.1f}"
        found = f"{group.lesions_found} of {group.lesions_true}"
        lines.append(" | ".join([f"| {name}", str(group.cases), *cells, found, f"{seconds} |"]))
    return "\n".join(lines)


def write(rows: Sequence[CaseScore], result: Summary, path: Path, more: dict[str, Any]) -> None:
    """Write `path` (CSV, a row a case) and the summary with `more` as JSON beside it. Raises OutputError."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [item.name for item in dataclasses.fields(CaseScore)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(dataclasses.asdict(row) for row in rows)
    content = {
        "convention": result.convention,
        "empty_masks": CONVENTIONS[result.convention],
        "connectivity": 18,
        "interval": {
            "level": LEVEL,
            "method": "percentile bootstrap over patients of the mean over cases",
            "resamples": RESAMPLES,
            "seed": SEED,
        },
        **more,
        "groups": [dataclasses.asdict(group) for group in result.groups],
    }
    with Staging() as staging:
        write_bytes(text.getvalue().encode(), path, staging)
        write_json(without_nan(content), path.with_suffix(".json"), staging)
        staging.commit()


def read_rows(path: Path) -> list[CaseScore]:
    """The rows that `write` wrote. Raises ConfigError if the file is none of its."""
    kinds = typing.get_type_hints(CaseScore)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            found = [{name: kinds[name](text) for name, text in row.items()} for row in csv.DictReader(file)]
        return [CaseScore(**row) for row in found]
    except (OSError, csv.Error, UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"'{path}' holds no scores: {error}; delete it, and they are made again") from None


def _group(by: str, value: str, rows: Sequence[CaseScore]) -> Group:
    def estimate(metric: str) -> Estimate:
        values = [float(getattr(row, metric)) for row in rows]
        mean, low, high = interval(values, [row.patient for row in rows])
        left_out = sum(map(math.isnan, values))
        return Estimate(mean=mean, low=low, high=high, cases=len(values) - left_out, left_out=left_out)

    return Group(
        by=by,
        value=value,
        cases=len(rows),
        **{metric: estimate(metric) for metric in METRICS},
        lesions_true=sum(row.lesions_true for row in rows),
        lesions_found=sum(row.lesions_found for row in rows),
    )


def cell(found: Estimate, digits: int) -> str:
    """Mean, interval where there is one, and how many cases it is of where some were left out."""
    if not found.cases:
        return "-"
    span = "" if math.isnan(found.low) else f" ({found.low:.{digits}f} to {found.high:.{digits}f})"
    return f"{found.mean:.{digits}f}{span}" + (f", n {found.cases}" if found.left_out else "")


def without_nan(value: Any) -> Any:
    """JSON has no NaN: null stands for it."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
