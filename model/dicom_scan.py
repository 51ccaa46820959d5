"""Many DICOM files at a glance: the few header fields that tell which series are there, without the rest.

What is read here decides which files a study is made of; whether they are right is found out when it is read.
"""

import filecmp
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray

from model.dicom_files import UNREADABLE, text
from model.dicom_series import SINGLE_FRAME
from model.errors import CaseError
from model.studies import Entry

FIELDS = [
    "SpecificCharacterSet", "ImageType", "SOPClassUID", "SOPInstanceUID", "Modality", "SeriesDescription",
    "PatientName", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber", "FrameOfReferenceUID",
    "ImagePositionPatient", "ImageOrientationPatient", "NumberOfFrames", "CorrectedImage", "SeriesType",
]  # fmt: skip


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
    corrected: bool  # for attenuation
    positions: NDArray[np.float64]
    normal: NDArray[np.float64]

    @property
    def belongs(self) -> tuple[str, str]:
        """StudyInstanceUID and PatientID: what series of one study share."""
        return self.study, self.person[1]

    def span_mm(self, normal: NDArray[np.float64]) -> tuple[float, float]:
        """Lowest and highest place of its slices along a direction; (0, 0) where positions are not known."""
        if not len(self.positions):
            return 0.0, 0.0
        along = self.positions @ normal
        return float(along.min()), float(along.max())

    @property
    def length_mm(self) -> float:
        low, high = self.span_mm(self.normal)
        return high - low


def scan(files: Iterable[Path]) -> tuple[list[SeriesInfo], dict[Path, str]]:
    """The series that DICOM files belong to, by study and UID; and the files that cannot be read, with the reason.

    Copies of a slice (one SOPInstanceUID, one place) count once: the first by path. Where their contents differ, none
    does, since it is not known which is right. Scouts are a series of their own, whatever their UID.
    """
    series: dict[tuple[str, str, str, bool], list[Glance]] = {}
    damaged: dict[Path, str] = {}
    seen: dict[tuple[object, ...], Glance] = {}
    doubtful: set[Path] = set()
    for path in sorted(files):
        try:
            header = _glance(path)
            uid = header["SOPInstanceUID"]
            whose = header["StudyInstanceUID"], header["SeriesInstanceUID"], header["PatientID"]
            of = (*whose, _is_scout(header))
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
        raise CaseError(f"'{path}' is damaged DICOM ({type(error).__name__}); copy it again") from None
    if not text(header, "SOPClassUID"):
        raise CaseError(f"'{path}' has no SOPClassUID: not DICOM, or damaged; copy it again")
    return Glance(path=path, values=tuple(sys.intern(str(text(header, field))) for field in FIELDS))


def _info(uid: str, headers: list[Glance]) -> SeriesInfo:
    first = headers[0]
    vectors = [_numbers(header["ImagePositionPatient"], 3) for header in headers]
    axes = _numbers(first["ImageOrientationPatient"], 6)
    placed = [vector for vector in vectors if vector is not None]
    whole = axes is not None and len(placed) == len(headers)
    number = first["SeriesNumber"]
    return SeriesInfo(
        uid=uid, study=first["StudyInstanceUID"], frame=first["FrameOfReferenceUID"],
        modality=first["Modality"], number=int(number) if number.lstrip("-").isdigit() else 0,
        description=first["SeriesDescription"],
        person=(first["PatientName"], first["PatientID"]),
        files=tuple(header.path for header in headers), flaw=_flaw(headers),
        corrected="ATTN" in first["CorrectedImage"].split("\\"),
        positions=np.array(placed) if whole else np.empty((0, 3)),
        normal=np.cross(axes[:3], axes[3:]) if whole and axes is not None else np.array([0.0, 0.0, 1.0]),
    )  # fmt: skip


def _flaw(headers: list[Glance]) -> str:
    first = headers[0]
    modality = first["Modality"]
    if _is_scout(first):
        return "a scout (LOCALIZER)"
    if "REPROJECTION" in first["SeriesType"].upper() or "PROJECTION IMAGE" in first["ImageType"].upper():
        return "a projection"
    if first["SOPClassUID"] not in SINGLE_FRAME.get(modality, ()):
        return "not single-frame PET or CT images"
    return "" if len(headers) > 1 else "a single slice"


def _is_scout(header: Glance) -> bool:
    return "LOCALIZER" in header["ImageType"].upper()


def _numbers(stated: str, length: int) -> NDArray[np.float64] | None:
    try:
        values = np.array([float(part) for part in stated.split("\\")])
    except ValueError:
        return None
    return values if len(values) == length and np.isfinite(values).all() else None
