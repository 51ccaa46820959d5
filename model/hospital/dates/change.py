"""What changed between two dates: a row for each match of lesions, the totals, and the response by PERCIST.

Grown and shrunk are rules of our own about the volume: a change of 30 % or more, and of 0.5 ml or more. The response is
that of PERCIST 1.0 (Wahl et al., J Nucl Med 50 Suppl 1:122S, 2009): the hottest lesion's SULpeak at both dates.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model.hospital.dates.matching import NEAREST_MM, Match

GROWN_PERCENT, GROWN_ML = 30.0, 0.5
RESPONSE_PERCENT, RESPONSE_SUL = 30.0, 0.8  # PERCIST: both must be reached, or, for progression, passed
TLG_PERCENT = 75.0  # PERCIST: more TLG by SUL than this, without less SULpeak, is progression
DIGITS = 6  # numbers are compared to these: 1.5 - 2.3 is -0.8 then, and not a little above it
NEW, GONE, GROWN, SHRUNK, UNCHANGED, BEYOND = "new", "gone", "grown", "shrunk", "unchanged", "not in both"
SUMMED, HIGHEST = ("volume_ml", "tlg_suv_ml"), ("suv_max", "suv_peak", "sul_peak")
MEASURES = (*SUMMED, *HIGHEST)
TOTALS = ("lesions", "mtv_ml", "tlg_suv_ml", "suv_max", "suv_peak", "sul_peak")
MEANING = (
    f"Grown, shrunk: the volume changed by {GROWN_PERCENT:g} % or more, and by {GROWN_ML:g} ml or more; matched: the "
    f"lesions overlap, or else are the nearest within {NEAREST_MM:g} mm"
)


@dataclass(frozen=True, kw_only=True)
class Response:
    """PERCIST's category (CMR, PMR, SMD, PMD), "" where it cannot be said; and why, or what is missing."""

    category: str
    reason: str


