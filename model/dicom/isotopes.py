"""Radionuclides: their half-lives, which one a header names, and SPECT that says it is PET."""

import re

from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import UID

from model.dicom.elements import items, path_of, tag_name, text
from model.errors import CaseError

HALF_LIFE_SHARE = 0.05  # a stated half-life further from the isotope's than this is of another isotope
HALF_LIFE_S = {
    "F-18": 6586.2,
    "C-11": 1221.8,
    "N-13": 597.9,
    "O-15": 122.24,
    "Ga-68": 4062.6,
    "Cu-64": 45723.6,
    "Rb-82": 75.45,
    "Y-86": 53064.0,
    "Zr-89": 282276.0,
    "I-124": 360806.0,
}  # of positron emitters; NNDC, NuDat 3
# SNOMED-RT and SNOMED CT codes of each nuclide (DICOM PS3.16, CID 18 and 4020)
NUCLIDES = {
    "F-18": ("C-111A1", "77004003"),
    "C-11": ("C-105A1", "40565003"),
    "N-13": ("C-107A1", "21576001"),
    "O-15": ("C-B1038", "129504001"),
    "Ga-68": ("C-131A3", "35337001"),
    "Cu-64": ("C-127A2", "3932008"),
    "Rb-82": ("C-159A2", "79197006"),
    "Y-86": ("C-162A3", "10738001"),
    "Zr-89": ("C-168A4", "63360001"),
    "I-124": ("C-114A5", "40937006"),
    "Tc-99m": ("C-163A8", "72454006"),
    "I-123": ("C-114A4", "21572004"),
    "I-131": ("C-114B1", "1368003"),
    "In-111": ("C-145A4", "56609000"),
    "Tl-201": ("C-138A9", "60057003"),
    "Ga-67": ("C-131A2", "2008008"),
    "Lu-177": ("C-101ED", "447553000"),
    "Xe-133": ("C-172A8", "80751004"),
}
CODES = {code: nuclide for nuclide, codes in NUCLIDES.items() for code in codes}
NAMES = {
    "F": "Fluorine",
    "C": "Carbon",
    "N": "Nitrogen",
    "O": "Oxygen",
    "Ga": "Gallium",
    "Cu": "Copper",
    "Rb": "Rubidium",
    "Y": "Yttrium",
    "Zr": "Zirconium",
    "I": "Iodine",
    "Tc": "Technetium",
    "In": "Indium",
    "Tl": "Thallium",
    "Lu": "Lutetium",
    "Xe": "Xenon",
}
SINGLE_PHOTON = sorted(set(CODES.values()) - set(HALF_LIFE_S))
GAMMA_CAMERA = ("PARA", "PINH", "FANB", "CONE", "SLNT", "ASTG", "DIVG")  # CollimatorType; PET has NONE or RING


def radiopharmaceuticals(header: FileDataset) -> list[Dataset]:
    """The items of the RadiopharmaceuticalInformationSequence, none where it is absent."""
    return items(header, "RadiopharmaceuticalInformationSequence")


def check_positron(header: FileDataset) -> None:
    """Raise CaseError for SPECT that says it is PET."""
    isotope = next(map(isotope_of, radiopharmaceuticals(header)), None)
    reason = None
    storage = UID(text(header, "SOPClassUID")).name
    if "Nuclear Medicine" in storage:
        reason = f"its storage is {storage}"
    elif isotope in SINGLE_PHOTON:
        reason = f"its radionuclide is {isotope}"
    elif text(header, "CollimatorType").upper() in GAMMA_CAMERA:
        reason = f"its {tag_name('CollimatorType')} is {text(header, 'CollimatorType')}"
    elif re.search(r"\bSPECT\b", text(header, "SeriesDescription"), re.IGNORECASE):
        reason = f"its {tag_name('SeriesDescription')} says so"
    if reason:
        raise CaseError(f"'{path_of(header)}' is SPECT, not PET ({reason}); give a PET series")


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
