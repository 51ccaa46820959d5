"""Read the lesions of a DICOM RT Structure Set that another program, or this one, wrote.

An ROI is lesion if it is called so (lesion, GTV, tumour, metastasis, in some languages), or if its type is GTV or none;
an ROI of another type (ORGAN, EXTERNAL, PTV) is not. A voxel is lesion if its centre lies in the contours, or on one.
Contours of one ROI and slice are added up, and one inside another is a hole. Source: DICOM PS3.3, C.8.8.6 and C.8.8.8.
"""

import re
import unicodedata
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset

from model.dicom.contours import Polygon, filled_together, on_centres
from model.dicom.elements import UNREADABLE, items, number, text
from model.errors import CaseError
from model.study.geometry import Grid
from model.study.masks import DrawnMask, indices_on, listed

CALLED_LESION = re.compile(
    r"\s*((pet|pt|fdg|suv)[\s_-]*)?"
    r"(l(e|é|ä|ae)si[oó]n(e?[ns]?|i)|i?gtv[a-z]{0,3}|tum(o|ou|eu)r(e?[ns]?|i)|m[eéè]t([aá]stas\w+|s)?)(?![a-z])",
    re.IGNORECASE,
)  # English, German, French, Spanish, Italian
LESION_TYPES = ("", "GTV")
CLOSED, XOR = "CLOSED_PLANAR", "CLOSEDPLANAR_XOR"
FLAT = 0.05  # of a slice: how far a contour's points may leave their plane
ON_SLICE = 0.1  # of a slice: how far a contour's plane may lie from the slice that it is drawn on
ROUNDING = 1e-6  # of a slice
SAME_PLANE_MM = 0.1  # how far apart contours may lie that are drawn on one slice
THICKEST_MM = 10.0  # contours further apart do not stand for what lies between them
MADE_BY_CORNERSTONE = "cs3d"  # Manufacturer; it gives every ROI the type ORGAN unless its program says another (OHIF)


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

    Contours between the PET's slices, as on a CT, count for the nearest slices, with a note, and so do those that are
    evenly drawn on some of its slices alone. Raises CaseError for contours across the slices, a file that cannot be
    read, or one in which no ROI is lesion.
    """
    lesions, notes = _lesion_rois(data, label, frames)
    contours, skipped = _contours(data, label, grid, set(lesions), of_what)
    if skipped:
        notes.append(f"{label}: {skipped} points or open contours are no area, and are left out")
    planes = [contour.plane for contour in contours]
    between = bool(np.any(np.abs(np.array(planes) - np.round(planes)) > ON_SLICE))
    step, even = _step(contours, grid)
    sparse = not between and even and step > 1 + ON_SLICE
    if between or sparse:
        notes.append(
            f"{label} is not drawn on {'every slice' if sparse else 'the slices'} of {of_what}: each slice takes the "
            f"nearest contour within {step * grid.spacing_mm[2] / 2:.3g} mm"
        )
    step = step if between or sparse else 0.0
    mask = np.zeros(grid.shape, bool)
    for roi in lesions:
        own = [contour for contour in contours if contour.roi == roi]
        found = _filled(own, grid, step)
        if not own and contours:
            notes.append(f"{label}: ROI {roi} has no contour")
        elif own and not found.any():
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
    by_rote = text(data, "Manufacturer") == MADE_BY_CORNERSTONE
    lesions, notes, untyped = [], [], []
    for roi in items(data, "StructureSetROISequence"):
        value = number(roi, "ROINumber")
        if value is None:
            raise CaseError(f"{label} has an ROI without a number; export it again")
        kind, frame = types.get(value, ""), text(roi, "ReferencedFrameOfReferenceUID")
        kind = "" if by_rote and kind == "ORGAN" else kind
        called = CALLED_LESION.match(unicodedata.normalize("NFC", text(roi, "ROIName")))
        if frames and frame and frame not in frames:
            notes.append(f"{label}: ROI {value:g} is in another frame of reference, and is left out")
        elif called or kind in LESION_TYPES:
            lesions.append(int(value))
            untyped += [] if called or kind else [f"{value:g}"]
        else:
            notes.append(f"{label}: ROI {value:g} has the type {kind}, and is no lesion")
    if len(untyped) == 1:
        notes.append(f"{label}: ROI {untyped[0]} has no type, and counts as lesion")
    elif untyped:
        notes.append(f"{label}: ROIs {listed(untyped)} have no type, and count as lesions")
    if not lesions:
        raise CaseError(
            f"no ROI of {label} is a lesion: {len(notes)} have other types or frames of reference; give lesions the "
            "type GTV, or a name that begins with Lesion, GTV, Tumour or Metastasis"
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
            if kind not in (CLOSED, XOR) or (len(indices) < 3 and not on_centres(indices[:, :2])):
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


def _step(contours: list[_Contour], grid: Grid) -> tuple[float, bool]:
    """The least distance between the planes of one ROI's contours, in slices of the grid, and whether one ROI shows it
    twice or more; one slice where no ROI has planes that lie close together.
    """
    same = SAME_PLANE_MM / grid.spacing_mm[2]
    gaps = [np.diff(_planes([one.plane for one in contours if one.roi == roi], same)) for roi in _rois(contours)]
    step = min((float(own.min()) for own in gaps if len(own)), default=1.0)
    if step * grid.spacing_mm[2] > THICKEST_MM:
        return 1.0, False
    return step, any(np.count_nonzero(np.abs(own - step) <= 2 * same) > 1 for own in gaps)


def _rois(contours: list[_Contour]) -> list[int]:
    return sorted({contour.roi for contour in contours})


def _planes(planes: list[float], same: float) -> NDArray[np.float64]:
    """The planes in order, those that lie closer together than `same` as one, their mean."""
    ordered = np.sort(planes)
    parts = np.split(ordered, np.flatnonzero(np.diff(ordered) > same) + 1)
    return np.array([part.mean() for part in parts if len(part)])


def _filled(contours: list[_Contour], grid: Grid, step: float) -> NDArray[np.bool_]:
    """The voxels of one ROI. step: between planes that do not lie on every slice; 0 where each contour counts for the
    slice that it is drawn on.
    """
    mask = np.zeros(grid.shape, bool)
    if not contours:
        return mask
    own = np.array([contour.plane for contour in contours])
    planes = _planes(list(own), SAME_PLANE_MM / grid.spacing_mm[2]) if step else np.unique(np.round(own))
    plane_of = np.abs(own[:, None] - planes).argmin(axis=1)
    for z in range(grid.size[2]):
        nearest = int(np.abs(planes - z - ROUNDING).argmin())  # halfway, the upper one
        below = z - planes[nearest]
        if not (-step / 2 - ROUNDING <= below < step / 2 - ROUNDING if step else below == 0):
            continue
        here = [contour for contour, plane in zip(contours, plane_of, strict=True) if plane == nearest]
        mask[z] = filled_together([one.polygon for one in here], grid.shape[1:], any(one.xor for one in here))
    return mask