def lesion_rows(
    matches: Iterable[Match], first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """A row for each match. first, second: rows of lesions.json. Numbers of several lesions are joined by +.

    Volume and TLG are sums over the lesions of a date, SUV and SUL the highest. Each has the columns _1, _2 and
    _change_percent; None where there is no value, or no value to compare with.
    """
    by_number = [{int(one["number"]): one for one in lesions} for lesions in (first, second)]
    rows = []
    for match in matches:
        sides = [
            [table[n] for n in numbers] for table, numbers in zip(by_number, (match.first, match.second), strict=True)
        ]
        row: dict[str, Any] = {
            "lesion_1": "+".join(map(str, match.first)),
            "lesion_2": "+".join(map(str, match.second)),
            "change": "",
            "note": _note(match),
        }
        for name in MEASURES:
            one, other = (_together(side, name) for side in sides)
            row |= {f"{name}_1": one, f"{name}_2": other, f"{name}_change_percent": percent(one, other)}
        row["change"] = _change(match, row["volume_ml_1"], row["volume_ml_2"])
        rows.append(row)
    return rows


def totals_of(table: Mapping[str, Any]) -> dict[str, Any]:
    """The totals of a lesion table (lesions.json), with what is known by the patient's size and the liver: SULpeak, or
    why there is none, its ratio to the liver's mean, and whether the hottest lesion is measurable by PERCIST (yes, no,
    None: not known).
    """
    numbers = table.get("numbers") or {}
    why = (numbers.get("why") or {}).get("sul_peak", "")
    known = {name: numbers.get(name) for name in ("sul_peak", "percist_measurable", "suv_peak_to_liver")}
    return {**known, "why_no_sul": why, **table["totals"]}


def total_row(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """The totals of both dates and their change; first, second: of `totals_of`."""
    row: dict[str, Any] = {"measurable": first.get("percist_measurable")}
    row["to_liver"] = second.get("suv_peak_to_liver")
    row["why_no_sul"] = [one.get("why_no_sul") or "its lesion table holds none" for one in (first, second)]
    for name in TOTALS:
        one, other = first.get(name), second.get(name)
        row |= {f"{name}_1": one, f"{name}_2": other, f"{name}_change_percent": percent(one, other)}
    return row


def response(rows: Sequence[Mapping[str, Any]], totals: Mapping[str, Any]) -> Response:
    """The response by PERCIST. Where a number or the view of a lesion is missing, no category is guessed."""
    new = [row["lesion_2"] for row in rows if row["change"] == NEW]
    one, other = totals["sul_peak_1"], totals["sul_peak_2"]
    if new:
        also = f"; SULpeak {one:.2f} to {other:.2f}, {percent(one, other):+.0f} %" if _risen(one, other) else ""
        return Response(category="PMD", reason=f"new at the second date: lesion {', '.join(new)}{also}")
    if not totals["lesions_1"] and not totals["lesions_2"]:
        return Response(category="", reason="no lesion at either date: there is nothing to measure")
    beyond = sum(row["change"] == BEYOND for row in rows)
    if beyond:
        return Response(category="", reason=f"lesions that only one of both PETs can show: {beyond}")
    if not totals["lesions_2"]:
        return Response(category="CMR", reason="no lesion is left; PERCIST also asks for no uptake above the liver's")
    if one is None or other is None:
        sides = zip(("first", "second"), (one, other), totals["why_no_sul"], strict=True)
        missing = [f"SULpeak of the {word} date is not known: {why}" for word, value, why in sides if value is None]
        return Response(category="", reason="; ".join(missing))
    if totals["measurable"] == "no":
        return Response(category="", reason="the first date's hottest lesion is not measurable by PERCIST")
    return _by_sul_peak(one, other, rows, totals)


def _by_sul_peak(one: float, other: float, rows: Sequence[Mapping[str, Any]], totals: Mapping[str, Any]) -> Response:
    """The response where SULpeak is known at both dates and no lesion is new: `one` and `other`, of the hottest."""
    if one == 0:
        return Response(category="", reason=f"SULpeak {one:.2f} to {other:.2f}: no change in per cent can be said")
    step, share = round(other - one, DIGITS), round(100 * (other - one) / one, DIGITS)
    words = f"SULpeak {one:.2f} to {other:.2f}, {share:+.0f} %"
    if _risen(one, other):
        return Response(category="PMD", reason=words)
    tlg = _tlg_percent(totals)
    if tlg is not None and tlg > TLG_PERCENT and step >= 0:
        return Response(category="PMD", reason=f"{words}; TLG by SUL {tlg:+.0f} %")
    if (totals["to_liver"] or 1) < 1:
        words += "; now below the liver's mean: it is CMR if no lesion stands out from what surrounds it"
    if share > -RESPONSE_PERCENT or step > -RESPONSE_SUL:
        return Response(category="SMD", reason=words)
    if risen := [row for row in rows if _risen(row.get("sul_peak_1"), row.get("sul_peak_2"))]:
        which = ", ".join(f"{row['lesion_1']} to {row['lesion_2']}" for row in risen)
        return Response(
            category="",
            reason=f"{words}, but SULpeak of another lesion rose by more than {RESPONSE_PERCENT:g} % and "
            f"{RESPONSE_SUL:g} (lesion {which}), which PERCIST's PMR does not allow: judge it yourself",
        )
    if grown := [row["lesion_2"] for row in rows if row["change"] == GROWN]:
        words += f"; lesion {', '.join(grown)} grew: PERCIST's PMR asks for none that is more than 30 % larger"
    return Response(category="PMR", reason=words)


def _risen(one: float | None, other: float | None) -> bool:
    """Whether SULpeak rose by more than PERCIST's limits."""
    if one is None or other is None or one <= 0:
        return False
    step, share = round(other - one, DIGITS), round(100 * (other - one) / one, DIGITS)
    return share > RESPONSE_PERCENT and step > RESPONSE_SUL


def _tlg_percent(totals: Mapping[str, Any]) -> float | None:
    """The change of TLG by SUL, in per cent: SUL is SUV times one factor a date, which changes with the weight."""
    by_sul = []
    for side in ("1", "2"):
        tlg, sul, suv = (totals[f"{name}_{side}"] for name in ("tlg_suv_ml", "sul_peak", "suv_peak"))
        by_sul.append(tlg * sul / suv if tlg is not None and sul is not None and suv else tlg)
    return percent(*by_sul)


def percent(one: float | None, other: float | None) -> float | None:
    """The change from `one` to `other` in per cent of `one`; None where either is missing or `one` is 0."""
    if one is None or other is None or one == 0:
        return None
    return round(100 * (other - one) / one, 1)


def _together(lesions: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """A measure of several lesions: the sum of volumes and TLG, the highest SUV. None without a lesion or a value."""
    values = [one.get(name) for one in lesions]
    known = [float(value) for value in values if value is not None]
    if not known or len(known) != len(values):
        return None
    return round(sum(known), 4) if name in SUMMED else max(known)


def _change(match: Match, before_ml: float | None, after_ml: float | None) -> str:
    if match.beyond:
        return BEYOND
    if before_ml is None or after_ml is None:
        return NEW if before_ml is None else GONE
    step_ml = round(after_ml - before_ml, DIGITS)
    if abs(step_ml) < GROWN_ML or abs(step_ml) < round(GROWN_PERCENT / 100 * before_ml, DIGITS):
        return UNCHANGED
    return GROWN if step_ml > 0 else SHRUNK


def _note(match: Match) -> str:
    """What to mind of a match, in words."""
    if match.beyond:
        return f"beyond the {'second' if match.first else 'first'} date's PET"
    if match.near_mm is not None:
        return f"hardly an overlap or none, surfaces {match.near_mm:g} mm apart"
    count = len(match.first), len(match.second)
    if min(count) == 0 or count == (1, 1):
        return ""
    if count[0] == 1:
        return f"one lesion became {count[1]}"
    return f"{count[0]} lesions became one" if count[1] == 1 else f"{count[0]} lesions became {count[1]}"
