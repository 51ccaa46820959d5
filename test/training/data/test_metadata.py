from pathlib import Path

import pytest

from model.errors import ConfigError
from training.data.metadata import csv_rows, iso_date, read_metadata, safe_name

STUDY = "03-23-2003-NA-PET-CT Ganzkoerper  primaer mit KM-10445"  # a study folder as TCIA names it, two blanks and all
TCIA = (
    "Series UID,Subject ID,Study UID,Study Date,Modality,File Location,diagnosis,age\n"
    f"1.1,PETCT_a,1.2.310445,3/23/2003,PT,./FDG-PET-CT-Lesions/PETCT_a/{STUDY}/1.000000-PET-1,LUNG_CANCER,60Y\n"
    f"1.2,PETCT_a,1.2.310445,3/23/2003,CT,./FDG-PET-CT-Lesions/PETCT_a/{STUDY}/2.000000-CT-2,LUNG_CANCER,60Y\n"
    "1.3,PETCT_a,1.2.377777,5/1/2004,PT,./FDG-PET-CT-Lesions/PETCT_a/05-01-2004-NA-PET-77777/1-PET,NEGATIVE,61Y\n"
)


def table(folder: Path, text: str) -> Path:
    path = folder / "table.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_folder_named_in_file_location_tells_two_studies_of_a_patient_apart(tmp_path) -> None:
    metadata = read_metadata([table(tmp_path, TCIA)])
    assert metadata.diagnosis("PETCT_a", STUDY) == ("lung cancer", "")
    assert metadata.diagnosis("PETCT_a", "05-01-2004-NA-PET-77777") == ("negative", "")


@pytest.mark.parametrize(
    "study", ["another name-10445", "03-23-2003-NA-other name-99999"], ids=["last digits of the UID", "date"]
)
def test_without_the_folders_name_the_uid_or_the_date_tells(tmp_path, study: str) -> None:
    assert read_metadata([table(tmp_path, TCIA)]).diagnosis("PETCT_a", study)[0] == "lung cancer"


def test_where_nothing_tells_the_studies_apart_their_diagnoses_must_agree(tmp_path) -> None:
    diagnosis, reason = read_metadata([table(tmp_path, TCIA)]).diagnosis("PETCT_a", "whole body")
    assert diagnosis == "" and "lung cancer, negative" in reason


def test_a_patient_who_is_not_in_the_tables_is_noted(tmp_path) -> None:
    assert read_metadata([table(tmp_path, TCIA)]).diagnosis("PETCT_b", STUDY) == ("", "not in the tables")
    assert read_metadata([]).diagnosis("PETCT_b", STUDY) == ("", "")


def test_column_names_may_be_written_another_way(tmp_path) -> None:
    metadata = read_metadata([table(tmp_path, "patient_id;Diagnosis\nPETCT_a;MELANOMA\n")])
    assert metadata.diagnosis("PETCT_a", STUDY) == ("melanoma", "")


def test_a_table_without_a_diagnosis_is_refused_naming_what_was_looked_for(tmp_path) -> None:
    with pytest.raises(ConfigError, match="no column 'diagnosis'; it has Subject ID, age"):
        read_metadata([table(tmp_path, "Subject ID,age\nPETCT_a,60\n")])


@pytest.mark.parametrize(
    ("text", "date"),
    [("3/9/2003", "2003-03-09"), (STUDY, "2003-03-23"), ("2018-04-23", "2018-04-23"), ("whole body", "")],
)
def test_dates_are_read_month_first_or_year_first(text: str, date: str) -> None:
    assert iso_date(text) == date


def test_a_safe_name_has_no_blanks_or_slashes() -> None:
    assert safe_name("a b  c/d:e_1.2-x") == "a-b-c-d-e_1.2-x" and safe_name("...") == "unnamed"


def test_a_csv_may_have_a_byte_order_mark_semicolons_and_blanks(tmp_path) -> None:
    path = tmp_path / "excel.csv"
    path.write_bytes("\ufeffcase; pet\r\nA; x,1.mha \r\n".encode())
    assert csv_rows(path) == (["case", "pet"], [{"case": "A", "pet": "x,1.mha"}])


def test_a_csv_that_is_not_there_or_not_utf8_is_refused(tmp_path) -> None:
    with pytest.raises(ConfigError, match="cannot read '.*none.csv': No such file"):
        csv_rows(tmp_path / "none.csv")
    (tmp_path / "latin.csv").write_bytes("T\xfcbingen".encode("latin-1"))
    with pytest.raises(ConfigError, match="not UTF-8"):
        csv_rows(tmp_path / "latin.csv")
