"""What an organ map and the PET tell of each organ, volume and SUV, for report.json, organs.csv and report.html.

Voxels of lesions count for an organ's volume, and not for its SUV: the liver's SUV is to compare lesions with.
`lesion_ml` says how much was left out. Organs that were not found have a row, too.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from model import RESEARCH
from model.bundle.manifest import Bundle
from model.bundle.organs import organ_names, organ_voters
from model.results.lesion_table import csv_text, rounded
from model.study.geometry import Grid

DEFINITIONS = {
    "label": "value of the organ's voxels in the organ map; 0 is everything else",
    "volume_ml": "of all voxels of the organ, those of lesions too; 0: the organ was not found",
    "lesion_ml": "of the organ's voxels that are lesion in the mask",
    "suv_mean, suv_sd, suv_median, suv_max": "of the organ's voxels that are no lesion; null if there are none. "
    "suv_sd is the standard deviation of the voxels (divided by their number)",
}


@dataclass(frozen=True, kw_only=True)
class OrganUptake:
    """One organ of a study; DEFINITIONS says what the numbers are."""

    organ: str
    label: int
    volume_ml: float
    lesion_ml: float
    suv_mean: float | None
    suv_sd: float | None
    suv_median: float | None
    suv_max: float | None


COLUMNS = ("study", *(field.name for field in dataclasses.fields(OrganUptake)), "notice")


def measure_organs(
    suv: NDArray[Any], labels: NDArray[Any], mask: NDArray[Any], grid: Grid, names: Sequence[str]
) -> tuple[OrganUptake, ...]:
    """Every organ of a map, in the order of its labels. suv, labels, mask (lesions): (z, y, x) on `grid`."""
    boxes = ndimage.find_objects(labels, max_label=len(names))
    return tuple(
        _uptake(suv, labels, mask, grid, name, number, box)
        for number, (name, box) in enumerate(zip(names, boxes, strict=True), start=1)
    )


def organs_report(organs: Iterable[OrganUptake], bundle: Bundle) -> dict[str, Any]:
    """The organs for report.json: who voted, what the labels mean, and the table."""
    voted, networks = organ_voters(bundle.manifest)
    names = organ_names(bundle.manifest)
    return {
        "networks_with_organ_head": voted,
        "networks": networks,
        "labels": {str(label): name for label, name in enumerate(names, start=1)},
        "table": organ_rows(organs),
        "definitions": DEFINITIONS,
    }


def organ_rows(organs: Iterable[OrganUptake]) -> list[dict[str, Any]]:
    """The organs as plain rows, rounded."""
    return [rounded(dataclasses.asdict(organ)) for organ in organs]


def organs_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """One row a study and organ. rows: of `organ_rows`, each with its study."""
    return csv_text(COLUMNS, [dict(row) | {"notice": RESEARCH} for row in rows])


def labels_hash(labels: NDArray[Any]) -> str:
    """A hash of an organ map's voxels and their arrangement."""
    return hashlib.sha256(repr(labels.shape).encode() + np.ascontiguousarray(labels, np.uint8).tobytes()).hexdigest()


def _uptake(
    suv: NDArray[Any],
    labels: NDArray[Any],
    mask: NDArray[Any],
    grid: Grid,
    name: str,
    number: int,
    box: tuple[slice, ...] | None,
) -> OrganUptake:
    inside: NDArray[Any] = labels[box] == number if box else np.zeros(0, bool)
    lesion = inside & (mask[box] > 0) if box else inside
    values = np.asarray(suv[box][inside & ~lesion], np.float64) if box else np.zeros(0)
    some = len(values) > 0
    return OrganUptake(
        organ=name,
        label=number,
        volume_ml=float(np.count_nonzero(inside)) * grid.voxel_ml,
        lesion_ml=float(np.count_nonzero(lesion)) * grid.voxel_ml,
        suv_mean=float(values.mean()) if some else None,
        suv_sd=float(values.std()) if some else None,
        suv_median=float(np.median(values)) if some else None,
        suv_max=float(values.max()) if some else None,
    )
