"""What is said of a scored study: its row of the summary, and report.json.

Without --names no text of them names a file or a patient.
"""

import dataclasses
from typing import Any

import numpy as np

from model import PET_ALONE
from model.errors import shown
from model.hospital.edited_files import edit_record, edit_report
from model.hospital.job import Job
from model.hospital.names import redacted
from model.hospital.scored_study import ScoredStudy
from model.results.lesion_numbers import ROW_NUMBERS
from model.results.lesion_table import (
    dropped_rows,
    numbers_report,
    rounded,
    rules_report,
)
from model.results.metrics import score
from model.results.organs import labels_hash, organ_rows, organs_report
from model.results.run_summary import make_report
from model.results.writing import json_bytes

KEPT_FROM_REPORT = ("weights", "run", "seconds", "peak_memory_bytes", "peak_gpu_memory_bytes", "versions")


def row_of(study: ScoredStudy, seconds: float, warnings: list[str]) -> dict[str, Any]:
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
    given = redacted_all(study.job, _given(study.job))
    return more | ({"given": given} if given else {})


def report_of(
    study: ScoredStudy, warnings: list[str], seconds: dict[str, float], row: dict[str, Any], key: str
) -> bytes:
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
            "mask_warnings": mask_warnings_of(study),
            "row": row,
        },
    }
    return json_bytes(redacted_all(job, report))


def _given(job: Job) -> dict[str, Any]:
    """The values from overrides.csv; of a date and time only the time of day, as a date would identify a patient."""
    given = job.entry.given
    if "injection_time" in given:
        given["injection_time"] = given["injection_time"].split("T")[-1]
    return given


def mask_warnings_of(study: ScoredStudy) -> list[str]:
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


def redacted_all(job: Job, value: Any) -> Any:
    """The report without names of files and patients in any text, unless names are wanted."""
    if isinstance(value, str):
        return _for_readers(job, value)
    if isinstance(value, dict):
        return {key: redacted_all(job, item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [redacted_all(job, item) for item in value]
    return value


def _for_readers(job: Job, message: str) -> str:
    return shown(message if job.options.named else redacted(message, job.entry, job.root, job.name, job.edit_path))


def _number(value: Any) -> Any:
    """The value, or None for NaN, which JSON does not have."""
    return None if isinstance(value, float) and np.isnan(value) else value
