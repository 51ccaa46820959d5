"""Whose a study is, as its PET says it: the bytes that SEG and RTSTRUCT take over, and what DICOM forbids them to.

An object of a study must say what the study's other objects say, or a PACS files it apart: so bytes are copied, and
nothing is decoded and written anew. What its own type forbids (DICOM PS3.5, 6.2, and PS3.3, C.7.1.1 and C.7.2.1) would
make the new object invalid: it is left empty where the element must be there (type 2), left out elsewhere, and said.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import pydicom
from pydicom import charset
from pydicom.datadict import dictionary_VM, dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.tag import Tag
from pydicom.valuerep import PersonName

from model.dicom.headers import UNREADABLE, path_of, tag_name

CHARSET = "SpecificCharacterSet"
EMPTY_IF_UNUSABLE = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "StudyID",
    "ReferringPhysicianName",
)  # type 2: in every object, if only empty
LEFT_OUT_IF_UNUSABLE = (
    "StudyDescription",
    "PhysiciansOfRecord",
    "IssuerOfPatientID",
    "PatientBirthTime",
    "OtherPatientIDs",
    "OtherPatientNames",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "EthnicGroup",
    "PatientComments",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "LongitudinalTemporalInformationModified",
    "AdmittingDiagnosesDescription",
    "AdditionalPatientHistory",
    "Occupation",
    "AdmissionID",
    "ClinicalTrialSponsorName",
    "ClinicalTrialProtocolID",
    "ClinicalTrialProtocolName",
    "ClinicalTrialSiteID",
    "ClinicalTrialSiteName",
    "ClinicalTrialSubjectID",
    "ClinicalTrialSubjectReadingID",
    "ClinicalTrialTimePointID",
)
LONGEST = {"SH": 16, "LO": 64, "PN": 64, "CS": 16, "DS": 16, "LT": 10240}  # characters; of PN, of each of three groups
PATTERNS = {
    "TM": r"([01]\d|2[0-3])([0-5]\d(([0-5]\d|60)(\.\d{1,6})?)?)?",
    "AS": r"\d{3}[DWMY]",
    "CS": r"[A-Z0-9_ ]*",
    "DS": r" *[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)? *",
}
WANTED = {
    "TM": "a time HHMMSS.FFFFFF",
    "DA": "a date YYYYMMDD",
    "AS": "an age such as 060Y",
    "CS": "a code in capitals",
    "DS": "a number",
}
SEXES = ("M", "F", "O")
CONTROL = re.compile(r"[\x00-\x1a\x1c-\x1f\x7f]")  # all but ESC, which changes the character set
LINES = re.compile(r"[\t\n\f\r]")  # allowed in LT
TERM = re.compile(r"ISO[ _-]?(2022)?[ _-]?IR[ _-]?(\d+)", re.IGNORECASE)  # a misspelled character set
LATIN_9 = ("ISO_IR 203", "ISO 2022 IR 203")  # of DICOM, and not known to pydicom
UTF8 = re.compile(r"UTF-?8", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What is copied: keyword -> bytes, in the PET's character set, without padding. unusable: why the rest is not."""

    values: dict[str, bytes]
    unusable: tuple[str, ...]

    def fill(self, dataset: Dataset) -> None:
        """Put it into a new object, as bytes."""
        for keyword, value in self.values.items():
            tag = Tag(tag_for_keyword(keyword) or 0)
            padded = value + b" " * (len(value) % 2)
            dataset[tag] = RawDataElement(tag, dictionary_VR(tag), len(padded), padded, 0, False, True, True)


def identity_of(header: FileDataset) -> Identity:
    """The identity in a header, read again from its file, since values that were looked at are decoded."""
    raw = _raw(header)
    stated = _bytes(raw, CHARSET)
    terms, charset_note = _charset(stated, any(not _bytes(raw, k).isascii() for k in _keywords()))
    values, notes = ({CHARSET: terms} if terms else {}), ([charset_note] if charset_note else [])
    encodings = charset.convert_encodings((terms or b"ISO_IR 100").decode("latin-1").split("\\"))  # for its length
    for keyword in _keywords():
        value = _bytes(raw, keyword)
        wrong = _wrong(keyword, value, encodings)
        if wrong:
            notes.append(f"{tag_name(keyword)} {wrong}")
        if keyword in EMPTY_IF_UNUSABLE or (value and not wrong):
            values[keyword] = b"" if wrong else value
    return Identity(values=values, unusable=tuple(notes))


