"""What a batch has to score: studies with their files, and what looks like a study and cannot be scored."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.study.integrity import data_file

FIND, NO_PET = "find", "no PET"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One study to score. `identity` names it within the batch, whatever else lies there; `source` is where it lies.

    kind: dicom (the slices of one PET and one CT series) or images (one file each). picks: which series or files were
    taken of several. person: name and ID of the patient in the header, which nothing shows unless asked.
    """

    identity: str
    source: Path
    kind: str
    pet: tuple[Path, ...]
    ct: tuple[Path, ...]
    picks: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()  # about them: what was left out, what is not original
    taken: str = ""  # the series taken, as a failure names them
    truth: Path | None = None
    weight_kg: float | None = None  # this and the next three: given in place of the header's
    height_m: float | None = None
    dose_mbq: float | None = None
    injection_time: str | None = None  # ISO 8601
    person: tuple[str, ...] = ()
    study_uid: str = ""  # StudyInstanceUID, of DICOM
    also: tuple[str, ...] = ()  # other identities under which it may have results

    @property
    def given(self) -> dict[str, Any]:
        """What is given in place of the header's, by its column of overrides.csv."""
        named = (
            ("weight_kg", self.weight_kg),
            ("height_m", self.height_m),
            ("dose_MBq", self.dose_mbq),
            ("injection_time", self.injection_time),
        )
        return {name: value for name, value in named if value is not None}

    @property
    def images(self) -> tuple[Path, ...]:
        """Everything that its mask depends on."""
        named = (*self.pet, *self.ct)
        return (*named, *(path for head in named if (path := data_file(head)) is not None))

    @property
    def files(self) -> tuple[Path, ...]:
        """Everything that its result depends on."""
        named = (*self.pet, *self.ct, *((self.truth,) if self.truth else ()))
        return (*named, *(path for head in named if (path := data_file(head)) is not None))


@dataclass(frozen=True, kw_only=True)
class Unusable:
    """What was found and cannot be scored, and why; the message names the remedy after its last semicolon.

    stage: FIND, or NO_PET of a CT without a PET: no study to score, told but no failure. paths: what the message names.
    """

    identity: str
    source: Path
    message: str
    stage: str = FIND
    paths: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FoundStudies:
    """All that a tree or a list holds, sorted by source; `ignored`: files that are neither."""

    entries: tuple[Entry, ...] = ()
    unusable: tuple[Unusable, ...] = ()
    ignored: int = 0

    def __add__(self, other: "FoundStudies") -> "FoundStudies":
        return FoundStudies(
            entries=tuple(sorted((*self.entries, *other.entries), key=lambda e: (str(e.source), e.identity))),
            unusable=tuple(sorted((*self.unusable, *other.unusable), key=lambda u: (str(u.source), u.identity))),
            ignored=self.ignored + other.ignored,
        )
