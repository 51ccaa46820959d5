"""report.pdf as pypdf reads it."""

import io
import re

import pytest
from PIL import Image
from pypdf import PdfReader

from model import RESEARCH
from model.hospital.pages.record import Subject, record_pdf

STUDY = "s-0123456789ab"
WEIGHTS = {"name": "tiny", "method": "eoa", "manifest_sha256": "ab" * 32, "changes": [], "licence": "CC BY 4.0"}
REPORT = {
    "totals": {"lesions": 2, "mtv_ml": 12.345, "dmax_mm": None},
    "warnings": ["the CT covers only 97 %"],
    "picks": [],
    "suv_conversion": {"weight_kg": 70.0, "dose_bq": 350e6, "injection": "10:00:00", "decay_s": None},
    "given": {"weight_kg": 71.25},
    "weights": WEIGHTS | {"citation": "", "members": [{"sha256": "cd" * 32, "weight": 1.0}]},
    "run": {"device": "CPU", "precision": "float32"},
    "versions": {"torch": "2.13.0"},
    "seconds": {"read": 1.0},
    "batch": {"row": {"seconds": 1.0}, "images_sha256": "01" * 32, "mask_sha256": "23" * 32},
}


def lesions(count: int, **more) -> dict:
    rows = [{"number": n, "volume_ml": 1000.5 + n} | more for n in range(1, count + 1)]
    return {"notice": RESEARCH, "totals": {}, "lesions": rows, "definitions": {"lesions": "components"}}


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (60, 80), "white").save(buffer, "PNG")
    return buffer.getvalue()


def texts(content: bytes) -> list[str]:
    return [page.extract_text() for page in PdfReader(io.BytesIO(content)).pages]


def test_a_result_gives_the_same_bytes_however_long_it_took() -> None:
    slower = REPORT | {"seconds": {"read": 2.0}, "batch": REPORT["batch"] | {"row": {"seconds": 2.0}}}
    one, same = (record_pdf(Subject(study=STUDY), report, lesions(2), picture()) for report in (REPORT, slower))
    other = record_pdf(Subject(study=STUDY), REPORT, lesions(1), picture())
    assert one == same != other


def test_a_page_has_what_the_record_needs_and_without_names_no_patient() -> None:
    whose = {"patient": "Doe^Jane", "patient_id": "ID-7", "date": "20240305"}
    (page,) = texts(record_pdf(Subject(study=STUDY, named=True, **whose), REPORT, lesions(2), picture()))
    for words in (RESEARCH, STUDY, "Doe Jane", "ID-7", "2024-03-05", "12.35", "1,001.5", "1,002.5", "97 %", "71.25"):
        assert words in page, words
    for words in ("350.0", "10:00:00", "ab" * 32, "cd" * 32, "01" * 32, "23" * 32, "CC BY 4.0", "torch 2.13.0"):
        assert words in page, words
    (hidden,) = texts(record_pdf(Subject(study=STUDY, patient_hash="p-7", **whose), REPORT, lesions(0), None))
    assert (
        "p-7" in hidden
        and not any(words in hidden for words in ("Doe", "ID-7", "2024"))
        and "No lesion was found." in hidden
    )


def test_lesions_that_were_all_left_out_are_not_lesions_never_found() -> None:
    left_out = lesions(0) | {"rules": {"dropped_lesions": 2}}
    (page,) = texts(record_pdf(Subject(study=STUDY), REPORT, left_out, None))
    assert "No lesion is left" in page and "No lesion was found" not in page


def test_a_long_table_goes_on_under_its_heading_and_every_page_says_research_use() -> None:
    pages = texts(record_pdf(Subject(study=STUDY), REPORT, lesions(150), picture()))
    assert len(pages) > 2 and all(RESEARCH in page and STUDY in page for page in pages)
    found = [number for page in pages for number in range(1, 151) if f"{1000.5 + number:,.1f}" in page]
    assert found == list(range(1, 151))
    for page in pages:
        assert ("Volume (ml)" in page) == any(f"{1000.5 + number:,.1f}" in page for number in range(1, 151))


@pytest.mark.parametrize(
    ("patient", "there"),
    [
        ("Иванов^Иван", "Иванов Иван"),
        ("Yamada^Tarou=山田^太郎", "Yamada Tarou / 山田 太郎"),
        ("Hong^Gildong=홍^길동", "Hong Gildong / 홍 길동"),
        ("สม^Som", r"\u0e2a\u0e21 Som"),
        ("a\x07b", r"a\x07b"),
        ("x" * 64 + "^" + "y" * 64, "x" * 20),
    ],
)
def test_names_of_any_script_are_written_or_spelt_by_their_numbers(patient: str, there: str) -> None:
    (page,) = texts(
        record_pdf(Subject(study=f"{patient}-0123456789ab", named=True, patient=patient), REPORT, lesions(1), None)
    )
    assert there in page


def test_arabic_letters_are_joined() -> None:
    """The same letter, first and amid a word, has two forms: two glyphs that mean it."""
    content = record_pdf(Subject(study=STUDY, named=True, patient="محمد"), REPORT, lesions(1), None)
    fonts = PdfReader(io.BytesIO(content)).pages[0]["/Resources"]["/Font"].values()
    tables = [font.get_object()["/ToUnicode"].get_object().get_data().decode() for font in fonts]
    assert max(len(set(re.findall(r"<(\w+)>\s*<0645>", table))) for table in tables) == 2


def test_columns_and_sections_that_are_added_later_appear() -> None:
    more = {f"added_{n}_ml": float(n) for n in range(30)}
    extra = lesions(2, sul_peak=3.75, organ="liver", unknown_mm=None) | {
        "reference": {"liver_sul_mean": 2.125, "none_ml": None},
        "dropped": [],
    }
    page = "\n".join(texts(record_pdf(Subject(study=STUDY), REPORT | {"edited": "by hand"}, extra, None)))
    for words in ("SULpeak", "3.75", "liver", "Reference", "2.12", "Edited", "by hand"):
        assert words in page, words
    assert not any(words in page for words in ("Dropped", "Unknown", "None"))
    wide = "\n".join(texts(record_pdf(Subject(study=STUDY), REPORT, lesions(1, **more), None)))
    assert all(f"{n:.2f}" in wide for n in range(30))
