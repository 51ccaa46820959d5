"""The page on the field of view: means of every view, as a table, a page in Markdown, CSV and JSON."""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model.results.writing import write_bytes, write_json
from model.whole import Staging
from training.bundles.field_of_view import THRESHOLDS, ViewScore
from training.judging.scores import Estimate, cell, interval, without_nan

CSV_COLUMNS = ("case", "view", "dice", "agreement", "marked_ml", "patient", "fpv_ml", "fnv_ml")
HEADS = (
    "view",
    "studies",
    "with lesion",
    "Dice (95 % interval)",
    "agreement with the whole image",
    "FPV ml",
    "FNV ml",
    "ml marked",
    "best fixed threshold",
)
MEANING = (
    "A cut takes so much off every side of the PET; air is added past the crop, in the networks' windows. Dice is the "
    "mean over the studies with lesion in view, its interval a bootstrap over patients. Agreement is the Dice of the "
    "mask with that of the whole image where both look. The threshold is the one that scores best on the very studies "
    "of its row: an upper bound for fixed thresholds."
)


def means(rows: Sequence[ViewScore]) -> list[dict[str, Any]]:
    """One entry a view: studies, mean Dice over those with lesion in view and its interval over patients, FPV, FNV,
    agreement, ml marked, and the threshold of THRESHOLDS that scores best on this view.
    """
    found = []
    for view in dict.fromkeys(row.view for row in rows):
        of_view = [row for row in rows if row.view == view]
        dice = estimate(of_view, "dice")
        best = best_threshold(of_view)
        found.append(
            {
                "view": view,
                "studies": len(of_view),
                "patients": len({row.patient for row in of_view}),
                "with_lesion": dice.cases,
                "dice": dice.mean,
                "dice_interval": [dice.low, dice.high],
                "fpv_ml": estimate(of_view, "fpv_ml").mean,
                "fnv_ml": estimate(of_view, "fnv_ml").mean,
                "agreement": float(np.mean([row.agreement for row in of_view])),
                "marked_ml": float(np.mean([row.marked_ml for row in of_view])),
                "best_threshold_suv": best[0],
                "best_threshold_dice": best[1],
            }
        )
    return found


def estimate(rows: Sequence[ViewScore], metric: str) -> Estimate:
    """Mean of a metric over the rows that have one, with its interval over patients."""
    values = [float(getattr(row, metric)) for row in rows]
    mean, low, high = interval(values, [row.patient for row in rows])
    missing = sum(map(math.isnan, values))
    return Estimate(mean=mean, low=low, high=high, cases=len(values) - missing, left_out=missing)


def best_threshold(rows: Sequence[ViewScore]) -> tuple[float, float]:
    """The threshold of THRESHOLDS with the highest mean Dice over the rows with lesion, and that Dice; NaN for none."""
    ill = [row.thresholds for row in rows if not math.isnan(row.dice)]
    if not ill:
        return math.nan, math.nan
    dice = np.mean(ill, axis=0)
    return THRESHOLDS[int(dice.argmax())], float(dice.max())


def markdown(found: Sequence[dict[str, Any]]) -> str:
    """The entries of `means` as a table."""
    lines = [f"| {' | '.join(HEADS)} |", "|---" * len(HEADS) + "|"]
    for row in found:
        low, high = row["dice_interval"]
        dice = Estimate(mean=row["dice"], low=low, high=high, cases=row["with_lesion"], left_out=0)
        cells = [row["view"], f"{row['studies']}", f"{row['with_lesion']}", cell(dice, 4)]
        cells += [_number(row["agreement"], 4), _number(row["fpv_ml"], 2), _number(row["fnv_ml"], 2)]
        cells += [_number(row["marked_ml"], 1)]
        cells += [
            f"SUV {row['best_threshold_suv']:g}: {row['best_threshold_dice']:.4f}" if row["with_lesion"] else "n/a"
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def page(found: Sequence[dict[str, Any]], title: str, facts: Sequence[str]) -> str:
    """The whole page in Markdown: what was scored, the table, its extremes, and what the columns mean."""
    cuts = [row for row in found if row["view"].endswith("mm cut") and row["with_lesion"]]
    air = [row for row in found if row["view"].endswith("of air")]
    lines = [f"# Field of view: {title}", "", *(f"- {fact}" for fact in facts), "", markdown(found), ""]
    if cuts:
        worst, least = min(cuts, key=lambda row: row["dice"]), min(cuts, key=lambda row: row["agreement"])
        lines.append(f"Worst cut: {worst['view']}, Dice {worst['dice']:.4f}. Least agreement of a cut with the whole ")
        lines[-1] += f"image: {least['view']}, {least['agreement']:.4f}."
    if cuts and air:
        change = max(air, key=lambda row: abs(row["dice"] - cuts[0]["dice"]))
        lines.append(f"Added air changes Dice by {change['dice'] - cuts[0]['dice']:+.4f} at most ({change['view']}).")
    lines += ["", MEANING]
    return "\n".join(lines) + "\n"


def write_views(rows: Sequence[ViewScore], entry: dict[str, Any], path: Path, text: str) -> None:
    """Write a row a study and view as CSV, beside it the means as JSON with what was run, and the page as Markdown.

    Raises OutputError.
    """
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    writer.writerows([getattr(row, name) for name in CSV_COLUMNS] for row in rows)
    with Staging() as staging:
        write_bytes(table.getvalue().encode(), path, staging)
        write_json(without_nan(entry | {"views": means(rows)}), path.with_suffix(".json"), staging)
        write_bytes(text.encode(), path.with_suffix(".md"), staging)
        staging.commit()


def _number(value: float, digits: int) -> str:
    return "n/a" if np.isnan(value) else f"{value:.{digits}f}"
