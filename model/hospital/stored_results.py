"""Results of earlier runs: whether a result is still what this run would make, and whether its mask can be used again.

A mask depends on its images, the weights, the method, the folds and mirroring, the precision, the limits and what
overrides.csv gives. Every other option (names, formats, RTSTRUCT, a truth) only decides what is written beside it. So a
result has two keys.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model import __version__
from model.bundle.manifest import Bundle
from model.bundle.settings import Limits
from model.errors import CaseError
from model.hospital.find.entry import Entry
from model.hospital.folder import REPORT, STUDIES, add_files
from model.hospital.job import Job, Options
from model.hospital.journal import DONE, contents_of, stat_of
from model.results.organs import labels_hash
from model.results.writing import json_bytes
from model.schema import to_plain
from model.study.geometry import Grid
from model.study.masks import check_grid, read_labels, read_mask

UNFINISHED = "unfinished "  # before the key of a result whose SEG or RTSTRUCT is not written yet
VOLUME_TOLERANCE_ML = 0.01  # a mask's volume may differ by this from its report's, which is rounded
DICOM_FILES = ("seg.dcm", "rtstruct.dcm", "seg-organs.dcm", "picture.dcm")


@dataclass(frozen=True, kw_only=True)
class StoredMask:
    """A mask of an earlier run, bool (z, y, x) on the PET's grid, from the file `path`; report: its report.json.

    organs: the organ map of that run, uint8 likewise, if there is one.
    """

    mask: NDArray[np.bool_]
    path: Path
    report: dict[str, Any]
    organs: NDArray[np.uint8] | None = None

    @property
    def batch(self) -> dict[str, Any]:
        """The part of the report that only score.py writes."""
        return dict(self.report["batch"])


def key_of(bundle: Bundle, limits: Limits, options: Options, entry: Entry, precision: str = "float32") -> str:
    """A hash of all that a study's results depend on besides its files. precision: of the convolutions, resolved."""
    depends = [
        __version__,
        bundle.sha256,
        bundle.manifest.method,
        to_plain(limits),
        options.plain,
        entry.kind,
        len(entry.pet),
        entry.truth is not None,
        entry.weight_kg,
    ]
    return _hash(depends + _given_values(entry, "height_m", "dose_MBq", "injection_time") + _way(bundle, precision))


def mask_key_of(bundle: Bundle, limits: Limits, entry: Entry, precision: str = "float32") -> str:
    """A hash of all that a study's mask depends on besides its images."""
    depends = [
        __version__,
        bundle.sha256,
        bundle.manifest.method,
        to_plain(limits),
        entry.kind,
        len(entry.pet),
        entry.weight_kg,
    ]
    return _hash(depends + _given_values(entry, "dose_MBq", "injection_time") + _way(bundle, precision))


def with_keys(job: Job, bundle: Bundle, precision: str) -> Job:
    """The job with the keys of a mask that is computed in this precision."""
    limits, entry = bundle.manifest.limits, job.entry
    return dataclasses.replace(
        job,
        key=key_of(bundle, limits, job.options, entry, precision),
        mask_key=mask_key_of(bundle, limits, entry, precision),
    )


def precision_in(report: Mapping[str, Any] | None) -> str:
    """The precision in which a mask was computed, from its report; "" where it is not known.

    Reports of older versions, whose keys do not hold it, name float32 where memory ran out on a GPU or nothing was run:
    they began in float16, as every run on a GPU did.
    """
    run = report.get("run") if report else None
    if report is None or not isinstance(run, dict):
        return ""
    if "passes_a_window" not in run and report.get("peak_gpu_memory_bytes") is not None:
        return "float16"
    return str(run.get("precision", ""))


def mask_hash(mask: NDArray[Any]) -> str:
    """A hash of a mask's voxels and their arrangement."""
    return hashlib.sha256(repr(mask.shape).encode() + np.packbits(mask > 0).tobytes()).hexdigest()


def read_report(output: Path, name: str) -> dict[str, Any] | None:
    """A study's report; None if there is none that score.py wrote."""
    with suppress(OSError, ValueError, TypeError, AttributeError):
        report: dict[str, Any] = json.loads((output / STUDIES / name / REPORT).read_text(encoding="utf-8"))
        if isinstance(report.get("batch"), dict):
            return report
    return None


def usable_mask(job: Job, name: str, bundle: Bundle) -> bool:
    """Whether the results' folder `name` holds this study's mask, and a run now would make the same.

    With --disagreement its map must be there too, as only the networks can make it; with --organs the organ map.
    """
    report = read_report(job.output, name)
    try:
        if report is None:
            return False
        batch = report["batch"]
        ending = batch["options"]["mask_ending"]
        wanted = [f"mask{ending}"]
        if job.options.disagreement:
            wanted.append(f"disagreement{ending}")
            if ending != job.options.mask_ending:
                return False  # a map is not converted into another format
        if job.options.organs:
            if "organs_sha256" not in batch:
                return False
            wanted.append(f"organs{ending}")
        folder = job.output / STUDIES / name
        if not all((folder / file).is_file() for file in wanted):
            return False
        if "mask_key" in batch:
            if batch["mask_key"] != job.mask_key:
                return False
            return _same_images(job.entry, batch["images_stat"], batch["images_sha256"])
        in_float32 = job.mask_key == mask_key_of(bundle, bundle.manifest.limits, job.entry)  # as all older keys say
        return in_float32 and _usable_with_one_key(job.entry, batch, bundle)
    except (OSError, KeyError, TypeError, ValueError):
        return False


