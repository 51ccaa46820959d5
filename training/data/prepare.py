"""Prepare each study as the container does before its network, once: read, resample, turn to LAS, crop, keep on disk.

    python -m training prepare index.csv --cache runs/cache

A case is prepared again when the index gives its files another sha256, or when the crop or the format of the cache
(training/data/prepared.py) changed. Files that changed since training index read them are refused.
"""

import argparse
import shutil
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from model.bundle.settings import Crop, Limits, override_limits
from model.errors import CaseError, ConfigError, LesionError, shown
from model.inference.preprocess import place
from model.results.metrics import components
from model.results.writing import check_output
from model.stopwatch import Stopwatch
from model.study.reading import read_case, read_volume
from training.data.check import check_grid
from training.data.prepared import (
    MOST_POINTS,
    UPTAKE_SUV,
    facts_of,
    is_current,
    key_of,
    remove_unfinished,
    store,
    warnings_of,
)
from training.data.table import Study, read_table, study_sha256
from training.parallel import cores, map_parallel

BYTES_PER_VOXEL = 5  # int16 HU, float16 SUV, bool truth
MOST_POINTS_OF_A_PART = 500
LEAST_UPTAKE_ML = 0.3  # smaller parts of hot voxels are noise
LIMITS = Limits()


def prepare_all(
    studies: Iterable[Study], cache: Path, crop: Crop, workers: int, limits: Limits = LIMITS
) -> dict[str, str]:
    """Prepare every study that is not current in the cache. Returns {case: reason} of the failures.

    Raises ConfigError if the disk cannot hold what is missing.
    """
    check_output(cache)
    remove_unfinished(cache)
    missing = [study for study in studies if not is_current(study, cache, crop)]
    check_disk(missing, cache)
    reasons = map_parallel(partial(_why_not_prepared, cache=cache, crop=crop, limits=limits), missing, workers)
    return {study.case: reason for study, reason in zip(missing, reasons, strict=True) if reason}


def prepare_one(study: Study, cache: Path, crop: Crop, limits: Limits = LIMITS) -> None:
    """Prepare one study into the cache.

    Raises CaseError for everything that the container would refuse, and for files that changed since the index.
    """
    case = read_case([study.pet, study.ct], limits)
    truth = read_volume(study.truth, "truth")
    check_grid(truth, case.pet)
    check_files(study)
    placed = place(case, crop.suv_above, Stopwatch())
    if placed.box is None:
        raise CaseError(f"PET '{study.pet}' has no voxel above {crop.suv_above:g}: nothing to train on")
    whole = placed.view.to_las(truth.array) != 0
    mask = np.ascontiguousarray(whole[placed.box].transpose(2, 1, 0))
    suv = np.ascontiguousarray(placed.suv.transpose(2, 1, 0)).astype(np.float16)
    hu = np.ascontiguousarray(np.clip(np.rint(placed.ct_hu), -32768, 32767).astype(np.int16).transpose(2, 1, 0))
    facts = key_of(study, crop) | {
        "spacing_mm": placed.view.grid.spacing_mm,
        "shape": mask.shape,
        "warnings": case.warnings,
        "ct_share": placed.ct_share,
        **_outside(whole, placed.box, placed.view.grid.voxel_ml),
    }
    target = cache / study.case
    if target.exists() and facts_of(target) is None and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"'{target}' is there and is no prepared study: name another folder with --cache")
    points = points_of(mask, suv, placed.view.grid.voxel_ml)
    store(target, {"hu": hu, "suv": suv, "truth": mask}, points, facts)


def points_of(truth: np.ndarray, suv: np.ndarray, voxel_ml: float) -> dict[str, np.ndarray]:
    """Where crops may be drawn: what points.npz holds of a prepared study's truth and SUV, float16 (X, Y, Z)."""
    hot, least = (suv > UPTAKE_SUV) & ~truth, LEAST_UPTAKE_ML / voxel_ml
    return {
        "lesion": _points(truth),
        "uptake": _points(hot),
        "lesion_parts": _parts(truth, 1),
        "uptake_parts": _parts(hot, least),
    }


def check_files(study: Study) -> None:
    """Raise CaseError if the study's files changed since the index was made."""
    found = study_sha256(study.pet, study.ct, study.truth)
    if found != study.sha256:
        raise CaseError(
            f"PET '{study.pet}', CT '{study.ct}' or truth '{study.truth}' changed since the index was made: their "
            f"sha256 is {found}, the index says {study.sha256}; run training index again"
        )


