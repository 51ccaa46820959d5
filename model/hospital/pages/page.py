"""The report of a batch as one HTML file that needs nothing else: pictures, style and script are in it.

Every text is escaped. The page's own policy forbids anything to be loaded, and any script but its own.
"""

import base64
import hashlib
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape as escape_html
from pathlib import Path
from typing import Any
from urllib.parse import quote

from model import RESEARCH, __version__
from model.errors import shown
from model.hospital.folder import STUDIES
from model.hospital.pages.style import SCRIPT, STYLE
from model.hospital.pages.tables import Failure, apart

HTML = "report.html"
BINS_ML = (0.0, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)  # lower edges of the histogram, about even on a log scale
COLUMNS = (  # name of the value, head, digits
    ("lesions", "Lesions", 0),
    ("mtv_ml", "MTV (ml)", 1),
    ("tlg_suv_ml", "TLG (SUV ml)", 0),
    ("suv_max", "SUVmax", 1),
    ("suv_peak", "SUVpeak", 1),
    ("dmax_mm", "Dmax (mm)", 0),
)
TRUTH_COLUMNS = (
    ("dice", "Dice", 3),
    ("fpv_ml", "FPV (ml)", 1),
    ("fnv_ml", "FNV (ml)", 1),
    ("mtv_true_ml", "MTV, truth (ml)", 1),
)
MEANING = (
    "MTV: metabolic tumour volume, all lesions. TLG: total lesion glycolysis, SUVmean x volume. SUVpeak: highest mean "
    "in 1 ml. Dmax: largest distance between two lesions' centres. Pictures: coronal (patient's right at the left) and "
    "sagittal maximum intensity projections, black is SUV 10 and above, lesions outlined in red."
)


@dataclass(frozen=True, kw_only=True)
class About:
    """What made the results: shown under the title."""

    weights: str
    weights_sha256: str
    made: datetime


def html_report(
    rows: Sequence[Mapping[str, Any]], failures: Sequence[Failure], output: Path, about: About, waiting: int = 0
) -> str:
    """The page of a batch: failures first, then how MTV is distributed, then a row a study, those with warnings first.

    rows: as in the journal, with thumbnails in the studies' folders below `output`. waiting: studies not yet tried.
    """
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(STYLE)}'; script-src '{_hash(SCRIPT)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    ordered = sorted(rows, key=lambda row: (not row["warnings"], row["study"]))
    body = [_head(about), _cards(rows, failures, waiting), _failures(failures), _histogram(rows)]
    body.append(_table(ordered, output))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>PET/CT lesions, {about.made:%Y-%m-%d}</title><style>{STYLE}</style></head>\n"
        f'<body><div class="notice" role="note">{escape(RESEARCH)}</div><main>\n'
        + "\n".join(body)
        + f"\n</main><script>{SCRIPT}</script></body></html>\n"
    )


def escape(text: str) -> str:
    """Text for the page: markup and control characters are shown, not obeyed."""
    return escape_html(shown(text))


def _head(about: About) -> str:
    return (
        "<h1>Tumour lesions in PET/CT</h1>"
        f'<p class="made">{about.made:%Y-%m-%d %H:%M}, petct-lesion-segmentation {escape(__version__)}, weights '
        f'{escape(about.weights)} <span title="{about.weights_sha256}">(sha256 {about.weights_sha256[:12]})</span></p>'
    )


def _cards(rows: Sequence[Mapping[str, Any]], failures: Sequence[Failure], waiting: int) -> str:
    volumes = [float(row["mtv_ml"]) for row in rows if row["lesions"]]
    cards: list[tuple[str, object, str]] = [("", len(rows), "studies scored")]
    failed, passed = apart(failures)
    cards.append(("bad" if failed else "", len(failed), "not scored"))
    cards += [("warn", waiting, "still to do")] if waiting else []
    warned = sum(bool(row["warnings"]) for row in rows)
    cards += [("warn" if warned else "", warned, "with warnings"), ("", len(volumes), "with lesions")]
    cards += [("", len(passed), "CT without a PET, passed over")] if passed else []
    if volumes:
        cards.append(("", f"{statistics.median(volumes):.1f} ml", "median MTV, where there are lesions"))
    dice = [float(row["dice"]) for row in rows if row.get("dice") is not None]
    if dice:
        cards.append(("", f"{statistics.fmean(dice):.3f}", f"mean Dice of {len(dice)} studies"))
    shown = [f'<div class="card {kind}"><b>{count}</b><span>{what}</span></div>' for kind, count, what in cards]
    return f'<div class="cards">{"".join(shown)}</div>'


def _failures(failures: Sequence[Failure]) -> str:
    """What was not scored, open; what was passed over, folded away."""
    failed, passed = apart(failures)
    shown = ""
    if failed:
        shown = f'<section class="failures"><h2>Not scored ({len(failed)})</h2>{_reasons(failed)}</section>'
    if passed:
        shown += (
            f"<section><details><summary>Passed over: CT without a PET ({len(passed)})</summary>{_reasons(passed)}"
            "</details></section>"
        )
    return shown


