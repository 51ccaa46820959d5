"""The lesion table of a study, as CSV and as JSON; the units are in the names of columns and keys."""

import csv
import dataclasses
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from model import RESEARCH
from model.results.lesions import Lesion, Totals

DIGITS = 4  # after the point: more than the voxels' precision
DEFINITIONS = {
    "lesions": "18-connected components of the mask, by falling volume",
    "suv_peak": "highest mean SUV of the voxels whose centres lie within 6.2 mm (1 ml) of one of the lesion's",
    "tlg_suv_ml": "mean SUV x volume",
    "centroid_mm": "patient coordinates of DICOM: x grows to the left, y to posterior, z to superior",
    "long_diameter_mm": "largest distance between two points of the lesion's surface, in any direction",
    "dmax_mm": "largest distance between the centroids of two lesions",
}
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet takes text that starts so for a formula


def lesions_csv(lesions: Sequence[Lesion], edited: str = "") -> str:
    """One row a lesion; without lesions only the row of names. edited: what the notice says of a reader's edit."""
    names = [item.name for item in dataclasses.fields(Lesion)]
    notice = f"{RESEARCH} {edited}".strip()
    return csv_text([*names, "notice"], [rounded(dataclasses.asdict(one)) | {"notice": notice} for one in lesions])


def lesions_json(lesions: Sequence[Lesion], totals: Totals, edited: str = "") -> dict[str, Any]:
    """Lesions, totals, and what the numbers mean. edited: what is said of a reader's edit."""
    return {
        "notice": RESEARCH,
        **({"edited": edited} if edited else {}),
        "totals": rounded(dataclasses.asdict(totals)),
        "lesions": [rounded(dataclasses.asdict(one)) for one in lesions],
        "definitions": DEFINITIONS,
    }


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