def check_disk(studies: list[Study], cache: Path) -> None:
    """Print how much disk the studies need at most. Raises ConfigError if less is free."""
    import SimpleITK as sitk

    need = 0
    for study in studies:
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(study.pet))
        try:
            reader.ReadImageInformation()
        except RuntimeError:
            continue  # preparing it will give the reason
        need += BYTES_PER_VOXEL * int(np.prod(reader.GetSize()))
    free = shutil.disk_usage(cache).free
    if studies:
        print(f"{len(studies)} studies to prepare into '{cache}': at most {need / 1e9:.2f} GB, {free / 1e9:.1f} free")
    if need > free:
        raise ConfigError(
            f"the cache '{cache}' needs up to {need / 1e9:.1f} GB and its disk has {free / 1e9:.1f} GB free: "
            "name another with --cache"
        )


def run(options: argparse.Namespace) -> None:
    """Prepare what is missing. Raises ConfigError, or CaseError with the first reason if a study cannot be prepared."""
    studies, limits = read_table(options.index), override_limits(LIMITS, options.limit)
    crop = Crop(suv_above=options.crop_suv_above)
    failures = prepare_all(studies.values(), options.cache, crop, options.workers, limits)
    for case, reason in failures.items():
        print(shown(f"not prepared: {case}: {reason}"), file=sys.stderr)
    for case in studies.keys() - failures.keys():
        for warning in warnings_of(options.cache, case, limits):
            print(shown(f"warning: {case}: {warning}"), file=sys.stderr)
    print(f"{len(studies) - len(failures)} of {len(studies)} studies are in '{options.cache}'")
    if failures:
        case, reason = next(iter(failures.items()))
        more = f", and {len(failures) - 1} more, see above" if len(failures) > 1 else ""
        raise CaseError(
            f"not prepared: {case}: {reason}{more}; mend them or take them out of '{options.index}', then run this "
            "again"
        )


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Cost: about 10 s and 1.5 GB a process for a study of 400 x 400 x 326 voxels, and up to 5 bytes a voxel "
        "on disk; the sum is printed before it starts."
    )
    parser.add_argument("index", type=Path, help="index.csv of training index")
    parser.add_argument("--cache", type=Path, required=True, help="folder to keep the prepared studies in")
    parser.add_argument(
        "--crop-suv-above",
        type=float,
        default=0.0,
        help="crop to the bounding box of PET above this SUV (default 0, as the paper; 0.2 cuts most of the air)",
    )
    parser.add_argument(
        "--limit",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="move a limit on the input, as it was for training index; may be repeated (default: the container's)",
    )
    parser.add_argument("--workers", type=int, default=cores(), help="processes (default: all cores)")


def _why_not_prepared(study: Study, cache: Path, crop: Crop, limits: Limits) -> str | None:
    """Prepare a study. Returns None, or the reason why it cannot be prepared."""
    try:
        prepare_one(study, cache, crop, limits)
    except LesionError as error:
        return str(error)
    except OSError as error:
        return f"cannot write into '{cache}': {error.strerror or error}; check free space and write permission"
    return None


def _outside(whole: np.ndarray, box: tuple[slice, ...], voxel_ml: float) -> dict[str, Any]:
    """Truth (z, y, x) outside the crop: lost_ml of it, of which missed_ml in lost_lesions components wholly outside."""
    lost = int(np.count_nonzero(whole)) - int(np.count_nonzero(whole[box]))
    missed: list[int] = []
    if lost:
        labels, count = components(whole)
        sizes = np.bincount(labels.ravel(), minlength=count + 1)
        missed = [int(sizes[number]) for number in set(range(1, count + 1)) - set(np.unique(labels[box]).tolist())]
    return {"lost_ml": lost * voxel_ml, "lost_lesions": len(missed), "missed_ml": sum(missed) * voxel_ml}


def _points(mask: np.ndarray) -> np.ndarray:
    """Voxels (n, 3) of a mask, evenly thinned to at most MOST_POINTS."""
    found = np.argwhere(mask).astype(np.int16)
    return found[:: max(1, -(-len(found) // MOST_POINTS))]


def _parts(mask: np.ndarray, least_voxels: float) -> np.ndarray:
    """Voxels (n, 4) of the components of a mask that are not smaller: their number, then x, y, z, evenly thinned."""
    labels, _ = components(mask)
    kept = [np.zeros((0, 4), np.int16)]
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        voxels = np.argwhere(labels[box] == number)
        if len(voxels) >= least_voxels:
            voxels = voxels[:: -(-len(voxels) // MOST_POINTS_OF_A_PART)] + [part.start for part in box]
            kept.append(np.insert(voxels, 0, len(kept), axis=1).astype(np.int16))
    return np.concatenate(kept)
