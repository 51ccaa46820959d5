import math
from pathlib import Path

import pytest
from dicom_writer import DOSE_BQ, HALF_LIFE_S, WEIGHT_KG, write_ct, write_pet

from model.bundle.settings import Limits
from model.dicom.headers import find_series
from model.dicom.reading import read_study
from model.errors import CaseError, ConfigError
from model.hospital.find.entry import Entry, FoundStudies, Unusable
from model.hospital.given import mark_given, unused_warnings, with_given
from model.hospital.names import name_of
from model.hospital.overrides import lines_of_others, read_overrides, with_overrides, with_spheres

SALT = b"salt"


def entry(folder: Path, number: int = 1, **changes) -> Entry:
    return Entry(
        **{
            "identity": f"dicom:1.2.{number}",
            "study_uid": f"1.2.{number}",
            "kind": "dicom",
            "source": folder / f"p{number}",
            "pet": (folder / f"p{number}" / "pet" / "1.dcm",),
            "ct": (folder / f"p{number}" / "ct" / "1.dcm",),
        }
        | changes
    )


def table(folder: Path, text: str) -> Path:
    path = folder / "overrides.csv"
    path.write_text(text, encoding="utf-8-sig")
    return path


@pytest.mark.parametrize("how", ["name", "named", "uid", "folder", "below", "file", "absolute", "backslash"])
def test_a_line_finds_its_study_by_name_uid_and_path(how: str, tmp_path) -> None:
    found = FoundStudies(entries=(entry(tmp_path, 1), entry(tmp_path, 2)))
    wanted = {
        "name": name_of(found.entries[1], SALT),
        "named": name_of(found.entries[1], SALT, named=True),
        "uid": "1.2.2",
        "folder": "p2",
        "below": "p2/pet",
        "file": "p2/ct/1.dcm",
        "absolute": str(tmp_path / "p2"),
        "backslash": "p2\\pet",
    }[how]
    (tmp_path / "p2" / "pet").mkdir(parents=True)
    head = "Study;weight_kg;height_m;dose_MBq;injection_time"
    path = table(tmp_path, f"{head}\r\n{wanted};70,5;1,75;300;2024-03-05 10:00\r\n")
    one, two = with_overrides(found, path, tmp_path, SALT, False).entries
    assert one == found.entries[0]
    assert two.given == {
        "weight_kg": 70.5,
        "height_m": 1.75,
        "dose_MBq": 300.0,
        "injection_time": "2024-03-05T10:00:00",
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("study,weight\np1,70\n", "has the column 'weight'; known are study, weight_kg"),
        ("weight_kg\n70\n", "must have the column study"),
        ("study,weight_kg,weight_kg\np1,1,2\n", "every column once"),
        ("study,weight_kg\np9,70\n", "line 2: its study is not among the 2 studies found"),
        ("study,weight_kg\n.,70\n", "line 2: its study could be 2 of the 2 studies found"),
        ("study,weight_kg\n,70\n", "line 2 names no study"),
        ("study,weight_kg\np1,70,5\n", "more cells than the head"),
        ("study,weight_kg\np1,70\n1.2.1,70\n", "lines 2 and 3 are of one study"),
        ("study,weight_kg\np1,heavy\n", "weight_kg 'heavy' is not a number; give it in kg"),
        ("study,weight_kg\np1,70000\n", "weight_kg is 70000"),
        ("study,weight_kg\np1,nan\n", "weight_kg is nan"),
        ("study,weight_kg\np1,705\n", "weight_kg is 705; it must lie between 2.5 and 400, in kg"),
        ("study,weight_kg\np1,1.75\n", "weight_kg is 1.75"),
        ("study,dose_MBq\np1,0.35\n", "dose_MBq is 0.35"),
        ("study,,weight_kg\np1,,70\n", "has the column ''"),
        ("study,weight_kg,\np1,70,x\n", "more cells than"),
        ("study,height_m\np1,175\n", "height_m is 175; it must lie between 0.2 and 3, in m, not cm"),
        ("study,dose_MBq\np1,3e8\n", "dose_MBq is 3e+08"),
        ("study,dose_MBq\np1,0\n", "dose_MBq is 0"),
        ("study,injection_time\np1,2024-03-05\n", "injection_time '2024-03-05' cannot be read"),
        ("study,injection_time\np1,05.03.2024 10:00\n", "cannot be read; give it as ISO 8601"),
        ("study,injection_time\np1,10:00+01:00\n", "cannot be read"),
        ("study,injection_time\np1,25:00\n", "cannot"),
        ("study,sex\np1,X\n", "sex 'X' is not M or F"),
        ("study,liver_sphere\np1,1 2\n", "line 2: liver_sphere '1 2' is not X,Y,Z"),
        ("study,liver_mask\np1,gone.mha\n", "liver_mask 'gone.mha' is no file"),
        ("study,blood_sphere,blood_mask\np1,1 2 3,b.mha\n", "gives blood_sphere and blood_mask"),
    ],
)
def test_a_wrong_table_is_an_error(text: str, words: str, tmp_path) -> None:
    found = FoundStudies(entries=(entry(tmp_path, 1), entry(tmp_path, 2)))
    with pytest.raises(ConfigError) as error:
        with_overrides(found, table(tmp_path, text), tmp_path, SALT, False)
    assert words in str(error.value)


