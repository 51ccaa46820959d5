"""Checks of a PET's header before SUV is made of it: the series is corrected, and its slices agree."""

from collections.abc import Sequence

from pydicom.dataset import Dataset, FileDataset

from model.dicom.elements import path_of, tag_name, text
from model.dicom.headers import by_series
from model.dicom.isotopes import radiopharmaceuticals
from model.errors import CaseError

CONSTANT = (
    "Units",
    "SUVType",
    "DecayCorrection",
    "CorrectedImage",
    "PatientWeight",
)  # must be the same in every slice
PART_CONSTANT = ("SeriesDate", "SeriesTime")  # the same in every slice of a series; joined series may differ
ITEM_CONSTANT = (
    "RadionuclideTotalDose",
    "RadionuclideHalfLife",
    "RadiopharmaceuticalStartTime",
    "RadiopharmaceuticalStartDateTime",
)  # the same in every slice, of the radiopharmaceutical


def check_constant(headers: Sequence[FileDataset]) -> None:
    """Raise CaseError where slices differ in a field that SUV is made from."""
    first = headers[0]
    first_of_series = {uid: part[0] for uid, part in by_series(headers).items()}  # several where series were joined
    for header in headers:
        pairs: list[tuple[str, Dataset, Dataset]] = [(keyword, header, first) for keyword in CONSTANT]
        pairs += [(keyword, header, first_of_series[text(header, "SeriesInstanceUID")]) for keyword in PART_CONSTANT]
        if radiopharmaceuticals(first) and radiopharmaceuticals(header):
            item, first_item = radiopharmaceuticals(header)[0], radiopharmaceuticals(first)[0]
            pairs += [(keyword, item, first_item) for keyword in ITEM_CONSTANT]
        for keyword, one, other in pairs:
            if text(one, keyword) != text(other, keyword):
                raise CaseError(
                    f"PET '{path_of(first)}' and '{path_of(header)}' differ in {tag_name(keyword)}: "
                    f"{text(other, keyword) or 'absent'} and {text(one, keyword) or 'absent'}; two series are mixed, "
                    "or one file was changed; export the series again"
                )


def decay_correction_of(header: FileDataset, warnings: list[str]) -> str:
    """START, ADMIN or NONE; START with a warning where none is stated. Raises CaseError for anything else."""
    stated = text(header, "DecayCorrection")
    if stated in ("START", "ADMIN", "NONE"):
        return stated
    if stated:
        raise CaseError(
            f"PET '{path_of(header)}' has {tag_name('DecayCorrection')} {stated}; it must be START, ADMIN or NONE; "
            "correct the header"
        )
    warnings.append(f"PET '{path_of(header)}' has no {tag_name('DecayCorrection')}: taken as START")
    return "START"


def check_corrected(header: FileDataset, decay_correction: str, warnings: list[str]) -> None:
    """Raise CaseError for a PET without attenuation correction, or without the decay correction that it states."""
    done = text(header, "CorrectedImage").split("\\")
    needed = ("ATTN",) if decay_correction == "NONE" else ("ATTN", "DECY")
    missing = [correction for correction in needed if correction not in done]
    if missing:
        raise CaseError(
            f"PET '{path_of(header)}' has {tag_name('CorrectedImage')} {', '.join(done) or 'absent'}, without "
            f"{' and '.join(missing)}; SUV needs attenuation and decay correction: give the corrected series"
        )
    if decay_correction == "NONE" and "DECY" in done:
        warnings.append(
            f"PET '{path_of(header)}' has DecayCorrection NONE, but CorrectedImage names DECY: taken as not corrected"
        )
