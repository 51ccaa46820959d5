"""What DICOM SEG and RTSTRUCT have in common: the headers they refer to, their identifiers, and who made them."""

import hashlib
import io
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset

from model.dicom.headers import path_of, tag_name, text
from model.dicom.identity import EMPTY_IF_UNUSABLE
from model.errors import CaseError

MANUFACTURER, MODEL = "petct-lesion-segmentation developers", "petct-lesion-segmentation"
SERIAL = "none"
LESION, ALL = "Lesion", "Lesions"  # what a segment or an ROI is called: one lesion and its number, or all of them
MOST_NUMBERED = 255  # lesions in segments of their own: viewers keep segments in 8 bits
NEEDED = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "Modality",
    "Rows",
    "Columns",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Manufacturer",
    "ManufacturerModelName",
    "InstitutionName",
    "StationName",
    "SoftwareVersions",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)  # of the slices; whose they are comes from model/dicom/identity.py, as bytes
EMPTY = (*EMPTY_IF_UNUSABLE, "FrameOfReferenceUID", "PositionReferenceIndicator")
REFERRED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")

pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE  # UIDs that are referred to stay as they are


def complete(headers: Sequence[FileDataset]) -> list[Dataset]:
    """What an object that refers to these headers needs of them, in new datasets; what must be there is, if empty.

    Raises CaseError if a slice lacks a UID that must be referred to, or shares its own with another slice.
    """
    whole = []
    for header in headers:
        new = Dataset()
        for keyword in NEEDED:
            with suppress(CaseError):  # damaged: as if it were absent
                if text(header, keyword):
                    new.add(header[keyword])
        if missing := [tag_name(keyword) for keyword in REFERRED if keyword not in new]:
            raise CaseError(f"'{path_of(header)}' has no {', '.join(missing)}, which a SEG or RTSTRUCT must refer to")
        for keyword in EMPTY:
            if keyword not in new:
                setattr(new, keyword, "")
        whole.append(new)
    if len({one.SOPInstanceUID for one in whole}) < len(whole):
        raise CaseError(
            f"slices of '{path_of(headers[0])}' share a {tag_name('SOPInstanceUID')}, so that a viewer could show a "
            "lesion on another slice"
        )
    return whole


def segments_of(numbers: NDArray[Any]) -> tuple[NDArray[np.uint8], list[str]]:
    """Segments 1, 2, ... (0 outside) of numbered lesions, and what each is called.

    One a lesion, under its number in the lesion table; one for all where there are none or more than 255.
    """
    count = int(numbers.max(initial=0))
    if 0 < count <= MOST_NUMBERED:
        return numbers.astype(np.uint8), [f"{LESION} {number}" for number in range(1, count + 1)]
    return (numbers > 0).astype(np.uint8), [ALL]


def uid_from(*parts: object) -> str:
    """A UID that is a function of its parts, so that the same result has the same UID, and a PACS holds it once.

    Below 2.25, as UIDs made from 128 random bits are (DICOM PS3.5, B.2).
    """
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def as_bytes(dataset: Dataset) -> bytes:
    """A whole DICOM file."""
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
