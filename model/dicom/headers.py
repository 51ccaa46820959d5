"""DICOM files: headers, the values of one slice, and the series that a folder holds.

Headers are pydicom datasets without their pixels; `filename` is the file they were read from. Values are read one
file at a time, so that a CT of a thousand slices is never in memory twice.
"""

import os
import re
import struct
import warnings
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import TypeVar

import numpy as np
import pydicom
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.pixels.decoders.base import get_decoder
from pydicom.tag import Tag
from pydicom.uid import UID, ImplicitVRLittleEndian, MediaStorageDirectoryStorage

from model.errors import CaseError
from model.files import silence
from model.opening import open_regular

UNREADABLE = (
    InvalidDicomError,
    BytesLengthException,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)  # what pydicom and its decoders raise on damaged files
NO_NUMBERS = (
    (r"[-+]?[0-9. ]*,[0-9]+", "a number with a decimal comma"),
    (r"[-+]?[0-9.,]+ *[A-Za-z]+", "a number with its unit"),
)  # how a value looks that is no number, and what it probably is
OUTSIDE_HU = -1024.0  # air: what CT padding outside the field of view becomes
AnyDataset = TypeVar("AnyDataset", bound=Dataset)

pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE  # a name too long is no reason to complain
warnings.filterwarnings("ignore", module=r"pydicom\.")  # what matters is checked here, and told once


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

    In a folder, files that are not DICOM, and DICOM that holds no image (a DICOMDIR, a report), are passed over; in a
    list they are refused. Raises CaseError for a path that is not there or cannot be read.
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


def joined(series: Sequence[Series]) -> Series:
    """One volume that was sent as several series. Whether they fit is found out by `order_slices`."""
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
    """Headers by their SeriesInstanceUID, in their order: more than one where series were joined."""
    found: dict[str, list[AnyDataset]] = {}
    for header in headers:
        found.setdefault(text(header, "SeriesInstanceUID"), []).append(header)
    return found


def is_directory(path: Path) -> bool:
    """Whether a DICOM file is a DICOMDIR, under whatever name: by its media storage class; a damaged one by name."""
    try:
        head = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["FileSetID", "SOPClassUID"], force=True)
        kind = str(head.file_meta.get("MediaStorageSOPClassUID", ""))
        if kind or "SOPClassUID" in head:
            return kind == MediaStorageDirectoryStorage
    except (OSError, *UNREADABLE):
        pass
    return path.stem.upper() == "DICOMDIR"


def holds_image(header: Dataset) -> bool:
    """Whether a DICOM object is an image of whatever kind, rather than a report, raw data or a presentation state."""
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
    return _read(path, pixels=False)


def read_values(path: Path) -> NDArray[np.float64]:
    """The values of one slice (y, x), after its own RescaleSlope and RescaleIntercept.

    CT padding (PixelPaddingValue) below -1024 HU becomes -1024. What pydicom cannot decompress alone (JPEG lossless,
    JPEG-LS) is read by SimpleITK (GDCM). Raises CaseError if the pixels are damaged or in a
    compression that neither reads.
    """
    data = _read(path, pixels=True)
    slope, intercept = rescale(data)
    syntax = UID(str(data.file_meta.TransferSyntaxUID))
    try:
        if syntax.is_compressed and not get_decoder(syntax).is_available:
            values = _decompress(path)
        else:
            values = np.asarray(data.pixel_array, np.float64) * slope + intercept
    except UNREADABLE as error:
        reason = str(error).strip().splitlines()[-1][:200] if str(error).strip() else type(error).__name__
        raise CaseError(
            f"the pixels of '{path}' cannot be read (transfer syntax {syntax.name}): {reason}; copy the file again, "
            "or decompress the series first (for example with dcmdjpeg or gdcmconv --raw)"
        ) from None
    shape = number(data, "Rows"), number(data, "Columns")
    if values.shape != shape:
        raise CaseError(f"'{path}' holds pixels of shape {values.shape}, not one slice of {shape}; export it again")
    padding = number(data, "PixelPaddingValue") if text(data, "Modality") == "CT" else None
    if padding is not None and padding * slope + intercept < OUTSIDE_HU:
        values[values == padding * slope + intercept] = OUTSIDE_HU
    return values


def rescale(header: FileDataset) -> tuple[float, float]:
    """RescaleSlope and RescaleIntercept of a slice. Raises CaseError if one is absent, or the slope is 0."""
    slope, intercept = number(header, "RescaleSlope"), number(header, "RescaleIntercept")
    if not slope or intercept is None:
        raise CaseError(
            f"'{path_of(header)}' has {tag_name('RescaleSlope')} {slope} and {tag_name('RescaleIntercept')} {intercept}"
            ": without them its values have no unit; export the series again from the scanner or the PACS"
        )
    return slope, intercept


