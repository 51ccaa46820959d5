"""One study of the PACS in the inbox: what came of it, who brings it, and whether it came whole.

Beside the folder of its images lie two files: `<study>.open` names the series that are being brought or were broken
off, `<study>.scored` is a hash of the images that were scored. So the next run knows both.
"""

import io
import json
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pydicom

from model.dicom.elements import UNREADABLE, text
from model.dicom.headers import read_header
from model.errors import CaseError
from model.hospital.find.dicom_series import identity_of_study
from model.hospital.journal import stat_of
from model.whole import remove_folder, whole_file

OPEN, SCORED = ".open", ".scored"
PICTURE = ("PixelData", "ImagePositionPatient", "ImageOrientationPatient", "RescaleSlope", "RescaleIntercept")


@dataclass(frozen=True, kw_only=True)
class Received:
    """One image that came: the UIDs that file it, and its bytes as a DICOM file."""

    patient: str
    study: str
    series: str
    instance: str
    content: bytes


@dataclass(kw_only=True)
class ReceivedStudy:
    """What is known of a study. folder: of its images. changed: when the last came, by time.monotonic. version: counts
    its changes; handled: the version that was dealt with. writing: images that are being written now.
    """

    folder: Path
    identity: str = ""
    changed: float = field(default_factory=time.monotonic)
    version: int = 0
    handled: int = 0
    writing: int = 0
    released: bool = False
    bringing: dict[object, set[str]] = field(default_factory=dict)  # series, by the association that brings them
    refused: dict[object, set[str]] = field(default_factory=dict)  # series of which an image was refused, likewise
    broken: set[str] = field(default_factory=set)  # series that did not come whole
    brought: dict[str, float] = field(default_factory=dict)  # when files last came, in a sending without a quiet time
    renewed: set[str] = field(default_factory=set)  # series that this sending brings with other pictures than before

    def bring(self, association: object, series: str) -> None:
        """An association brings an image of a series."""
        brought = self.bringing.setdefault(association, set())
        if series not in brought:
            brought.add(series)
            self.note_open()
        self.writing += 1

    def note_brought(self, file: str, quiet_s: float) -> None:
        """An image came, for the first time or again: in the same sending as the last one, or in a new one."""
        now = time.monotonic()
        if now - max(self.brought.values(), default=now) > quiet_s:
            self.brought.clear()
            self.renewed.clear()
        self.brought[file] = now

    def renew(self, series: str, series_uid: str) -> int:
        """A series comes with other pictures than before: remove what this sending did not bring of it, since old and
        new pictures make no volume. Returns how many were removed. Raises OSError.
        """
        if series in self.renewed:
            return 0
        self.renewed.add(series)
        old = [path for path in images_in(self.folder) if path.name not in self.brought and _is_of(path, series_uid)]
        for path in old:
            path.unlink()
        return len(old)

    def refuse(self, association: object, series: str) -> None:
        """An image was not kept: its series counts as broken off, until it comes again over another association."""
        self.version += bool(self.version and series not in self.broken)
        self.broken.add(series)
        self.refused.setdefault(association, set()).add(series)
        self.note_open()

    def end(self, association: object, released: bool) -> None:
        """An association ended: released, or broken off."""
        refused = self.refused.pop(association, set())
        if (series := self.bringing.pop(association, None)) is None:
            return
        if released:
            self.version += bool(self.broken & (series - refused))
            self.broken -= series - refused
            self.released = not self.bringing
        else:
            self.version += 1
            self.broken |= series
        self.note_open()

    def is_complete(self, quiet_s: float, on_release: bool) -> bool:
        """Whether it is to be dealt with: no image came for so long, or (on_release) its associations ended well."""
        if self.version == self.handled or self.writing:
            return False
        return (on_release and self.released and not self.broken) or self.is_quiet(quiet_s)

    def is_quiet(self, quiet_s: float) -> bool:
        """Whether no image came for so long."""
        return time.monotonic() - self.changed >= quiet_s

    def settle(self) -> None:
        """It is complete: an association that is still open has brought nothing of it for long."""
        self.bringing.clear()
        self.note_open()

    def note_open(self) -> None:
        """Write down which series are being brought, or were broken off; nothing if there is none."""
        series = self.broken.union(*self.bringing.values())
        path = _beside(self.folder, OPEN)
        with suppress(OSError):  # of a full disk: the image itself cannot be kept either
            if not series:
                path.unlink(missing_ok=True)
                return
            with whole_file(path) as partial:
                partial.write_text(json.dumps(sorted(series)))

    def note_scored(self, stat: str) -> None:
        """Write down the hash of the images that were scored."""
        with suppress(OSError), whole_file(_beside(self.folder, SCORED), private=True) as partial:
            partial.write_text(stat)

    def remove(self) -> None:
        """Remove its images, and what lies beside them. Raises OSError."""
        remove_folder(self.folder)
        for ending in (OPEN, SCORED):
            _beside(self.folder, ending).unlink(missing_ok=True)


def take_up(folder: Path) -> ReceivedStudy | None:
    """A study that an earlier run received, in its folder; None for an empty one. Raises OSError."""
    files = images_in(folder)
    if not files:
        return None
    age_s = max(0.0, time.time() - max(path.stat().st_mtime for path in files))
    try:
        identity = identity_of_study(text(read_header(files[0]), "StudyInstanceUID"))
    except CaseError:
        identity = f"file:{folder.name}"
    study = ReceivedStudy(folder=folder, identity=identity, changed=time.monotonic() - age_s, version=1)
    with suppress(OSError, ValueError):
        study.broken = set(json.loads(_beside(folder, OPEN).read_text()))
    with suppress(OSError):
        study.handled = int(_beside(folder, SCORED).read_text() == stat_of(files))
    return study


def is_other_picture(path: Path, content: bytes) -> bool:
    """Whether an image that came is another picture than the one of its UID that is there, not only another header.

    False if they are stored in different ways (transfer syntaxes), and if one cannot be read.
    """
    try:
        before, now = pydicom.dcmread(path), pydicom.dcmread(io.BytesIO(content))
        if before.file_meta.get("TransferSyntaxUID") != now.file_meta.get("TransferSyntaxUID"):
            return False
        return any(before.get(name) != now.get(name) for name in PICTURE)
    except (OSError, *UNREADABLE):
        return False


def _is_of(path: Path, series_uid: str) -> bool:
    try:
        return text(read_header(path), "SeriesInstanceUID") == series_uid
    except CaseError:
        return False


def images_in(folder: Path) -> list[Path]:
    """The images of a received study, sorted."""
    return sorted(folder.glob("*.dcm"))


def _beside(folder: Path, ending: str) -> Path:
    return folder.with_name(folder.name + ending)
