"""What a study's lesions are compared with: the patient's size, and where liver and blood are, by header and overrides.

A height or sex in a header that cannot be right is not used, and the report says so.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset

from model.dicom.elements import number, tag_name, text
from model.dicom.suv import Conversion
from model.dicom.weight_and_dose import WEIGHT_KG
from model.errors import CaseError
from model.hospital.find.entry import Entry
from model.results.body_size import HEIGHT_M, SEXES, BodySize, why_unknown
from model.results.reference_options import RADIUS_MM, Sphere, sphere_from
from model.study.geometry import Grid
from model.study.masks import check_grid, read_mask

GIVEN = "given"


def body_size_of(entry: Entry, headers: Sequence[FileDataset], conversion: Conversion | None) -> BodySize:
    """The patient's size: the weight that SUV was made with, and height and sex as given, else by the header."""
    header = headers[0] if headers else None
    weight_kg, weight_from = _weight(entry, header, conversion)
    height_m, height_from = entry.height_m, GIVEN if entry.height_m else ""
    sex, sex_from = entry.sex or "", GIVEN if entry.sex else ""
    if header is not None and not height_m:
        height_m, height_from = _stated(header, "PatientSize", HEIGHT_M, "m")
    if header is not None and not sex and (stated := _text(header, "PatientSex").upper()):
        sex = stated if stated in SEXES else ""
        sex_from = tag_name("PatientSex") if sex else _not_used("PatientSex", stated, "M or F")
    named = (("weight_kg", weight_from), ("height_m", height_from), ("sex", sex_from))
    sources = tuple((name, source) for name, source in named if source)
    return BodySize(weight_kg=weight_kg, height_m=height_m, sex=sex, sources=sources)


def unused_size(entry: Entry, size: BodySize) -> list[str]:
    """A warning if a height or sex was given, and lean body mass is not defined all the same; else none."""
    reason = why_unknown(size) if entry.height_m or entry.sex else ""
    return [f"no SUL of PET '{entry.pet[0]}': {reason}"] if reason else []


def references_of(entry: Entry, grid: Grid) -> tuple[dict[str, Sphere], dict[str, NDArray[np.bool_]], list[str]]:
    """Spheres and segmentations of liver and blood that were given, and warnings for those that cannot be read.

    grid: the PET's.
    """
    spheres: dict[str, Sphere] = {}
    masks: dict[str, NDArray[np.bool_]] = {}
    warnings = []
    for what in RADIUS_MM:
        sphere, path = getattr(entry, f"{what}_sphere"), getattr(entry, f"{what}_mask")
        if sphere:
            spheres[what] = sphere_from(sphere, what, f"{what}_sphere")
        if path:
            try:
                mask, found = read_mask(path, f"{what}_mask")
                check_grid(found, f"{what}_mask '{path}'", grid, "its PET")
                masks[what] = mask
            except CaseError as error:
                warnings.append(f"the {what}'s segmentation is not used: {error}")
    return spheres, masks, warnings


def _weight(entry: Entry, header: FileDataset | None, conversion: Conversion | None) -> tuple[float | None, str]:
    """The weight that SUV was made with: of the conversion; else by the header; else as given. And where it is from."""
    if conversion is not None and conversion.weight_kg is not None:
        return conversion.weight_kg, conversion.weight_from or ""
    stated, source = _stated(header, "PatientWeight", WEIGHT_KG, "kg") if header is not None else (None, "")
    if stated is None and entry.weight_kg is not None:
        return entry.weight_kg, GIVEN
    return stated, source


def _stated(header: FileDataset, keyword: str, limits: tuple[float, float], unit: str) -> tuple[float | None, str]:
    """A length or weight in a header, and its element; None, and why, if it cannot be right; None and "" if absent."""
    low, high = limits
    try:
        value = number(header, keyword)
    except CaseError:
        return None, _not_used(keyword, _text(header, keyword), f"a number in {unit}")
    if not value:
        return None, ""
    if not low <= value <= high:
        return None, _not_used(keyword, f"{value:g}", f"{low:g} to {high:g} {unit}")
    return value, tag_name(keyword)


def _text(header: FileDataset, keyword: str) -> str:
    """A value as text; "" also where its element is damaged: only a number depends on it, not the study."""
    try:
        return text(header, keyword)
    except CaseError:
        return ""


def _not_used(keyword: str, value: str, wanted: str) -> str:
    return f"{tag_name(keyword)} is {value!r}, not {wanted}"
