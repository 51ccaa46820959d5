"""report.pdf: a study on A4 pages for the record. The same result gives the same bytes.

It shows report.json, lesions.json and preview.png of a study's folder. Numbers, rows and sections that are added there
appear here, too. Its fonts, in the folder fonts/, are embedded.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fpdf.fonts import FontFace
from PIL import Image

from model import __version__
from model.hospital.pages.sheet import GREY, MARGIN_MM, RED, WIDTH_MM, Sheet
from model.hospital.pages.words import heading, shown_name, title_of, value_words

PICTURE_WIDTH_MM, PICTURE_HEIGHT_MM, GAP_MM = 96.0, 118.0, 4.0  # the picture's largest size, beside the facts
MOST_COLUMNS = 12  # of a table; more become a second one
SMALL, SMALLEST = 8.0, 7.0  # points
LINES, HEAD_FILL = (200, 207, 216), (234, 238, 243)  # of tables
OWN_PLACE = (
    ("notice", "case", "inputs", "lesions", "volume_ml", "pet_grid", "weights", "run", "versions", "batch", "totals")
    + ("seconds", "peak_memory_bytes", "peak_gpu_memory_bytes", "warnings", "picks", "suv_conversion", "given")
    + ("organs", "definitions", "channels")
)  # what has a place of its own on the page, or none as it differs from run to run
CONVERSION = {"weight_kg": 1.0, "dose_bq": 1e-6, "injection": 1.0, "reference": 1.0, "decay_s": 1.0}
CONVERSION_NAMES = {"dose_bq": "dose_MBq"}
MARKS = ("channels", "edited")  # of lesions.json: what a reader must see first
NOT_STATED = "not stated"
ALL_LEFT_OUT = "No lesion is left: rules or a reader left out what was found, see below."
GIVEN = "Given in overrides.csv or as an option"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Whose study it is. patient, patient_id and date (YYYYMMDD) are shown only if named, patient_hash if not."""

    study: str
    named: bool = False
    patient: str = ""
    patient_id: str = ""
    date: str = ""
    patient_hash: str = ""


def record_pdf(subject: Subject, report: Mapping[str, Any], lesions: Mapping[str, Any], picture: bytes | None) -> bytes:
    """The pages as the bytes of a PDF file. report, lesions: report.json and lesions.json; picture: a PNG, if any."""
    sheet = Sheet(subject.study)
    sheet.title_line("Tumour lesions in PET/CT")
    top = sheet.get_y()
    bottom = _place_picture(sheet, picture)
    width = WIDTH_MM - PICTURE_WIDTH_MM - GAP_MM if picture else WIDTH_MM
    _facts(sheet, subject, report, lesions, width)
    sheet.set_y(max(sheet.get_y(), bottom if sheet.page == 1 else top) + GAP_MM)
    _lesion_table(sheet, lesions["lesions"], bool((lesions.get("rules") or {}).get("dropped_lesions")))
    for name, value in _added(lesions, report):
        _section(sheet, heading(name), value)
    if report.get("organs"):
        _section(sheet, "Organs", report["organs"]["table"])
    _paragraphs(sheet, "Warnings", report["warnings"] or ["none"])
    _paragraphs(sheet, "Series taken", report["picks"])
    _made_by(sheet, report)
    return bytes(sheet.output())


def _place_picture(sheet: Sheet, picture: bytes | None) -> float:
    """The projections at the right; returns where they end."""
    top = sheet.get_y()
    if picture is None:
        return top
    with Image.open(io.BytesIO(picture)) as image:
        image.load()
        scale = min(PICTURE_WIDTH_MM / image.width, PICTURE_HEIGHT_MM / image.height)
        size = image.width * scale, image.height * scale
        sheet.image(image, MARGIN_MM + WIDTH_MM - size[0], top, *size)
    sheet.set_y(top)
    return top + size[1]


def _facts(sheet: Sheet, subject: Subject, report: Mapping[str, Any], lesions: Mapping[str, Any], width: float) -> None:
    """Whose study it is, whether it was PET alone or edited, the totals, and what SUV was made from."""
    hidden = "not shown without --names"
    patient = (shown_name(subject.patient) or NOT_STATED) if subject.named else subject.patient_hash or hidden
    rows = [("Study", subject.study), ("Patient", patient)]
    rows += [("Patient ID", subject.patient_id or NOT_STATED)] if subject.named else []
    rows += [("Study date", (_date(subject.date) or NOT_STATED) if subject.named else hidden)]
    sheet.pairs(rows, width)
    for name in MARKS:
        if lesions.get(name):
            sheet.pairs([(title_of(name), lesions[name])], width, colour=RED)
    sheet.head("All lesions", width)
    sheet.pairs([(title_of(name), value_words(name, value)) for name, value in report["totals"].items()], width)
    truth = {name: value for name, value in report["batch"]["row"].items() if name in ("dice", "fpv_ml", "fnv_ml")}
    if truth:
        sheet.head("Compared with the truth", width)
        sheet.pairs([(title_of(name), value_words(name, value)) for name, value in truth.items()], width)
    conversion = report["suv_conversion"] or {}
    used = [name for name in CONVERSION if conversion.get(name) is not None]
    if used:
        sheet.head("SUV was made from", width)
        sheet.pairs([_conversion_row(name, conversion[name]) for name in used], width)
    if report["given"]:
        sheet.head(GIVEN, width)
        sheet.pairs([(title_of(name), value_words(name, value)) for name, value in report["given"].items()], width)


