"""The patient's and the study's identity, copied byte by byte from the PET into SEG, RTSTRUCT and SR.

A PACS files an object with its study only if both state the same. So bytes are copied; nothing is decoded and encoded
again. A value that DICOM does not allow (PS3.5, 6.2, and PS3.3, C.7.1.1 and C.7.2.1) would make the new object
invalid: the element is left empty where it is required (type 2), left out elsewhere, and named in a warning.
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

from model.dicom.elements import UNREADABLE, path_of, tag_name

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
)  # type 2: required in every object, but may be empty
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
KEYWORDS = (*EMPTY_IF_UNUSABLE, *LEFT_OUT_IF_UNUSABLE)
LONGEST = {"SH": 16, "LO": 64, "PN": 64, "CS": 16, "DS": 16, "LT": 10240}  # characters; for PN in each of 3 groups
PATTERNS = {
    "TM": r"([01]\d|2[0-3])([0-5]\d(([0-5]\d|60)(\.\d{1,6})?)?)?",
    "AS": r"\d{3}[DWMY]",
    "CS": r"[A-Z0-9_ ]*",
    "DS": r" *[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)? *",
}
FORMS = {
    "TM": "a time HHMMSS.FFFFFF",
    "DA": "a date YYYYMMDD",
    "AS": "an age such as 060Y",
    "CS": "a code in capitals",
    "DS": "a number",
}
SEXES = ("M", "F", "O")
CONTROL = re.compile(r"[\x00-\x1a\x1c-\x1f\x7f]")  # all but ESC, which changes the character set
LINE_CONTROL = re.compile(r"[\t\n\f\r]")  # allowed in LT
ISO_TERM = re.compile(r"ISO[ _-]?(2022)?[ _-]?IR[ _-]?(\d+)", re.IGNORECASE)  # a character set, perhaps misspelled
LATIN_9 = ("ISO_IR 203", "ISO 2022 IR 203")  # in DICOM, but not in pydicom
UTF8 = re.compile(r"UTF-?8", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """The values to copy: keyword -> bytes in the PET's character set, without padding.

    unusable: for each value that cannot be copied, the element and the reason.
    """

    values: dict[str, bytes]
    unusable: tuple[str, ...]

    def fill(self, dataset: Dataset) -> None:
        """Write the values into a new object, as bytes."""
        for keyword, value in self.values.items():
            tag = Tag(tag_for_keyword(keyword) or 0)
            padded = value + b" " * (len(value) % 2)
            dataset[tag] = RawDataElement(tag, dictionary_VR(tag), len(padded), padded, 0, False, True, True)


def identity_of(header: FileDataset) -> Identity:
    """The identity in a header. Its file is read again, since pydicom decodes a value when it is looked at."""
    raw = _undecoded(header)
    terms, flaw = _charset(_bytes(raw, CHARSET), any(not _bytes(raw, keyword).isascii() for keyword in KEYWORDS))
    values, unusable = ({CHARSET: terms} if terms else {}), ([flaw] if flaw else [])
    encodings = charset.convert_encodings((terms or b"ISO_IR 100").decode("latin-1").split("\\"))  # to count characters
    for keyword in KEYWORDS:
        value = _bytes(raw, keyword)
        flaw = _flaw_of(keyword, value, encodings)
        if flaw:
            unusable.append(f"{tag_name(keyword)} {flaw}")
        if keyword in EMPTY_IF_UNUSABLE or (value and not flaw):
            values[keyword] = b"" if flaw else value
    return Identity(values=values, unusable=tuple(unusable))


def identity_warnings(headers: Sequence[FileDataset]) -> list[str]:
    """One warning that names what SEG, RTSTRUCT and SR cannot copy of their PET's identity, or none."""
    try:
        unusable = identity_of(headers[0]).unusable
    except UNREADABLE:  # then they fail, with a message of their own
        return []
    if not unusable:
        return []
    return [
        f"SEG, RTSTRUCT and SR leave empty what DICOM does not allow in PET '{path_of(headers[0])}': "
        f"{'; '.join(unusable)} (correct it where the study is archived, and in these objects before they are sent "
        "there)"
    ]


def _undecoded(header: FileDataset) -> Dataset:
    """The header as its file has it, no value decoded; the header itself where the file is gone."""
    try:
        return pydicom.dcmread(path_of(header), stop_before_pixels=True, specific_tags=[CHARSET, *KEYWORDS], force=True)
    except (OSError, *UNREADABLE):
        return header


def _bytes(dataset: Dataset, keyword: str) -> bytes:
    """A value's bytes without padding. A value that is decoded already is encoded again."""
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
    """The character set to write, and what is wrong with the stated one. needed: whether a value is beyond ASCII."""
    terms = stated.decode("latin-1").split("\\")
    corrected = [_defined_term(term.strip()) for term in terms]
    if None not in corrected:
        written = "\\".join(term or "" for term in corrected).encode()
        misspelled = written != b"\\".join(term.strip() for term in stated.split(b"\\"))
        return written, f"{tag_name(CHARSET)} is misspelled: written as {written.decode()}" if misspelled else ""
    return (stated if needed else b""), f"{tag_name(CHARSET)} is not a character set of DICOM" + (
        ": copied as it is" if needed else ": left out, as all text is ASCII"
    )


def _defined_term(term: str) -> str | None:
    """DICOM's defined term for a character set, spelled right; None where none is meant. "" (ISO_IR 6) may be first."""
    if not term or term in charset.python_encoding or term in LATIN_9:
        return term
    if UTF8.fullmatch(term):
        return "ISO_IR 192"
    if match := ISO_TERM.fullmatch(term):
        corrected = f"ISO {match[1]} IR {match[2]}" if match[1] else f"ISO_IR {match[2]}"
        return corrected if corrected in charset.python_encoding else None
    return None


def _flaw_of(keyword: str, value: bytes, encodings: list[str]) -> str:
    """What is wrong with a value for its type, else "". It never shows the value, which may name the patient."""
    kind = dictionary_VR(keyword)
    decoded = charset.decode_bytes(value, encodings, {0x5C, 0x5E, 0x3D} if kind == "PN" else {0x5C})
    for one in decoded.split("\\") if dictionary_VM(keyword) != "1" and kind != "LT" else [decoded]:
        text = LINE_CONTROL.sub("", one) if kind == "LT" else one
        if CONTROL.search(text):
            return "has control characters"
        if "\\" in text and kind != "LT":
            return "has several values, but only one is allowed"
        groups = text.split("=") if kind == "PN" else [text]
        if len(groups) > 3 or any(group.count("^") > 4 for group in groups if kind == "PN"):
            return "has more parts than a name may have"
        longest = max(map(len, groups))
        if longest > LONGEST.get(kind, longest):
            return f"has {longest} characters, but only {LONGEST[kind]} are allowed"
        if text.strip() and not _is_valid(keyword, kind, text.strip()):
            return "is not M, F or O" if keyword == "PatientSex" else f"is not {FORMS[kind]}"
    return ""


def _is_valid(keyword: str, kind: str, text: str) -> bool:
    if keyword == "PatientSex":
        return text in SEXES
    if kind == "DA":
        try:
            return bool(re.fullmatch(r"\d{8}", text)) and bool(date(int(text[:4]), int(text[4:6]), int(text[6:])))
        except ValueError:
            return False
    return kind not in PATTERNS or bool(re.fullmatch(PATTERNS[kind], text, re.ASCII))
