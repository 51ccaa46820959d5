"""The lesion table of a study, as CSV and as JSON; the units are in the names of columns and keys."""

import csv
import dataclasses
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from model import RESEARCH
from model.results.lesion_numbers import LesionNumbers
from model.results.lesion_rules import DroppedLesion
from model.results.lesions import Lesion
from model.results.study_measures import StudyMeasures

DIGITS = 4  # after the point: more than the voxels' precision
DEFINITIONS = {
    "lesions": "18-connected components of the mask, numbered by falling volume before rules",
    "suv_peak": "highest mean SUV of the voxels whose centres lie within 6.2 mm (1 ml) of one of the lesion's",
    "tlg_suv_ml": "mean SUV x volume",
    "centroid_mm": "patient coordinates of DICOM: x grows to the left, y to posterior, z to superior",
    "long_diameter_mm": "largest distance between two points of the lesion's surface, in any direction",
    "dmax_mm": "largest distance between the centroids of two lesions",
    "number": "by falling volume, as the networks drew the lesions; rules leave gaps",
    "found_volume_ml": "of the lesion as the networks drew it, before rules",
    "organ": "the organ that holds more than half of the lesion's voxels; null if none does, or without organs",
    "sphericity": "surface of a ball of the lesion's volume over its surface, of the mesh (IBSI QCFX)",
    "sul_max, sul_mean, sul_peak": "SUV x lean body mass (Janmahasatian 2005) / weight; null where that is not known",
    "sul_peak_james": "the same with lean body mass by James 1976",
    "percist_measurable": "whether SULpeak is at least 1.5 x mean + 2 SD of the liver, or, without a liver, 2 x mean + "
    "2 SD of the blood; decided in SUV, which gives the same",
    "suv_peak_to_liver, suv_peak_to_blood": "SUVpeak over the mean SUV of the liver, and of the blood",
    "dmax_over_bsa_per_m": "Dmax in m over body surface area in m2 (Du Bois 1916)",
    "dropped": "what rules left out; no other number counts it",
}
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet takes text that starts so for a formula


def lesions_csv(lesions: Sequence[Lesion], more: Sequence[LesionNumbers], mark: str = "") -> str:
    """One row a lesion; without lesions only the row of names. more: beside each lesion; its columns are the last.

    mark: what the notice says besides, as of a reader's edit.
    """
    names = [*_names(Lesion), "notice", *_names(LesionNumbers)]
    return csv_text(names, [row | {"notice": f"{RESEARCH} {mark}".strip()} for row in _rows(lesions, more)])


def dropped_csv(dropped: Sequence[DroppedLesion], mark: str = "") -> str:
    """One row a lesion that rules left out, and why. mark: as of `lesions_csv`."""
    names = [*_names(DroppedLesion), "notice"]
    return csv_text(names, [row | {"notice": f"{RESEARCH} {mark}".strip()} for row in dropped_rows(dropped)])


def dropped_rows(dropped: Sequence[DroppedLesion]) -> list[dict[str, Any]]:
    """The lesions that rules left out, as plain rows."""
    return [rounded(dataclasses.asdict(one)) for one in dropped]


def lesions_json(measures: StudyMeasures, edited: str = "", channels: str = "") -> dict[str, Any]:
    """Lesions, totals, what rules left out, and what the numbers mean. edited: what is said of a reader's edit;
    channels: that the networks saw PET alone.
    """
    content = {
        "notice": RESEARCH,
        **({"channels": channels} if channels else {}),
        **({"edited": edited} if edited else {}),
        "totals": rounded(dataclasses.asdict(measures.totals)),
        "lesions": _rows(measures.lesions, measures.more),
        "definitions": DEFINITIONS,
        "numbers": numbers_report(measures),
    }
    return content | ({"rules": rules_report(measures)} if measures.ruled else {})


def numbers_report(measures: StudyMeasures) -> dict[str, Any]:
    """What lesions are compared with, and the study's numbers by it: null where not defined, and `why` says why not."""
    yardsticks = measures.yardsticks
    references = {"liver": yardsticks.liver, "blood": yardsticks.blood}
    return rounded(dataclasses.asdict(measures.study)) | {
        "patient": rounded(dataclasses.asdict(yardsticks.size) | {"sources": dict(yardsticks.size.sources)}),
        "references": {
            what: rounded(dataclasses.asdict(found)) if found else {"why": yardsticks.why[what]}
            for what, found in references.items()
        },
    }


def rules_report(measures: StudyMeasures) -> dict[str, Any]:
    """Which rules were applied, what they left out, and the networks' own count and volume."""
    assert measures.ruled is not None
    found_ml = measures.ruled.found_ml
    return {
        "rules": measures.rules.plain,
        "found_lesions": len(found_ml),
        "found_mtv_ml": round(sum(found_ml.values()), DIGITS),
        "dropped_lesions": len(measures.dropped),
        "dropped_ml": round(sum(one.volume_ml for one in measures.dropped), DIGITS),
        "dropped": dropped_rows(measures.dropped),
        "notes": list(measures.ruled.notes),
    }


def _rows(lesions: Sequence[Lesion], more: Sequence[LesionNumbers]) -> list[dict[str, Any]]:
    return [
        rounded(dataclasses.asdict(one) | dataclasses.asdict(other)) for one, other in zip(lesions, more, strict=True)
    ]


def _names(kind: type[Any]) -> list[str]:
    return [item.name for item in dataclasses.fields(kind)]


def rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: round(value, DIGITS) if isinstance(value, float) else value for name, value in values.items()}


def csv_text(names: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """CSV with these columns; None is an empty cell. Text that a spreadsheet would run gets an apostrophe in front."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, lineterminator="\n", extrasaction="ignore", restval="")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _harmless(value) for name, value in row.items()})
    return buffer.getvalue()


def without_apostrophe(value: str) -> str:
    """The text of a cell of `csv_text` before it got an apostrophe."""
    return value[1:] if value[:1] == "'" and value[1:2] in FORMULA_STARTS else value


def _harmless(value: Any) -> Any:
    if isinstance(value, str) and value[:1] in FORMULA_STARTS:
        return f"'{value}"
    return value
