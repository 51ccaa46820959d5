"""The images that came from the PACS: RESULTS/incoming/<patient>/<study>/<image>.dcm, each name a salted hash.

A file is written whole or not at all. Beside a study's folder lie two files: `<study>.open` names the series that an
association brings or broke off, `<study>.scored` is a hash of the images that were scored. So a killed run goes on.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Condition

from model.dicom.elements import text
from model.dicom.headers import read_header
from model.errors import CaseError
from model.hospital.find.dicom_series import identity_of_study
from model.hospital.find.entry import Unusable
from model.hospital.journal import stat_of
from model.hospital.names import name_of
from model.hospital.queue import LEAST_FREE_BYTES
from model.whole import remove_folder, remove_left_behind, whole_file

INCOMING = "incoming"
OPEN, SCORED = ".open", ".scored"
CLOSING_S = 2.0  # between the end of a connection and the word that it was released
DAY_S = 86400.0


class NoSpace(Exception):
    """The image cannot be kept: the disk is full, or cannot be written."""


@dataclass(frozen=True, kw_only=True)
class Received:
    """One image that came: the UIDs that file it, and its bytes as a DICOM file."""

    patient: str
    study: str
    series: str
    instance: str
    content: bytes


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A study that is complete. version: of its images, for `Inbox.handled`. broken: its sending was broken off."""

    folder: Path
    name: str
    identity: str
    version: int
    broken: bool
    images: int


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The complete studies of one patient. unready: folders of the patient's studies that images still come for."""

    root: Path
    ready: tuple[Ready, ...]
    unready: tuple[Path, ...]


@dataclass(kw_only=True)
class _Study:
    """What is known of a received study. version counts its changes; handled: the version that was scored."""

    folder: Path
    identity: str
    changed: float
    version: int = 1
    handled: int = 0
    writing: int = 0
    released: bool = False
    bringing: dict[object, set[str]] = field(default_factory=dict)  # series, by association
    refused: dict[object, set[str]] = field(default_factory=dict)  # series of which an image was refused, likewise
    broken: set[str] = field(default_factory=set)  # series that did not come whole


