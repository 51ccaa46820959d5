"""What goes into the patient's record beside masks and tables: the measurements as DICOM SR, and report.pdf.

Both are made of lesions.json, which is written already, so they hold the numbers that it holds.
"""

import io
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import FileDataset

from model.dicom.elements import UNREADABLE, text
from model.dicom.sr import MeasuredLesions, dicom_sr, sr_uid
from model.errors import CaseError, OutputError
from model.hospital.dates.header import names_nobody
from model.hospital.folder import STUDIES
from model.hospital.job import Job
from model.hospital.names import patient_name, read_salt
from model.hospital.pages.record import Subject, record_pdf
from model.hospital.stored_results import SR

SEG = "seg.dcm"


def sr_holds(old: Path, new: Path) -> bool:
    """Whether the SR in a study's older folder is of its SEG there and of the numbers in the new folder."""
    with suppress(OSError, KeyError, *UNREADABLE):
        stored, seg = (pydicom.dcmread(old / name, specific_tags=["SOPInstanceUID"]) for name in (SR, SEG))
        return bool(stored.SOPInstanceUID == sr_uid(_measured(_lesions(new)), seg))
    return False


def make_sr(
    folder: Path,
    headers: tuple[Sequence[FileDataset], Sequence[FileDataset]],
    made: Mapping[str, bytes],
    terms: str,
    mark: str = "",
) -> bytes:
    """The SR of a study in its folder. headers: of PET and CT. made: the DICOM files of this run; a SEG that is not
    among them is in the folder. terms, mark: as `dicom_sr`. Raises CaseError without a SEG, else as `dicom_sr`.
    """
    try:
        seg = pydicom.dcmread(io.BytesIO(made[SEG]) if SEG in made else folder / SEG)
    except (OSError, *UNREADABLE):
        raise CaseError("there is no SEG that it could refer to") from None
    lesions = _lesions(folder)
    edited = f"{lesions['edited']}. " if lesions.get("edited") else ""
    return dicom_sr(_measured(lesions), seg, *headers, terms=edited + terms, mark=mark)


def make_pdf(job: Job, report: bytes, headers: Sequence[FileDataset]) -> bytes:
    """report.pdf of a study whose folder is written. report: its report.json; headers: of its PET, or none."""
    folder = job.output / STUDIES / job.name
    lesions = _lesions(folder)
    picture = None
    with suppress(OSError):
        picture = (folder / "preview.png").read_bytes()
    return record_pdf(_subject(job, headers), json.loads(report), lesions, picture)


def _subject(job: Job, headers: Sequence[FileDataset]) -> Subject:
    """Whose study it is: without --names by hash alone, as a date would identify a patient."""
    if not job.options.named:
        return Subject(study=job.name, patient_hash=_patient_hash(job, headers))
    name, number = (*job.entry.person, "", "")[:2]
    date = ""
    with suppress(CaseError):
        date = text(headers[0], "StudyDate") if headers else ""
    return Subject(study=job.name, named=True, patient=name, patient_id=number, date=date)


def _patient_hash(job: Job, headers: Sequence[FileDataset]) -> str:
    """The patient's salted hash, as in patients.html; "" where no ID is known, or the salt cannot be read."""
    identity = job.entry.patient
    with suppress(CaseError, OutputError):
        if not identity and headers and not names_nobody(stated := text(headers[0], "PatientID").strip()):
            identity = stated
        return patient_name(identity, read_salt(job.output)) if identity else ""
    return ""


def _lesions(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "lesions.json").read_text(encoding="utf-8"))
    return content


def _measured(lesions: Mapping[str, Any]) -> MeasuredLesions:
    return MeasuredLesions(lesions=lesions["lesions"], totals=lesions["totals"])
