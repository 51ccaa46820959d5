"""The edit of a study as its results hold it: what the report says of it, and its mask."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.bundle.manifest import Bundle
from model.dicom.drawn import read_lesions
from model.errors import CaseError
from model.files import sha256_of
from model.hospital.folder import REPORT, STUDIES
from model.hospital.job import Edit, Job, edited_mask_file
from model.hospital.stored_results import StoredMask, mask_hash
from model.study.masks import DrawnMask, check_grid, read_mask
from model.study.reading import Case


def edit_of(report: Mapping[str, Any] | None) -> Edit | None:
    """The edit that a report tells of; None if there is none."""
    edited = edited_in(report)
    return Edit(sha256=str(edited.get("sha256", ""))) if edited is not None else None


def drop_in(report: Mapping[str, Any] | None) -> tuple[int, ...]:
    """The found numbers of the lesions that were dropped by hand in an edited study."""
    if report is None or edited_in(report) is None:
        return ()
    rules = report["batch"]["options"].get("rules", {})
    return tuple(int(number) for number in rules.get("drop", ()))


def edited_lesions(job: Job, case: Case, stored: StoredMask | None, bundle: Bundle) -> DrawnMask | None:
    """The mask of a study's edit on the PET's grid, before rules; None for a study that is not edited.

    Where lesions were only dropped by number it is the networks' mask. Raises CaseError.
    """
    if job.edit is None:
        return None
    if stored is None:
        raise CaseError(
            f"'{case.pet.path}' was edited, and the networks' own mask is gone, or is of other images; put the edit "
            f"elsewhere, remove {STUDIES}/{job.name} from the results, score the study, and take the edit back"
        )
    weights = stored.report.get("weights", {})
    if stored.organs is not None and weights.get("manifest_sha256") != bundle.sha256:
        raise CaseError(
            f"the organs of '{case.pet.path}' were found by the weights '{weights.get('name')}', and these are "
            f"'{bundle.manifest.name}'; give --weights with those"
        )
    if job.edit.path is not None:
        return _read_file(job, job.edit.path, case)
    if not job.edit.sha256:
        return DrawnMask(mask=stored.mask, grid=case.pet.grid)
    batch = stored.report["batch"]
    path = stored.path.parent / edited_mask_file(batch["options"]["mask_ending"])
    mask, grid = read_mask(path, "edit")
    check_grid(grid, f"edit '{path}'", case.pet.grid, f"PET '{case.pet.path}'")
    if mask_hash(mask) != batch["edited"]["mask_sha256"]:
        raise CaseError(f"edit '{path}' is not what {REPORT} says; give the edited file once more with --masks")
    return DrawnMask(mask=mask, grid=grid, notes=tuple(batch["edited"]["notes"]))


def _read_file(job: Job, path: Path, case: Case) -> DrawnMask:
    """The lesions in an edited file."""
    assert job.edit is not None
    try:
        if sha256_of(path) != job.edit.sha256:
            raise CaseError(f"edit '{path}' changed since the run began; run again")
    except OSError as error:
        raise CaseError(f"edit '{path}' cannot be read: {error.strerror}; check access to it") from None
    drawn = read_lesions(path, "edit", case.pet.grid, job.entry.pet[0], job.entry.kind == "dicom")
    return drawn if drawn.mask.any() else drawn.noted(f"edit '{path}' holds no lesion: if that is wrong, save it anew")


def edited_in(report: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    batch = report.get("batch") if report else None
    edited = batch.get("edited") if isinstance(batch, Mapping) else None
    return edited if isinstance(edited, Mapping) else None
