"""The table of baselines in Markdown: scores of the main view with intervals, then Dice in every field of view."""

import math
from collections.abc import Mapping, Sequence

from training.bundles.field_of_view import ViewScore
from training.bundles.views_page import estimate
from training.judging.scores import Estimate, cell, interval

MEANING = (
    "Means over the cases with lesion in view (FPV: over all), 95 % bootstrap interval over patients. Difference: of "
    "Dice to the first method, case by case, with its interval; it is above 0 where the method is better."
)


def page(rows: Mapping[str, Sequence[ViewScore]], facts: Sequence[str], view: str) -> str:
    """The whole page. view: of the first table."""
    lines = ["# Baselines", "", *(f"- {fact}" for fact in facts), "", f"## {view.capitalize()}", ""]
    lines += [scores_table(rows, view), "", MEANING, "", "## Dice by field of view", "", views_table(rows)]
    return "\n".join(lines) + "\n"


def scores_table(rows: Mapping[str, Sequence[ViewScore]], view: str) -> str:
    """A row a method: Dice, its difference to the first method's, FPV, FNV, lesions found, of one view."""
    first = [row for row in next(iter(rows.values())) if row.view == view]
    lines = ["| method | patients | cases | Dice | difference | FPV ml | FNV ml | patients with a lesion missed |"]
    lines.append("|---" * 8 + "|")
    for number, (method, found) in enumerate(rows.items()):
        of_view = [row for row in found if row.view == view]
        difference = cell(paired(first, of_view), 4) if number else "-"
        missed = {row.patient for row in of_view if row.lesions_found < row.lesions_true}
        has_masks = any(not math.isnan(row.fpv_ml) for row in of_view)
        cells = [method, f"{len({row.patient for row in of_view})}", f"{len(of_view)}"]
        cells += [cell(estimate(of_view, "dice"), 4), difference]
        cells += [cell(estimate(of_view, name), 2) for name in ("fpv_ml", "fnv_ml")]
        cells.append(f"{len(missed)}" if has_masks else "-")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def paired(first: Sequence[ViewScore], second: Sequence[ViewScore]) -> Estimate:
    """Mean difference of Dice, second less first, of the same cases, with its interval over patients."""
    values = [b.dice - a.dice for a, b in zip(first, second, strict=True)]
    mean, low, high = interval(values, [row.patient for row in first])
    missing = sum(map(math.isnan, values))
    return Estimate(mean=mean, low=low, high=high, cases=len(values) - missing, left_out=0)


def views_table(rows: Mapping[str, Sequence[ViewScore]]) -> str:
    """A row a method: mean Dice in every view, and the least agreement of a cut with the whole image's mask."""
    views = list(dict.fromkeys(row.view for row in next(iter(rows.values()))))
    lines = [f"| method | {' | '.join(views)} | least agreement of a cut |", "|---" * (len(views) + 2) + "|"]
    for method, found in rows.items():
        dice = [estimate([row for row in found if row.view == view], "dice").mean for view in views]
        agreements = [
            estimate([row for row in found if row.view == view], "agreement").mean
            for view in views
            if view.endswith("mm cut")
        ]
        cells = ["-" if math.isnan(value) else f"{value:.4f}" for value in (*dice, min(agreements))]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)
