"""Results of earlier runs: whether a result is still what this run would make, and whether its mask can be used again.

The mask that the networks make depends on its images, the weights, the method, the folds and mirroring, the precision,
the limits, and the weight, dose and time that overrides.csv gives. Every other option (names, formats, RTSTRUCT,
picture, SR, PDF, a truth, rules about lesions) only decides what is made of it. So a result has two keys. Where rules
made another mask, the networks' own is stored beside it.
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
from model.dicom.drawn import read_lesions
from model.errors import CaseError
from model.hospital.find.entry import Entry
from model.hospital.folder import REPORT, STUDIES, add_files
from model.hospital.job import Job, Options, network_mask_file, options_from
from model.hospital.journal import DONE, contents_of, stat_of
from model.results.organs import labels_hash
from model.results.writing import json_bytes
from model.schema import to_plain
from model.study.geometry import Grid
from model.study.masks import check_grid, read_labels, read_mask

PICTURE, SR = "picture.dcm", "sr.dcm"
UNFINISHED = "unfinished "  # before the key of a result that lacks DICOM files or the PDF
VOLUME_TOLERANCE_ML = 0.01  # a mask's volume may differ by this from its report's, which is rounded
DICOM_FILES = ("seg.dcm", "rtstruct.dcm", "seg-organs.dcm", PICTURE, SR)  # SR last, as it refers to the SEG


@dataclass(frozen=True, kw_only=True)
class StoredMask:
    """The networks' own mask of an earlier run, bool (z, y, x) on the PET's grid, from the file `path`; report: its
    report.json.

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
    given = _given_values(entry, "height_m", "dose_MBq", "injection_time")
    return _hash(depends + given + _compared_with(entry) + _way(bundle, precision))


def edited_key_of(job: Job) -> str:
    """A hash of all that an edited study's results depend on besides its files: the edit stands for the networks."""
    assert job.edit is not None
    entry = job.entry
    depends = [
        __version__,
        ["edited", job.edit.sha256],
        job.options.plain,
        entry.kind,
        len(entry.pet),
        entry.truth is not None,
        entry.weight_kg,
    ]
    return _hash(depends + _given_values(entry, "height_m", "dose_MBq", "injection_time") + _compared_with(entry))


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
        wanted = [_network_mask(batch)]
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
            return same_images(job.entry, batch["images_stat"], batch["images_sha256"])
        in_float32 = job.mask_key == mask_key_of(bundle, bundle.manifest.limits, job.entry)  # as all older keys say
        return in_float32 and _usable_with_one_key(job.entry, batch, bundle)
    except (OSError, KeyError, TypeError, ValueError):
        return False


def finish_without_dicom(job: Job, reason: str) -> dict[str, Any] | None:
    """Finish a study whose scoring process ended while it made DICOM files or the PDF: add a warning to its report.

    Returns what the process would have answered; None if the study has no mask yet. Raises OutputError.
    """
    report = read_report(job.output, job.name) if lacks_only_dicom(job) else None
    if report is None:
        return None
    warning = f"no SEG, RTSTRUCT, picture, SR or PDF was made: {reason} (the mask and the tables are whole)"
    batch = report["batch"]
    row = batch["row"] | {"warnings": [*batch["row"]["warnings"], warning]}
    report |= {"warnings": [*report["warnings"], warning], "batch": batch | {"key": job.key, "row": row}}
    add_files(job.output, job.name, {REPORT: json_bytes(report)})
    return {"state": DONE, "row": row, "input_sha256": batch["input_sha256"], "stat": batch["stat"]}


def lacks_only_dicom(job: Job) -> bool:
    """Whether the study's folder holds the result of this very job, complete except for DICOM files and the PDF."""
    report = read_report(job.output, job.name)
    if report is None or report["batch"].get("key") != UNFINISHED + job.key:
        return False
    try:
        return same_images(job.entry, report["batch"]["images_stat"], report["batch"]["images_sha256"])
    except (OSError, KeyError):
        return False


