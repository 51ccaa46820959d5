"""Many DICOM files at a glance: the few header fields that tell which series are there, without the rest.

What is read here decides which files a study is made of; whether they are right is found out when it is read.
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
FARTHEST = 1e6  # mm, pixels: no place, spacing or size is so large


@dataclass(frozen=True, kw_only=True, slots=True)
class Glance:
    """What one file says in FIELDS, as text; what many say alike is in memory once."""

    path: Path
    values: tuple[str, ...]

    def __getitem__(self, field: str) -> str:
        return self.values[FIELDS.index(field)]


@dataclass(frozen=True, kw_only=True)
class SeriesInfo:
    """One series: whose it is, what it is, and where its slices lie ((n, 3), mm; empty where a slice does not say)."""

    uid: str
    study: str
    frame: str
    modality: str
    number: int  # SeriesNumber; 0 where there is none
    description: str
    person: tuple[str, ...]
    files: tuple[Path, ...]
    flaw: str  # why it is no volume to score: a scout, a projection, another kind of image; "" if it may be one
    rank: int  # of model/dicom/kinds.py: original slices first, then what was made of them
    kind: str  # the same in words, with the plane if it is not axial; "" of original axial slices
    corrected: bool  # for attenuation
    positions: NDArray[np.float64]
    normal: NDArray[np.float64]
    corners: NDArray[np.float64]  # of a slice, from its position, (4, 3), mm
    grid: tuple[str, ...]  # Rows, Columns, PixelSpacing, ImageOrientationPatient
    alike: tuple[str, ...]  # what else series of one volume share: ALIKE
    times: tuple[float, float] | None  # seconds of its first and last acquisition, on a common clock
    parts: tuple["SeriesInfo", ...] = ()  # of a volume that was sent as several series

    @property
    def belongs(self) -> tuple[str, str]:
        """StudyInstanceUID and PatientID: what series of one study share."""
        return self.study, self.person[1]

    def span_mm(self, normal: NDArray[np.float64]) -> tuple[float, float]:
        """Lowest and highest place of its slices along a direction; (0, 0) where positions are not known."""
        if not len(self.positions):
            return 0.0, 0.0
        along, across = self.positions @ normal, self.corners @ normal
        return float(along.min() + across.min()), float(along.max() + across.max())

    @property
    def body_axis(self) -> NDArray[np.float64]:
        """The direction along the body: that of the slices where they are axial, else the patient's z."""
        return self.normal if self.rank < REFORMAT else np.array([0.0, 0.0, 1.0])

    @property
    def length_mm(self) -> float:
        """How much of the body it shows."""
        low, high = self.span_mm(self.body_axis)
        return high - low

    @property
    def step_mm(self) -> float:
        """The distance of its slices; 0 of one slice."""
        depth = np.sort(self.positions @ self.normal)
        return float(np.median(np.diff(depth))) if len(depth) > 1 else 0.0


def scan(files: Iterable[Path]) -> tuple[list[SeriesInfo], dict[Path, str]]:
    """The series that DICOM files belong to, by study and UID; and the files that cannot be read, with the reason.

    Copies of a slice (one SOPInstanceUID, one place) count once: the first by path. Where their contents differ, none
    does, since it is not known which is right. Scouts, projections, pictures and reformats are series of their own,
    though they share a UID with the slices that they were made of. What holds no image (a DICOMDIR, a report) has no
    modality.
    """
    series: dict[tuple[str, ...], list[Glance]] = {}
    damaged: dict[Path, str] = {}
    seen: dict[tuple[object, ...], Glance] = {}
    doubtful: set[Path] = set()
    for path in sorted(files):
        try:
            header = _glance(path)
            uid = header["SOPInstanceUID"]
            whose = header["StudyInstanceUID"], header["SeriesInstanceUID"], header["PatientID"]
            of = (*whose, *_sort_of(header))
            slice_of = (*of, uid, header["ImagePositionPatient"])
        except CaseError as error:
            damaged[path] = str(error)
            continue
        first = seen.setdefault(slice_of, header) if uid else header
        if first is header:
            series.setdefault(of, []).append(header)
        elif trouble := _difference(first.path, path):
            doubtful.add(first.path)
            damaged[path] = trouble
    left = {of: [one for one in headers if one.path not in doubtful] for of, headers in series.items()}
    return [_info(uid, headers) for (_, uid, *_), headers in sorted(left.items()) if headers], damaged


