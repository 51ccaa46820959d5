"""One study of a batch: from its files to its folder of results."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset

from model import RESEARCH
from model.config import Limits
from model.device import Device
from model.dicom import read_study
from model.dicom_files import Series, find_series
from model.dicom_rtstruct import dicom_rtstruct
from model.dicom_seg import dicom_seg
from model.dicom_series import order_slices
from model.dicom_suv import Conversion
from model.errors import CaseError, shown
from model.geometry import las_view
from model.job import Job
from model.journal import contents_of, stat_of
from model.lesion_table import lesions_csv, lesions_json, rounded
from model.lesions import score
from model.manifest import Bundle
from model.masks import check_grid, read_mask
from model.measures import Totals, measure
from model.naming import cleared
from model.preview import preview, thumbnail
from model.reading import Case, read_case
from model.report import make_report
from model.results import REPORT, Folder
from model.segment import Ready, Result, make_ready, segment_ready
from model.stopwatch import Stopwatch
from model.weights import Voter
from model.writing import json_bytes

Stage = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A study ready for the networks. headers: of the PET's slices in the order of its volume, none where it is an
    image; seconds: of each stage so far.
    """

    ready: Ready
    conversion: Conversion | None
    headers: tuple[FileDataset, ...]
    truth: NDArray[np.bool_] | None
    input_sha256: str
    stat: str
    seconds: dict[str, float]


def load(job: Job, bundle: Bundle) -> Loaded:
    """Read and check a study, and do with it all that needs no network. Raises CaseError, also if a file was written to
    while it was read.
    """
    watch = Stopwatch()
    with watch.stage("read"):
        found = _read(job, bundle.manifest.limits)
    ready = make_ready(found.pop("case"), bundle, watch)
    return Loaded(ready=ready, seconds=watch.seconds, **found)


def _read(job: Job, limits: Limits) -> dict[str, Any]:
    """What a study's files hold. Raises CaseError."""
    entry = job.entry
    try:
        stat, contents = stat_of(entry.files), contents_of(entry.files)
    except OSError as error:
        raise CaseError(
            f"'{error.filename}' cannot be read: {error.strerror}; is the share still there, and may this user read it?"
        ) from None
    conversion: Conversion | None = None
    headers: tuple[FileDataset, ...] = ()
    if entry.kind == "dicom":
        pet, ct = _series(entry.pet), _series(entry.ct)
        study = read_study(pet, ct, limits, weight_kg=entry.weight_kg, name=job.name)
        case, conversion = study.case, study.conversion
        headers = tuple(order_slices(pet, "PT")[0])
    else:
        case = dataclasses.replace(read_case([entry.pet[0], entry.ct[0]], limits), name=job.name)
    truth = None
    if entry.truth:
        truth, grid = read_mask(entry.truth, "truth")
        check_grid(grid, f"truth '{entry.truth}'", case.pet.grid, f"PET '{case.pet.path}'")
    if stat_of(entry.files) != stat:
        raise CaseError(f"a file of '{entry.source}' was changed while it was read; run again when it is complete")
    return {"case": case, "conversion": conversion, "headers": headers, "truth": truth, "input_sha256": contents,
            "stat": stat}  # fmt: skip


def score_study(
    job: Job, loaded: Loaded, bundle: Bundle, device: Device, networks: list[Voter], at: Stage = lambda stage: None
) -> dict[str, Any]:
    """Segment, measure and write one study; returns its row of the summary. `at` hears of each stage as it begins.

    Raises the errors of model/errors.py, then leaves nothing.
    """
    case, options = loaded.ready.case, job.options
    watch = Stopwatch(seconds=loaded.seconds)
    at("segment")
    result = segment_ready(
        loaded.ready, bundle, device, watch, those=networks, with_disagreement=options.disagreement
    )  # fmt: skip
    at("measure")
    with watch.stage("measure"):
        lesions, totals, numbers = measure(case.pet.array, result.mask, case.pet.grid)
    at("write")
    with Folder(job.output, job.name) as folder:
        with watch.stage("write"):
            folder.write_image(job.mask, result.mask.astype(np.uint8), case.pet.grid)
            if result.disagreement is not None:
                folder.write_image(f"disagreement{options.mask_ending}", result.disagreement, case.pet.grid)
            folder.write("lesions.csv", lesions_csv(lesions).encode())
            folder.write("lesions.json", json_bytes(lesions_json(lesions, totals)))
            _write_pictures(folder, case, result, numbers, job.name)
            _write_dicom(folder, job, loaded, bundle, numbers)
        warnings = [*case.warnings, *result.warnings, *([device.warning] if device.warning else [])]
        row = _row(job, loaded, result, totals, sum(watch.seconds.values()), [_shown(job, w) for w in warnings])
        report = make_report(case, bundle, device, result, warnings, watch.seconds)
        folder.write(REPORT, json_bytes(_told(job, report | _more(job, loaded, totals, row))))
        folder.commit()
    return row