def path_of(header: FileDataset) -> Path:
    """The file that a header was read from."""
    return Path(str(header.filename))


def text(dataset: Dataset, keyword: str) -> str:
    """A value as text without outer spaces, "" where it is absent; several values are joined by a backslash.

    Raises CaseError if it is damaged.
    """
    try:
        value = dataset.get(keyword)
        if isinstance(value, (list, MultiValue)):
            return "\\".join(map(str, value)).strip()
        return "" if value is None else str(value).strip()
    except (OSError, *UNREADABLE):  # an OSError too is pydicom's, of bytes in memory
        raise _damaged(dataset, keyword) from None


def items(dataset: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence, none where it is absent. Raises CaseError if it is damaged."""
    try:
        found = list(dataset.get(keyword) or [])
    except (OSError, *UNREADABLE):  # an OSError too is pydicom's, of bytes in memory
        raise _damaged(dataset, keyword) from None
    if not all(isinstance(item, Dataset) for item in found):
        raise _damaged(dataset, keyword)
    for item in found:
        item.filename = getattr(dataset, "filename", "DICOM")  # what messages about the item name
    return found


def _damaged(dataset: Dataset, keyword: str) -> CaseError:
    return CaseError(f"'{getattr(dataset, 'filename', 'DICOM')}': {tag_name(keyword)} is damaged; copy the file again")


def number(dataset: Dataset, keyword: str, path: Path | None = None) -> float | None:
    """A value as a finite number, None where it is absent or empty.

    `path` is named in messages where `dataset` is an item of a sequence. Raises CaseError for anything else.
    """
    shown = ""
    try:
        shown = text(dataset, keyword)
        value = float(shown) if shown else None
        if value is not None and not isfinite(value):
            raise ValueError
    except UNREADABLE:
        where: object = path or getattr(dataset, "filename", "?")
        probably = next((what for pattern, what in NO_NUMBERS if re.fullmatch(pattern, shown.strip())), "")
        raise CaseError(
            f"'{where}': {tag_name(keyword)} {shown[:40]!r} is not a number"
            + (f" (probably {probably})" if probably else "")
            + "; correct the header"
        ) from None
    return value


def tag_name(keyword: str) -> str:
    """A keyword with its tag, as messages and records show it: "PatientWeight (0010,1030)"."""
    tag = Tag(tag_for_keyword(keyword) or 0)
    return f"{keyword} ({tag.group:04X},{tag.element:04X})"


def misplaced(header: Dataset, keyword: str) -> str:
    """What is said of an element of the radiopharmaceutical that stands outside of its sequence; "" where none does."""
    if not text(header, keyword):
        return ""
    place = tag_name("RadiopharmaceuticalInformationSequence")
    return f" in {place} (it has {tag_name(keyword)} outside of it, where it is not read)"


def private(header: FileDataset, group: int, creator: str, element: int) -> str:
    """A private value as text, "" where the creator or the element is absent; `creator` is the start of its name."""
    try:
        for block in header.private_creators(group):
            if str(block).upper().startswith(creator.upper()):
                tags = header.private_block(group, block)
                if element in tags:
                    value = tags[element].value
                    shown = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)
                    return shown.strip(" \0")
    except UNREADABLE:
        raise CaseError(
            f"'{path_of(header)}': ({group:04X},xx{element:02X}) of {creator} is damaged; copy the file again"
        ) from None
    return ""


def _read(path: Path, pixels: bool) -> FileDataset:
    if not os.path.lexists(path):
        raise CaseError(f"DICOM file '{path}' is not there")
    if not looks_like_dicom(path):
        raise CaseError(f"'{path}' is not DICOM (or an empty or damaged file); give DICOM files alone")
    try:
        data = pydicom.dcmread(path, stop_before_pixels=not pixels, force=True)
        known = "SOPClassUID" in data
    except OSError as error:
        raise CaseError(f"'{path}' cannot be read: {error.strerror or error}; check access to it") from None
    except UNREADABLE as error:
        raise CaseError(f"'{path}' is damaged DICOM ({type(error).__name__}); copy it again") from None
    if not known:
        raise CaseError(f"'{path}' has no {tag_name('SOPClassUID')}: not DICOM, or damaged; copy it again")
    if not hasattr(data, "file_meta") or "TransferSyntaxUID" not in data.file_meta:
        data.ensure_file_meta()
        data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian  # what files without a preamble are in
    data.filename = str(path)
    return data


def _decompress(path: Path) -> NDArray[np.float64]:
    """One compressed slice by GDCM, which applies the file's rescale itself."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    with silence():
        image = reader.Execute()
    array: NDArray[np.float64] = sitk.GetArrayFromImage(image).astype(np.float64)
    return array[0] if array.ndim == 3 else array
