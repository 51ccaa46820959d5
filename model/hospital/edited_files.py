"""What an edited study's folder holds more: the edit's own mask, the networks' mask, and the result before the edit."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.bundle.licence import terms_of
from model.bundle.manifest import Bundle
from model.hospital.folder import REPORT, Folder
from model.hospital.job import Job
from model.hospital.stored_results import PICTURE, SR, StoredMask, mask_hash
from model.results.metrics import components
from model.study.geometry import Grid
from model.study.masks import DrawnMask

BEFORE = "before-edit"  # the folder of the networks' own tables, picture, SEG and report
KEPT_BEFORE = (
    "lesions.csv",
    "lesions.json",
    "preview.png",
    "seg.dcm",
    "rtstruct.dcm",
    PICTURE,
    SR,
    "report.pdf",
    REPORT,
)


def write_edited(folder: Folder, job: Job, stored: StoredMask, edited: DrawnMask) -> None:
    """Write the networks' mask, the edit's mask, and the networks' other files, from the study's older folder.

    Raises OutputError.
    """
    write_network_mask(folder, job.network_mask, stored, stored.mask, edited.grid)
    if job.edit is not None and job.edit.sha256:
        notes = {"Edited": job.edit_notice}
        folder.write_image(job.edited_mask, edited.mask.astype(np.uint8), edited.grid, notes)
    old = stored.path.parent
    before = old / BEFORE if "edited" in stored.batch else old
    for name in KEPT_BEFORE:
        if (before / name).is_file():
            folder.write(f"{BEFORE}/{name}", (before / name).read_bytes())


def write_network_mask(
    folder: Folder, name: str, stored: StoredMask | None, mask: NDArray[np.bool_], grid: Grid
) -> None:
    """Write the networks' mask: the stored file as it is, if it has the format of `name`. Raises OutputError."""
    if stored and name.endswith("".join(stored.path.suffixes)):
        folder.write(name, stored.path.read_bytes())
    else:
        folder.write_image(name, mask.astype(np.uint8), grid)


def edit_report(job: Job, stored: StoredMask, mask: NDArray[np.bool_], grid: Grid) -> dict[str, Any]:
    """What report.json says of an edit. mask: the study's now, bool (z, y, x), by the rules."""
    assert job.edit is not None

    def ml(voxels: NDArray[np.bool_]) -> float:
        return round(float(np.count_nonzero(voxels)) * grid.voxel_ml, 4)

    return {
        "notice": job.edit_notice,
        "file_sha256": job.edit.sha256 or None,
        "lesions_dropped": list(job.options.rules.drop),
        "networks": {"mask": job.network_mask, "lesions": components(stored.mask)[1], "mtv_ml": ml(stored.mask)},
        "added_ml": ml(mask & ~stored.mask),
        "removed_ml": ml(stored.mask & ~mask),
    }


def edit_record(job: Job, stored: StoredMask, edited: DrawnMask) -> dict[str, Any]:
    """What report.json holds of an edit for later runs."""
    assert job.edit is not None
    own = {"sha256": job.edit.sha256, "mask_sha256": mask_hash(edited.mask), "notes": list(edited.notes)}
    return {"edited": own, "network_mask_sha256": mask_hash(stored.mask)}


def weights_and_terms(job: Job, stored: StoredMask | None, bundle: Bundle) -> tuple[str, str]:
    """Name and terms of the weights that found the lesions: an edited study may be of others than this run's."""
    weights = stored.report.get("weights") if stored and job.edit else None
    if not isinstance(weights, dict):
        return bundle.label, terms_of(bundle.manifest.licence, bundle.manifest.citation)
    way = ", ".join((weights["method"], *weights.get("changes", [])))
    return f"{weights['name']} ({way})", terms_of(weights.get("licence", ""), weights.get("citation", ""))