def stored_files(job: Job) -> set[str]:
    """The names of the files in the folder `job.stored`; none without it."""
    folder = job.output / STUDIES / job.stored
    return {path.name for path in folder.iterdir()} if job.stored and folder.is_dir() else set()


def read_stored(job: Job, grid: Grid, images_sha256: str) -> StoredMask | None:
    """The mask and the organ map in the folder `job.stored`; None if the mask, or an organ map that is asked for, is
    not what its report says, or is of other images. Then it is made anew.
    """
    report = read_report(job.output, job.stored) if job.stored else None
    if report is None:
        return None
    try:
        batch = report["batch"]
        path = job.output / STUDIES / job.stored / _network_mask(batch)
        mask, found = read_mask(path, "mask")
        check_grid(found, f"mask '{path}'", grid, "its PET")
        stated = batch.get("network_mask_sha256") or batch.get("mask_sha256")
        volume_ml = float(np.count_nonzero(mask)) * grid.voxel_ml
        same = mask_hash(mask) == stated if stated else abs(volume_ml - report["volume_ml"]) < VOLUME_TOLERANCE_ML
        if not same and job.edit_path == path:  # edited in its place: the networks' own is in the SEG
            path = path.with_name(DICOM_FILES[0])
            mask = read_lesions(path, "SEG", grid, job.entry.pet[0], job.entry.kind == "dicom").mask
            same = mask_hash(mask) == stated
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


def _network_mask(batch: Mapping[str, Any]) -> str:
    """The name of the file with the networks' own mask, by what a report says."""
    ending = batch["options"]["mask_ending"]
    return network_mask_file(ending) if "network_mask_sha256" in batch else f"mask{ending}"


def _usable_with_one_key(entry: Entry, batch: Mapping[str, Any], bundle: Bundle) -> bool:
    """`usable_mask` for an older report, which has one key for everything: its key must be that of these weights and
    limits with the options that it names.
    """
    options = options_from(batch["options"])
    for truth in (None, entry.truth) if entry.truth else (None,):
        as_then = dataclasses.replace(entry, truth=truth)
        if key_of(bundle, bundle.manifest.limits, options, as_then) == batch["key"]:
            return bool(stat_of(as_then.files) == batch["stat"] or contents_of(as_then.files) == batch["input_sha256"])
    return False


def same_images(entry: Entry, stat: str, contents: str) -> bool:
    """Whether a study's images are those of these hashes. Raises OSError."""
    return stat_of(entry.images) == stat or contents_of(entry.images) == contents


def _given_values(entry: Entry, *names: str) -> list[Any]:
    """The given values of these names as one item; no item if none is given: so older results keep their keys."""
    given = {name: value for name, value in entry.given.items() if name in names}
    return [given] if given else []


def _compared_with(entry: Entry) -> list[Any]:
    """What the numbers of lesions depend on beside SUV, as one item; no item if none of it is given.

    A height stands in it though it has an item of its own: results of before there was SUL are made anew.
    """
    values = {"height_m": entry.height_m, "sex": entry.sex}
    values |= {"liver": entry.liver_sphere, "blood": entry.blood_sphere}
    values |= {"liver_mask": entry.liver_mask is not None, "blood_mask": entry.blood_mask is not None}
    given: dict[str, Any] = {name: value for name, value in values.items() if value}
    return [["compared with", given]] if given else []


def _way(bundle: Bundle, precision: str) -> list[Any]:
    """Folds, mirroring and precision, each as one item, and only where it is not the bundle's own or float32: so older
    results keep their keys.
    """
    own = [["precision", precision]] if precision != "float32" else []
    return ([["changes", *bundle.changes]] if bundle.changes else []) + own


def _hash(depends: list[Any]) -> str:
    return hashlib.sha256(json.dumps(depends).encode()).hexdigest()
