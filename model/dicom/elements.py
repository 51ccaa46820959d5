"""Values of DICOM elements: text, numbers and sequences of a header, and how messages name them.

Headers are pydicom datasets without their pixels; `filename` is the file that they were read from.
"""

import re
import struct
import warnings
import zlib
from math import isfinite
from pathlib import Path

import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.tag import Tag

from model.errors import CaseError

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
NUMBER_MISTAKES = (
    (r"[-+]?[0-9. ]*,[0-9]+", "a number with a decimal comma"),
    (r"[-+]?[0-9.,]+ *[A-Za-z]+", "a number with its unit"),
)  # how a value looks that is not a number, and what it probably is
LONGEST_SHOWN = 40  # characters of a value in a message

pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE  # a name too long is no reason to complain
warnings.filterwarnings("ignore", module=r"pydicom\.")  # our own checks warn about what matters


def path_of(header: FileDataset) -> Path:
    """The file that a header was read from."""
    return Path(str(header.filename))


def text(dataset: Dataset, keyword: str) -> str:
    """A value as text without outer spaces, "" where it is absent; several values are joined by a backslash.

    Raises CaseError if the element is damaged.
    """
    try:
        value = dataset.get(keyword)
        if isinstance(value, (list, MultiValue)):
            return "\\".join(map(str, value)).strip()
        return "" if value is None else str(value).strip()
    except (OSError, *UNREADABLE):  # pydicom raises OSError, too, when it reads damaged bytes in memory
        raise _damage_error(dataset, keyword) from None


def number(dataset: Dataset, keyword: str, path: Path | None = None) -> float | None:
    """A value as a finite number, None where it is absent or empty.

    path: the file that messages name, where `dataset` is an item of a sequence. Raises CaseError for anything that is
    not a number.
    """
    stated = ""
    try:
        stated = text(dataset, keyword)
        value = float(stated) if stated else None
        if value is not None and not isfinite(value):
            raise ValueError
    except UNREADABLE:
        file: object = path or getattr(dataset, "filename", "?")
        mistake = next((what for pattern, what in NUMBER_MISTAKES if re.fullmatch(pattern, stated)), "")
        raise CaseError(
            f"'{file}': {tag_name(keyword)} {stated[:LONGEST_SHOWN]!r} is not a number"
            + (f" (probably {mistake})" if mistake else "")
            + "; correct the header"
        ) from None
    return value


def items(dataset: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence, none where it is absent. Raises CaseError if the sequence is damaged."""
    try:
        found = list(dataset.get(keyword) or [])
    except (OSError, *UNREADABLE):  # pydicom raises OSError, too, when it reads damaged bytes in memory
        raise _damage_error(dataset, keyword) from None
    if not all(isinstance(item, Dataset) for item in found):
        raise _damage_error(dataset, keyword)
    for item in found:
        item.filename = getattr(dataset, "filename", "DICOM")  # messages about the item name this file
    return found


def private_text(header: FileDataset, group: int, creator: str, element: int) -> str:
    """A private value as text, "" where the creator or the element is absent; `creator` is the start of its name.

    Raises CaseError if the element is damaged.
    """
    try:
        for block in header.private_creators(group):
            if str(block).upper().startswith(creator.upper()):
                tags = header.private_block(group, block)
                if element in tags:
                    value = tags[element].value
                    decoded = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)
                    return decoded.strip(" \0")
    except UNREADABLE:
        raise CaseError(
            f"'{path_of(header)}': ({group:04X},xx{element:02X}) of {creator} is damaged; copy the file again"
        ) from None
    return ""


def tag_name(keyword: str) -> str:
    """A keyword with its tag, as messages and records show it: "PatientWeight (0010,1030)"."""
    tag = Tag(tag_for_keyword(keyword) or 0)
    return f"{keyword} ({tag.group:04X},{tag.element:04X})"


def tag_and_value(keyword: str, stated: str) -> str:
    """An element with its value, as messages show it: PatientWeight (0010,1030) '75,5'."""
    short = stated if len(stated) <= LONGEST_SHOWN else stated[:LONGEST_SHOWN] + "..."
    return f"{tag_name(keyword)} {short!r}"


def misplaced_note(header: Dataset, keyword: str) -> str:
    """A note for messages where an element of the radiopharmaceutical stands outside its sequence, else ""."""
    if not text(header, keyword):
        return ""
    sequence = tag_name("RadiopharmaceuticalInformationSequence")
    return f" in {sequence} (it has {tag_name(keyword)} outside of it, where it is not read)"


def _damage_error(dataset: Dataset, keyword: str) -> CaseError:
    return CaseError(f"'{getattr(dataset, 'filename', 'DICOM')}': {tag_name(keyword)} is damaged; copy the file again")