def identity_warnings(headers: Sequence[FileDataset]) -> list[str]:
    """One warning of what SEG and RTSTRUCT cannot take over of their PET's identity; none where they take all."""
    try:
        unusable = identity_of(headers[0]).unusable
    except UNREADABLE:  # told by what cannot be made of it
        return []
    if not unusable:
        return []
    return [
        f"SEG and RTSTRUCT leave empty what DICOM does not allow of PET '{path_of(headers[0])}': {'; '.join(unusable)}"
        " (correct it where the study is archived, and in these objects before they are sent there)"
    ]


def _keywords() -> tuple[str, ...]:
    return (*EMPTY_IF_UNUSABLE, *LEFT_OUT_IF_UNUSABLE)


def _raw(header: FileDataset) -> Dataset:
    """The header as it is in its file, no value decoded; the header itself where the file is gone."""
    try:
        return pydicom.dcmread(
            path_of(header), stop_before_pixels=True, specific_tags=[CHARSET, *_keywords()], force=True
        )
    except (OSError, *UNREADABLE):
        return header


def _bytes(dataset: Dataset, keyword: str) -> bytes:
    """A value's bytes without padding; of one that was decoded already, encoded again."""
    tag = Tag(tag_for_keyword(keyword) or 0)
    if tag not in dataset:
        return b""
    item = dataset.get_item(tag)
    value = item.value if item is not None else None
    if isinstance(value, PersonName):
        value = value.original_string
    elif value is not None and not isinstance(value, bytes):
        several = [value] if isinstance(value, str) or not isinstance(value, Sequence) else value
        value = charset.encode_string("\\".join(map(str, several)), charset.convert_encodings(_terms(dataset)))
    return (value or b"").rstrip(b" \0")


def _terms(dataset: Dataset) -> list[str]:
    stated = dataset.get(CHARSET) or "ISO_IR 6"
    return [stated] if isinstance(stated, str) else list(stated)


def _charset(stated: bytes, needed: bool) -> tuple[bytes, str]:
    """The character set to write and what is said of it. needed: whether any value has bytes beyond ASCII."""
    terms = stated.decode("latin-1").split("\\")
    right = [_known(term.strip()) for term in terms]
    if None not in right:
        written = "\\".join(term or "" for term in right).encode()
        misspelled = written != b"\\".join(term.strip() for term in stated.split(b"\\"))
        return written, f"{tag_name(CHARSET)} is misspelled: written as {written.decode()}" if misspelled else ""
    return (stated if needed else b""), f"{tag_name(CHARSET)} is none that DICOM knows" + (
        ": copied as it is" if needed else ": left out, as all text is ASCII"
    )


def _known(term: str) -> str | None:
    """A defined term of DICOM, the one that a misspelled one means, or None; "" (ISO_IR 6) may stand first."""
    if not term or term in charset.python_encoding or term in LATIN_9:
        return term
    if UTF8.fullmatch(term):
        return "ISO_IR 192"
    if match := TERM.fullmatch(term):
        meant = f"ISO {match[1]} IR {match[2]}" if match[1] else f"ISO_IR {match[2]}"
        return meant if meant in charset.python_encoding else None
    return None


def _wrong(keyword: str, value: bytes, encodings: list[str]) -> str:
    """What is wrong with a value for its type; "" where nothing is. Nothing of the value is told: it is a patient's."""
    kind = dictionary_VR(keyword)
    shown = charset.decode_bytes(value, encodings, {0x5C, 0x5E, 0x3D} if kind == "PN" else {0x5C})
    for one in shown.split("\\") if dictionary_VM(keyword) != "1" and kind != "LT" else [shown]:
        text = LINES.sub("", one) if kind == "LT" else one
        if CONTROL.search(text):
            return "has control characters"
        if "\\" in text and kind != "LT":
            return "has several values, and must have one"
        groups = text.split("=") if kind == "PN" else [text]
        if len(groups) > 3 or any(group.count("^") > 4 for group in groups if kind == "PN"):
            return "has more parts than a name has"
        longest = max(map(len, groups))
        if longest > LONGEST.get(kind, longest):
            return f"has {longest} characters, and may have {LONGEST[kind]}"
        if text.strip() and not _fits(keyword, kind, text.strip()):
            return "is not M, F or O" if keyword == "PatientSex" else f"is not {WANTED[kind]}"
    return ""


def _fits(keyword: str, kind: str, text: str) -> bool:
    if keyword == "PatientSex":
        return text in SEXES
    if kind == "DA":
        try:
            return bool(re.fullmatch(r"\d{8}", text)) and bool(date(int(text[:4]), int(text[4:6]), int(text[6:])))
        except ValueError:
            return False
    return kind not in PATTERNS or bool(re.fullmatch(PATTERNS[kind], text, re.ASCII))
