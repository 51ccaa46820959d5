"""What a reader changed by hand: the edits that are in the results, those to take back, and lesions dropped by number.

An edited study keeps its edit in every later run, whatever the weights: its key holds the edit in place of the weights.
`mask.mha` is then the edited mask by the rules, `edited-mask.mha` the edit on the PET's grid, before rules, and
`network-mask.mha` the networks' own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.dicom.derived import MODEL
from model.hospital.find.drawn import drawn_dicom
from model.hospital.find.image_pairs import is_image
from model.study.reading import stem

IMAGE, BY_NUMBER = "mask", "by number"
OUR_IMAGES = ("mask", "network-mask", "edited-mask", "disagreement", "organs")


@dataclass(frozen=True, kw_only=True)
class Edit:
    """The edit of a study. sha256: of the file that was edited; "" where lesions were only dropped by number.

    path: the file, where it is to be taken back now; None where the results have it already.
    """

    sha256: str = ""
    path: Path | None = None

    def notice(self, dropped: Sequence[int]) -> str:
        """What outputs say of it. dropped: found numbers of lesions."""
        file = f"edited by hand, file sha256 {self.sha256}" if self.sha256 else ""
        numbers = f"lesions dropped by hand: {', '.join(map(str, dropped))}" if dropped else ""
        return "; ".join(filter(None, (file or "edited by hand", numbers)))


def edit_of(report: Mapping[str, Any] | None) -> Edit | None:
    """The edit that a report tells of; None if there is none."""
    batch = report.get("batch") if report else None
    edited = batch.get("edited") if isinstance(batch, Mapping) else None
    return Edit(sha256=str(edited.get("sha256", ""))) if isinstance(edited, Mapping) else None


def edits_in(folder: Path) -> list[Path]:
    """The files in a study's folder of the results that another program put there: masks, SEG and RTSTRUCT."""
    found = []
    for path in sorted(folder.iterdir()):
        if not path.is_file() or path.name.startswith("."):
            continue
        if is_image(path):
            found += [] if stem(path) in OUR_IMAGES else [path]
        elif (belonging := drawn_dicom(path)) and belonging.made_by != MODEL:
            found.append(path)
    return found
