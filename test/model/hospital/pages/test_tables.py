import csv
import io
from pathlib import Path

from model.errors import split_remedy
from model.hospital.find.entry import NO_PET, Entry, Unusable
from model.hospital.job import Job, Options
from model.hospital.journal import FAILED, Record
from model.hospital.pages.tables import Failure, earlier_keys, failures_csv, failures_of, keys_csv, summary_csv
from model.hospital.plan import Plan

ROW = {
    "study": "s-1",
    "lesions": 2,
    "mtv_ml": 12.5,
    "tlg_suv_ml": 60.25,
    "suv_max": 9.0,
    "suv_peak": 7.5,
    "dmax_mm": None,
    "seconds": 3.0,
    "warnings": ["one", "two"],
    "picks": [],
}


def parsed(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_a_row_has_units_in_its_names_and_nothing_where_there_is_no_value() -> None:
    (row,) = parsed(summary_csv([ROW]))
    assert (row["mtv_ml"], row["tlg_suv_ml"], row["dmax_mm"], row["folder"]) == ("12.5", "60.25", "", "studies/s-1")
    assert row["warnings"] == "one | two" and "dice" not in row


def test_later_columns_are_the_last_and_only_where_a_study_has_them() -> None:
    assert summary_csv([ROW]).splitlines()[0].endswith("warnings,folder,notice")
    more = {"sul_peak": 5.5, "percist_measurable": "yes", "dropped_lesions": 0, "given": {"height_m": 1.8, "sex": "F"}}
    text = summary_csv([ROW, ROW | more])
    assert text.splitlines()[0].endswith("folder,notice,sul_peak,percist_measurable,dropped_lesions,given")
    one, two = parsed(text)
    assert (one["sul_peak"], one["given"], two["dropped_lesions"]) == ("", "", "0")
    assert two["given"] == "height_m 1.8, sex F"


def test_columns_of_a_truth_are_there_if_one_study_has_one() -> None:
    scored = ROW | {"study": "s-2", "dice": None, "fpv_ml": 1.5, "convention": "autopet_1_2"}
    one, two = parsed(summary_csv([ROW, scored]))
    assert (one["dice"], one["fpv_ml"], two["dice"], two["fpv_ml"]) == ("", "", "", "1.5")


def test_text_that_a_spreadsheet_would_run_is_made_harmless() -> None:
    failure = Failure(study="s-1", stage="read", message='=HYPERLINK("http://x")', remedy="@SUM(1)")
    (row,) = parsed(failures_csv([failure]))
    assert row["message"].startswith("'=") and row["remedy"].startswith("'@")


def test_failures_are_those_that_were_found_and_those_that_failed() -> None:
    root = Path("/ward")
    lone = Unusable(identity="x", source=root / "Smith", message=f"'{root / 'Smith'}' has no CT; add it")
    alone = Unusable(identity="y", source=root / "Meier", message=f"'{root / 'Meier'}' has no PET; -", stage=NO_PET)
    failed = Record(study="s-0", state=FAILED, key="k", stage="read", message="bad", remedy="copy it")
    found = failures_of(Plan(jobs={}, done={}, unusable={"s-1": lone, "s-2": alone}), [failed], root, named=False)
    assert found == [
        Failure(study="s-0", stage="read", message="bad", remedy="copy it"),
        Failure(study="s-1", stage="find", message="'s-1' has no CT", remedy="add it"),
        Failure(study="s-2", stage="no PET", message="'s-2' has no PET", remedy="-"),
    ]
    assert [failure.passed_over for failure in found] == [False, False, True]


def test_keys_say_where_a_study_lies_and_whose_it_is() -> None:
    entry = Entry(
        identity="x",
        source=Path("/ward/7"),
        kind="dicom",
        pet=(Path("/ward/7/p"),),
        ct=(Path("/ward/7/c"),),
        person=("Smith^John", "4711"),
    )
    job = Job(name="s-1", entry=entry, root=Path("/ward"), output=Path("/out"), key="k", options=Options())
    (row,) = parsed(keys_csv(Plan(jobs={"s-1": job}, done={}, unusable={}), job.root))
    assert row == {
        "study": "s-1",
        "source": "/ward/7",
        "patient": "Smith^John",
        "patient_id": "4711",
        "pet": "/ward/7/p",
        "ct": "/ward/7/c",
        "found_in": "/ward",
    }


def test_the_remedy_stands_after_the_last_semicolon_or_is_the_question() -> None:
    assert split_remedy("a; b; do this") == ("a; b", "do this")
    assert split_remedy("PET and CT do not overlap. Are they of the same study?") == (
        "PET and CT do not overlap",
        "Are they of the same study?",
    )
    assert split_remedy("odd") == ("odd", "see docs/errors.md")


def test_keys_of_studies_that_are_no_longer_found_are_kept_while_their_results_are(tmp_path) -> None:
    entry = Entry(
        identity="x",
        source=Path("/ward/7"),
        kind="dicom",
        pet=(Path("/ward/7/p"),),
        ct=(Path("/ward/7/c"),),
        person=("=Smith", "4711"),
    )
    here, gone = "s-0123456789ab", "s-ba9876543210"
    plans = [
        Plan(
            jobs={name: Job(name=name, entry=entry, root=Path("/ward"), output=tmp_path, key="k", options=Options())},
            done={},
            unusable={},
        )
        for name in (here, gone)
    ]
    assert earlier_keys(tmp_path) == []
    (tmp_path / "keys.csv").write_text(keys_csv(plans[0], Path("/ward")))
    assert earlier_keys(tmp_path) == []  # nothing of it is left
    (tmp_path / "studies" / here).mkdir(parents=True)
    found = parsed(keys_csv(plans[1], Path("/ward"), earlier_keys(tmp_path)))
    assert [(row["study"], row["patient"]) for row in found] == [(here, "'=Smith"), (gone, "'=Smith")]
    (tmp_path / "keys.csv").write_text("study,source\n../..,x\n")
    assert earlier_keys(tmp_path) == []
