"""What SEG, RTSTRUCT and SR share: the headers that they refer to, their UIDs, and the name of the software."""

import hashlib
import io
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset

from model import RESEARCH, __version__
from model.dicom.elements import path_of, tag_name, text
from model.dicom.identity import EMPTY_IF_UNUSABLE
from model.errors import CaseError

MANUFACTURER, MODEL = "petct-lesion-segmentation developers", "petct-lesion-segmentation"
DEVICE = {
    "manufacturer": MANUFACTURER,
    "manufacturer_model_name": MODEL,
    "software_versions": __version__,
    "device_serial_number": "none",
}  # what highdicom asks for
LESION, ALL = "Lesion", "Lesions"  # the label of a segment or an ROI: of one lesion, before its number, or of all
MOST_NUMBERED = 255  # lesions that get a segment each: viewers keep the number of a segment in 8 bits
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
)  # of the slices; the patient and the study are copied by model/dicom/identity.py
EMPTY = (*EMPTY_IF_UNUSABLE, "FrameOfReferenceUID", "PositionReferenceIndicator")
REFERRED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")

pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE  # UIDs that we refer to stay as they are


def sources_from(headers: Sequence[FileDataset]) -> list[Dataset]:
    """The elements that a SEG, RTSTRUCT or SR needs of each slice, in new datasets; required ones at least empty.

    Raises CaseError if a slice lacks a UID that must be referred to, or shares its own with another slice.
    """
    datasets = []
    for header in headers:
        new = Dataset()
        for keyword in NEEDED:
            with suppress(CaseError):  # treat a damaged element as absent
                if text(header, keyword):
                    new.add(header[keyword])
        if missing := [tag_name(keyword) for keyword in REFERRED if keyword not in new]:
            raise CaseError(
                f"'{path_of(header)}' has no {', '.join(missing)}, which a SEG, RTSTRUCT or SR must refer to"
            )
        for keyword in EMPTY:
            if keyword not in new:
                setattr(new, keyword, "")
        datasets.append(new)
    if len({one.SOPInstanceUID for one in datasets}) < len(datasets):
        raise CaseError(
            f"slices of '{path_of(headers[0])}' share a {tag_name('SOPInstanceUID')}, so that a viewer could show a "
            "lesion on another slice"
        )
    return datasets


def segments_of(numbers: NDArray[Any]) -> tuple[NDArray[np.uint8], list[str]]:
    """Segments 1, 2, ... (0 outside) of numbered lesions, and their labels.

    Each lesion is a segment, labelled with its number in the lesion table; segments have no gaps, where lesions were
    dropped. Without lesions, or with more than 255, there is one segment for all.
    """
    there = np.flatnonzero(np.bincount(numbers.ravel()))
    there = there[there > 0]
    if 0 < len(there) <= MOST_NUMBERED:
        segments = np.zeros(int(there[-1]) + 1, np.uint8)
        segments[there] = range(1, len(there) + 1)
        return segments[numbers], [f"{LESION} {number}" for number in there]
    return (numbers > 0).astype(np.uint8), [ALL]


def uid_from(*parts: object) -> str:
    """A UID computed from its parts: the same result has the same UID, so a PACS stores it once.

    It begins with 2.25, as UIDs of 128 random bits do (DICOM PS3.5, B.2).
    """
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def plain_text(words: str, most: int) -> str:
    """Words in ASCII, which is valid in every character set, on one line and of at most `most` characters."""
    letters = unicodedata.normalize("NFKD", words).encode("ascii", "ignore").decode()
    return " ".join(letters.split())[:most]


def series_description(title: str, mark: str = "") -> str:
    """What a PACS lists a series by, at most 64 characters (LO). mark: what it says beside its title."""
    return ", ".join(filter(None, (title, mark, RESEARCH)))


def as_bytes(dataset: Dataset) -> bytes:
    """The dataset as the bytes of a DICOM file."""
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
