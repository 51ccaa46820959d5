"""What goes into the patient's record beside masks and tables: the measurements as DICOM SR, and report.pdf.

Both are made of a result that is written already, so they hold what its files hold.
"""

import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset, FileDataset

from model.dicom.elements import UNREADABLE, text
from model.dicom.sr import Measured, dicom_sr, sr_uid
from model.errors import CaseError
from model.hospital.folder import STUDIES
from model.hospital.job import Job
from model.hospital.pages.record import Subject, record_pdf
from model.hospital.stored_results import SR
from model.results.lesion_table import rounded
from model.results.lesions import Lesion, Totals

PDF = "report.pdf"
SEG = "seg.dcm"


def measured_of(lesions: Sequence[Lesion], totals: Totals) -> Measured:
    """The numbers of an SR: those of the lesion table, with its digits."""
    return Measured(
        lesions=[rounded(dataclasses.asdict(lesion)) for lesion in lesions], totals=rounded(dataclasses.asdict(totals))
    )


def sr_holds(folder: Path, measured: Measured) -> bool:
    """Whether the SR in a study's folder is of these numbers and of the SEG beside it."""
    with suppress(OSError, AttributeError, KeyError, *UNREADABLE):
        stored = pydicom.dcmread(folder / SR, specific_tags=["SOPInstanceUID"])
        return bool(stored.SOPInstanceUID == sr_uid(measured, _seg_in(folder, specific_tags=["SOPInstanceUID"])))
    return False


def make_sr(
    job: Job,
    measured: Measured,
    headers: tuple[Sequence[FileDataset], Sequence[FileDataset]],
    made: Mapping[str, bytes],
    terms: str,
) -> bytes:
    """The SR of a study. headers: of PET and CT. made: the DICOM files of this run; a SEG that is not among them is in
    the study's folder. Raises CaseError without a SEG, else as `dicom_sr`.
    """
    try:
        seg = pydicom.dcmread(io.BytesIO(made[SEG])) if SEG in made else _seg_in(job.output / STUDIES / job.name)
    except (OSError, *UNREADABLE):
        raise CaseError("there is no SEG that it could refer to") from None
    return dicom_sr(measured, seg, *headers, terms=terms)


def make_pdf(job: Job, report: bytes, headers: Sequence[FileDataset]) -> bytes:
    """report.pdf of a study whose folder is written. report: its report.json; headers: of its PET, or none."""
    folder = job.output / STUDIES / job.name
    lesions = json.loads((folder / "lesions.json").read_text(encoding="utf-8"))
    picture = None
    with suppress(OSError):
        picture = (folder / "preview.png").read_bytes()
    return record_pdf(_subject(job, headers), json.loads(report), lesions, picture)


def _subject(job: Job, headers: Sequence[FileDataset]) -> Subject:
    """Whose study it is: without --names by hash alone, as a date would identify a patient."""
    if not job.options.named:
        return Subject(study=job.name)
    name, number = (*job.entry.person, "", "")[:2]
    date = ""
    with suppress(CaseError):
        date = text(headers[0], "StudyDate") if headers else ""
    return Subject(study=job.name, named=True, patient=name, patient_id=number, date=date)


def _seg_in(folder: Path, **how: Any) -> Dataset:
    return pydicom.dcmread(folder / SEG, **how)
