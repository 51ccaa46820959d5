"""Read the lesions of a DICOM RT Structure Set that another program, or this one, wrote.

An ROI is lesion if it is called so (lesion, GTV, tumour, metastasis), or if its type is GTV or none; an ROI of another
type (ORGAN, EXTERNAL, PTV) is not. A voxel is lesion if its centre lies in the contours. Contours of one ROI and slice
are added up, and one inside another is a hole. Source: DICOM PS3.3, C.8.8.6 and C.8.8.8.
"""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset

from model.dicom.contours import Polygon, filled_together
from model.dicom.elements import UNREADABLE, items, number, text
from model.errors import CaseError
from model.study.geometry import Grid
from model.study.masks import DrawnMask, indices_on

CALLED_LESION = re.compile(r"(?i)\s*(lesions?|i?gtv|tumou?rs?|met(astas[ei]s)?)(?![a-z])")
LESION_TYPES = ("", "GTV")
CLOSED, XOR = "CLOSED_PLANAR", "CLOSEDPLANAR_XOR"
FLAT = 0.05  # of a slice: how far a contour's points may leave their plane
ON_SLICE = 0.1  # of a slice: how far a contour's plane may lie from the slice that it is drawn on
SAME_PLANE_MM = 0.01


@dataclass(frozen=True, kw_only=True)
class _Contour:
    """One closed contour: its ROI, its plane as an index of the PET's slices, and its polygon in pixels (x, y)."""

    roi: int
    plane: float
    polygon: Polygon
    xor: bool


def contoured_lesions(
    data: FileDataset, label: str, grid: Grid, of_what: str, frames: frozenset[str] = frozenset()
) -> DrawnMask:
    """The lesions of an RTSTRUCT on the grid of its PET, empty if they have no contours. label, of_what: what messages
    call the two. frames: the PET's frames of reference, if it has one: ROIs in others are left out.

    Contours between the PET's slices, as on a CT, count for the nearest slice, with a note. Raises CaseError for
    contours across the slices, a file that cannot be read, or one in which no ROI is lesion.
    """
    lesions, notes = _lesion_rois(data, label, frames)
    contours, skipped = _contours(data, label, grid, set(lesions), of_what)
    if skipped:
        notes.append(f"{label}: {skipped} points or open contours are no area, and are left out")
    planes = np.array([contour.plane for contour in contours])
    between = bool(len(planes)) and bool(np.abs(planes - np.round(planes)).max() > ON_SLICE)
    step = _step(planes, grid) if between else 0.0
    if between:
        notes.append(
            f"{label} is not drawn on the slices of {of_what}: each slice takes the nearest contour within "
            f"{step * grid.spacing_mm[2] / 2:.3g} mm"
        )
    mask = np.zeros(grid.shape, bool)
    for roi in lesions:
        own = [contour for contour in contours if contour.roi == roi]
        found = _filled(own, grid, step)
        if own and not found.any():
            notes.append(f"{label}: ROI {roi} holds the centre of no voxel of {of_what}, and is lost")
        mask |= found
    if contours and not mask.any():
        raise CaseError(f"no contour of {label} holds a voxel of {of_what}; is it of the same study?")
    return DrawnMask(mask=mask, grid=grid, notes=tuple(notes))


def _lesion_rois(data: FileDataset, label: str, frames: frozenset[str]) -> tuple[list[int], list[str]]:
    """The numbers of the ROIs that are lesion; a note for each other, and for each that does not say what it is.

    Raises CaseError if none is lesion.
    """
    types = {
        number(item, "ReferencedROINumber"): text(item, "RTROIInterpretedType").upper()
        for item in items(data, "RTROIObservationsSequence")
    }
    lesions, notes = [], []
    for roi in items(data, "StructureSetROISequence"):
        value = number(roi, "ROINumber")
        if value is None:
            raise CaseError(f"{label} has an ROI without a number; export it again")
        kind, frame = types.get(value, ""), text(roi, "ReferencedFrameOfReferenceUID")
        called = CALLED_LESION.match(text(roi, "ROIName"))
        if frames and frame and frame not in frames:
            notes.append(f"{label}: ROI {value:g} is in another frame of reference, and is left out")
        elif called or kind in LESION_TYPES:
            lesions.append(int(value))
            notes += [] if called or kind else [f"{label}: ROI {value:g} has no type, and counts as lesion"]
        else:
            notes.append(f"{label}: ROI {value:g} has the type {kind}, and is no lesion")
    if not lesions:
        raise CaseError(
            f"no ROI of {label} is a lesion: {len(notes)} have other types or frames of reference; give lesions the "
            "type GTV, or a name that begins with Lesion or GTV"
        )
    return lesions, notes


def _contours(data: FileDataset, label: str, grid: Grid, lesions: set[int], of_what: str) -> tuple[list[_Contour], int]:
    """The closed contours of the lesions, and how many items are points or open lines."""
    found, skipped = [], 0
    for roi in items(data, "ROIContourSequence"):
        value = number(roi, "ReferencedROINumber")
        if value not in lesions:
            continue
        for contour in items(roi, "ContourSequence"):
            kind = text(contour, "ContourGeometricType")
            indices = indices_on(grid, _points(contour, label))
            if kind not in (CLOSED, XOR) or len(indices) < 3:
                skipped += 1
                continue
            plane = float(indices[:, 2].mean())
            if np.abs(indices[:, 2] - plane).max() > FLAT:
                raise CaseError(
                    f"{label}: a contour of ROI {value:g} does not lie in one slice of {of_what}; draw the contours on "
                    "slices that are parallel to it"
                )
            found.append(_Contour(roi=int(value), plane=plane, polygon=indices[:, :2], xor=kind == XOR))
    return found, skipped


def _points(contour: Dataset, label: str) -> NDArray[np.float64]:
    """The points of a contour (n, 3), in mm."""
    try:
        values: list[Any] = [float(value) for value in contour.get("ContourData") or ()]
    except UNREADABLE:
        values = []
    if not values or len(values) % 3 or not np.isfinite(values).all():
        raise CaseError(f"{label} has a contour without whole points; export it again")
    return np.array(values).reshape(-1, 3)


def _step(planes: NDArray[np.float64], grid: Grid) -> float:
    """The distance between the planes of contours, in slices of the grid; one slice for a single plane."""
    gaps = np.diff(np.sort(planes))
    gaps = gaps[gaps * grid.spacing_mm[2] > SAME_PLANE_MM]
    return float(gaps.min()) if len(gaps) else 1.0


def _filled(contours: list[_Contour], grid: Grid, step: float) -> NDArray[np.bool_]:
    """The voxels of one ROI. step: between planes that lie between slices; 0 where each contour lies on its slice."""
    mask = np.zeros(grid.shape, bool)
    by_plane: dict[float, list[_Contour]] = {}
    digits = 0 if not step else 3
    for contour in contours:
        by_plane.setdefault(round(contour.plane, digits), []).append(contour)
    planes = np.array(sorted(by_plane))
    for z in range(grid.size[2]) if len(planes) else ():
        nearest = planes[int(np.abs(planes - z).argmin())]
        if abs(nearest - z) > (step / 2 + 1e-6 if step else 0):
            continue
        own = by_plane[float(nearest)]
        mask[z] = filled_together([one.polygon for one in own], grid.shape[1:], any(one.xor for one in own))
    return mask
