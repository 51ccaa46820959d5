"""Whose a study is and of which date: by the header of its PET, or, for images, by the columns of the list.

Patients are told apart by PatientID. A list's columns `patient` and `date` go before the header. Dates are taken as
they are stated; nothing is corrected.
"""

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, time
from itertools import pairwise

import pydicom

from model.dicom.clock import day_of, seconds_of
from model.dicom.elements import UNREADABLE, text
from model.errors import CaseError
from model.hospital.find.entry import Entry
from model.hospital.job import Job
from model.hospital.names import patient_name

FIELDS = [
    "SpecificCharacterSet",
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    *(f"{of}{what}" for of in ("Study", "Series", "Acquisition") for what in ("Date", "Time")),
]
NO_PATIENT = "no patient: PatientID is empty; give the columns patient and date in a list"
NO_COLUMN = "images without a patient: give the column patient in a list"
NO_DATE = "no date: {} holds none that can be read; give the column date in a list, such as 2024-03-05"

SAME_DAY = "another study of this patient has the same day, and which is earlier is not known: {}"


@dataclass(frozen=True, kw_only=True)
class DatedStudy:
    """A scored study with its patient and date. patient: a salted hash of the ID. label: the patient's name and ID.

    at: the time of day, None where it is not known. stated: name and birth date, as far as they can be compared.
    """

    job: Job
    patient: str
    label: str
    day: date
    at: time | None
    stated: tuple[str, str] = ("", "")


@dataclass(frozen=True, kw_only=True)
class DatePair:
    """Two dates of one patient, the earlier first. notes: what to mind of the two."""

    first: DatedStudy
    second: DatedStudy
    notes: tuple[str, ...] = ()

    @property
    def days(self) -> int:
        return (self.second.day - self.first.day).days


def dated(jobs: Iterable[Job], salt: bytes) -> tuple[list[DatedStudy], dict[str, str]]:
    """The studies that have a patient and a date, and, by name, why the others cannot be compared."""
    found, why = [], {}
    for job in jobs:
        known = _dated(job, salt)
        if isinstance(known, str):
            why[job.name] = known
        else:
            found.append(known)
    return found, why


def pairs_of(studies: Iterable[DatedStudy]) -> tuple[dict[str, list[DatePair]], dict[str, str]]:
    """The pairs of each patient with two dates or more: each date and the next, and, of three or more, the first and
    the last. And, by name, which studies are left out and why: their order within a day is not known.
    """
    by_patient: dict[str, list[DatedStudy]] = {}
    for study in studies:
        by_patient.setdefault(study.patient, []).append(study)
    pairs: dict[str, list[DatePair]] = {}
    why: dict[str, str] = {}
    for patient, members in sorted(by_patient.items()):
        ordered = sorted(members, key=lambda one: (one.day, one.at or time(), one.job.name))
        unclear = _of_unclear_order(ordered)
        why |= {one.job.name: SAME_DAY.format(_remedy(one)) for one in unclear}
        ordered = [one for one in ordered if one not in unclear]
        if len(ordered) > 1:
            wanted = [*pairwise(ordered), *([(ordered[0], ordered[-1])] if len(ordered) > 2 else [])]
            pairs[patient] = [DatePair(first=one, second=other, notes=_notes(one, other)) for one, other in wanted]
    return pairs, why


def _dated(job: Job, salt: bytes) -> DatedStudy | str:
    """A study with its patient and date, or why it has none."""
    entry = job.entry
    header = _header(entry)
    identity = entry.patient or header.get("PatientID", "")
    if not identity:
        return NO_PATIENT if entry.kind == "dicom" else NO_COLUMN
    moment = _stated(entry.date) if entry.date else _of_header(header)
    if moment is None:
        return NO_DATE.format("the column date" if entry.date or entry.kind != "dicom" else "the header")
    name = header.get("PatientName", "")
    return DatedStudy(
        job=job,
        patient=patient_name(identity, salt),
        label=" ".join(filter(None, (name, identity))),
        day=moment[0],
        at=moment[1],
        stated=("", "") if entry.patient else (_plain(name), header.get("PatientBirthDate", "")),
    )


def _header(entry: Entry) -> Mapping[str, str]:
    """The fields of the PET's first file; none for images, or where the file cannot be read."""
    if entry.kind != "dicom":
        return {}
    with suppress(CaseError, OSError, *UNREADABLE):
        header = pydicom.dcmread(entry.pet[0], stop_before_pixels=True, specific_tags=FIELDS, force=True)
        return {name: str(text(header, name)).strip() for name in FIELDS}
    return {}


def _of_header(header: Mapping[str, str]) -> tuple[date, time | None] | None:
    """The date of the study, else of its series, else of its acquisition; and the time of day beside it."""
    for of in ("Study", "Series", "Acquisition"):
        if (day := day_of(header.get(f"{of}Date", ""))) is not None:
            return day, _time_of(header.get(f"{of}Time", ""))
    return None


def _stated(cell: str) -> tuple[date, time | None] | None:
    """The date and time of a list's cell: 2024-03-05, 20240305, or with a time, 2024-03-05T10:30."""
    words = re.split("[T ]+", cell.strip())
    day = day_of(words[0])
    at = _time_of(words[1]) if len(words) == 2 else None
    return None if day is None or len(words) > 2 or (len(words) == 2 and at is None) else (day, at)


def _time_of(stated: str) -> time | None:
    """A time of day as DICOM or ISO 8601 writes it; None if it is not one."""
    seconds = seconds_of(stated)
    whole = int(seconds or 0)
    return None if seconds is None else time(whole // 3600 % 24, whole // 60 % 60, whole % 60)


def _of_unclear_order(ordered: list[DatedStudy]) -> list[DatedStudy]:
    """Studies that share their day with another, where either has no time of its own."""
    unclear = []
    for one, other in pairwise(ordered):
        if one.day == other.day and (one.at is None or other.at is None or one.at == other.at):
            unclear += [study for study in (one, other) if study not in unclear]
    return unclear


def _remedy(study: DatedStudy) -> str:
    return (
        "give both with a time in a list, such as 2024-03-05T10:30"
        if study.job.entry.date
        else "StudyTime is missing or the same"
    )


def _notes(one: DatedStudy, other: DatedStudy) -> tuple[str, ...]:
    notes = []
    if one.day == other.day:
        notes.append("both studies are of one day: a change between them is no response to treatment")
    what = [
        word
        for word, a, b in zip(("names", "birth dates"), one.stated, other.stated, strict=True)
        if a and b and a != b
    ]
    if what:
        notes.append(f"the {' and '.join(what)} of both studies differ under one PatientID: are they of one patient?")
    return tuple(notes)


def _plain(name: str) -> str:
    """A patient's name without the marks and spaces in which spellings differ."""
    return " ".join(re.sub(r"[\W_]+", " ", name).casefold().split())
