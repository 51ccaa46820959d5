"""The DICOM files of a scored study, and report.pdf. One that cannot be made is a warning: they are extras."""

from collections.abc import Callable

from model import PET_ALONE
from model.bundle.organs import organ_names
from model.dicom.picture import dicom_picture
from model.dicom.rtstruct import dicom_rtstruct
from model.dicom.seg import dicom_seg
from model.dicom.seg_organs import organs_seg
from model.errors import LesionError
from model.hospital.edited_files import weights_and_terms
from model.hospital.folder import STUDIES
from model.hospital.pages.page import PDF
from model.hospital.record_files import make_pdf, make_sr
from model.hospital.scored_study import ScoredStudy
from model.hospital.stored_results import DICOM_FILES, PICTURE, SR, stored_files

LONGEST_REASON = 200  # characters of a library's message
NO_CT = "no CT"  # in the descriptions of DICOM series, where `PET_ALONE` would not find place


def wanted_dicom(study: ScoredStudy) -> list[str]:
    """The DICOM files to write: for a DICOM study SEG; RTSTRUCT, picture and SR if asked for, now or by the run whose
    mask is taken; and a SEG of the organs that were found. For images none.
    """
    if not study.headers:
        return []
    options, organs = study.job.options, study.result.organs
    asked = {"rtstruct.dcm": options.rtstruct, PICTURE: options.picture, SR: options.sr}
    there = stored_files(study.job)
    wanted = {name for name, now in asked.items() if now or name in there}
    wanted |= {"seg.dcm"} | ({"seg-organs.dcm"} if organs is not None and organs.any() else set())
    return [name for name in DICOM_FILES if name in wanted]


def make_dicom(study: ScoredStudy, names: list[str]) -> tuple[dict[str, bytes], list[str]]:
    """SEG, RTSTRUCT, picture, SR, and a warning for each that cannot be made, whatever a library raises."""
    job, numbers, headers, edited = study.job, study.measures.numbers, study.headers, study.job.edit_notice
    run = f"{job.mask_key} {study.hashes['images_sha256']} {study.mask_sha256} {edited}".rstrip()
    weights, terms = weights_and_terms(job, study.stored, study.bundle)
    mark, terms = (NO_CT, f"{PET_ALONE}. {terms}") if job.entry.pet_alone else ("", terms)
    place = job.output / STUDIES / job.name
    makers: dict[str, Callable[[], bytes]] = {
        "seg.dcm": lambda: dicom_seg(numbers, headers, weights, run, terms, edited, mark),
        "rtstruct.dcm": lambda: dicom_rtstruct(numbers, headers, study.case.pet.grid, run, terms, edited, mark),
    }
    said = f"{edited}. {terms}" if edited else terms
    makers[PICTURE] = lambda: dicom_picture(
        (place / "preview.png").read_bytes(), headers, run, job.options.named, said, mark
    )
    if (labels := study.result.organs) is not None:
        organs = organ_names(study.bundle.manifest)
        makers["seg-organs.dcm"] = lambda: organs_seg(labels, organs, headers, weights, run, terms, mark)
    makers[SR] = lambda: make_sr(place, (headers, study.ct_headers), made, terms, mark)
    made: dict[str, bytes] = {}
    warnings = []
    for name in names:
        try:
            made[name] = makers[name]()
        except Exception as error:  # DICOM files are extras: the mask stays
            what = {"rtstruct.dcm": "RTSTRUCT", PICTURE: "picture", SR: "SR"}.get(name, "SEG")
            warnings.append(f"no {what} ({name}) of PET '{study.case.pet.path}' was made: {reason_of(error)}")
    return made, warnings


def make_record_pdf(study: ScoredStudy, report: bytes) -> tuple[dict[str, bytes], list[str]]:
    """report.pdf by its name, or a warning if it cannot be made, whatever a library raises."""
    try:
        return {PDF: make_pdf(study.job, report, study.headers)}, []
    except Exception as error:  # an extra, as DICOM files are
        return {}, [f"no {PDF} of PET '{study.case.pet.path}' was made: {reason_of(error)}"]


def reason_of(error: Exception) -> str:
    """What went wrong, in one line. Errors of other libraries are named and cut short."""
    message = " ".join(str(error).split())
    reason = message if isinstance(error, LesionError) else f"{type(error).__name__}: {message[:LONGEST_REASON]}"
    return f"{reason} (the mask and the tables are whole)"
