"""Find the series among many DICOM files. Only the few header fields that are needed for it are read.

These fields decide which files a study is made of. Whether the files are right is checked when the study is read.
"""

import filecmp
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray

from model.dicom.clock import DAY_S, day_of, seconds_of
from model.dicom.elements import UNREADABLE, text
from model.dicom.headers import holds_image, is_directory
from model.dicom.kinds import DERIVED, KINDS, REFORMAT, TIMED, is_axial, plane, projection, rank, says_not_corrected
from model.dicom.series import SAME_PLACE_MM, SINGLE_FRAME
from model.errors import CaseError
from model.hospital.find.entry import Entry

FIELDS = [
    "SpecificCharacterSet",
    "ImageType",
    "SOPClassUID",
    "SOPInstanceUID",
    "Modality",
    "SeriesDescription",
    "PatientName",
    "PatientID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "FrameOfReferenceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "NumberOfFrames",
    "CorrectedImage",
    "SeriesType",
    "SamplesPerPixel",
    "Rows",
    "Columns",
    "PixelSpacing",
    "AcquisitionDate",
    "AcquisitionTime",
    "SeriesDate",
    "SeriesTime",
    "Units",
    "DecayCorrection",
    "PatientWeight",
    "RescaleType",
    "ConvolutionKernel",
]
ALIKE = ("Units", "DecayCorrection", "CorrectedImage", "PatientWeight", "RescaleType", "ConvolutionKernel")
ONE_SLICE = "a single slice"
LARGEST = 1e6  # mm or pixels: a larger position, spacing or size is an error


@dataclass(frozen=True, kw_only=True, slots=True)
class FileHeader:
    """One file's FIELDS, as text. Equal texts of many files are in memory once."""

    path: Path
    values: tuple[str, ...]

    def __getitem__(self, field: str) -> str:
        return self.values[FIELDS.index(field)]


@dataclass(frozen=True, kw_only=True)
class SeriesInfo:
    """One series: its patient, its kind, and its slices' positions ((n, 3), mm; empty if a slice has none)."""

    uid: str
    study: str
    frame: str
    modality: str
    number: int  # SeriesNumber; 0 where there is none
    description: str
    person: tuple[str, ...]
    files: tuple[Path, ...]
    flaw: str  # why it cannot be scored: a scout, a projection, another kind of image; "" if it can
    rank: int  # of model/dicom/kinds.py: original slices first, then what was made from them
    kind: str  # the rank in words, with the plane if it is not axial; "" for original axial slices
    corrected: bool  # for attenuation
    positions: NDArray[np.float64]
    normal: NDArray[np.float64]
    corners: NDArray[np.float64]  # of a slice, relative to its position, (4, 3), mm
    grid: tuple[str, ...]  # Rows, Columns, PixelSpacing, ImageOrientationPatient
    alike: tuple[str, ...]  # the fields ALIKE, which all series of one volume share
    times: tuple[float, float] | None  # seconds of the first and last acquisition, on a common clock
    parts: tuple["SeriesInfo", ...] = ()  # the series that were joined into this one; empty for a plain series

    @property
    def study_and_patient(self) -> tuple[str, str]:
        """StudyInstanceUID and PatientID: what series of one study share."""
        return self.study, self.person[1]

    def span_mm(self, normal: NDArray[np.float64]) -> tuple[float, float]:
        """Lowest and highest position of its slices along a direction; (0, 0) without positions."""
        if not len(self.positions):
            return 0.0, 0.0
        along, across = self.positions @ normal, self.corners @ normal
        return float(along.min() + across.min()), float(along.max() + across.max())

    @property
    def body_axis(self) -> NDArray[np.float64]:
        """The direction along the body: the slices' normal if they are axial, else the patient's z."""
        return self.normal if self.rank < REFORMAT else np.array([0.0, 0.0, 1.0])

    @property
    def length_mm(self) -> float:
        """How much of the body it shows."""
        low, high = self.span_mm(self.body_axis)
        return high - low

    @property
    def step_mm(self) -> float:
        """The distance between slices; 0 for a single slice."""
        depth = np.sort(self.positions @ self.normal)
        return float(np.median(np.diff(depth))) if len(depth) > 1 else 0.0


