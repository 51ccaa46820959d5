"""Read the images of a study that was found: DICOM series, or image files."""

import dataclasses
from pathlib import Path

from pydicom.dataset import FileDataset

from model.bundle.settings import Limits
from model.dicom.headers import Series, find_series, join_series
from model.dicom.reading import read_study
from model.dicom.series import order_slices
from model.dicom.suv import Conversion
from model.errors import CaseError
from model.hospital.find.entry import Entry
from model.hospital.given import mark_given, with_given
from model.study.reading import Case, read_case


def read_entry(entry: Entry, limits: Limits, name: str) -> tuple[Case, Conversion | None, tuple[FileDataset, ...]]:
    """The study, how its PET became SUV, and the headers of the PET's slices in order; None and empty for images.

    Raises CaseError.
    """
    if entry.kind != "dicom":
        return dataclasses.replace(read_case([entry.pet[0], entry.ct[0]], limits), name=name), None, ()
    pet, ct = with_given(_series(entry.pet), entry), _series(entry.ct)
    study = read_study(pet, ct, limits, weight_kg=entry.weight_kg, name=name)
    return study.case, mark_given(study.conversion, entry), tuple(order_slices(pet, "PT")[0])


def _series(files: tuple[Path, ...]) -> Series:
    found = find_series(files)
    if len({one.modality for one in found}) != 1:
        raise CaseError(f"'{files[0]}' or a file beside it changed after the search; run again")
    return join_series(found)