def finish_without_dicom(job: Job, reason: str) -> dict[str, Any] | None:
    """Finish a study whose scoring process ended while it made SEG or RTSTRUCT: add a warning to the study's report.

    Returns what the process would have answered; None if the study has no mask yet. Raises OutputError.
    """
    report = read_report(job.output, job.name) if lacks_only_dicom(job) else None
    if report is None:
        return None
    warning = f"no SEG or RTSTRUCT was made: {reason} (the mask and the tables are whole)"
    batch = report["batch"]
    row = batch["row"] | {"warnings": [*batch["row"]["warnings"], warning]}
    report |= {"warnings": [*report["warnings"], warning], "batch": batch | {"key": job.key, "row": row}}
    add_files(job.output, job.name, {REPORT: json_bytes(report)})
    return {"state": DONE, "row": row, "input_sha256": batch["input_sha256"], "stat": batch["stat"]}


def lacks_only_dicom(job: Job) -> bool:
    """Whether the study's folder holds the result of this very job, complete except for SEG and RTSTRUCT."""
    report = read_report(job.output, job.name)
    if report is None or report["batch"].get("key") != UNFINISHED + job.key:
        return False
    try:
        return _same_images(job.entry, report["batch"]["images_stat"], report["batch"]["images_sha256"])
    except (OSError, KeyError):
        return False


def read_stored(job: Job, grid: Grid, images_sha256: str) -> StoredMask | None:
    """The mask and the organ map in the folder `job.stored`; None if the mask, or an organ map that is asked for, is
    not what its report says, or is of other images. Then it is made anew.
    """
    report = read_report(job.output, job.stored) if job.stored else None
    if report is None:
        return None
    try:
        path = job.output / STUDIES / job.stored / f"mask{report['batch']['options']['mask_ending']}"
        mask, found = read_mask(path, "mask")
        check_grid(found, f"mask '{path}'", grid, "its PET")
        stated = report["batch"].get("mask_sha256")
        volume_ml = float(np.count_nonzero(mask)) * grid.voxel_ml
        same = mask_hash(mask) == stated if stated else abs(volume_ml - report["volume_ml"]) < VOLUME_TOLERANCE_ML
    except (CaseError, OSError, KeyError, TypeError, ValueError):
        return None
    same = same and report["batch"].get("images_sha256", images_sha256) == images_sha256  # older reports lack it
    organs = _read_organs(path.parent, report["batch"], grid) if same else None
    if not same or (job.options.organs and organs is None):
        return None
    return StoredMask(mask=mask, path=path, report=report, organs=organs)


def _read_organs(folder: Path, batch: Mapping[str, Any], grid: Grid) -> NDArray[np.uint8] | None:
    """The organ map in a study's folder; None if there is none, or it is not what the report says."""
    if "organs_sha256" not in batch:
        return None
    try:
        path = folder / f"organs{batch['options']['mask_ending']}"
        labels, found = read_labels(path, "organs")
        check_grid(found, f"organs '{path}'", grid, "its PET")
    except CaseError:
        return None
    return labels if labels_hash(labels) == batch["organs_sha256"] else None


def _usable_with_one_key(entry: Entry, batch: Mapping[str, Any], bundle: Bundle) -> bool:
    """`usable_mask` for an older report, which has one key for everything: its key must be that of these weights and
    limits with the options that it names.
    """
    options = Options(**batch["options"])
    for truth in (None, entry.truth) if entry.truth else (None,):
        as_then = dataclasses.replace(entry, truth=truth)
        if key_of(bundle, bundle.manifest.limits, options, as_then) == batch["key"]:
            return bool(stat_of(as_then.files) == batch["stat"] or contents_of(as_then.files) == batch["input_sha256"])
    return False


def _same_images(entry: Entry, stat: str, contents: str) -> bool:
    return stat_of(entry.images) == stat or contents_of(entry.images) == contents


def _given_values(entry: Entry, *names: str) -> list[Any]:
    """The given values of these names as one item; no item if none is given: so older results keep their keys."""
    given = {name: value for name, value in entry.given.items() if name in names}
    return [given] if given else []


def _way(bundle: Bundle, precision: str) -> list[Any]:
    """Folds, mirroring and precision, each as one item, and only where it is not the bundle's own or float32: so older
    results keep their keys.
    """
    own = [["precision", precision]] if precision != "float32" else []
    return ([["changes", *bundle.changes]] if bundle.changes else []) + own


def _hash(depends: list[Any]) -> str:
    return hashlib.sha256(json.dumps(depends).encode()).hexdigest()