def scan(files: Iterable[Path]) -> tuple[list[SeriesInfo], dict[Path, str]]:
    """The series among DICOM files, sorted by study and UID, and the files that cannot be used, each with the reason.

    Of copies of a slice (same SOPInstanceUID, same position) the first by path counts. If their contents differ, none
    counts, since nobody knows which is right. Scouts, projections, pictures and reformats are series of their own, even
    if they share a UID with the slices that they were made from. What holds no image (a DICOMDIR, a report) has no
    modality.
    """
    series: dict[tuple[str, ...], list[FileHeader]] = {}
    damaged: dict[Path, str] = {}
    seen: dict[tuple[object, ...], FileHeader] = {}
    doubtful: set[Path] = set()
    for path in sorted(files):
        try:
            header = _read_fields(path)
            uid = header["SOPInstanceUID"]
            uids = header["StudyInstanceUID"], header["SeriesInstanceUID"], header["PatientID"]
            key = (*uids, *_volume_kind(header))
            slice_key = (*key, uid, header["ImagePositionPatient"])
        except CaseError as error:
            damaged[path] = str(error)
            continue
        first = seen.setdefault(slice_key, header) if uid else header
        if first is header:
            series.setdefault(key, []).append(header)
        elif reason := _why_no_copy(first.path, path):
            doubtful.add(first.path)
            damaged[path] = reason
    usable = {key: [header for header in headers if header.path not in doubtful] for key, headers in series.items()}
    return [_info(uid, headers) for (_, uid, *_), headers in sorted(usable.items()) if headers], damaged


def _why_no_copy(one: Path, other: Path) -> str | None:
    """Why a file is no copy of another with the same SOPInstanceUID; None if it is one."""
    try:
        if filecmp.cmp(one, other, shallow=False):
            return None
    except OSError as error:
        return f"'{other}' cannot be read: {error.strerror or error}; check access to it"
    return f"'{other}' and '{one}' have the same SOPInstanceUID and differ; keep the one that is right"


def person_of(entry: Entry) -> tuple[str, ...]:
    """Name and ID of the patient in a DICOM study's header; empty for images. Raises CaseError."""
    if entry.kind != "dicom":
        return ()
    header = _read_fields(entry.pet[0])
    return header["PatientName"], header["PatientID"]


def _read_fields(path: Path) -> FileHeader:
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=FIELDS, force=True)
    except OSError as error:
        raise CaseError(f"'{path}' cannot be read: {error.strerror or error}; check access to it") from None
    except UNREADABLE as error:
        if is_directory(path):
            return FileHeader(path=path, values=("",) * len(FIELDS))
        raise CaseError(f"'{path}' is damaged DICOM ({type(error).__name__}); copy it again") from None
    if not text(header, "SOPClassUID"):
        if is_directory(path):
            return FileHeader(path=path, values=("",) * len(FIELDS))
        raise CaseError(f"'{path}' has no SOPClassUID: not DICOM, or damaged; copy it again")
    if not holds_image(header):
        header.Modality = ""
    return FileHeader(path=path, values=tuple(sys.intern(str(text(header, field))) for field in FIELDS))


def _volume_kind(header: FileHeader) -> tuple[str, ...]:
    """What distinguishes volumes (and what is no volume) that share a SeriesInstanceUID."""
    axes = _numbers(header["ImageOrientationPatient"], 6)
    pictured = projection(header["ImageType"], header["SeriesType"], "") or header["SamplesPerPixel"] not in ("", "1")
    other = "scout" if _is_scout(header) else "picture" if pictured else ""
    return (
        header["Modality"],
        header["SOPClassUID"],
        other or plane(axes) or "axial",
    )  # missing fields are reported when the study is read


