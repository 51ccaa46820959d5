"""The tables and the page of patients with two dates: patients.csv, patients_lesions.csv and patients.html."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from model import RESEARCH, __version__
from model.hospital.dates.change import BEYOND, GONE, GROWN, MEANING, MEASURES, NEW, SHRUNK, TOTALS, UNCHANGED
from model.hospital.dates.compare import ComparedDates
from model.hospital.dates.stored_pairs import PICTURE, SMALL_PICTURE
from model.hospital.folder import COMPARISONS, STUDIES
from model.hospital.pages.page import (
    HERE,
    HTML,
    PATIENTS_HTML,
    About,
    picture_in_page,
    policy_hash,
    template,
    write_page,
)
from model.hospital.pages.words import columns, shown_name
from model.results.lesion_table import csv_text
from model.results.writing import write_bytes
from model.whole import Staging

PATIENTS, PATIENTS_LESIONS = "patients.csv", "patients_lesions.csv"
CHANGES = (NEW, GONE, GROWN, SHRUNK, UNCHANGED, BEYOND)
SHOWN = columns(volume_ml=1, tlg_suv_ml=0, suv_max=1, suv_peak=1, sul_peak=1)
SHOWN_TOTALS = (*columns(lesions=0, mtv_ml=1), *SHOWN[1:])


def write_patients(output: Path, comparisons: Sequence[ComparedDates], why: Mapping[str, str], about: About) -> None:
    """Write the three files at once. why: of studies in no pair. Raises OutputError; then the old ones stay."""
    ordered = sorted(comparisons, key=lambda one: one.patient)  # a patient's pairs keep their order in time
    with Staging() as staging:
        write_bytes(pairs_csv(ordered).encode(), output / PATIENTS, staging)
        write_bytes(changes_csv(ordered).encode(), output / PATIENTS_LESIONS, staging)
        write_page(html_patients(ordered, why, output, about), output / PATIENTS_HTML, staging)
        staging.commit()


def pairs_csv(comparisons: Sequence[ComparedDates]) -> str:
    """One row for each two dates: totals, their change, how many lesions changed how, and the response."""
    dates = ("date_1", "date_2") if any(one.dates for one in comparisons) else ()
    names = ("patient", "study_1", "study_2", *dates, "days", *_sided(TOTALS), *map(_column, CHANGES), "percist")
    more = ("percist_reason", "aligned", "correlation", "warnings", "not_compared", "folder", "notice")
    return csv_text([*names, *more], [_pair_row(one) for one in comparisons])


def changes_csv(comparisons: Sequence[ComparedDates]) -> str:
    """One row for each match of lesions."""
    names = ("patient", "study_1", "study_2", "lesion_1", "lesion_2", "change", "note", *_sided(MEASURES), "notice")
    rows = [_about(one) | row | {"notice": RESEARCH} for one in comparisons for row in one.lesions]
    return csv_text(names, rows)


def html_patients(
    comparisons: Sequence[ComparedDates], why: Mapping[str, str], output: Path, about: About
) -> Iterable[str]:
    """The page, piece by piece: what could not be compared first, then each patient with the pairs of dates."""
    css = (HERE / "report.css").read_text(encoding="utf-8")
    patients: dict[str, list[ComparedDates]] = {}
    for one in comparisons:
        patients.setdefault(one.patient, []).append(one)
    known = {column.name for column in SHOWN if any(_has(one, column.name) for one in comparisons)}
    known -= {"suv_peak"} if "sul_peak" in known else set()  # the response goes by SULpeak, and a page is only so wide
    return template("patients.html.j2").generate(
        css=Markup(css),
        css_hash=policy_hash(css),
        notice=RESEARCH,
        version=__version__,
        about=about,
        patients=patients,
        why=dict(sorted(why.items())),
        failed=[one for one in comparisons if any(one.failure)],
        counts=[(change, sum(_count(one, change) for one in comparisons)) for change in CHANGES],
        shown_name=shown_name,
        columns=[column for column in SHOWN if column.name in known],
        total_columns=[
            column for column in SHOWN_TOTALS if column.name in known or column.name in ("lesions", "mtv_ml")
        ],
        count_of=_count,
        changes=CHANGES,
        meaning=MEANING,
        report=HTML,
        studies=STUDIES,
        comparisons=COMPARISONS,
        picture=PICTURE,
        has_picture=lambda folder: (output / COMPARISONS / folder / PICTURE).is_file(),
        picture_of=lambda folder: picture_in_page(output / COMPARISONS / folder / SMALL_PICTURE),
    )


def _pair_row(one: ComparedDates) -> dict[str, Any]:
    dates = {f"date_{number}": date for number, date in enumerate(one.dates, start=1)}
    counts = {_column(change): _count(one, change) for change in CHANGES} if one.folder else {}
    return (
        _about(one)
        | dates
        | {"days": one.days}
        | one.totals
        | counts
        | {
            "percist": one.response.category,
            "percist_reason": one.response.reason,
            "aligned": one.aligned,
            "correlation": one.correlation,
            "warnings": " | ".join(one.warnings),
            "not_compared": "; ".join(filter(None, one.failure)),
            "folder": f"{COMPARISONS}/{one.folder}" if one.folder else "",
            "notice": RESEARCH,
        }
    )


def _about(one: ComparedDates) -> dict[str, Any]:
    return {"patient": one.patient, "study_1": one.first, "study_2": one.second}


def _count(one: ComparedDates, change: str) -> int:
    return sum(row["change"] == change for row in one.lesions)


def _has(one: ComparedDates, name: str) -> bool:
    """Whether a measure is known of either date."""
    return any(row[f"{name}_{date}"] is not None for row in one.lesions for date in (1, 2))


def _column(change: str) -> str:
    """A change as the name of a column."""
    return change.replace(" ", "_")


def _sided(names: Iterable[str]) -> list[str]:
    return [f"{name}_{side}" for name in names for side in ("1", "2", "change_percent")]