def _series(files: tuple[Path, ...]) -> Series:
    found = find_series(files)
    if len(found) != 1:
        raise CaseError(f"'{files[0]}' and the files beside it were changed since they were found; run again")
    return found[0]


def _write_pictures(folder: Folder, case: Case, result: Result, numbers: NDArray[np.int32], name: str) -> None:
    view = las_view(case.pet.grid)
    suv, mask = view.to_las(case.pet.array), view.to_las(result.mask)
    caption = f"{name}  {RESEARCH}"
    folder.write("preview.png", preview(suv, mask, view.grid.spacing_mm, caption, view.to_las(numbers)))
    folder.write("thumbnail.png", thumbnail(suv, mask, view.grid.spacing_mm))


def _write_dicom(folder: Folder, job: Job, loaded: Loaded, bundle: Bundle, numbers: NDArray[np.int32]) -> None:
    """SEG, and RTSTRUCT if asked for: where the study came as DICOM."""
    if not loaded.headers:
        return
    run = f"{job.key} {loaded.input_sha256}"
    weights = f"{bundle.manifest.name} ({bundle.manifest.method})"
    folder.write("seg.dcm", dicom_seg(numbers, loaded.headers, weights, run))
    if job.options.rtstruct:
        grid = loaded.ready.case.pet.grid
        folder.write("rtstruct.dcm", dicom_rtstruct(numbers, loaded.headers, grid, run))


def _row(
    job: Job, loaded: Loaded, result: Result, totals: Totals, seconds: float, warnings: list[str]
) -> dict[str, Any]:
    """What summary.csv and report.html show of a study."""
    row: dict[str, Any] = {"study": job.name, **rounded(dataclasses.asdict(totals))}
    if loaded.truth is not None:
        scores = score(result.mask, loaded.truth, loaded.ready.case.pet.grid.voxel_ml, job.options.convention)
        row |= {name: _number(value) for name, value in rounded(dataclasses.asdict(scores)).items()}
        row["mtv_true_ml"] = round(float(np.count_nonzero(loaded.truth)) * loaded.ready.case.pet.grid.voxel_ml, 4)
    picks = [_shown(job, pick) for pick in job.entry.picks]
    return row | {"seconds": round(seconds, 2), "warnings": warnings, "picks": picks}


def _more(job: Job, loaded: Loaded, totals: Totals, row: dict[str, Any]) -> dict[str, Any]:
    """What report.json holds beyond a single run's."""
    conversion = dataclasses.asdict(loaded.conversion) if loaded.conversion else None
    if conversion and conversion["factor"] is not None:
        conversion["slice_factors"] = []  # all of them are the factor
    return {
        "totals": rounded(dataclasses.asdict(totals)), "picks": list(job.entry.picks), "suv_conversion": conversion,
        "batch": {
            "key": job.key, "input_sha256": loaded.input_sha256, "stat": loaded.stat,
            "options": dataclasses.asdict(job.options), "row": row,
        },
    }  # fmt: skip


def _told(job: Job, value: Any) -> Any:
    """A report in which no text names a file or a patient, unless names are wanted."""
    if isinstance(value, str):
        return _shown(job, value)
    if isinstance(value, dict):
        return {key: _told(job, item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_told(job, item) for item in value]
    return value


def _shown(job: Job, message: str) -> str:
    return shown(message if job.options.named else cleared(message, job.entry, job.root, job.name))


def _number(value: Any) -> Any:
    """JSON has no NaN: None stands for it."""
    return None if isinstance(value, float) and np.isnan(value) else value