def _info(uid: str, headers: list[FileHeader]) -> SeriesInfo:
    first = headers[0]
    vectors = [_numbers(header["ImagePositionPatient"], 3) for header in headers]
    axes = _numbers(first["ImageOrientationPatient"], 6)
    placed = [vector for vector in vectors if vector is not None]
    whole = axes is not None and len(placed) == len(headers)
    number = first["SeriesNumber"]
    positions = np.array(placed) if whole else np.empty((0, 3))
    normal = np.cross(axes[:3], axes[3:]) if whole and axes is not None else np.array([0.0, 0.0, 1.0])
    level = rank(first["ImageType"], first["SeriesType"], first["SeriesDescription"], is_axial(axes))
    timed = first["SeriesType"].upper().split("\\")[0]
    kinds = [timed.lower()] if timed in TIMED else []
    kinds += [KINDS[level]] if level > DERIVED or "DERIVED" in first["ImageType"].upper() else []
    kinds += [plane(axes)] if not is_axial(axes) else []
    return SeriesInfo(
        uid=uid,
        study=first["StudyInstanceUID"],
        frame=first["FrameOfReferenceUID"],
        modality=first["Modality"],
        number=int(number) if re.fullmatch("-?[0-9]{1,12}", number) else 0,
        description=first["SeriesDescription"],
        person=(first["PatientName"], first["PatientID"]),
        files=tuple(header.path for header in headers),
        flaw=_flaw(headers, positions @ normal),
        rank=level,
        kind=", ".join(kinds),
        corrected="ATTN" in first["CorrectedImage"].split("\\") and not says_not_corrected(first["SeriesDescription"]),
        positions=positions,
        normal=normal,
        corners=_corners(first, axes),
        grid=tuple(first[field] for field in ("Rows", "Columns", "PixelSpacing", "ImageOrientationPatient")),
        alike=tuple(first[field] for field in ALIKE),
        times=_times(headers),
    )


def _corners(header: FileHeader, axes: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """The centres of a slice's corner pixels relative to its position; zeros if the header lacks a field for it."""
    sizes = _numbers("\\".join((header["Rows"], header["Columns"])), 2)
    spacing = _numbers(header["PixelSpacing"], 2)
    if axes is None or sizes is None or spacing is None:
        return np.zeros((4, 3))
    down, right = (sizes - 1) * spacing
    return np.array([[0, 0, 0], right * axes[:3], down * axes[3:], right * axes[:3] + down * axes[3:]])


def _times(headers: list[FileHeader]) -> tuple[float, float] | None:
    """Seconds of the first and last acquisition, with the day if headers state one; None if no header has a time."""
    found = []
    for header in headers:
        for date, time in (("AcquisitionDate", "AcquisitionTime"), ("SeriesDate", "SeriesTime")):
            day, second = day_of(header[date]), seconds_of(header[time])
            if second is not None:
                found.append((day.toordinal() * DAY_S if day else 0.0) + second)
                break
    return (min(found), max(found)) if found else None


def _flaw(headers: list[FileHeader], depth: NDArray[np.float64]) -> str:
    """Why a series cannot be scored; "" if it can. depth: its slices' positions along their normal, mm."""
    first = headers[0]
    modality = first["Modality"]
    if _is_scout(first):
        return "a scout (LOCALIZER)"
    axes = _numbers(first["ImageOrientationPatient"], 6)
    if projection(first["ImageType"], first["SeriesType"], "") and (axes is None or not is_axial(axes)):
        return "a projection"
    if projection("", first["SeriesType"], "") or "PROJECTION IMAGE" in first["ImageType"].upper():
        return "a projection"
    if first["SOPClassUID"] not in SINGLE_FRAME.get(modality, ()):
        return "not single-frame PET or CT images"
    if first["SamplesPerPixel"] not in ("", "1"):
        return "in colour"
    if len(headers) == 1:
        return ONE_SLICE
    if not len(depth):
        return "without positions of its slices"
    gaps = np.diff(np.sort(depth))
    if (gaps < SAME_PLACE_MM).sum() >= max(2.0, len(gaps) / 3):
        return "several slices in one place, dynamic or gated"
    return ""


def _is_scout(header: FileHeader) -> bool:
    return "LOCALIZER" in header["ImageType"].upper()


def _numbers(stated: str, length: int) -> NDArray[np.float64] | None:
    """The numbers of a DICOM value; None unless there are `length` plausible ones."""
    try:
        values = np.array([float(part) for part in stated.split("\\")])
    except ValueError:
        return None
    return values if len(values) == length and (np.abs(values) < LARGEST).all() else None
