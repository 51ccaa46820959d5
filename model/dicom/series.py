"""The slices of one DICOM series: in order, complete, and on one grid.

Slices are ordered by their position along the normal of the image plane, never by name or number. The grid's axes
are the image's columns, its rows and that normal (DICOM PS3.3, C.7.6.2.1.1), so flipped and oblique series are right
without interpolation.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset
from pydicom.uid import UID

from model.dicom.elements import number, path_of, tag_name, text
from model.dicom.headers import Series
from model.dicom.kinds import is_axial, projection
from model.errors import CaseError
from model.study.geometry import Grid

SAME_PLACE_MM = 0.01  # slices nearer to each other than this lie in the same place
OFF_LINE_MM = 0.1  # how far a slice may lie from its place: headers round positions
OFF_LINE_SHARE = 0.05  # the same as a share of the slice spacing; the larger of both is the limit
TILT = 2e-3  # largest sideways shift of slices per length (0.11 degrees)
TILT_DEGREES = 0.5  # largest gantry tilt that a header may state of an upright series
MODALITY_NAMES = {"PT": "PET", "CT": "CT"}  # in messages
SINGLE_FRAME = {
    "PT": {"1.2.840.10008.5.1.4.1.1.128"},
    "CT": {"1.2.840.10008.5.1.4.1.1.2"},
}  # storage classes with one slice a file


def order_slices(series: Series, modality: str) -> tuple[list[FileDataset], Grid]:
    """The headers of a series in the order of its volume (the first is z = 0), and the grid of that volume.

    modality: "PT" or "CT". Raises CaseError for another modality or kind of image, two mixed series, missing or
    doubled slices, gantry tilt and uneven spacing.
    """
    headers = list(series.headers)
    for header in headers:
        _check_kind(header, modality)
    _check_same(headers, series.parts)
    first = headers[0]
    along_row, along_column, normal = _axes(first)
    positions = np.array([_vector(h, "ImagePositionPatient", 3) for h in headers])
    depth = positions @ normal
    order = np.argsort(depth, kind="stable")
    headers, positions, depth = [headers[i] for i in order], positions[order], depth[order]
    if len(headers) < 2:
        raise CaseError(
            f"{MODALITY_NAMES[modality]} series of '{path_of(first)}' has one slice; a volume needs at least 2"
        )
    _check_gaps(headers, depth, modality)
    _check_count(headers, modality)
    step = float(depth[-1] - depth[0]) / (len(headers) - 1)
    _check_line(headers, positions - positions[0], normal, step, modality)
    between_rows, between_columns = _vector(first, "PixelSpacing", 2)
    if min(between_rows, between_columns) <= 0:
        raise CaseError(f"'{path_of(first)}' has {tag_name('PixelSpacing')} {text(first, 'PixelSpacing')}, not above 0")
    grid = Grid(
        size=(int(first.Columns), int(first.Rows), len(headers)),
        spacing_mm=(float(between_columns), float(between_rows), step),
        origin_mm=(float(positions[0][0]), float(positions[0][1]), float(positions[0][2])),
        direction=tuple(float(v) + 0.0 for v in np.stack([along_row, along_column, normal], axis=1).ravel()),
    )
    return headers, grid


def _check_kind(header: FileDataset, modality: str) -> None:
    path, found = path_of(header), text(header, "Modality")
    kind = UID(text(header, "SOPClassUID"))
    if found != modality:
        raise CaseError(f"'{path}' has {tag_name('Modality')} {found or 'absent'}, not {modality}; leave it out")
    if "Enhanced" in kind.name or (number(header, "NumberOfFrames") or 1) > 1:
        raise CaseError(
            f"'{path}' is multi-frame DICOM ({kind.name}), which is not supported; convert it to one slice a file "
            "first, for example with dcm4che's emf2sf, or export it so from the scanner or the PACS"
        )
    if modality == "CT" and "LOCALIZER" in text(header, "ImageType").upper():
        raise CaseError(f"'{path}' is a scout (ImageType LOCALIZER), not a slice of a CT; give the CT without it")
    if "REPROJECTION" in text(header, "SeriesType").upper():
        raise CaseError(f"'{path}' is a projection (SeriesType REPROJECTION), not a slice; leave it out")
    field = projection(text(header, "ImageType"), "", text(header, "SeriesDescription"))
    if field and not is_axial(_orientation(header)):
        raise CaseError(f"'{path}' is a projection ({field}), not a slice; give the original axial series")
    if kind not in SINGLE_FRAME[modality]:
        shown = MODALITY_NAMES[modality]
        raise CaseError(f"'{path}' is {kind.name}, not {shown} Image Storage; give the original {shown} series")
    if (number(header, "SamplesPerPixel") or 1) != 1:
        raise CaseError(f"'{path}' is a picture in colour, not a {MODALITY_NAMES[modality]} slice; leave it out")
    for keyword in ("Rows", "Columns"):
        if not number(header, keyword):
            raise CaseError(f"'{path}' has no {tag_name(keyword)}: it holds no image; leave it out")


def _check_same(headers: list[FileDataset], parts: tuple[str, ...]) -> None:
    """Raise CaseError unless all slices are of one series, or of series that were joined, and on one grid."""
    first = headers[0]
    for keyword in ("SeriesInstanceUID", "FrameOfReferenceUID", "Rows", "Columns"):
        for header in headers:
            if text(header, keyword) != text(first, keyword) and not (
                keyword == "SeriesInstanceUID" and text(header, keyword) in parts
            ):
                raise CaseError(
                    f"'{path_of(first)}' and '{path_of(header)}' differ in {tag_name(keyword)}: "
                    f"{text(first, keyword)!r} and {text(header, keyword)!r}; two series are mixed, "
                    "give the files of one"
                )
    for keyword, length, limit in (("ImageOrientationPatient", 6, 1e-3), ("PixelSpacing", 2, 1e-3)):
        expected = _vector(first, keyword, length)
        for header in headers:
            if np.abs(_vector(header, keyword, length) - expected).max() > limit:
                raise CaseError(
                    f"'{path_of(first)}' and '{path_of(header)}' differ in {tag_name(keyword)}: "
                    f"{text(first, keyword)} and {text(header, keyword)}; two series are mixed, give the files of one"
                )


def _axes(header: FileDataset) -> NDArray[np.float64]:
    """Unit vectors along a row, along a column and along the normal, (3, 3), one a row; patient axes x, y, z."""
    row, column = _vector(header, "ImageOrientationPatient", 6).reshape(2, 3)
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if max(abs(length - 1) for length in lengths) > 1e-2 or abs(row @ column) > 1e-3:
        raise CaseError(
            f"'{path_of(header)}' has {tag_name('ImageOrientationPatient')} "
            f"{text(header, 'ImageOrientationPatient')}: not two unit vectors at a right angle; correct the header"
        )
    row = row / lengths[0]
    column = column - (column @ row) * row
    column /= np.linalg.norm(column)
    return np.stack([row, column, np.cross(row, column)])


def _check_gaps(headers: list[FileDataset], depth: NDArray[np.float64], modality: str) -> None:
    gaps = np.diff(depth)
    doubled = np.flatnonzero(gaps < SAME_PLACE_MM)
    if len(doubled):
        one, other = path_of(headers[doubled[0]]), path_of(headers[doubled[0] + 1])
        raise CaseError(
            f"{MODALITY_NAMES[modality]} series has doubled slices: '{one}' and '{other}' lie in one place "
            f"({len(doubled)} such pairs); a file copied twice, "
            "or a dynamic or gated series: give one file a slice of a static series"
        )
    usual = float(np.median(gaps))
    wide = np.flatnonzero(gaps > 1.5 * usual)
    if len(wide):
        index = int(wide[0])
        raise CaseError(
            f"{MODALITY_NAMES[modality]} series has missing slices: between '{path_of(headers[index])}' "
            f"and '{path_of(headers[index + 1])}' are {gaps[index]:.4g} mm, elsewhere {usual:.4g} mm "
            f"({len(wide)} such gaps); copy the whole series again"
        )


def _check_count(headers: list[FileDataset], modality: str) -> None:
    """Compare with the number of slices that a PET states: a missing slice at an end leaves no gap."""
    stated = number(headers[0], "NumberOfSlices") if modality == "PT" else None
    if stated and len(headers) < stated:
        raise CaseError(
            f"{MODALITY_NAMES[modality]} series has missing slices: {len(headers)} files, and "
            f"'{path_of(headers[0])}' says {tag_name('NumberOfSlices')} {stated:g}; copy the whole series again"
        )


def _check_line(
    headers: list[FileDataset], offsets: NDArray[np.float64], normal: NDArray[np.float64], step: float, modality: str
) -> None:
    """Raise CaseError unless slices lie at even steps on a line along the normal.

    offsets: of each slice from the first, mm, (n, 3).
    """
    along = offsets @ normal
    sideways = np.linalg.norm(offsets - along[:, None] * normal, axis=1)
    worst = int(np.argmax(sideways))
    if sideways[worst] > max(OFF_LINE_MM, TILT * float(along[-1])):
        raise CaseError(
            f"{MODALITY_NAMES[modality]} slice '{path_of(headers[worst])}' lies {sideways[worst]:.4g} mm beside the "
            f"normal through the first slice, {along[worst]:.4g} mm from it: gantry tilt or a moved table; "
            "resample the series to an upright grid first"
        )
    tilt = number(headers[0], "GantryDetectorTilt") or 0.0
    if modality == "CT" and abs(tilt) > TILT_DEGREES and np.abs(normal).max() > 1 - 1e-6:
        raise CaseError(
            f"CT '{path_of(headers[0])}' has GantryDetectorTilt {tilt:g} degrees (limit {TILT_DEGREES:g}), "
            "but upright slices: where its voxels lie is not certain; resample the series to an upright grid first"
        )
    off = np.abs(along - step * np.arange(len(headers)))
    worst = int(np.argmax(off))
    if off[worst] > max(OFF_LINE_MM, OFF_LINE_SHARE * step):
        gaps = np.diff(along)
        raise CaseError(
            f"{MODALITY_NAMES[modality]} series has uneven spacing: {gaps.min():.4g} to {gaps.max():.4g} mm between "
            f"slices, worst at '{path_of(headers[worst])}' ({off[worst]:.4g} mm off its place); resample it to even "
            "slices first, or give one series"
        )


def _orientation(header: FileDataset) -> NDArray[np.float64] | None:
    """ImageOrientationPatient, or None where it is absent; `_axes` refuses that later."""
    return _vector(header, "ImageOrientationPatient", 6) if text(header, "ImageOrientationPatient") else None


def _vector(header: FileDataset, keyword: str, length: int) -> NDArray[np.float64]:
    """The numbers of an element, (length,). Raises CaseError where it does not hold that many."""
    path: Path = path_of(header)
    try:
        values = np.array([float(part) for part in text(header, keyword).split("\\")])
    except ValueError:
        values = np.array([])
    if len(values) != length or not np.isfinite(values).all():
        raise CaseError(
            f"'{path}' has {tag_name(keyword)} {text(header, keyword) or 'absent'}; it must hold {length} numbers, "
            "without them the place of a voxel is not known; export the series again"
        )
    return values
