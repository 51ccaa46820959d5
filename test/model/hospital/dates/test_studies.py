"""Patients and dates of studies, from headers and from a list."""

from pathlib import Path

import pytest
from dicom_writer import write_pet

from model.hospital.dates.studies import dated, pairs_of
from model.hospital.find.entry import Entry
from model.hospital.job import Job, Options


def job(name: str, patient: str = "", date: str = "", pet: Path = Path("pet.mha"), kind: str = "images") -> Job:
    entry = Entry(identity=name, source=Path(name), kind=kind, pet=(pet,), ct=(pet,), patient=patient, date=date)
    return Job(name=name, entry=entry, root=Path(), output=Path(), key="", options=Options())


def compared(*jobs: Job) -> tuple[list[tuple[str, str, int]], dict[str, str]]:
    studies, why = dated(jobs, b"salt")
    pairs, unclear = pairs_of(studies)
    found = [(one.first.job.name, one.second.job.name, one.days) for own in pairs.values() for one in own]
    return found, why | unclear


def test_each_date_is_compared_with_the_next_and_the_first_with_the_last() -> None:
    found, why = compared(
        job("c", "P", "2024-03-15"), job("a", "P", "20240301"), job("b", "P", "2024-03-08"), job("x", "Q", "2024-03-08")
    )
    assert found == [("a", "b", 7), ("b", "c", 7), ("a", "c", 14)]
    assert not why


def test_two_studies_of_one_day_are_ordered_by_their_time_or_left_out() -> None:
    found, why = compared(job("b", "P", "2024-03-01T11:00"), job("a", "P", "2024-03-01 09:30"))
    assert found == [("a", "b", 0)] and not why
    found, why = compared(job("b", "P", "2024-03-01"), job("a", "P", "2024-03-01T09:30"), job("c", "P", "2024-03-02"))
    assert not found and set(why) == {"a", "b"} and "which is earlier is not known" in why["a"]


@pytest.mark.parametrize(
    ("patient", "date", "reason"),
    [
        ("", "2024-03-01", "give the column patient"),
        ("P", "", "no date"),
        ("P", "5.3.2024", "no date"),
        ("P", "2024-02-30", "no date"),
    ],
)
def test_a_study_without_patient_or_date_says_so(patient, date, reason) -> None:
    found, why = compared(job("a", patient, date))
    assert not found and reason in why["a"]


def test_dicom_gives_both_and_doubtful_patients_are_named(tmp_path) -> None:
    days = {"a": "20240301", "b": "20240611"}
    headers = {
        name: write_pet(
            tmp_path / name, fields={"StudyDate": day, "PatientName": f"Smith^{name}", "PatientBirthDate": "19500101"}
        )[0]
        for name, day in days.items()
    }
    jobs = [job(name, pet=path, kind="dicom") for name, path in headers.items()]
    assert compared(*jobs) == ([("a", "b", 102)], {})
    studies, _ = dated(jobs, b"salt")
    ((pair,),) = pairs_of(studies)[0].values()
    assert pair.notes == ("the names of both studies differ under one PatientID: are they of one patient?",)
    assert pair.first.patient == pair.second.patient and "SYNTHETIC" not in pair.first.patient