def test_empty_columns_and_lines_of_a_spreadsheet_are_ignored(tmp_path) -> None:
    path = table(tmp_path, "study;weight_kg;;\r\np1;70,5;;\r\n;;;\r\n")
    assert read_overrides(path) == {2: {"study": "p1", "weight_kg": 70.5}}


def test_a_table_that_is_not_there_is_an_error(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read '.*gone.csv'"):
        read_overrides(tmp_path / "gone.csv")


def test_a_line_of_a_study_that_cannot_be_scored_is_ignored(tmp_path) -> None:
    lone = Unusable(identity="dicom:1.2.9", source=tmp_path / "p9", message="m")
    found = FoundStudies(entries=(entry(tmp_path),), unusable=(lone,))
    assert with_overrides(found, table(tmp_path, "study,weight_kg\np9,70\n"), tmp_path, SALT, False) == found


def test_among_some_of_the_studies_lines_of_others_are_passed_over(tmp_path) -> None:
    found = FoundStudies(entries=(entry(tmp_path, 1),))
    path = table(tmp_path, "study,weight_kg\np2,70\np1,71\n")
    assert with_overrides(found, path, tmp_path, SALT, False, some=True).entries[0].weight_kg == 71
    assert lines_of_others(found, path, tmp_path, SALT) == [2]


def test_two_weights_that_differ_are_an_error(tmp_path) -> None:
    found = FoundStudies(entries=(entry(tmp_path, weight_kg=70.0),))
    path = table(tmp_path, "study,weight_kg\np1,71\n")
    with pytest.raises(ConfigError, match="gives weight_kg 71, and the list of studies 70"):
        with_overrides(found, path, tmp_path, SALT, False)


def conversion(folder: Path, given: Entry, **changes):
    write_pet(folder / "pet", **changes)
    write_ct(folder / "ct")
    ct, pet = find_series(folder)
    return mark_given(read_study(with_given(pet, given), ct, Limits(), weight_kg=given.weight_kg).conversion, given)


@pytest.mark.parametrize(
    ("injected", "decay_s"),
    [("2024-03-05T09:30:00", 5400), ("09:30:00", 5400), ("2024-03-05T10:30:00", 1800), ("10:00:30", 3570)],
)
def test_given_values_replace_the_headers(injected: str, decay_s: float, tmp_path) -> None:
    """The header says 70 kg, 350 MBq at 10:00, or nothing of it; the scan is of 11:00."""
    given = entry(tmp_path, weight_kg=80.0, dose_mbq=200.0, injection_time=injected)
    absent = {"RadionuclideTotalDose": None, "RadiopharmaceuticalStartTime": None}
    wanted = 80_000 / (200e6 * 2 ** (-decay_s / HALF_LIFE_S))
    for name, item in (("right", {}), ("absent", absent)):
        record = conversion(tmp_path / name, given, item=item, fields={"PatientWeight": None} if item else {})
        assert record.factor == pytest.approx(wanted, rel=1e-12) and record.decay_s == decay_s
        assert (record.weight_from, record.injection_from, record.dose_bq) == ("given", "given", 200e6)


def test_a_dose_alone_leaves_the_rest_to_the_header(tmp_path) -> None:
    record = conversion(tmp_path, entry(tmp_path, dose_mbq=DOSE_BQ / 2e6))
    assert record.factor == pytest.approx(2 * WEIGHT_KG * 1000 / (DOSE_BQ * 2 ** (-3600 / HALF_LIFE_S)), rel=1e-12)
    assert not math.isnan(record.factor) and record.injection_from != "given"


def test_a_time_that_cannot_be_is_refused_as_the_headers_would_be(tmp_path) -> None:
    with pytest.raises(CaseError, match=", not 0 to 10 half-lives"):
        conversion(tmp_path, entry(tmp_path, injection_time="2024-03-05T11:30:00"))


def test_files_are_read_as_they_are_again_afterwards(tmp_path) -> None:
    write_pet(tmp_path)
    (pet,) = find_series(tmp_path)
    before = pet.headers[0].RadiopharmaceuticalInformationSequence[0].RadionuclideTotalDose
    changed = with_given(pet, entry(tmp_path, dose_mbq=1.0)).headers[0]
    assert changed.RadiopharmaceuticalInformationSequence[0].RadionuclideTotalDose == 1e6
    assert pet.headers[0].RadiopharmaceuticalInformationSequence[0].RadionuclideTotalDose == before
    assert changed.filename == pet.headers[0].filename


def test_a_given_value_that_suv_does_not_need_is_a_warning(tmp_path) -> None:
    given = entry(tmp_path, weight_kg=80.0, height_m=1.8)
    record = conversion(tmp_path, given, slopes=[0.01] * 6, fields={"Units": "GML"})
    (warning,) = unused_warnings(given, record)
    assert "weight_kg given" in warning and "GML" in warning and "height_m" not in warning
    assert unused_warnings(given, record, weight_for_sul=True) == []
    assert "images hold SUV already" in unused_warnings(entry(tmp_path, dose_mbq=1.0), None)[0]
    assert unused_warnings(entry(tmp_path), None) == []


def test_what_lesions_are_compared_with_is_given_by_line_and_by_option(tmp_path) -> None:
    found = FoundStudies(entries=(entry(tmp_path, 1), entry(tmp_path, 2)))
    (tmp_path / "blood.mha").touch()
    path = table(tmp_path, "study,sex,liver_sphere,blood_mask\np1,female,-60 20 410.5,blood.mha\n")
    one, two = with_overrides(found, path, tmp_path, SALT, False).entries
    assert (one.sex, one.liver_sphere, one.blood_mask) == ("F", "-60 20 410.5", tmp_path / "blood.mha")
    assert tmp_path / "blood.mha" in one.files and tmp_path / "blood.mha" not in one.images and two.given == {}
    assert with_spheres(FoundStudies(entries=(two,)), {"liver": "1,2,3"}).entries[0].liver_sphere == "1,2,3"
    for studies, spheres, words in (
        (found, {"liver": "1,2,3"}, "there are 2 studies: give it in overrides.csv, in the column liver_sphere"),
        (FoundStudies(entries=(one,)), {"liver": "1,2,3"}, "overrides.csv gives the study's liver, too"),
        (FoundStudies(entries=(two,)), {"blood": "1,2"}, "--blood-sphere '1,2' is not"),
    ):
        with pytest.raises(ConfigError, match=words):
            with_spheres(studies, spheres)
