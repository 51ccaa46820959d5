"""DICOM headers, and the series that a folder or a list of files holds.

Headers are pydicom datasets without their pixels; `filename` is the file that they were read from. Their values are
read by model/dicom/elements.py, the pixels by model/dicom/pixels.py.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pydicom
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import UID, ImplicitVRLittleEndian, MediaStorageDirectoryStorage

from model.dicom.elements import UNREADABLE, path_of, tag_name, text
from model.errors import CaseError
from model.opening import open_regular

AnyDataset = TypeVar("AnyDataset", bound=Dataset)


@dataclass(frozen=True, kw_only=True)
class Series:
    """The files of one SeriesInstanceUID; `headers` are in the order of `files`.

    parts: the UIDs of a volume that was sent as several series, else none; `uid` is then the first.
    """

    uid: str
    modality: str
    description: str
    files: tuple[Path, ...]
    headers: tuple[FileDataset, ...] = field(repr=False)
    parts: tuple[str, ...] = ()


def find_series(inputs: Path | Iterable[Path]) -> list[Series]:
    """The series of a folder (and of those below it) or of a list of files, by modality, then by first file.

    A folder may hold files that are not DICOM, and DICOM without an image (a DICOMDIR, a report): they are passed over.
    In a list they are refused. Raises CaseError for a path that does not exist or cannot be read.
    """
    if isinstance(inputs, Path) and inputs.is_dir():
        files = sorted(p for p in inputs.rglob("*") if p.is_file() and looks_like_dicom(p) and not is_directory(p))
    else:
        files = [inputs] if isinstance(inputs, Path) else list(inputs)
    found: dict[tuple[str, str], list[FileDataset]] = {}
    for path in files:
        header = read_header(path)
        key = text(header, "SeriesInstanceUID"), text(header, "Modality")
        if isinstance(inputs, Path) and key[1] in ("PT", "CT") and not holds_image(header):
            continue
        found.setdefault(key, []).append(header)
    series = [
        Series(
            uid=uid,
            modality=modality,
            description=text(headers[0], "SeriesDescription"),
            files=tuple(path_of(h) for h in headers),
            headers=tuple(headers),
        )
        for (uid, modality), headers in found.items()
    ]
    return sorted(series, key=lambda s: (s.modality, str(s.files[0])))


def join_series(series: Sequence[Series]) -> Series:
    """One volume of several series that it was sent as. `order_slices` checks whether they are one volume."""
    if len(series) == 1:
        return series[0]
    return Series(
        uid=series[0].uid,
        modality=series[0].modality,
        description=series[0].description,
        files=tuple(file for one in series for file in one.files),
        headers=tuple(header for one in series for header in one.headers),
        parts=tuple(one.uid for one in series),
    )


def by_series(headers: Iterable[AnyDataset]) -> dict[str, list[AnyDataset]]:
    """Headers by their SeriesInstanceUID, in their order: more than one UID where series were joined."""
    found: dict[str, list[AnyDataset]] = {}
    for header in headers:
        found.setdefault(text(header, "SeriesInstanceUID"), []).append(header)
    return found


def is_directory(path: Path) -> bool:
    """Whether a DICOM file is a DICOMDIR, whatever its name: by its media storage class; a damaged one by name."""
    try:
        head = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["FileSetID", "SOPClassUID"], force=True)
        storage = str(head.file_meta.get("MediaStorageSOPClassUID", ""))
        if storage or "SOPClassUID" in head:
            return storage == MediaStorageDirectoryStorage
    except (OSError, *UNREADABLE):
        pass
    return path.stem.upper() == "DICOMDIR"


def holds_image(header: Dataset) -> bool:
    """Whether a DICOM object is an image of any kind, rather than a report, raw data or a presentation state."""
    return "Image Storage" in UID(text(header, "SOPClassUID")).name or bool(text(header, "Rows").strip("0"))


def looks_like_dicom(path: Path) -> bool:
    """Whether the file starts as DICOM does: "DICM" after 128 bytes, or (old files) group 0008 or 0002 at once."""
    try:
        with open_regular(path) as file:
            head = file.read(132)
    except OSError as error:
        raise CaseError(f"'{path}' cannot be read: {error.strerror or error}; check access to it") from None
    return head[128:] == b"DICM" or head[:2] in (b"\x08\x00", b"\x02\x00")


def read_header(path: Path) -> FileDataset:
    """Everything of a DICOM file but its pixels. Raises CaseError if it is not DICOM, or damaged."""
    return read_file(path, pixels=False)


def read_file(path: Path, pixels: bool) -> FileDataset:
    """A DICOM file, with or without its pixels, not yet decompressed. Raises CaseError as `read_header`."""
    if not os.path.lexists(path):
        raise CaseError(f"DICOM file '{path}' is not there")
    if not looks_like_dicom(path):
        raise CaseError(f"'{path}' is not DICOM, or it is empty or damaged; give only DICOM files")
    try:
        data = pydicom.dcmread(path, stop_before_pixels=not pixels, force=True)
        has_class = "SOPClassUID" in data
    except OSError as error:
        raise CaseError(f"'{path}' cannot be read: {error.strerror or error}; check access to it") from None
    except UNREADABLE as error:
        raise CaseError(f"'{path}' is damaged DICOM ({type(error).__name__}); copy it again") from None
    if not has_class:
        raise CaseError(f"'{path}' has no {tag_name('SOPClassUID')}: not DICOM, or damaged; copy it again")
    if not hasattr(data, "file_meta") or "TransferSyntaxUID" not in data.file_meta:
        data.ensure_file_meta()
        data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian  # files without a preamble are stored so
    data.filename = str(path)
    return data