def _conversion_row(name: str, value: Any) -> tuple[str, str]:
    shown_as = CONVERSION_NAMES.get(name, name)
    return title_of(shown_as), value_words(shown_as, value if isinstance(value, str) else value * CONVERSION[name])


def _lesion_table(sheet: Sheet, lesions: Sequence[Mapping[str, Any]], some_left_out: bool) -> None:
    """The lesions, in as many tables as the columns need; their heads are repeated on every page."""
    sheet.head("Lesions, the largest first")
    if not lesions:
        sheet.paragraph(ALL_LEFT_OUT if some_left_out else "No lesion was found.", SMALL)
        return
    _table(sheet, lesions)


def _table(sheet: Sheet, rows: Sequence[Mapping[str, Any]]) -> None:
    """The rows, in as many tables as the columns need. A column of which no row has a value is left out."""
    stated = (name for row in rows for name, value in row.items() if name != "notice" and value is not None)
    names = sorted(set(stated), key=list(dict.fromkeys(name for row in rows for name in row)).index)
    first, others = names[0], names[1:]
    parts = -(-max(1, len(others)) // (MOST_COLUMNS - 1))
    length = -(-len(others) // parts)
    for start in range(0, max(1, len(others)), max(1, length)):
        _one_table(sheet, [first, *others[start : start + length]], rows)


def _one_table(sheet: Sheet, names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    words = [[sheet.printable(value_words(name, row.get(name))) for name in names] for row in rows]
    sheet.use(SMALLEST)
    sheet.set_draw_color(*LINES)
    head = FontFace(emphasis="BOLD", fill_color=HEAD_FILL)
    align = tuple("LEFT" if any(isinstance(row.get(name), str) for row in rows) else "RIGHT" for name in names)
    with sheet.table(
        borders_layout="HORIZONTAL_LINES",
        headings_style=head,
        line_height=3.6,
        padding=0.3,
        text_align=align,
        width=WIDTH_MM,
    ) as table:
        for cells in ([title_of(name) for name in names], *words):
            row = table.row()
            for cell in cells:
                row.cell(cell)
    sheet.ln(2)


def _added(lesions: Mapping[str, Any], report: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """What has no place of its own on the page, once where both files hold it."""
    added: list[tuple[str, Any]] = []
    for name, value in (*((name, value) for name, value in lesions.items() if name not in MARKS), *report.items()):
        if name not in OWN_PLACE and value not in [other for _, other in added]:
            added.append((name, value))
    return added


def _is_empty(value: Any) -> bool:
    return value is None or value in ("", [], {})


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) for item in value)


def _section(sheet: Sheet, name: str, value: Any) -> None:
    """What has no place of its own: rows as a table, pairs as pairs, anything else as text; nothing if it is empty."""
    if _is_empty(value):
        return
    sheet.head(name)
    if isinstance(value, Mapping):
        tables = {key: item for key, item in value.items() if _is_table(item)}
        stated = [(key, item) for key, item in value.items() if key not in tables and not _is_empty(item)]
        pairs = [(title_of(key), value_words(key, item)) for key, item in stated]
        sheet.pairs(pairs, WIDTH_MM, SMALL)
        for key, item in tables.items():
            _section(sheet, f"{name}: {heading(key)}", item)
    elif _is_table(value):
        _table(sheet, value)
    else:
        for item in value if isinstance(value, list) else [value]:
            sheet.paragraph(value_words(name, item), SMALL)


def _paragraphs(sheet: Sheet, name: str, texts: Iterable[str]) -> None:
    texts = list(texts)
    if texts:
        sheet.head(name)
    for text in texts:
        sheet.paragraph(f"•  {text}", SMALL)


def _made_by(sheet: Sheet, report: Mapping[str, Any]) -> None:
    """Weights and versions with their hashes."""
    weights, run, batch = report["weights"], report["run"], report["batch"]
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    changes = f", {', '.join(weights['changes'])}" if weights.get("changes") else ""
    rows = [
        ("Software", f"petct-lesion-segmentation {__version__}; the mask by: {versions}"),
        ("Weights", f"{weights['name']} ({weights['method']}{changes}), manifest sha256 {weights['manifest_sha256']}"),
        ("Networks", "; ".join(f"sha256 {one['sha256']}, weight {one['weight']:.4g}" for one in weights["members"])),
        ("Licence", weights.get("licence", "")),
        ("Cite", weights.get("citation", "")),
        ("Computed on", f"{run['device']}, {run['precision']}"),
        ("Images", f"sha256 {batch['images_sha256']}"),
        ("Mask", f"sha256 {batch['mask_sha256']} (of its voxels)"),
    ]
    sheet.head("How it was made")
    sheet.pairs([(name, words) for name, words in rows if words], WIDTH_MM, SMALLEST, GREY)


def _date(date: str) -> str:
    return f"{date[:4]}-{date[4:6]}-{date[6:]}" if len(date) == 8 and date.isdigit() else date
