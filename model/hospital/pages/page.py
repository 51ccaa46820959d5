"""The report of a run as one HTML file that needs nothing else: pictures, style and script are in it.

The page is report.html.j2, its style report.css, its script report.js, all in this folder. Every value is escaped. The
page's own policy (CSP) forbids it to load anything, and to run any script but its own.
"""

import base64
import hashlib
import io
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from model import PET_ALONE, RESEARCH, __version__
from model.errors import shown
from model.hospital.folder import STUDIES
from model.hospital.pages.tables import Failure, split_passed_over
from model.hospital.pages.words import Column, columns
from model.results.writing import write_bytes
from model.whole import Staging

HTML, PATIENTS_HTML, PDF = "report.html", "patients.html", "report.pdf"
HERE = Path(__file__).parent
BINS_ML = (0.0, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)  # lower edges of the histogram, about even on a log scale
LONGEST_BAR_PERCENT = 42  # of the figure's width: leaves space for the names and the counts


COLUMNS = columns(lesions=0, mtv_ml=1, tlg_suv_ml=0, suv_max=1, suv_peak=1, dmax_mm=0)
TRUTH_COLUMNS = columns(dice=3, fpv_ml=1, fnv_ml=1, mtv_true_ml=1)
MORE_COLUMNS = columns(
    sul_peak=1, suv_peak_to_liver=2, suv_peak_to_blood=2, dmax_over_bsa_per_m=2, dropped_lesions=0
)  # each is shown if a study has it
DROPPED_COLUMNS = columns(number=0, volume_ml=2, suv_max=2)
ORGAN_COLUMNS = columns(volume_ml=1, lesion_ml=1, suv_mean=2, suv_sd=2, suv_median=2, suv_max=1)


@dataclass(frozen=True, kw_only=True)
class About:
    """What made the results: shown under the title. pet_only: the weights of studies without CT, where there are such
    weights.
    """

    weights: str
    weights_sha256: str
    made: datetime
    licence: str = ""
    citation: str = ""
    pet_only: "About | None" = None


@dataclass(frozen=True)
class Card:
    """A number at the top of the page. kind: "", warn or bad."""

    kind: str
    value: str
    label: str


@dataclass(frozen=True)
class Bar:
    """A bar of the histogram, as long as `percent` of the figure's width."""

    label: str
    count: int
    percent: float


def write_page(parts: Iterable[str], path: Path, staging: Staging) -> None:
    """Stage a page that comes piece by piece. Raises OutputError."""
    page = io.BytesIO()
    for part in parts:
        page.write(part.encode(errors="replace"))
    write_bytes(page.getvalue(), path, staging)


def html_report(
    rows: Sequence[Mapping[str, Any]], failures: Sequence[Failure], output: Path, about: About, waiting: int = 0
) -> Iterator[str]:
    """The page of a run, piece by piece: failures first, then the histogram of MTV, then a row for each study,
    studies with warnings first.

    rows: as in the journal; thumbnails are read from the studies' folders below `output`. waiting: studies not yet
    tried.
    """
    failed, passed_over = split_passed_over(failures)
    css, js = ((HERE / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    return template("report.html.j2").generate(
        css=Markup(css),
        css_hash=policy_hash(css),
        js=Markup(js),
        js_hash=policy_hash(js),
        notice=RESEARCH,
        version=__version__,
        about=about,
        cards=_cards(rows, len(failed), len(passed_over), waiting),
        failed=failed,
        passed_over=passed_over,
        bars=_bars(rows),
        rows=sorted(rows, key=lambda row: (not row["warnings"], row["study"])),
        columns=_columns(rows),
        organ_columns=ORGAN_COLUMNS,
        dropped_columns=DROPPED_COLUMNS,
        studies=STUDIES,
        patients=PATIENTS_HTML if (output / PATIENTS_HTML).is_file() else "",
        record=PDF,
        has_record=lambda study: (output / STUDIES / study / PDF).is_file(),
        picture_of=lambda study: picture_in_page(output / STUDIES / study / "thumbnail.png"),
    )


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[Column]:
    """The columns that there is something in."""
    more = [column for column in MORE_COLUMNS if any(row.get(column.name) is not None for row in rows)]
    return [*COLUMNS, *more, *(TRUTH_COLUMNS if any("convention" in row for row in rows) else ())]


@cache
def template(name: str) -> Template:
    """A page of this folder, in which every value is escaped."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_readable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = lambda value, digits: f"{value:,.{digits}f}"
    environment.filters["percent"] = lambda value: f"{round(value):+,} %" if round(value) else "0 %"
    return environment.get_template(name)


def _readable(value: Any) -> Any:
    """Every value on its way into the page: control characters are shown as escapes; then jinja2 escapes markup."""
    plain = not isinstance(value, str) or isinstance(value, Markup) or value.isprintable()
    return value if plain else shown(value)


def _cards(rows: Sequence[Mapping[str, Any]], failed: int, passed_over: int, waiting: int) -> list[Card]:
    volumes_ml = [float(row["mtv_ml"]) for row in rows if row["lesions"]]
    warned = sum(bool(row["warnings"]) for row in rows)
    cards = [
        Card("", str(len(rows)), "study scored" if len(rows) == 1 else "studies scored"),
        Card("bad" if failed else "", str(failed), "not scored"),
    ]
    if waiting:
        cards.append(Card("warn", str(waiting), "still to do"))
    cards.append(Card("warn" if warned else "", str(warned), "with warnings"))
    cards.append(Card("", str(len(volumes_ml)), "with lesions"))
    if alone := sum("channels" in row for row in rows):
        cards.append(Card("warn", str(alone), PET_ALONE))
    if edited := sum("edited" in row for row in rows):
        cards.append(Card("", str(edited), "edited by hand"))
    if passed_over:
        cards.append(Card("", str(passed_over), "CT without a PET, passed over"))
    if volumes_ml:
        cards.append(Card("", f"{statistics.median(volumes_ml):.1f} ml", "median MTV, where there are lesions"))
    dice = [float(row["dice"]) for row in rows if row.get("dice") is not None]
    if dice:
        cards.append(Card("", f"{statistics.fmean(dice):.3f}", f"mean Dice of {len(dice)} studies"))
    return cards


def _bars(rows: Sequence[Mapping[str, Any]]) -> list[Bar]:
    """How many studies have no lesion, and how many an MTV in each class of `BINS_ML`. No bars for a single study."""
    if len(rows) < 2:
        return []
    volumes_ml = [row["mtv_ml"] for row in rows if row["lesions"]]
    counts = {"no lesion": len(rows) - len(volumes_ml)}
    for low, high in zip(BINS_ML, (*BINS_ML[1:], float("inf")), strict=True):
        label = f"{low:g} to {high:g}" if low else f"below {high:g}"
        counts[label if high < float("inf") else f"{low:g} and more"] = sum(low <= ml < high for ml in volumes_ml)
    most = max(counts.values())
    return [Bar(label, count, round(LONGEST_BAR_PERCENT * count / most, 2)) for label, count in counts.items()]


def picture_in_page(path: Path) -> Markup:
    """A PNG as the address of an image in the page; "" where there is none. Base64 holds nothing to be escaped."""
    try:
        return Markup("data:image/png;base64," + base64.b64encode(path.read_bytes()).decode())
    except OSError:
        return Markup()


def policy_hash(text: str) -> str:
    """A style's or script's hash as the page's policy names it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