def _difference(one: Path, other: Path) -> str | None:
    """What is wrong with two files that say they are one slice; None where they are alike."""
    try:
        if filecmp.cmp(one, other, shallow=False):
            return None
    except OSError as error:
        return f"'{other}' cannot be read: {error.strerror or error}; check access to it"
    return f"'{other}' and '{one}' are one slice by their SOPInstanceUID, and differ; keep the one that is right"


def person_of(entry: Entry) -> tuple[str, ...]:
    """Name and ID of the patient in the header of a DICOM study; of images nothing. Raises CaseError."""
    if entry.kind != "dicom":
        return ()
    header = _glance(entry.pet[0])
    return header["PatientName"], header["PatientID"]


def _glance(path: Path) -> Glance:
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=FIELDS, force=True)
    except OSError as error:
        raise CaseError(f"'{path}' cannot be read: {error.strerror or error}; check access to it") from None
    except UNREADABLE as error:
        if is_directory(path):
            return Glance(path=path, values=("",) * len(FIELDS))
        raise CaseError(f"'{path}' is damaged DICOM ({type(error).__name__}); copy it again") from None
    if not text(header, "SOPClassUID"):
        if is_directory(path):
            return Glance(path=path, values=("",) * len(FIELDS))
        raise CaseError(f"'{path}' has no SOPClassUID: not DICOM, or damaged; copy it again")
    if not holds_image(header):
        header.Modality = ""
    return Glance(path=path, values=tuple(sys.intern(str(text(header, field))) for field in FIELDS))


def _sort_of(header: Glance) -> tuple[str, ...]:
    """What tells apart the volumes, and what is none, that share a UID."""
    axes = _numbers(header["ImageOrientationPatient"], 6)
    pictured = projection(header["ImageType"], header["SeriesType"], "") or header["SamplesPerPixel"] not in ("", "1")
    other = "scout" if _is_scout(header) else "picture" if pictured else ""
    return header["Modality"], header["SOPClassUID"], other or plane(axes) or "axial"  # reading it says what lacks


def _info(uid: str, headers: list[Glance]) -> SeriesInfo:
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
    shown = [timed.lower()] if timed in TIMED else []
    shown += [KINDS[level]] if level > DERIVED or "DERIVED" in first["ImageType"].upper() else []
    shown += [plane(axes)] if not is_axial(axes) else []
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
        kind=", ".join(shown),
        corrected="ATTN" in first["CorrectedImage"].split("\\") and not says_not_corrected(first["SeriesDescription"]),
        positions=positions,
        normal=normal,
        corners=_corners(first, axes),
        grid=tuple(first[field] for field in ("Rows", "Columns", "PixelSpacing", "ImageOrientationPatient")),
        alike=tuple(first[field] for field in ALIKE),
        times=_times(headers),
    )


def _corners(header: Glance, axes: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Where the middles of a slice's corner pixels lie from its position; zeros where it does not say."""
    sizes = _numbers("\\".join((header["Rows"], header["Columns"])), 2)
    spacing = _numbers(header["PixelSpacing"], 2)
    if axes is None or sizes is None or spacing is None:
        return np.zeros((4, 3))
    down, right = (sizes - 1) * spacing
    return np.array([[0, 0, 0], right * axes[:3], down * axes[3:], right * axes[:3] + down * axes[3:]])


def _times(headers: list[Glance]) -> tuple[float, float] | None:
    """Seconds of the first and the last acquisition; of days alone where a header states its date alone."""
    found = []
    for header in headers:
        for date, time in (("AcquisitionDate", "AcquisitionTime"), ("SeriesDate", "SeriesTime")):
            day, second = day_of(header[date]), seconds_of(header[time])
            if second is not None:
                found.append((day.toordinal() * DAY_S if day else 0.0) + second)
                break
    return (min(found), max(found)) if found else None


def _flaw(headers: list[Glance], depth: NDArray[np.float64]) -> str:
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
    gaps = np.diff(np.sort(depth))
    if (gaps < SAME_PLACE_MM).sum() >= max(2.0, len(gaps) / 3):
        return "several slices in one place, dynamic or gated"
    return "" if len(depth) else "without places of its slices"


def _is_scout(header: Glance) -> bool:
    return "LOCALIZER" in header["ImageType"].upper()


def _numbers(stated: str, length: int) -> NDArray[np.float64] | None:
    try:
        values = np.array([float(part) for part in stated.split("\\")])
    except ValueError:
        return None
    return values if len(values) == length and (np.abs(values) < FARTHEST).all() else None
