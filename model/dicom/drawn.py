"""Masks that somebody drew: what a SEG or an RTSTRUCT belongs to, and the lesions of any file on a PET's grid."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import RTStructureSetStorage, SegmentationStorage

from model.dicom.derived import uid_from
from model.dicom.elements import items, text
from model.dicom.headers import looks_like_dicom, read_file, read_header
from model.dicom.read_rtstruct import contoured_lesions
from model.dicom.read_seg import segmented_lesions
from model.errors import CaseError
from model.study.geometry import Grid
from model.study.masks import DrawnMask, placed_on, read_drawn

LABEL_MAP_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"  # Label Map Segmentation Storage, newer than pydicom's names
KINDS = {SegmentationStorage: "SEG", LABEL_MAP_STORAGE: "SEG", RTStructureSetStorage: "RTSTRUCT"}


@dataclass(frozen=True, kw_only=True)
class Belonging:
    """What a DICOM object belongs to. kind: SEG, RTSTRUCT or "". frames, series: UIDs that it lies in or refers to.

    modality: as the header says; pixels: whether it has any.
    """

    kind: str
    patient_id: str
    study_uid: str
    frames: frozenset[str]
    series: frozenset[str]
    made_by: str = ""  # ManufacturerModelName
    modality: str = ""
    pixels: bool = False


def belonging_of(path: Path) -> Belonging:
    """What a SEG, an RTSTRUCT or a slice belongs to. Raises CaseError if it cannot be read."""
    header = read_header(path)
    frames = {
        text(item, "FrameOfReferenceUID") for item in (header, *items(header, "ReferencedFrameOfReferenceSequence"))
    }
    series = {text(item, "SeriesInstanceUID") for item in (header, *_referred_series(header))}
    if KINDS.get(text(header, "SOPClassUID")) == "RTSTRUCT":  # its ROIs are drawn in these frames
        rois = items(header, "StructureSetROISequence")
        frames = {text(roi, "ReferencedFrameOfReferenceUID") for roi in rois} - {""} or frames
    return Belonging(
        kind=KINDS.get(text(header, "SOPClassUID"), ""),
        patient_id=text(header, "PatientID"),
        study_uid=text(header, "StudyInstanceUID"),
        frames=frozenset(frames - {""}),
        series=frozenset(series - {""}),
        made_by=text(header, "ManufacturerModelName"),
        modality=text(header, "Modality"),
        pixels="Rows" in header,
    )


def read_lesions(path: Path, what: str, grid: Grid, pet: Path, is_dicom: bool) -> DrawnMask:
    """The lesions in a mask, a segmentation, a SEG or an RTSTRUCT, on the grid of the PET in the file `pet`.

    what: what messages call it. is_dicom: whether the PET is DICOM; then a SEG or RTSTRUCT must be of its patient and
    in its frame of reference. Other grids are resampled, with a note. Raises CaseError for what is no mask of this PET.
    """
    label, of_what = f"{what} '{path}'", f"PET '{pet}'"
    if not looks_like_dicom_file(path):
        return placed_on(read_drawn(path, what), grid, label, of_what)
    belonging = belonging_of(path)
    if not belonging.kind:
        raise CaseError(f"{label} is DICOM, but neither a SEG nor an RTSTRUCT; export the segmentation as one of them")
    frames = _frames_of_both(belonging, label, belonging_of(pet), of_what) if is_dicom else frozenset()
    data = read_file(path, pixels=True)
    if belonging.kind == "SEG":
        return segmented_lesions(data, label, grid, of_what)
    return contoured_lesions(data, label, grid, of_what, frames)


def looks_like_dicom_file(path: Path) -> bool:
    """Whether a file is there and starts as DICOM does. Raises CaseError if it cannot be read."""
    return path.is_file() and looks_like_dicom(path)


def _referred_series(header: Dataset) -> Iterator[Dataset]:
    """The items that name the series a SEG or an RTSTRUCT refers to."""
    yield from items(header, "ReferencedSeriesSequence")
    for frame in items(header, "ReferencedFrameOfReferenceSequence"):
        for study in items(frame, "RTReferencedStudySequence"):
            yield from items(study, "RTReferencedSeriesSequence")


def _frames_of_both(drawn: Belonging, label: str, pet: Belonging, of_what: str) -> frozenset[str]:
    """The frames of reference that an object shares with its PET; none if it names none.

    Raises CaseError unless it is of the PET's patient and in its frame of reference.
    """
    if drawn.patient_id and pet.patient_id and drawn.patient_id != pet.patient_id:
        raise CaseError(f"{label} has another PatientID (0010,0020) than {of_what}; give the mask of this patient")
    made_up = frozenset(uid_from("frame", uid) for uid in pet.series)  # what our SEG has where the PET has none
    shared = drawn.frames & (pet.frames or made_up)
    if drawn.frames and not shared:
        raise CaseError(
            f"{label} is in the frame of reference {' and '.join(sorted(drawn.frames))}, and {of_what} in "
            f"{' and '.join(sorted(pet.frames)) or 'none that is named'}: nobody knows how they lie to each other; "
            "draw it on this PET, or on a CT of the same examination"
        )
    return shared
