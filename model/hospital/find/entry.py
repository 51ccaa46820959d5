"""What a search finds: studies with their files, and what looks like a study but cannot be scored."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.study.integrity import data_file

FIND, NO_PET = "find", "no PET"
PET_ONLY_REMEDY = ", or score it by weights that see PET alone, with --pet-only"  # of a study without CT


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One study to score. identity: does not depend on what else was found; the study's name is made from it. source:
    the folder or file where the study lies. ct: none for a study of PET alone.

    kind: dicom (the slices of one PET and one CT series) or images (one file each). picks: which series or files were
    taken of several. person: the patient's name and ID in the header; never shown unless --names asks for it.
    """

    identity: str
    source: Path
    kind: str
    pet: tuple[Path, ...]
    ct: tuple[Path, ...]
    picks: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()  # about the series: what was left out, what is not original
    taken: str = ""  # the series that were taken, in words; a failure's message ends with it
    truth: Path | None = None
    weight_kg: float | None = None  # this and the next four: given in place of the header's value
    height_m: float | None = None
    dose_mbq: float | None = None
    injection_time: str | None = None  # ISO 8601
    sex: str | None = None  # M or F
    liver_sphere: str | None = None  # X,Y,Z or X,Y,Z,R in mm; this and the next three: what to compare lesions with
    blood_sphere: str | None = None
    liver_mask: Path | None = None
    blood_mask: Path | None = None
    person: tuple[str, ...] = ()
    study_uid: str = ""  # StudyInstanceUID, of DICOM
    also: tuple[str, ...] = ()  # other identities by which earlier runs may have named it
    patient: str = ""  # this and the next: from a list's columns, in place of the header's
    date: str = ""  # as the list has it

    @property
    def pet_alone(self) -> bool:
        """Whether it has no CT, or none that is to be read."""
        return not self.ct

    @property
    def given(self) -> dict[str, Any]:
        """What overrides.csv gives of the study, by its columns."""
        named = (
            ("weight_kg", self.weight_kg),
            ("height_m", self.height_m),
            ("dose_MBq", self.dose_mbq),
            ("injection_time", self.injection_time),
            ("sex", self.sex),
            ("liver_sphere", self.liver_sphere),
            ("blood_sphere", self.blood_sphere),
            ("liver_mask", str(self.liver_mask) if self.liver_mask else None),
            ("blood_mask", str(self.blood_mask) if self.blood_mask else None),
        )
        return {name: value for name, value in named if value is not None}

    @property
    def images(self) -> tuple[Path, ...]:
        """The files that the mask depends on, with the data files of image headers."""
        named = (*self.pet, *self.ct)
        return (*named, *(path for head in named if (path := data_file(head)) is not None))

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that the result depends on: the images, the truth, and segmentations of liver and blood."""
        named = (*self.pet, *self.ct, *(path for path in (self.truth, self.liver_mask, self.blood_mask) if path))
        return (*named, *(path for head in named if (path := data_file(head)) is not None))


@dataclass(frozen=True, kw_only=True)
class Unusable:
    """What was found and cannot be scored, and why. The message has the remedy after its last semicolon.

    stage: FIND; or NO_PET for a CT without a PET, which is listed but is no failure. paths: the paths in the message.
    """

    identity: str
    source: Path
    message: str
    stage: str = FIND
    paths: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FoundStudies:
    """Everything in a folder or list, sorted by source. ignored: number of files that are no part of any of it."""

    entries: tuple[Entry, ...] = ()
    unusable: tuple[Unusable, ...] = ()
    ignored: int = 0

    def __add__(self, other: "FoundStudies") -> "FoundStudies":
        return FoundStudies(
            entries=tuple(sorted((*self.entries, *other.entries), key=lambda e: (str(e.source), e.identity))),
            unusable=tuple(sorted((*self.unusable, *other.unusable), key=lambda u: (str(u.source), u.identity))),
            ignored=self.ignored + other.ignored,
        )
