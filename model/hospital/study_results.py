"""Write the results of a scored study: first mask, tables, pictures and report, then the DICOM files and report.pdf.

The first stay whatever happens to the others. One of these, or a picture, that cannot be made is a warning.
"""

from typing import Any

import numpy as np

from model import PET_ALONE, RESEARCH
from model.bundle.organs import organ_names
from model.dicom.identity import identity_warnings
from model.hospital.edited_files import write_edited, write_network_mask
from model.hospital.folder import REPORT, Folder, add_files, study_folder
from model.hospital.job import Job
from model.hospital.pages.page import PDF
from model.hospital.record_files import sr_holds
from model.hospital.scored_study import ScoredStudy
from model.hospital.stored_results import DICOM_FILES, PICTURE, SR, UNFINISHED, stored_files
from model.hospital.study_dicom import make_dicom, make_record_pdf, reason_of, wanted_dicom
from model.hospital.study_report import mask_warnings_of, redacted_all, report_of, row_of
from model.results.lesion_table import (
    dropped_csv,
    lesions_csv,
    lesions_json,
)
from model.results.preview import preview, thumbnail
from model.results.rule_options import rules_from
from model.results.writing import json_bytes, label_notes
from model.stopwatch import Stopwatch
from model.study.geometry import las_view

DROPPED = "dropped-lesions.csv"
LESION_FILES = ("seg.dcm", "rtstruct.dcm")


def write_study(study: ScoredStudy, watch: Stopwatch) -> dict[str, Any]:
    """Write all files of a study. Returns its row of the summary. Raises OutputError; what was finished then stays."""
    job = study.job
    warnings = [*study.case.warnings, *study.measures.warnings, *mask_warnings_of(study)]
    warnings += study.edited.notes if study.edited else []
    warnings += identity_warnings(study.headers) if study.headers else []
    seconds = watch.seconds
    with_pdf = job.options.pdf or PDF in stored_files(job)
    with study_folder(job.output, job.name) as folder:
        with watch.stage("write"):
            copied = _write_files(folder, study)
            warnings += _write_pictures(folder, study)
        row = row_of(study, sum(seconds.values()), warnings)
        missing = [name for name in wanted_dicom(study) if name not in copied]
        key = UNFINISHED + job.key if missing or with_pdf else job.key
        folder.write(REPORT, report_of(study, warnings, seconds, row, key))
    if not missing and not with_pdf:
        return row
    with watch.stage("write"):
        made, failed = make_dicom(study, missing)
        if with_pdf:
            row = row_of(study, sum(seconds.values()), [*warnings, *failed])
            pdf, pdf_failed = make_record_pdf(study, report_of(study, [*warnings, *failed], seconds, row, job.key))
            made, failed = made | pdf, [*failed, *pdf_failed]
    row = row_of(study, sum(seconds.values()), [*warnings, *failed])
    add_files(job.output, job.name, made | {REPORT: report_of(study, [*warnings, *failed], seconds, row, job.key)})
    return row


def _write_files(folder: Folder, study: ScoredStudy) -> set[str]:
    """Write everything except new SEG, RTSTRUCT and report. With a stored mask, its DICOM files and its map are copied:
    they still hold. Returns the names of the copies.
    """
    job, options, result, grid = study.job, study.job.options, study.result, study.case.pet.grid
    measures = study.measures
    old = study.stored.path.parent if study.stored else None
    notes = {"Edited": job.edit_notice} if study.edited else None
    if study.stored and study.edited:
        write_edited(folder, job, study.stored, study.edited)
    else:
        write_network_mask(folder, job.network_mask if measures.ruled else job.mask, study.stored, result.mask, grid)
    if measures.ruled or study.edited:
        folder.write_image(job.mask, measures.mask.astype(np.uint8), grid, notes)
    if measures.ruled:
        mark = PET_ALONE if job.entry.pet_alone else ""
        folder.write(DROPPED, dropped_csv(measures.dropped, mark).encode())
    if result.disagreement is not None:
        folder.write_image(f"disagreement{options.mask_ending}", result.disagreement, grid)
    if result.organs is not None:
        notes = label_notes(organ_names(study.bundle.manifest))
        folder.write_image(job.organ_map, result.organs, grid, notes)
    folder.write("lesions.csv", lesions_csv(measures.lesions, measures.more, job.notice).encode())
    table = lesions_json(measures, job.edit_notice, PET_ALONE if job.entry.pet_alone else "")
    folder.write("lesions.json", json_bytes(redacted_all(job, table)))
    copied = set()
    if old is not None:
        still = {name: _same_lesions(study) for name in LESION_FILES} | {"seg-organs.dcm": result.organs is not None}
        still[PICTURE] = still["seg.dcm"] and old.name == job.name  # the study's name stands in it
        still[SR] = still["seg.dcm"] and sr_holds(old, folder.path)
        for path in (*(old / name for name in DICOM_FILES), *old.glob("disagreement.*")):
            if path.is_file() and still.get(path.name, True):
                folder.write(path.name, path.read_bytes())
                copied.add(path.name)
    return copied


def _write_pictures(folder: Folder, study: ScoredStudy) -> list[str]:
    """Write preview and thumbnail. Returns a warning if they cannot be drawn, whatever a library raises."""
    view = las_view(study.case.pet.grid)
    spacing_mm = view.grid.spacing_mm
    try:
        suv, mask = view.to_las(study.case.pet.array), view.to_las(study.measures.mask)
        numbers = view.to_las(study.measures.numbers)
        pictures = {
            "preview.png": preview(suv, mask, spacing_mm, _caption(study.job), numbers),
            "thumbnail.png": thumbnail(suv, mask, spacing_mm),
        }
    except Exception as error:  # pictures are extras: the mask stays
        return [f"no picture of PET '{study.case.pet.path}' was made: {reason_of(error)}"]
    for name, content in pictures.items():
        folder.write(name, content)
    return []


def _caption(job: Job) -> str:
    """What stands above the picture; of an edit the beginning of its hash, as there is no place for all of it."""
    file = f", file sha256 {job.edit.sha256[:12]}..." if job.edit and job.edit.sha256 else ""
    marks = [PET_ALONE] * job.entry.pet_alone + [f"edited by hand{file}"] * bool(job.edit)
    return f"{job.name}  {RESEARCH}" + (f"\n{'; '.join(marks)}" if marks else "")


def _same_lesions(study: ScoredStudy) -> bool:
    """Whether the stored result has the same lesions: the same rules, and the same edit, made the same mask."""
    assert study.stored is not None
    batch = study.stored.batch
    if batch["row"].get("edited", "") != study.job.edit_notice:
        return False
    same_rules = rules_from(batch["options"].get("rules", {})) == study.measures.rules
    now = study.mask_sha256
    return same_rules and batch.get("mask_sha256", now) == now