def _reasons(failures: Sequence[Failure]) -> str:
    rows = "".join(
        f'<tr><td class="study">{escape(f.study)}</td><td><span class="tag bad">{escape(f.stage)}</span></td>'
        f"<td>{escape(f.message)}</td><td>{escape(f.remedy)}</td></tr>"
        for f in failures
    )
    return (
        '<div class="scroll tall"><table><thead><tr>'
        "<th>Study</th><th>Stage</th><th>Why</th><th>What to do</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _histogram(rows: Sequence[Mapping[str, Any]]) -> str:
    """How many studies have an MTV in each class, as bars that keep their letters' size on any width of page; those
    without lesion apart.
    """
    if not rows:
        return ""
    counts = [sum(not row["lesions"] for row in rows)]
    names = ["no lesion"]
    for low, end in zip(BINS_ML, (*BINS_ML[1:], float("inf")), strict=True):
        counts.append(sum(low <= row["mtv_ml"] < end for row in rows if row["lesions"]))
        names.append(f"{low:g} to {end:g}" if end < float("inf") else f"{low:g} and more")
    names[1] = f"below {BINS_ML[1]:g}"
    high, label, share = 26, 112, 42  # pixels a row, pixels of its name, per cent of the width that the longest bar has
    bars = []
    for number, (count, name) in enumerate(zip(counts, names, strict=True)):
        top, size = high * number, round(share * count / max(counts), 2)
        kind = "none" if number == 0 else "bar"
        bars.append(
            f'<rect class="{kind}" x="{label}" y="{top + 4}" width="{size}%" height="{high - 8}"></rect>'
            f'<svg x="{size}%" overflow="visible"><text x="{label + 8}" y="{top + 18}">{count or ""}</text></svg>'
            f'<text x="{label - 10}" y="{top + 18}" text-anchor="end">{name}</text>'
        )
    total = high * len(counts)
    return (
        '<section><h2>Metabolic tumour volume (ml)</h2><figure><svg role="img" aria-label="Histogram of MTV" '
        f'width="100%" height="{total}">{"".join(bars)}'
        f'<line x1="{label}" x2="{label}" y1="0" y2="{total}" stroke="#8794a3"></line></svg>'
        "<figcaption>Studies by total lesion volume in ml.</figcaption></figure></section>"
    )


def _table(rows: Sequence[Mapping[str, Any]], output: Path) -> str:
    if not rows:
        return "<section><h2>Studies</h2><p>None was scored.</p></section>"
    columns = [*COLUMNS, *(TRUTH_COLUMNS if any("convention" in row for row in rows) else ())]
    heads = ["<th>Projections</th>", _column("study", "Study", "text"), _column("warnings", "Warnings", "number")]
    heads += [_column(name, head, "number") for name, head, _ in columns]
    lines = "".join(_line(row, columns, output) for row in rows)
    return (
        f'<section><div class="tools"><h2>Studies ({len(rows)})</h2><input id="find" type="search" '
        'placeholder="Find a study or a word" aria-label="Find a study or a word"><span id="shown"></span>'
        '<span>Click a head to sort; studies with warnings stand first.</span></div><div class="scroll">'
        f'<table id="studies"><thead><tr>{"".join(heads)}</tr></thead><tbody>{lines}</tbody></table></div>'
        f'<p class="meaning">{escape(MEANING)}</p></section>'
    )


def _column(name: str, head: str, kind: str) -> str:
    number = ' class="number"' if kind == "number" else ""
    return f'<th{number} data-name="{name}" data-kind="{kind}"><button type="button">{escape(head)}</button></th>'


def _line(row: Mapping[str, Any], columns: Sequence[tuple[str, str, int]], output: Path) -> str:
    name = str(row["study"])
    folder = quote(f"{STUDIES}/{name}")
    picture = _picture(output / STUDIES / name / "thumbnail.png", name)
    cells = [
        f'<td><a href="{folder}/preview.png">{picture}</a></td>',
        f'<td class="study" data-value="{escape(name)}"><a href="{folder}/">{escape(name)}</a>'
        f'<small><a href="{folder}/lesions.csv">lesions</a> &middot; <a href="{folder}/preview.png">preview</a>'
        f' &middot; <a href="{folder}/report.json">report</a></small>{_said(row["warnings"])}'
        f"{_picked(row['picks'])}</td>",
        f'<td class="number" data-value="{len(row["warnings"])}">{len(row["warnings"]) or "&ndash;"}</td>',
    ]
    for key, _, digits in columns:
        value = row.get(key)
        shown = "&ndash;" if value is None else f"{value:,.{digits}f}"
        cells.append(f'<td class="number" data-value="{"" if value is None else value}">{shown}</td>')
    return f"<tr>{''.join(cells)}</tr>\n"


def _said(warnings: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(warning)}</li>' for warning in warnings)}</ul>" if warnings else ""


def _picked(picks: Sequence[str]) -> str:
    """Which series were taken where there was a choice, folded away."""
    said = "".join(f"<p>{escape(pick)}</p>" for pick in picks)
    return f"<details><summary>series taken</summary>{said}</details>" if picks else ""


def _picture(path: Path, name: str) -> str:
    try:
        content = base64.b64encode(path.read_bytes()).decode()
    except OSError:
        return "no picture"
    return f'<img loading="lazy" decoding="async" alt="{escape(name)}" src="data:image/png;base64,{content}">'


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
