"""Radionuclides: which one a header names, and SPECT that says it is PET."""

import re

from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import UID

from model.dicom.headers import items, path_of, tag_name, text
from model.dicom.plausible import HALF_LIFE_S
from model.errors import CaseError

CODES = {
    "C-111A1": "F-18", "77004003": "F-18", "C-105A1": "C-11", "40565003": "C-11", "C-107A1": "N-13",
    "21576001": "N-13", "C-B1038": "O-15", "129504001": "O-15", "C-131A3": "Ga-68", "35337001": "Ga-68",
    "C-127A2": "Cu-64", "3932008": "Cu-64", "C-159A2": "Rb-82", "79197006": "Rb-82", "C-162A3": "Y-86",
    "10738001": "Y-86", "C-168A4": "Zr-89", "63360001": "Zr-89", "C-114A5": "I-124", "40937006": "I-124",
    "C-163A8": "Tc-99m", "72454006": "Tc-99m", "C-114A4": "I-123", "21572004": "I-123", "C-114B1": "I-131",
    "1368003": "I-131", "C-145A4": "In-111", "56609000": "In-111", "C-138A9": "Tl-201", "60057003": "Tl-201",
    "C-131A2": "Ga-67", "2008008": "Ga-67", "C-101ED": "Lu-177", "447553000": "Lu-177", "C-172A8": "Xe-133",
    "80751004": "Xe-133",
}  # DICOM PS3.16, CID 18 and 4020: SNOMED-RT and SNOMED CT  # fmt: skip
NAMES = {
    "F": "Fluorine", "C": "Carbon", "N": "Nitrogen", "O": "Oxygen", "Ga": "Gallium", "Cu": "Copper", "Rb": "Rubidium",
    "Y": "Yttrium", "Zr": "Zirconium", "I": "Iodine", "Tc": "Technetium", "In": "Indium", "Tl": "Thallium",
    "Lu": "Lutetium", "Xe": "Xenon",
}  # fmt: skip
SINGLE_PHOTON = sorted(set(CODES.values()) - set(HALF_LIFE_S))
GAMMA_CAMERA = ("PARA", "PINH", "FANB", "CONE", "SLNT", "ASTG", "DIVG")  # CollimatorType; PET has NONE or RING


def radiopharmaceuticals(header: FileDataset) -> list[Dataset]:
    """The items of the RadiopharmaceuticalInformationSequence, none where it is absent."""
    return items(header, "RadiopharmaceuticalInformationSequence")


def check_positron(header: FileDataset) -> None:
    """Raise CaseError for SPECT that says it is PET."""
    isotope = next(map(isotope_of, radiopharmaceuticals(header)), None)
    why = None
    storage = UID(text(header, "SOPClassUID")).name
    if "Nuclear Medicine" in storage:
        why = f"its storage is {storage}"
    elif isotope in SINGLE_PHOTON:
        why = f"its radionuclide is {isotope}"
    elif text(header, "CollimatorType").upper() in GAMMA_CAMERA:
        why = f"its {tag_name('CollimatorType')} is {text(header, 'CollimatorType')}"
    elif re.search(r"\bSPECT\b", text(header, "SeriesDescription"), re.IGNORECASE):
        why = f"its {tag_name('SeriesDescription')} says so"
    if why:
        raise CaseError(f"'{path_of(header)}' is SPECT, not PET ({why}); give a PET series")


def isotope_of(item: Dataset) -> str | None:
    """The radionuclide of a radiopharmaceutical, as "F-18": by its code, else by its code's meaning, or None."""
    for code in items(item, "RadionuclideCodeSequence"):
        if text(code, "CodeValue") in CODES:
            return CODES[text(code, "CodeValue")]
        meaning = text(code, "CodeMeaning")
        for isotope in dict.fromkeys(CODES.values()):
            symbol, mass = isotope.split("-")
            names = f"(?:{symbol}|{NAMES[symbol]})"
            if re.search(rf"(?<!\d){mass}[\s^-]*{names}\b|\b{names}[\s^-]*{mass}(?!\w)", meaning, re.IGNORECASE):
                return isotope
    return None
