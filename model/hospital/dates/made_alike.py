"""Whether the lesions of two dates were made alike: by the same weights and rules, without a reader's hand, and by one
body. What differs there looks like a change of the disease.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from model.hospital.dates.change import GONE, NEW

HEIGHT_M = 0.05  # more is another patient's height, or a wrong one: SUL goes by it
DATES = ("first", "second")
Reports = tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]


def how_made_unlike(reports: Reports, rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """A warning for each thing in which they differ. reports: report.json of both; rows: one for each match."""
    both = [report or {} for report in reports]
    return tuple(filter(None, (_weights(both), _rules(both), _edits(both), _left_out(both, rows), _heights(both))))


def _weights(both: Sequence[Mapping[str, Any]]) -> str:
    used = {hash_ for one in both if (hash_ := (one.get("weights") or {}).get("manifest_sha256"))}
    return "the masks of both dates are by different weights: score both with the same" if len(used) > 1 else ""


def _rules(both: Sequence[Mapping[str, Any]]) -> str:
    # without the numbers of dropped lesions, which each study has of its own
    stated = [{name: value for name, value in _stated(one).items() if name != "drop"} for one in both if one]
    if len(stated) < 2 or stated[0] == stated[1]:
        return ""
    words = [", ".join(f"{name} {value}" for name, value in rules.items()) or "none" for rules in stated]
    return (
        f"the rules of what is a lesion differ: {words[0]} at the first date, {words[1]} at the second; run both anew"
    )


def _edits(both: Sequence[Mapping[str, Any]]) -> str:
    by_hand = [date for date, one in zip(DATES, both, strict=True) if one.get("edited") or _stated(one).get("drop")]
    return f"a reader edited or dropped lesions of the {' and the '.join(by_hand)} date" if len(by_hand) == 1 else ""


def _left_out(both: Sequence[Mapping[str, Any]], rows: Iterable[Mapping[str, Any]]) -> str:
    """What is new or gone may be a lesion that a rule left out at the other date."""
    changes = {row["change"] for row in rows}
    found = []
    for date, one, change in zip(DATES, both, (NEW, GONE), strict=True):
        count = (one.get("lesion_rules") or {}).get("dropped_lesions", 0)
        if count and change in changes:
            found.append(f"{count} at the {date} date, so what is {change} may have been there")
    return f"rules or a reader left out lesions: {'; '.join(found)}" if found else ""


def _heights(both: Sequence[Mapping[str, Any]]) -> str:
    heights = [((one.get("numbers") or {}).get("patient") or {}).get("height_m") for one in both]
    first_m, second_m = heights
    if first_m is None or second_m is None or round(abs(second_m - first_m), 6) <= HEIGHT_M:
        return ""
    return f"the patient's height is {first_m:g} m at the first date and {second_m:g} m at the second: SUL goes by it"


def _stated(report: Mapping[str, Any]) -> Mapping[str, Any]:
    """The rules of what is a lesion, as a report has them."""
    options = (report.get("batch") or {}).get("options") or {}
    rules: Mapping[str, Any] = options.get("rules") or {}
    return rules
