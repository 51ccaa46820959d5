"""The report of a run, as text and in a real browser; the browser's tests skip where there is no Chromium."""

import base64
import hashlib
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.errors import shown
from model.hospital.pages.page import HERE, About, html_report
from model.hospital.pages.tables import Failure
from model.results.preview import thumbnail

ABOUT = About(weights="tiny (eoa)", weights_sha256="ab" * 32, made=datetime(2024, 3, 5, 6, 7))
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def page_of(*arguments, **options) -> str:
    return "".join(html_report(*arguments, **options))


def row(number: int, **changes) -> dict:
    """A study with MTV = number ml."""
    return {
        "study": f"s-{number:04d}",
        "lesions": int(number > 0),
        "mtv_ml": float(number),
        "tlg_suv_ml": 4.0 * number,
        "suv_max": 9.5,
        "suv_peak": 7.25,
        "dmax_mm": None,
        "seconds": 20.0,
        "warnings": [],
        "picks": [],
    } | changes


def picture(output: Path, name: str, seed: int) -> None:
    """A thumbnail of something like a body."""
    rng = np.random.default_rng(seed)
    z, y, x = np.indices((60, 20, 30))
    body = ((x - 15) / 12) ** 2 + ((y - 10) / 8) ** 2 < 1
    mask = (x - rng.integers(6, 24)) ** 2 + (y - 10) ** 2 + (z - rng.integers(8, 52)) ** 2 < rng.integers(4, 16)
    suv = rng.gamma(4, 0.3, body.shape) * body + 8 * mask
    (output / "studies" / name).mkdir(parents=True)
    (output / "studies" / name / "thumbnail.png").write_bytes(thumbnail(suv, mask, (12.0, 12.0, 16.0)))


