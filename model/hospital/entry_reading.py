"""Read the images of a study that was found: DICOM series, or image files."""

import dataclasses
from dataclasses import dataclass
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


@dataclass(frozen=True, kw_only=True)
class ReadEntry:
    """A study as it was read. conversion: how its PET became SUV; headers: of the PET's slices, in order; ct_headers:
    of the CT's files. None and empty for images.
    """

    case: Case
    conversion: Conversion | None = None
    headers: tuple[FileDataset, ...] = ()
    ct_headers: tuple[FileDataset, ...] = ()


def read_entry(entry: Entry, limits: Limits, name: str) -> ReadEntry:
    """Read the images or the DICOM series of a study. Raises CaseError."""
    if entry.kind != "dicom":
        images = [entry.pet[0], *entry.ct[:1]]
        return ReadEntry(case=dataclasses.replace(read_case(images, limits, pet_alone=entry.pet_alone), name=name))
    pet, ct = with_given(_series(entry.pet), entry), _series(entry.ct) if entry.ct else None
    study = read_study(pet, ct, limits, weight_kg=entry.weight_kg, name=name)
    return ReadEntry(
        case=study.case,
        conversion=mark_given(study.conversion, entry),
        headers=tuple(order_slices(pet, "PT")[0]),
        ct_headers=tuple(ct.headers) if ct else (),
    )


def _series(files: tuple[Path, ...]) -> Series:
    found = find_series(files)
    if len({one.modality for one in found}) != 1:
        raise CaseError(f"'{files[0]}' or a file beside it changed after the search; run again")
    return join_series(found)
