"""What the header of a study's PET says of patient, date, scanner and tracer, as two dates are compared by it."""

import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import date, time

import pydicom
from pydicom.dataset import FileDataset

from model.dicom.clock import day_of, seconds_of
from model.dicom.elements import UNREADABLE, text
from model.dicom.tracer import tracer_warnings
from model.errors import CaseError
from model.hospital.find.entry import Entry

FIELDS = [
    "SpecificCharacterSet",
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "Manufacturer",
    "ManufacturerModelName",
    "ReconstructionMethod",
    *(f"{of}{what}" for of in ("Study", "Series", "Acquisition") for what in ("Date", "Time")),
]
OF_THE_TRACER = (
    "Radiopharmaceutical",
    "RadiopharmaceuticalInformationSequence",
    "SeriesDescription",
    "StudyDescription",
    "ProtocolName",
)

NOBODY = re.compile(r"(?:anon(?:ymous|ymi[sz]ed)?|unknown|none|removed|de ?identified|not available|n ?a|x+|0+)?")


def read_header(entry: Entry) -> FileDataset | None:
    """What is looked at of the PET's first file; None for images, or where the file cannot be read."""
    if entry.kind == "dicom":
        with suppress(CaseError, OSError, *UNREADABLE):
            wanted = [*FIELDS, *OF_THE_TRACER]
            return pydicom.dcmread(entry.pet[0], stop_before_pixels=True, specific_tags=wanted, force=True)
    return None


def fields_of(header: FileDataset | None) -> Mapping[str, str]:
    """The FIELDS as text; none without a header, or where one of them cannot be read."""
    with suppress(CaseError, *UNREADABLE):
        return {name: str(text(header, name)).strip() for name in FIELDS} if header is not None else {}
    return {}


def other_tracer(header: FileDataset | None) -> bool:
    """Whether a header names another tracer than FDG, or one that is not known as FDG."""
    with suppress(CaseError, *UNREADABLE):
        return header is not None and bool(tracer_warnings(header))
    return False


def names_nobody(patient_id: str) -> bool:
    """Whether a PatientID is what de-identifying gives to every patient: ANONYMOUS, UNKNOWN, 000."""
    return bool(NOBODY.fullmatch(plain(patient_id)))


def moment_of(header: Mapping[str, str]) -> tuple[date, time | None] | None:
    """The date of the study, else of its series, else of its acquisition; and the time of day beside it."""
    for of in ("Study", "Series", "Acquisition"):
        if (day := day_of(header.get(f"{of}Date", ""))) is not None:
            return day, time_of(header.get(f"{of}Time", ""))
    return None


def time_of(stated: str) -> time | None:
    """A time of day as DICOM or ISO 8601 writes it; None if it is not one."""
    seconds = seconds_of(stated)
    whole = int(seconds or 0)
    return None if seconds is None else time(whole // 3600 % 24, whole // 60 % 60, whole % 60)


def plain(name: str) -> str:
    """A name without the marks and spaces in which spellings differ."""
    return " ".join(re.sub(r"[\W_]+", " ", name).casefold().split())
