"""Patients and dates of studies, from headers and from a list."""

from dataclasses import replace
from pathlib import Path

import pytest
from dicom_writer import write_pet

from model.hospital.dates.studies import dated, labels_of, pairs_of
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
    named = [replace(one, job=replace(one.job, options=Options(named=True))) for one in studies]
    assert labels_of(reversed(named)) == {pair.first.patient: "Smith^a SYNTHETIC"} and labels_of(studies) == {}


@pytest.mark.parametrize(
    ("fields", "note"),
    [
        ({}, ""),
        ({"ManufacturerModelName": "Another", "ReconstructionMethod": "OSEM"}, "the scanners of both dates differ"),
        ({"SeriesDescription": "PET PSMA"}, "the tracer of the second date is not known as FDG"),
        ({"PatientSex": "M"}, "the sexes of both studies differ"),
    ],
)  # of a reconstruction that only one header names nothing is known
def test_what_makes_two_dates_hard_to_compare_is_said(tmp_path, fields, note) -> None:
    first = {"ManufacturerModelName": "One", "PatientSex": "F"}
    headers = (first | {"StudyDate": "20240301"}, first | {"StudyDate": "20240611"} | fields)
    jobs = [
        job(name, pet=write_pet(tmp_path / name, fields=one)[0], kind="dicom")
        for name, one in zip("ab", headers, strict=True)
    ]
    ((pair,),) = pairs_of(dated(jobs, b"salt")[0])[0].values()
    assert [one.startswith(note) for one in pair.notes] == ([True] if note else [])


@pytest.mark.parametrize(
    ("ids", "reason"),
    [
        (("1234", "A-1234"), "under another PatientID"),
        (("ANONYMOUS", "Anonymous"), "a word for any patient"),
        (("0000", "0000"), "a word for any patient"),
    ],
)
def test_one_patient_under_two_ids_and_an_id_of_nobody_are_in_no_pair_and_say_so(tmp_path, ids, reason) -> None:
    jobs = []
    for name, patient_id in zip("ab", ids, strict=True):
        fields = {"PatientID": patient_id, "PatientName": "Smith^Jane", "PatientBirthDate": "19500101"}
        jobs.append(
            job(name, pet=write_pet(tmp_path / name, fields=fields | {"StudyDate": "20240301"})[0], kind="dicom")
        )
    found, why = compared(*jobs)
    assert not found and set(why) == {"a", "b"} and all(reason in words for words in why.values())
    assert not any(secret in words for words in why.values() for secret in ("Smith", "1234"))
