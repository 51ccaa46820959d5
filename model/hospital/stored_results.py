"""Results that are there: which of them is a study's, what it was made with, and its mask for outputs that are added.

What decides a mask is its images, the weights, the method, the limits and what was given in place of a header; every
other option (names, formats, RTSTRUCT, a truth) decides what is written of it. So a result has two keys.
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
from model.results.writing import json_bytes
from model.schema import to_plain
from model.study.geometry import Grid
from model.study.masks import check_grid, read_mask

UNFINISHED = "unfinished "  # before the key of a result that lacks its SEG or RTSTRUCT still
KEPT = ("weights", "run", "seconds", "peak_memory_bytes", "peak_gpu_memory_bytes", "versions")  # of the mask's making
VOLUME_ML = 0.01  # how far a mask's volume may lie from its report's, by rounding
EXTRAS = ("seg.dcm", "rtstruct.dcm")  # functions of the mask alone: kept as they are


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A mask that is there, bool (z, y, x) on the PET's grid, in the file `path`; report: what its report.json says."""

    mask: NDArray[np.bool_]
    path: Path
    report: dict[str, Any]

    @property
    def said(self) -> dict[str, Any]:
        """What only a batch's report holds."""
        return dict(self.report["batch"])


def key_of(bundle: Bundle, limits: Limits, options: Options, entry: Entry) -> str:
    """A hash of all that a study's results depend on besides its files."""
    depends = [
        __version__,
        bundle.sha256,
        bundle.manifest.method,
        to_plain(limits),
        dataclasses.asdict(options),
        entry.kind,
        len(entry.pet),
        entry.truth is not None,
        entry.weight_kg,
    ]
    return _hash(depends + _further(entry, "height_m", "dose_MBq", "injection_time"))


def mask_key_of(bundle: Bundle, limits: Limits, entry: Entry) -> str:
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
    return _hash(depends + _further(entry, "dose_MBq", "injection_time"))


def mask_hash(mask: NDArray[Any]) -> str:
    """A hash of a mask's voxels and their arrangement."""
    return hashlib.sha256(repr(mask.shape).encode() + np.packbits(mask > 0).tobytes()).hexdigest()


def read_report(output: Path, name: str) -> dict[str, Any] | None:
    """A study's report, None where there is none that a batch wrote."""
    with suppress(OSError, ValueError, TypeError, AttributeError):
        report: dict[str, Any] = json.loads((output / STUDIES / name / REPORT).read_text(encoding="utf-8"))
        if isinstance(report.get("batch"), dict):
            return report
    return None


def usable_mask(job: Job, name: str, bundle: Bundle) -> bool:
    """Whether the folder `name` holds this study's mask, made of these images as it would be made now.

    With --disagreement its map must be there, too: that takes the networks.
    """
    report = read_report(job.output, name)
    try:
        if report is None:
            return False
        said = report["batch"]
        wanted = [f"mask{said['options']['mask_ending']}"]
        if job.options.disagreement:
            wanted.append(f"disagreement{said['options']['mask_ending']}")
            if said["options"]["mask_ending"] != job.options.mask_ending:
                return False  # a map is not written anew
        folder = job.output / STUDIES / name
        if not all((folder / file).is_file() for file in wanted):
            return False
        if "mask_key" in said:
            if said["mask_key"] != job.mask_key:
                return False
            return _same(job.entry, said["images_stat"], said["images_sha256"])
        return _usable_of_old(job.entry, said, bundle)
    except (OSError, KeyError, TypeError, ValueError):
        return False


def without_dicom(job: Job, reason: str) -> dict[str, Any] | None:
    """What a scoring process would answer of a study that is finished but for SEG and RTSTRUCT, of which it died.

    The warning goes into the study's report, too. None where there is no such result. Raises OutputError.
    """
    report = read_report(job.output, job.name) if is_begun(job) else None
    if report is None:
        return None
    warning = f"no SEG or RTSTRUCT was made: {reason} (the mask and the tables are whole)"
    said = report["batch"]
    row = said["row"] | {"warnings": [*said["row"]["warnings"], warning]}
    report |= {"warnings": [*report["warnings"], warning], "batch": said | {"key": job.key, "row": row}}
    add_files(job.output, job.name, {REPORT: json_bytes(report)})
    return {"state": DONE, "row": row, "input_sha256": said["input_sha256"], "stat": said["stat"]}


def is_begun(job: Job) -> bool:
    """Whether the study's folder holds the result of this very job, finished but for SEG and RTSTRUCT."""
    report = read_report(job.output, job.name)
    if report is None or report["batch"].get("key") != UNFINISHED + job.key:
        return False
    try:
        return _same(job.entry, report["batch"]["images_stat"], report["batch"]["images_sha256"])
    except (OSError, KeyError):
        return False


def read_stored(job: Job, grid: Grid, images_sha256: str) -> Stored | None:
    """The mask that `job.stored` names; None where it is not what its report says, or of other images: then it is made
    anew.
    """
    report = read_report(job.output, job.stored) if job.stored else None
    if report is None:
        return None
    try:
        path = job.output / STUDIES / job.stored / f"mask{report['batch']['options']['mask_ending']}"
        mask, found = read_mask(path, "mask")
        check_grid(found, f"mask '{path}'", grid, "its PET")
        said = report["batch"].get("mask_sha256")
        volume_ml = float(np.count_nonzero(mask)) * grid.voxel_ml
        same = mask_hash(mask) == said if said else abs(volume_ml - report["volume_ml"]) < VOLUME_ML
    except (CaseError, OSError, KeyError, TypeError, ValueError):
        return None
    same = same and report["batch"].get("images_sha256", images_sha256) == images_sha256  # of newer results
    return Stored(mask=mask, path=path, report=report) if same else None


def _usable_of_old(entry: Entry, said: Mapping[str, Any], bundle: Bundle) -> bool:
    """The same of a report that has one key for all: whether the key is of these weights with the options it names."""
    then = Options(**said["options"])
    for truth in (None, entry.truth) if entry.truth else (None,):
        one = dataclasses.replace(entry, truth=truth)
        if key_of(bundle, bundle.manifest.limits, then, one) == said["key"]:
            return bool(stat_of(one.files) == said["stat"] or contents_of(one.files) == said["input_sha256"])
    return False


def _same(entry: Entry, stat: str, contents: str) -> bool:
    return stat_of(entry.images) == stat or contents_of(entry.images) == contents


def _further(entry: Entry, *names: str) -> list[Any]:
    """What else was given, and nothing where nothing was: so that the keys of older results stay what they are."""
    further = {name: value for name, value in entry.given.items() if name in names}
    return [further] if further else []


def _hash(depends: list[Any]) -> str:
    return hashlib.sha256(json.dumps(depends).encode()).hexdigest()
