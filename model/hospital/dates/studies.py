"""Whose a study is and of which date: by the header of its PET, or, for images, by the columns of the list.

Patients are told apart by PatientID. A list's columns `patient` and `date` go before the header. Dates are taken as
they are stated; nothing is corrected.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, time
from itertools import pairwise

from model.dicom.clock import day_of
from model.hospital.dates.header import fields_of, moment_of, names_nobody, other_tracer, plain, read_header, time_of
from model.hospital.job import Job
from model.hospital.names import patient_name

NO_PATIENT = "no patient: PatientID is empty; give the columns patient and date in a list"
NOBODY = (
    "no patient: PatientID is a word for any patient, such as ANONYMOUS; give the columns patient and date in a list"
)
NO_COLUMN = "images without a patient: give the column patient in a list"
NO_DATE = "no date: {} holds none that can be read; give the column date in a list, such as 2024-03-05"

BORN = ("PatientBirthDate", "PatientSex")
OTHER_ID = (
    "another study has this patient's name and birth date under another PatientID; if both are of one patient, give "
    "the column patient in a list"
)
SAME_DAY = "another study of this patient has the same day, and which is earlier is not known: {}"


@dataclass(frozen=True, kw_only=True)
class DatedStudy:
    """A scored study with its patient and date. patient: a salted hash of the ID. label: the patient's name and ID.

    at: the time of day, None where it is not known. stated: the patient's name, birth date and sex, as far as they can
    be compared. made_by: scanner and reconstruction. other_tracer: whether the header names another tracer than FDG.
    """

    job: Job
    patient: str
    label: str
    day: date
    at: time | None
    stated: tuple[str, ...] = ("", "", "")
    made_by: tuple[str, ...] = ("", "")
    other_tracer: bool = False


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
    the last. And, by name, which studies are left out and why: their order within a day is not known, or the patient
    seems to have another ID, too.
    """
    studies = list(studies)
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
    alone = [one for one in studies if one.patient not in pairs and one.job.name not in why]
    return pairs, why | {one.job.name: OTHER_ID for one in alone if _has_other_id(one, studies)}


def labels_of(studies: Iterable[DatedStudy]) -> dict[str, str]:
    """By hash, how the patients are named where names are wanted: as at the first date, however later ones spell it."""
    labels: dict[str, str] = {}
    for study in sorted(studies, key=lambda one: one.day):
        if study.job.options.named:
            labels.setdefault(study.patient, study.label)
    return labels


def _dated(job: Job, salt: bytes) -> DatedStudy | str:
    """A study with its patient and date, or why it has none."""
    entry = job.entry
    stored = read_header(entry)
    header = fields_of(stored)
    identity = entry.patient or header.get("PatientID", "")
    if not identity:
        return NO_PATIENT if entry.kind == "dicom" else NO_COLUMN
    if not entry.patient and names_nobody(identity):
        return NOBODY
    moment = _stated(entry.date) if entry.date else moment_of(header)
    if moment is None:
        return NO_DATE.format("the column date" if entry.date or entry.kind != "dicom" else "the header")
    name = header.get("PatientName", "")
    return DatedStudy(
        job=job,
        patient=patient_name(identity, salt),
        label=" ".join(filter(None, (name, identity))),
        day=moment[0],
        at=moment[1],
        stated=("", "", "") if entry.patient else (plain(name), *(header.get(field, "") for field in BORN)),
        made_by=(
            plain(f"{header.get('Manufacturer', '')} {header.get('ManufacturerModelName', '')}"),
            plain(header.get("ReconstructionMethod", "")),
        ),
        other_tracer=other_tracer(stored),
    )


def _stated(cell: str) -> tuple[date, time | None] | None:
    """The date and time of a list's cell: 2024-03-05, 20240305, or with a time, 2024-03-05T10:30."""
    words = re.split("[T ]+", cell.strip())
    day = day_of(words[0])
    at = time_of(words[1]) if len(words) == 2 else None
    return None if day is None or len(words) > 2 or (len(words) == 2 and at is None) else (day, at)


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
        notes.append("both studies are of one day: SUV changes with the time since the injection")
    if what := _differing(("names", "birth dates", "sexes"), one.stated, other.stated):
        notes.append(f"the {what} of both studies differ under one PatientID: are they of one patient?")
    if what := _differing(("scanners", "reconstructions"), one.made_by, other.made_by):
        notes.append(f"the {what} of both dates differ by their headers: SUV may differ by that alone")
    if which := [word for word, study in (("first", one), ("second", other)) if study.other_tracer]:
        plural = "s" if which[1:] else ""
        notes.append(
            f"the tracer of the {' and '.join(which)} date{plural} is not known as FDG; PERCIST is made for FDG"
        )
    return tuple(notes)


def _differing(words: tuple[str, ...], one: tuple[str, ...], other: tuple[str, ...]) -> str:
    """The words of what both state and state differently, joined by and; "" if nothing differs."""
    return " and ".join(word for word, a, b in zip(words, one, other, strict=True) if a and b and a != b)


def _has_other_id(study: DatedStudy, others: Iterable[DatedStudy]) -> bool:
    """Whether another patient has the same name and birth date."""
    name, born, _ = study.stated
    return bool(name and born) and any(
        one.stated[:2] == (name, born) and one.patient != study.patient for one in others
    )