class Tags(HTMLParser):
    """Every tag with its attributes, in order, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_leads_to_the_page_of_patients_and_to_report_pdf_where_they_are(tmp_path) -> None:
    (tmp_path / "studies/s-0002").mkdir(parents=True)
    rows = [row(1), row(2)]
    none = {href for _, tag in Tags(page_of(rows, [], tmp_path, ABOUT)).tags if (href := tag.get("href", ""))}
    for file in ("patients.html", "studies/s-0002/report.pdf"):
        (tmp_path / file).touch()
    both = {href for _, tag in Tags(page_of(rows, [], tmp_path, ABOUT)).tags if (href := tag.get("href", ""))}
    assert both - none == {"patients.html", "studies/s-0002/report.pdf"}


@pytest.mark.parametrize(
    "evil",
    [
        '<script>alert("x")</script><img src=x onerror=alert(1)>',
        "</style></script></title><script>alert(1)</script>",
        '" onmouseover="alert(1)" x=\'',
        "' onmouseover='alert(1)",
        "{{ 6 * 7 }}{% for x in rows %}{# #}",
        "javascript:alert(1)//\u2028alert(2)",
        "&lt;script&gt;",
    ],
)
def test_text_from_elsewhere_is_text_wherever_it_stands(evil: str, tmp_path) -> None:
    """The page has the tags and attributes that it has with harmless text, and shows the evil one letter by letter."""
    pages = []
    for text in ("harmless", evil):
        about = About(weights=text, weights_sha256="ab" * 32, made=ABOUT.made)
        rows = [row(1, study=text, warnings=[text], picks=[text])]
        failures = [Failure(study=text, stage=stage, message=text, remedy=text) for stage in (text, "no PET")]
        pages.append(Tags(page_of(rows, failures, tmp_path, about)))
    harmless, page = pages
    shapes = [[(tag, sorted(attributes)) for tag, attributes in found.tags] for found in pages]
    assert shapes[0] == shapes[1] and sum(tag == "script" for tag, _ in page.tags) == 1
    assert page.text.count(shown(evil)) == harmless.text.count("harmless") > 8


def test_a_study_with_organs_has_a_table_of_them(tmp_path) -> None:
    liver = {"organ": "liver", "label": 3, "volume_ml": 1500.25, "lesion_ml": 2.0, "suv_mean": 2.125, "suv_sd": 0.5}
    brain = {"organ": "brain", "label": 6, "volume_ml": 0.0, "lesion_ml": 0.0, "suv_mean": None, "suv_sd": None}
    more = {"suv_median": None, "suv_max": None}
    with_them = Tags(page_of([row(1, organs=[liver | more, brain | more]), row(2)], [], tmp_path, ABOUT))
    words = " ".join(with_them.text.split())
    assert "liver 1,500.2 2.0 2.12 0.50" in words and "brain 0.0 0.0 \N{EN DASH}" in words
    without = Tags(page_of([row(2)], [], tmp_path, ABOUT))
    assert "Organ" not in without.text and sum(tag == "table" for tag, _ in without.tags) == 1


def test_style_and_script_cannot_end_before_their_tags() -> None:
    for name in ("report.css", "report.js"):
        assert "</" not in (HERE / name).read_text()


def test_the_policy_names_the_hash_of_the_style_and_of_the_script_in_the_page(tmp_path) -> None:
    page = page_of([row(1)], [], tmp_path, ABOUT)
    for tag in ("style", "script"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in page


def test_the_page_needs_nothing_else_and_may_load_nothing(tmp_path) -> None:
    picture(tmp_path, "s-0001", 1)
    page = page_of([row(1)], [], tmp_path, ABOUT)
    tags = Tags(page).tags
    assert all(a["src"].startswith("data:image/png;base64,") for tag, a in tags if tag == "img")
    assert not [tag for tag, _ in tags if tag in ("link", "iframe", "object", "embed", "form")]
    assert not re.search(r"https?://|//[a-z]|url\(|@import", re.sub(r"base64,[^\"]*", "", page))
    policy = next(a["content"] for tag, a in tags if tag == "meta" and "content" in a and "default-src" in a["content"])
    assert policy.startswith("default-src 'none'; img-src data:;") and "unsafe" not in policy


def test_failures_stand_first_then_studies_with_warnings(tmp_path) -> None:
    failure = Failure(study="s-bad", stage="read", message="is empty", remedy="copy it again")
    text = Tags(page_of([row(1), row(2, warnings=["odd"])], [failure], tmp_path, ABOUT)).text
    words = ("Research use only", "s-bad", "Metabolic tumour volume", "s-0002", "s-0001")
    places = [text.index(word) for word in words]
    assert places == sorted(places)


def test_a_ct_without_a_pet_is_listed_apart_and_is_no_failure(tmp_path) -> None:
    alone = Failure(study="s-ct", stage="no PET", message="has no PET", remedy="leave it out")
    page = page_of([row(1)], [alone], tmp_path, ABOUT)
    assert "Not scored" not in page and '<div class="card "><b>0</b><span>not scored' in page
    assert "Passed over: CT without a PET (1)" in page and "s-ct" in page


def test_the_histogram_counts_every_study_once(tmp_path) -> None:
    rows = [row(n) for n in (0, 0, 0, 1, 2, 5, 50, 99, 100, 5000)]
    page = page_of(rows, [], tmp_path, ABOUT)
    figure = page[page.index("<figure>") : page.index("</figure>")]
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", figure)
    counts = dict(zip(texts[1::2], texts[::2], strict=True))
    assert counts == {
        "no lesion": "3",
        "below 1": "",
        "1 to 3": "2",
        "3 to 10": "1",
        "10 to 30": "",
        "30 to 100": "2",
        "100 to 300": "1",
        "300 to 1000": "",
        "1000 and more": "1",
    }


def test_a_run_without_results_has_a_page_too(tmp_path) -> None:
    assert "None was scored" in Tags(page_of([], [], tmp_path, ABOUT, waiting=3)).text


def browse(page: Path, *options: str, timeout: float = 300) -> bytes:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium (chromium, chromium-browser or google-chrome) to look at the page with")
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", *options],
        capture_output=True,
        timeout=timeout,
        cwd=page.parent,
    )
    return done.stdout


@pytest.fixture(scope="module")
def thousand(tmp_path_factory) -> Path:
    """The page of 1,000 studies, 30 of them with warnings, and 12 failures."""
    output = tmp_path_factory.mktemp("thousand")
    rng = np.random.default_rng(0)
    rows = []
    for number in range(1000):
        name = f"s-{number:04d}"
        picture(output, name, number) if number < 40 else None
        warnings = ["PET reaches SUV 212, above 200 (pet_warn_suv): is it SUV?"] if number % 33 == 7 else []
        volume = round(float(rng.lognormal(3, 1.6)), 2) if number % 5 else 0.0
        rows.append(row(number, mtv_ml=volume, lesions=int(rng.integers(1, 30)) if volume else 0, warnings=warnings))
    failures = [
        Failure(study=f"s-f{n:03d}", stage="read", message="PET is cut off or damaged", remedy="copy it again")
        for n in range(12)
    ]
    (output / "report.html").write_text(page_of(rows, failures, output, ABOUT), encoding="utf-8")
    return output / "report.html"


@pytest.mark.slow
@pytest.mark.parametrize(("order", "falling"), [("mtv_ml", True), ("mtv_ml,rising", False)])
def test_in_a_browser_a_thousand_studies_are_sorted_by_a_column(order: str, falling: bool, thousand: Path) -> None:
    page = browse(thousand, "--dump-dom", f"file://{thousand}#sort={order}").decode()
    body = page[page.index('<table id="studies"') :]
    lines = [re.findall(r'class="number" data-value="([^"]*)"', line) for line in body.split("<tr>")[2:]]
    volumes = [float(values[2]) for values in lines]  # after the numbers of warnings and of lesions
    assert len(volumes) == 1000 and volumes == sorted(volumes, reverse=falling)
    assert 'aria-sort="' in body


@pytest.mark.slow
@pytest.mark.parametrize("width", [420, 1500])
def test_in_a_browser_the_histogram_is_as_legible_on_a_narrow_page(width: int, thousand: Path) -> None:
    """Letters have the same height on every page, and nothing of the picture lies outside of it."""
    measured = thousand.with_name(f"measured-{width}.html")
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", thousand.read_text(encoding="utf-8"))
    script = (
        "<script>const box = document.querySelector('figure svg').getBoundingClientRect();"
        "document.title = JSON.stringify([innerWidth, ...[...document.querySelectorAll('figure text')].filter("
        "t => t.textContent).map(t => t.getBoundingClientRect()).map(r => [r.height, r.left - box.left, "
        "box.right - r.right, box.bottom - r.bottom])])</script></body>"
    )
    measured.write_text(page.replace("</body>", script), encoding="utf-8")
    shown = browse(measured, "--dump-dom", f"--window-size={width},900", f"file://{measured}").decode()
    inner, *texts = json.loads(re.search(r"<title>(.*?)</title>", shown)[1])
    assert width - 20 <= inner <= max(width, 500) and len(texts) > 12
    for height, *inside in texts:
        assert 13 <= height <= 20 and min(inside) >= -1


@pytest.mark.slow
def test_in_a_browser_the_page_is_drawn(thousand: Path, tmp_path) -> None:
    browse(thousand, f"--screenshot={tmp_path / 'page.png'}", "--window-size=1500,1100", f"file://{thousand}")
    pixels = np.asarray(Image.open(io.BytesIO((tmp_path / "page.png").read_bytes())).convert("RGB")).astype(int)
    assert pixels.shape == (1100, 1500, 3)
    red = (pixels[:40, :, 0] > 90) & (pixels[:40, :, 1] < 60)  # the notice
    assert red.mean() > 0.5
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100


def test_control_characters_in_a_message_are_shown(tmp_path) -> None:
    failure = Failure(study="s-1", stage="read", message="'a\x1b[2J\x9b\u202e<b>' is odd", remedy="rename it\x07")
    page = page_of([row(1, warnings=["b\x1b]0;c"])], [failure], tmp_path, ABOUT)
    assert "a\\x1b[2J\\x9b\\u202e&lt;b&gt;" in page and "rename it\\x07" in page and "b\\x1b]0;c" in page
    assert not set("\x1b\x07\x9b\u202e") & set(page)


def test_the_page_tells_licence_and_citation_of_the_weights(tmp_path) -> None:
    about = replace(ABOUT, licence="CC BY-NC 4.0 (not for commercial use)", citation="A & B")
    page = page_of([], [], tmp_path, about)
    assert "Licence of the weights: CC BY-NC 4.0 (not for commercial use)" in page and "Cite: A &amp; B" in page
    assert "Cite:" not in page_of([], [], tmp_path, ABOUT)


def test_rules_overrides_and_later_numbers_are_shown_only_where_a_study_has_them(tmp_path) -> None:
    dropped = [{"number": 2, "volume_ml": 0.25, "suv_max": 0.04, "reason": "in air: <b>"}]
    ruled = {"rules": "in_air", "found_lesions": 2, "found_mtv_ml": 3.25, "dropped_lesions": 1, "dropped_ml": 0.25}
    more = ruled | {"dropped": dropped, "given": {"height_m": 1.8}, "percist_measurable": "no", "sul_peak": 4.25}
    plain, full = page_of([row(1)], [], tmp_path, ABOUT), page_of([row(1), row(2, **more)], [], tmp_path, ABOUT)
    for words in ("SULpeak", "left out (1 of 2, 0.25 ml)", "given: height_m 1.8", "rules: in_air"):
        assert words in full and words not in plain
    assert "in air: &lt;b&gt;" in full and "measurable by PERCIST: no" in full and "SUVpeak / liver" not in full
