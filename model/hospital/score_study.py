"""Score one study: from its files, or from the mask of an earlier run, to its folder of results."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset

from model.bundle.manifest import Bundle
from model.bundle.organs import organ_names
from model.bundle.settings import Limits
from model.dicom.drawn import read_lesions
from model.dicom.suv import Conversion
from model.errors import CaseError
from model.files import sha256_of
from model.hospital.body_and_references import GIVEN, body_size_of, references_of, unused_size
from model.hospital.edit_state import edited_lesions
from model.hospital.entry_reading import read_entry
from model.hospital.given import unused_warnings
from model.hospital.job import Job
from model.hospital.journal import hash_of_hashes, stat_of
from model.hospital.stored_results import SR, StoredMask, read_stored, stored_files
from model.hospital.study_results import ScoredStudy, write_study
from model.inference.device import Device
from model.inference.options import SegmentOptions
from model.inference.pace import TimeEstimate
from model.inference.segment import Ready, Result, make_ready, segment_ready
from model.networks.weights import Voter
from model.results.organs import measure_organs
from model.results.study_measures import Asked, measure_study
from model.stopwatch import Stopwatch
from model.study.masks import DrawnMask
from model.study.reading import Case


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A study ready for the networks (`ready`), or with the mask of an earlier run (`stored`). edited: the mask that
    takes its place. headers: of the PET's slices, in the order of its volume; empty for an image. asked: what to
    measure. seconds: of each stage so far. ct_headers: of the CT's slices, where something will refer to them.
    """

    case: Case
    ready: Ready | None
    stored: StoredMask | None
    edited: DrawnMask | None
    conversion: Conversion | None
    headers: tuple[FileDataset, ...]
    truth: NDArray[np.bool_] | None
    asked: Asked
    hashes: dict[str, str]
    seconds: dict[str, float]
    ct_headers: tuple[FileDataset, ...] = ()

    @property
    def identity(self) -> dict[str, str]:
        """The hashes by which the journal recognises the files."""
        return {name: self.hashes[name] for name in ("input_sha256", "stat")}


def load(job: Job, bundle: Bundle) -> Loaded:
    """Read and check a study, and prepare it for the networks. Raises CaseError, also if a file changed meanwhile."""
    watch = Stopwatch()
    with watch.stage("read"):
        found = _read(job, bundle.manifest.limits)
        stored = read_stored(job, found["case"].pet.grid, found["hashes"]["images_sha256"])
        edited = edited_lesions(job, found["case"], stored, bundle)
    ready = None if stored else make_ready(found["case"], bundle, watch)
    return Loaded(ready=ready, stored=stored, edited=edited, seconds=watch.seconds, **found)


def _read(job: Job, limits: Limits) -> dict[str, Any]:
    """What a study's files hold. Raises CaseError."""
    entry = job.entry
    try:
        hashes = _hashes(job)
    except OSError as error:
        raise CaseError(
            f"'{error.filename}' cannot be read: {error.strerror}; check that it is there and this user may read it"
        ) from None
    read = read_entry(entry, limits, job.name)
    case, conversion, headers = read.case, read.conversion, read.headers
    ct_headers = read.ct_headers if job.options.sr or SR in stored_files(job) else ()
    truth, not_compared = _truth(job, case)
    size = body_size_of(entry, headers, conversion)
    spheres, masks, not_used = references_of(entry, case.pet.grid)
    asked = Asked(rules=job.options.rules, size=size, spheres=spheres, masks=masks)
    unused = unused_warnings(entry, conversion, weight_for_sul=dict(size.sources).get("weight_kg") == GIVEN)
    unused += unused_size(entry, size) + not_used
    warnings = (*entry.warnings, *case.warnings, *unused, *not_compared)
    case = dataclasses.replace(case, warnings=warnings)
    if stat_of(entry.files) != hashes["stat"]:
        raise CaseError(f"a file of '{entry.source}' changed while it was read; run again when it is complete")
    found = {"case": case, "conversion": conversion, "headers": headers, "ct_headers": ct_headers, "truth": truth}
    return found | {"asked": asked, "hashes": hashes}


def _truth(job: Job, case: Case) -> tuple[NDArray[np.bool_] | None, list[str]]:
    """The mask to compare with; None and a warning if it cannot be compared: the study is scored without it."""
    path = job.entry.truth
    if path is None:
        return None, []
    try:
        truth = read_lesions(path, "truth", case.pet.grid, job.entry.pet[0], job.entry.kind == "dicom")
    except CaseError as error:
        return None, [f"not compared with its truth: {error}"]
    return truth.mask, list(truth.notes)


def _hashes(job: Job) -> dict[str, str]:
    """Hashes of all files and of the images alone, by `stat_of` and by contents. Raises OSError."""
    files, images = job.entry.files, job.entry.images
    stats = {"stat": stat_of(files), "images_stat": stat_of(images)}
    contents = {path: sha256_of(path) for path in files}
    return stats | {
        "input_sha256": hash_of_hashes(contents[path] for path in files),
        "images_sha256": hash_of_hashes(contents[path] for path in images),
    }


def score_study(
    job: Job,
    loaded: Loaded,
    bundle: Bundle,
    device: Device,
    networks: Callable[[], list[Voter]],
    on_stage: Callable[[str], None] = lambda stage: None,
    on_estimate: Callable[[TimeEstimate], None] = lambda estimate: None,
) -> dict[str, Any]:
    """Segment, measure and write one study. Returns its row of the summary. `on_stage` is called as a stage begins,
    `on_estimate` as `model.inference.options` says.

    networks: called only if the study has no mask yet. Raises the errors of model/errors.py; what was finished before
    then stays, and nothing else.
    """
    case, watch = loaded.case, Stopwatch(seconds=loaded.seconds)
    on_stage("segment")
    if loaded.ready is not None:
        how = SegmentOptions(
            bundle=bundle,
            device=device,
            voters=networks(),
            with_disagreement=job.options.disagreement,
            with_organs=job.options.organs,
            on_estimate=on_estimate,
        )
        result = segment_ready(loaded.ready, how, watch)
        warnings = (*bundle.warnings, *result.warnings, *([device.warning] if device.warning else []))
    else:
        assert loaded.stored is not None
        warnings = ()
        stored = loaded.stored
        mask = loaded.edited.mask if loaded.edited else stored.mask
        result = Result(mask=mask, probability=None, warnings=(), rung="stored", windows=0, organs=stored.organs)
    on_stage("measure")
    with watch.stage("measure"):
        names = organ_names(bundle.manifest) if result.organs is not None else ()
        measures = measure_study(case, result.mask, loaded.asked, result.organs, names)
        organs = None
        if result.organs is not None:
            organs = measure_organs(case.pet.array, result.organs, measures.mask, case.pet.grid, names)
    on_stage("write")
    study = ScoredStudy(
        job=job,
        bundle=bundle,
        device=device,
        case=case,
        result=result,
        stored=loaded.stored,
        edited=loaded.edited,
        measures=measures,
        organs=organs,
        conversion=loaded.conversion,
        headers=loaded.headers,
        ct_headers=loaded.ct_headers,
        truth=loaded.truth,
        hashes=loaded.hashes,
        mask_warnings=warnings,
    )
    return write_study(study, watch)
