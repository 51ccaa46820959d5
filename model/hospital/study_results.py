"""Write the results of a scored study: first mask, tables, pictures and report, then the DICOM files and report.pdf.

The first stay whatever happens to the others. One of these, or a picture, that cannot be made is a warning.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset

from model import PET_ALONE, RESEARCH
from model.bundle.manifest import Bundle
from model.bundle.organs import organ_names
from model.dicom.identity import identity_warnings
from model.dicom.picture import dicom_picture
from model.dicom.rtstruct import dicom_rtstruct
from model.dicom.seg import dicom_seg
from model.dicom.seg_organs import organs_seg
from model.dicom.suv import Conversion
from model.errors import LesionError, shown
from model.hospital.edited_files import edit_record, edit_report, weights_and_terms, write_edited, write_network_mask
from model.hospital.folder import REPORT, STUDIES, Folder, add_files, study_folder
from model.hospital.job import Job
from model.hospital.names import redacted
from model.hospital.record_files import PDF, make_pdf, make_sr, sr_holds
from model.hospital.stored_results import DICOM_FILES, PICTURE, SR, UNFINISHED, StoredMask, mask_hash, stored_files
from model.inference.device import Device
from model.inference.segment import Result
from model.results.lesion_numbers import ROW_NUMBERS
from model.results.lesion_table import (
    dropped_csv,
    dropped_rows,
    lesions_csv,
    lesions_json,
    numbers_report,
    rounded,
    rules_report,
)
from model.results.metrics import score
from model.results.organs import OrganUptake, labels_hash, organ_rows, organs_report
from model.results.preview import preview, thumbnail
from model.results.rule_options import rules_from
from model.results.run_summary import make_report
from model.results.study_measures import StudyMeasures
from model.results.writing import json_bytes, label_notes
from model.stopwatch import Stopwatch
from model.study.geometry import las_view
from model.study.masks import DrawnMask
from model.study.reading import Case

LONGEST_REASON = 200  # characters of a library's message
DROPPED = "dropped-lesions.csv"
LESION_FILES = ("seg.dcm", "rtstruct.dcm")
NO_CT = "no CT"  # in the descriptions of DICOM series, where `PET_ALONE` would not find place
KEPT_FROM_REPORT = ("weights", "run", "seconds", "peak_memory_bytes", "peak_gpu_memory_bytes", "versions")


@dataclass(frozen=True, kw_only=True)
class ScoredStudy:
    """A study that is segmented and measured. stored: the earlier result that its mask was taken from, if any; edited:
    the mask of a reader's edit, which is then that of `result`.

    result: of the networks, or stored; `measures.mask` is what rules made of its mask.

    organs: what was measured of each organ; None without an organ map. hashes: of its files, as
    `model.hospital.stored_results` compares them. mask_warnings: from making the mask now.
    """

    job: Job
    bundle: Bundle
    device: Device
    case: Case
    result: Result
    stored: StoredMask | None
    edited: DrawnMask | None
    measures: StudyMeasures
    organs: tuple[OrganUptake, ...] | None
    conversion: Conversion | None
    headers: tuple[FileDataset, ...]
    truth: NDArray[np.bool_] | None
    hashes: dict[str, str]
    mask_warnings: tuple[str, ...]
    ct_headers: tuple[FileDataset, ...] = ()

    @cached_property
    def mask_sha256(self) -> str:
        """The hash of the mask by the rules."""
        return mask_hash(self.measures.mask)

    @cached_property
    def network_mask_sha256(self) -> str:
        """The hash of the mask before the rules."""
        return mask_hash(self.result.mask)


def write_study(study: ScoredStudy, watch: Stopwatch) -> dict[str, Any]:
    """Write all files of a study. Returns its row of the summary. Raises OutputError; what was finished then stays."""
    job = study.job
    warnings = [*study.case.warnings, *study.measures.warnings, *_mask_warnings(study)]
    warnings += study.edited.notes if study.edited else []
    warnings += identity_warnings(study.headers) if study.headers else []
    seconds = watch.seconds
    with_pdf = job.options.pdf or PDF in stored_files(job)
    with study_folder(job.output, job.name) as folder:
        with watch.stage("write"):
            copied = _write_files(folder, study)
            warnings += _write_pictures(folder, study)
        row = _row(study, sum(seconds.values()), warnings)
        missing = [name for name in _wanted_dicom(study) if name not in copied]
        key = UNFINISHED + job.key if missing or with_pdf else job.key
        folder.write(REPORT, _report(study, warnings, seconds, row, key))
    if not missing and not with_pdf:
        return row
    with watch.stage("write"):
        made, failed = _make_dicom(study, missing)
        if with_pdf:
            row = _row(study, sum(seconds.values()), [*warnings, *failed])
            pdf, pdf_failed = _make_pdf(study, _report(study, [*warnings, *failed], seconds, row, job.key))
            made, failed = made | pdf, [*failed, *pdf_failed]
    row = _row(study, sum(seconds.values()), [*warnings, *failed])
    add_files(job.output, job.name, made | {REPORT: _report(study, [*warnings, *failed], seconds, row, job.key)})
    return row


def _wanted_dicom(study: ScoredStudy) -> list[str]:
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
    folder.write("lesions.json", json_bytes(_redacted_all(job, table)))
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
        return [f"no picture of PET '{study.case.pet.path}' was made: {_reason(error)}"]
    for name, content in pictures.items():
        folder.write(name, content)
    return []


def _caption(job: Job) -> str:
    """What stands above the picture; of an edit the beginning of its hash, as there is no place for all of it."""
    file = f", file sha256 {job.edit.sha256[:12]}..." if job.edit and job.edit.sha256 else ""
    marks = [PET_ALONE] * job.entry.pet_alone + [f"edited by hand{file}"] * bool(job.edit)
    return f"{job.name}  {RESEARCH}" + (f"\n{'; '.join(marks)}" if marks else "")


def _make_dicom(study: ScoredStudy, names: list[str]) -> tuple[dict[str, bytes], list[str]]:
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
            warnings.append(f"no {what} ({name}) of PET '{study.case.pet.path}' was made: {_reason(error)}")
    return made, warnings


def _make_pdf(study: ScoredStudy, report: bytes) -> tuple[dict[str, bytes], list[str]]:
    """report.pdf by its name, or a warning if it cannot be made, whatever a library raises."""
    try:
        return {PDF: make_pdf(study.job, report, study.headers)}, []
    except Exception as error:  # an extra, as DICOM files are
        return {}, [f"no {PDF} of PET '{study.case.pet.path}' was made: {_reason(error)}"]


def _reason(error: Exception) -> str:
    """What went wrong, in one line. Errors of other libraries are named and cut short."""
    message = " ".join(str(error).split())
    reason = message if isinstance(error, LesionError) else f"{type(error).__name__}: {message[:LONGEST_REASON]}"
    return f"{reason} (the mask and the tables are whole)"


def _mask_warnings(study: ScoredStudy) -> list[str]:
    """Warnings from making the mask: now, or when a stored mask was made. An older report does not list them apart:
    there they are the warnings that reading the study does not give.
    """
    if study.stored is None:
        return list(study.mask_warnings)
    if "mask_warnings" in study.stored.batch:
        return list(study.stored.batch["mask_warnings"])
    job = study.job
    from_reading = {*study.case.warnings}
    from_reading |= {
        redacted(warning, job.entry, job.root, name) for warning in from_reading for name in (job.name, job.stored)
    }
    return [warning for warning in study.stored.report["warnings"] if warning not in from_reading]


def _row(study: ScoredStudy, seconds: float, warnings: list[str]) -> dict[str, Any]:
    """What summary.csv and report.html show of a study."""
    job, measures, voxel_ml = study.job, study.measures, study.case.pet.grid.voxel_ml
    row: dict[str, Any] = {"study": job.name, **rounded(dataclasses.asdict(measures.totals))}
    row |= {"channels": PET_ALONE} if job.entry.pet_alone else {}
    row |= {"edited": job.edit_notice} if study.edited else {}
    if study.truth is not None:
        scores = score(measures.mask, study.truth, voxel_ml, job.options.convention)
        row |= {name: _number(value) for name, value in rounded(dataclasses.asdict(scores)).items()}
        row["mtv_true_ml"] = round(float(np.count_nonzero(study.truth)) * voxel_ml, 4)
    if study.organs is not None:
        row["organs"] = organ_rows(study.organs)
    row |= _more_of_row(study)
    picks = [_for_readers(job, pick) for pick in job.entry.picks]
    return row | {"seconds": round(seconds, 2), "warnings": [_for_readers(job, w) for w in warnings], "picks": picks}


def _more_of_row(study: ScoredStudy) -> dict[str, Any]:
    """What came later into rows, each only where there is something to say."""
    measures = study.measures
    numbers = rounded(dataclasses.asdict(measures.study))
    more = {name: numbers[name] for name in ROW_NUMBERS if numbers[name] is not None}
    if measures.ruled:
        report = rules_report(measures)
        more |= {name: report[name] for name in ("found_lesions", "found_mtv_ml", "dropped_lesions", "dropped_ml")}
        more |= {"rules": measures.rules.words, "dropped": dropped_rows(measures.dropped)}
    given = _redacted_all(study.job, _given(study.job))
    return more | ({"given": given} if given else {})


def _same_lesions(study: ScoredStudy) -> bool:
    """Whether the stored result has the same lesions: the same rules, and the same edit, made the same mask."""
    assert study.stored is not None
    batch = study.stored.batch
    if batch["row"].get("edited", "") != study.job.edit_notice:
        return False
    same_rules = rules_from(batch["options"].get("rules", {})) == study.measures.rules
    now = study.mask_sha256
    return same_rules and batch.get("mask_sha256", now) == now


def _report(study: ScoredStudy, warnings: list[str], seconds: dict[str, float], row: dict[str, Any], key: str) -> bytes:
    """report.json. With a stored mask, what the earlier report says of its making stays."""
    job, stored = study.job, study.stored
    measures = study.measures
    result = dataclasses.replace(study.result, mask=measures.mask)
    report = make_report(study.case, study.bundle, study.device, result, warnings, seconds)
    more: dict[str, Any] = {"numbers": numbers_report(measures)}
    network: dict[str, Any] = {}
    if measures.ruled:
        more |= {"lesions": measures.totals.lesions, "lesion_rules": rules_report(measures)}
        network = {"network_mask_sha256": study.network_mask_sha256}
    if stored and study.edited:
        more["edited"] = edit_report(job, stored, measures.mask, study.case.pet.grid)
        network = edit_record(job, stored, study.edited)
    if stored:
        report |= {name: stored.report[name] for name in KEPT_FROM_REPORT if name in stored.report}
    organs: dict[str, Any] = {}
    if study.organs is not None and study.result.organs is not None:
        report["organs"] = organs_report(study.organs, study.bundle)
        organs = {"organs_sha256": labels_hash(study.result.organs)}
    conversion = dataclasses.asdict(study.conversion) if study.conversion else None
    if conversion and conversion["factor"] is not None:
        conversion["slice_factors"] = []  # all of them are the factor
    report |= more | {
        "totals": rounded(dataclasses.asdict(measures.totals)),
        "picks": list(job.entry.picks),
        "suv_conversion": conversion,
        "given": _given(job),
        "batch": {
            "key": key,
            "mask_key": job.mask_key,
            "mask_sha256": study.mask_sha256,
            **network,
            **study.hashes,
            **organs,
            "options": job.options.plain,
            "mask_warnings": _mask_warnings(study),
            "row": row,
        },
    }
    return json_bytes(_redacted_all(job, report))


def _given(job: Job) -> dict[str, Any]:
    """The values from overrides.csv; of a date and time only the time of day, as a date would identify a patient."""
    given = job.entry.given
    if "injection_time" in given:
        given["injection_time"] = given["injection_time"].split("T")[-1]
    return given


def _redacted_all(job: Job, value: Any) -> Any:
    """The report without names of files and patients in any text, unless names are wanted."""
    if isinstance(value, str):
        return _for_readers(job, value)
    if isinstance(value, dict):
        return {key: _redacted_all(job, item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_redacted_all(job, item) for item in value]
    return value


def _for_readers(job: Job, message: str) -> str:
    return shown(message if job.options.named else redacted(message, job.entry, job.root, job.name, job.edit_path))


def _number(value: Any) -> Any:
    """The value, or None for NaN, which JSON does not have."""
    return None if isinstance(value, float) and np.isnan(value) else value