class Inbox:
    """Keeps what comes, and knows which studies are complete. Any thread may call it."""

    def __init__(self, output: Path, salt: bytes, quiet_s: float, on_release: bool) -> None:
        """Take up what an earlier run received. Raises OSError."""
        self._root, self._salt, self._quiet_s, self._on_release = output / INCOMING, salt, quiet_s, on_release
        self._studies: dict[Path, _Study] = {}
        self._closed: dict[object, float] = {}  # associations that ended without a word, and when
        self._changed = Condition()
        self._root.mkdir(mode=0o700, exist_ok=True)  # the images name patients
        remove_left_behind(self._root, alone=True)
        for folder in sorted(path for path in self._root.glob("*/*") if path.is_dir()):
            if (study := self._known(folder)) is not None:
                self._studies[folder] = study

    def store(self, association: object, image: Received) -> None:
        """Keep an image. One that is there already is left alone; another one of the same UID replaces it.

        Raises NoSpace if the disk is full or cannot be written. Then nothing of it is kept, and its series counts as
        broken off.
        """
        folder = self._root / self._digest(image.patient) / self._digest(image.study)
        target, series = folder / f"{self._digest(image.instance)}.dcm", self._digest(image.series)
        try:
            new = not (target.is_file() and target.read_bytes() == image.content)
            if not new and self._is_only_sent_again(association, folder):
                return
            self._check_space(len(image.content))
            folder.mkdir(parents=True, exist_ok=True)
            with self._writing(association, folder, series, image.study):
                if new:
                    with whole_file(target, folder=self._root) as partial:
                        partial.write_bytes(image.content)
                    with self._changed:
                        self._studies[folder].version += 1
        except OSError as error:
            with self._changed:
                study = self._of(folder, image.study)
                study.version += bool(study.version and series not in study.broken)
                study.broken.add(series)
                study.refused.setdefault(association, set()).add(series)
                self._note_open(study)
            raise NoSpace(error.strerror or str(error)) from None

    def ended(self, association: object, released: bool | None) -> None:
        """An association ended: released, broken off, or (None) its connection closed and no word came yet."""
        with self._changed:
            if released is None:
                self._closed.setdefault(association, time.monotonic())
                return
            self._closed.pop(association, None)
            for study in self._studies.values():
                refused = study.refused.pop(association, set())
                if (series := study.bringing.pop(association, None)) is None:
                    continue
                if released:
                    study.version += bool(study.broken & (series - refused))
                    study.broken -= series - refused
                    study.released = not study.bringing
                else:
                    study.version += 1
                    study.broken |= series
                self._note_open(study)
            self._changed.notify_all()

    def next(self, timeout_s: float) -> Batch | None:
        """The complete studies of the patient who waits longest; None if there is none within the time."""
        end = time.monotonic() + timeout_s
        with self._changed:
            while True:
                self._settle_closed()
                now = time.monotonic()
                ready = [study for study in self._studies.values() if self._is_complete(study, now)]
                if ready:
                    return self._batch(min(ready, key=lambda study: study.changed).folder.parent, ready)
                if now >= end:
                    return None
                self._changed.wait(min(end - now, 0.2))

    def handled(self, study: Ready, stat: str = "") -> None:
        """A study was dealt with. stat: hash of its images, if it needs no other try in a later run."""
        with self._changed:
            known = self._studies.get(study.folder)
            if known is None:
                return
            known.handled = study.version
            if stat and known.version == study.version:
                with suppress(OSError), whole_file(_beside(study.folder, SCORED), private=True) as partial:
                    partial.write_text(stat)

    def remove_old(self, keep_days: float) -> list[str]:
        """Remove the images of studies that were dealt with, so many days after the last came; 0: never.

        Returns the names of the studies.
        """
        now, removed = time.monotonic(), []
        with self._changed:
            for folder, study in list(self._studies.items()):
                old = keep_days and now - study.changed > keep_days * DAY_S
                if not old or study.version != study.handled or study.writing or study.bringing:
                    continue
                with suppress(OSError):
                    remove_folder(folder)
                    for ending in (OPEN, SCORED):
                        _beside(folder, ending).unlink(missing_ok=True)
                    del self._studies[folder]
                    removed.append(self._name(study.identity))
                    folder.parent.rmdir()  # fails while the patient has other studies
        return removed

    def _is_only_sent_again(self, association: object, folder: Path) -> bool:
        """Whether an image that is there already changes nothing: its study lacks nothing, and is not being sent."""
        with self._changed:
            study = self._studies.get(folder)
            return study is not None and not study.broken and association not in study.bringing

    def _of(self, folder: Path, uid: str) -> _Study:
        """What is known of a study, to which an image belongs; a new one if nothing is."""
        new = _Study(folder=folder, identity="", changed=time.monotonic(), version=0)
        study = self._studies.setdefault(folder, new)
        study.identity = identity_of_study(uid)
        return study

    @contextmanager
    def _writing(self, association: object, folder: Path, series: str, uid: str) -> Iterator[None]:
        """While an association brings an image of a series. Raises OSError."""
        with self._changed:
            study = self._of(folder, uid)
            brought = study.bringing.setdefault(association, set())
            if series not in brought:
                brought.add(series)
                self._note_open(study)
            study.writing += 1
        try:
            yield
        finally:
            with self._changed:
                study.writing -= 1
                study.changed, study.released = time.monotonic(), False
                self._changed.notify_all()

    def _is_complete(self, study: _Study, now: float) -> bool:
        if study.version == study.handled or study.writing:
            return False
        if self._on_release and study.released and not study.broken:
            return True
        return now - study.changed >= self._quiet_s

    def _batch(self, root: Path, ready: Iterable[_Study]) -> Batch:
        """The complete studies of a patient. An association that is still open has brought nothing for long."""
        own = [study for study in ready if study.folder.parent == root]
        for study in own:
            study.bringing.clear()
            self._note_open(study)
        unready = [s.folder for s in self._studies.values() if s.folder.parent == root and s not in own]
        busy = [folder for folder in unready if self._studies[folder].version != self._studies[folder].handled]
        return Batch(
            root=root,
            unready=tuple(busy),
            ready=tuple(
                Ready(
                    folder=study.folder,
                    name=self._name(study.identity),
                    identity=study.identity,
                    version=study.version,
                    broken=bool(study.broken),
                    images=len(images_in(study.folder)),
                )
                for study in own
            ),
        )

    def _settle_closed(self) -> None:
        """Take associations whose connection closed for broken off, if no word came in time."""
        for association, when in list(self._closed.items()):
            if time.monotonic() - when > CLOSING_S:
                self.ended(association, False)

    def _known(self, folder: Path) -> _Study | None:
        """A study that an earlier run received; None for an empty folder."""
        files = images_in(folder)
        if not files:
            return None
        age_s = max(0.0, time.time() - max(path.stat().st_mtime for path in files))
        try:
            identity = identity_of_study(text(read_header(files[0]), "StudyInstanceUID"))
        except CaseError:
            identity = f"file:{folder.name}"
        study = _Study(folder=folder, identity=identity, changed=time.monotonic() - age_s)
        with suppress(OSError, ValueError):
            study.broken = set(json.loads(_beside(folder, OPEN).read_text()))
        with suppress(OSError):
            if not study.broken and _beside(folder, SCORED).read_text() == stat_of(files):
                study.handled = study.version
        return study

    def _note_open(self, study: _Study) -> None:
        """Write down which series are being brought, or were broken off; nothing if there is none."""
        series = study.broken.union(*study.bringing.values())
        path = _beside(study.folder, OPEN)
        with suppress(OSError):  # of a full disk: the image itself cannot be kept either
            if not series:
                path.unlink(missing_ok=True)
                return
            with whole_file(path, folder=self._root) as partial:
                partial.write_text(json.dumps(sorted(series)))

    def _check_space(self, size: int) -> None:
        """Raise OSError if the disk would be too full for a study to be scored."""
        stats = os.statvfs(self._root)
        if stats.f_bavail * stats.f_frsize < LEAST_FREE_BYTES + size:
            raise OSError(28, "No space left on device")

    def _name(self, identity: str) -> str:
        return name_of(Unusable(identity=identity, source=self._root, message=""), self._salt)

    def _digest(self, uid: str) -> str:
        return hashlib.sha256(self._salt + b"\0" + uid.encode(errors="surrogateescape")).hexdigest()[:32]


def images_in(folder: Path) -> list[Path]:
    """The images of a received study, sorted."""
    return sorted(folder.glob("*.dcm"))


def _beside(folder: Path, ending: str) -> Path:
    return folder.with_name(folder.name + ending)
