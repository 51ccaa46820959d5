"""The images that came from the PACS: RESULTS/incoming/<patient>/<study>/<image>.dcm, each name a salted hash.

A file is written whole or not at all, and an image counts as received only then.
"""

import errno
import hashlib
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Condition

from model.hospital.find.dicom_series import identity_of_study
from model.hospital.find.entry import Unusable
from model.hospital.names import name_of
from model.hospital.pacs.received import Received, ReceivedStudy, images_in, is_other_picture, take_up
from model.hospital.queue import LEAST_FREE_BYTES
from model.terminal import say
from model.whole import remove_left_behind, whole_file

INCOMING = "incoming"
CLOSING_S = 2.0  # between the end of a connection and the word that it was released
POLL_S = 0.2
DAY_S = 86400.0


class NoSpace(Exception):
    """The image cannot be kept: the disk is full, or cannot be written."""


def is_inbox(studies: Path, output: Path) -> bool:
    """Whether a folder of studies is what came from the PACS for these results, even if it is mounted elsewhere."""
    with suppress(OSError):
        return studies.samefile(output / INCOMING)
    return False


@dataclass(frozen=True, kw_only=True)
class CompleteStudy:
    """A study that is complete. version: of its images, for `Inbox.handled`. broken: it did not come whole for sure.
    quiet: no image of it came for long; else only its association ended.
    """

    folder: Path
    name: str
    version: int
    broken: bool
    images: int
    quiet: bool = True


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The complete studies of one patient. unready: folders of the patient's studies that images still come for."""

    root: Path
    ready: tuple[CompleteStudy, ...]
    unready: tuple[Path, ...]


class Inbox:
    """Keeps what comes, and knows which studies are complete. Any thread may call it."""

    def __init__(self, output: Path, salt: bytes, quiet_s: float, on_release: bool) -> None:
        """Take up what an earlier run received. Raises OSError."""
        self._root, self._salt, self._quiet_s, self._on_release = output / INCOMING, salt, quiet_s, on_release
        self._closed: dict[object, float] = {}  # associations that ended without a word, and when
        self._changed = Condition()
        self._root.mkdir(mode=0o700, exist_ok=True)  # the images name patients
        for folder in (self._root, *self._root.glob("*/")):
            remove_left_behind(folder, alone=True)
        folders = sorted(path for path in self._root.glob("*/*") if path.is_dir())
        self._studies = {folder: study for folder in folders if (study := take_up(folder)) is not None}

    def store(self, association: object, image: Received) -> None:
        """Keep an image. One that is there already is left alone; another one of the same UID replaces it.

        Raises NoSpace if the disk is full or cannot be written. Then nothing of it is kept, and its series counts as
        broken off.
        """
        folder = self._root / self._digest(image.patient) / self._digest(image.study)
        target, series = folder / f"{self._digest(image.instance)}.dcm", self._digest(image.series)
        try:
            new = not (target.is_file() and target.read_bytes() == image.content)
            if not new and self._is_only_sent_again(association, target):
                return
            self._check_space(len(image.content))
            folder.mkdir(parents=True, exist_ok=True)
            with self._writing(association, target, series, image.study) as study:
                if new:
                    if target.is_file() and is_other_picture(target, image.content):
                        self._renew(study, series, image.series)
                    with whole_file(target, folder=self._root) as partial:
                        partial.write_bytes(image.content)
                    with self._changed:
                        study.version += 1
        except OSError as error:
            with self._changed:
                self._of(folder, image.study).refuse(association, series)
            raise NoSpace(error.strerror or str(error)) from None

    def ended(self, association: object, released: bool | None) -> None:
        """An association ended: released, broken off, or (None) its connection closed and no word came yet."""
        with self._changed:
            if released is None:
                self._closed.setdefault(association, time.monotonic())
                return
            self._closed.pop(association, None)
            for study in self._studies.values():
                study.end(association, released)
            self._changed.notify_all()

    def next(self, timeout_s: float) -> Batch | None:
        """The complete studies of the patient who waits longest; None if there is none within the time."""
        end = time.monotonic() + timeout_s
        with self._changed:
            while True:
                for association, when in list(self._closed.items()):
                    if time.monotonic() - when > CLOSING_S:
                        self.ended(association, False)
                ready = [one for one in self._studies.values() if one.is_complete(self._quiet_s, self._on_release)]
                if ready:
                    return self._batch(min(ready, key=lambda study: study.changed).folder.parent, ready)
                if time.monotonic() >= end:
                    return None
                self._changed.wait(min(max(end - time.monotonic(), 0), POLL_S))

    def handled(self, study: CompleteStudy, stat: str = "") -> None:
        """A study was dealt with. stat: hash of its images, if it needs no other try in a later run."""
        with self._changed:
            known = self._studies[study.folder]
            known.handled = study.version
            if stat and known.version == study.version:
                known.note_scored(stat)

    def wait_for_more(self, study: CompleteStudy) -> None:
        """A study is complete only when no image of it comes for long, whatever its association did."""
        with self._changed:
            self._studies[study.folder].released = False

    def remove_old(self, keep_days: float) -> list[str]:
        """Remove the images of studies that were dealt with, so many days after the last came; 0: never.

        Returns the names of the studies.
        """
        removed: list[str] = []
        with self._changed:
            for folder, study in list(self._studies.items()):
                old = keep_days and time.monotonic() - study.changed > keep_days * DAY_S
                if not old or study.version != study.handled or study.writing or study.bringing:
                    continue
                with suppress(OSError):
                    study.remove()
                    del self._studies[folder]
                    removed.append(self._name(study.identity))
                    folder.parent.rmdir()  # fails while the patient has other studies
        return removed

    def _renew(self, study: ReceivedStudy, series: str, series_uid: str) -> None:
        """A series comes with other pictures than before."""
        with self._changed:
            removed = study.renew(series, series_uid)
        if removed:
            say(
                f"{self._name(study.identity)}: a series comes with other pictures than before, under the same UIDs; "
                f"{removed} images of before count no more until they come again",
                sys.stdout,
            )

    def _is_only_sent_again(self, association: object, target: Path) -> bool:
        """Whether an image that is there already changes nothing: its study lacks nothing, and is not being sent."""
        with self._changed:
            study = self._studies.get(target.parent)
            if study is not None:
                study.note_brought(target.name, self._quiet_s)
            return study is not None and not study.broken and association not in study.bringing

    def _of(self, folder: Path, uid: str) -> ReceivedStudy:
        """What is known of the study of an image; a new one if nothing is."""
        study = self._studies.setdefault(folder, ReceivedStudy(folder=folder))
        study.identity = identity_of_study(uid)
        return study

    @contextmanager
    def _writing(self, association: object, target: Path, series: str, uid: str) -> Iterator[ReceivedStudy]:
        """The study of an image that an association brings, while the image is written."""
        with self._changed:
            study = self._of(target.parent, uid)
            study.note_brought(target.name, self._quiet_s)
            study.bring(association, series)
        try:
            yield study
        finally:
            with self._changed:
                study.writing -= 1
                study.changed, study.released = time.monotonic(), False
                self._changed.notify_all()

    def _batch(self, root: Path, ready: list[ReceivedStudy]) -> Batch:
        """The complete studies of a patient."""
        own = [study for study in ready if study.folder.parent == root]
        others = [one for one in self._studies.values() if one.folder.parent == root and one not in own]
        for study in own:
            study.settle()
        return Batch(
            root=root,
            unready=tuple(study.folder for study in others if study.version != study.handled),
            ready=tuple(
                CompleteStudy(
                    folder=study.folder,
                    name=self._name(study.identity),
                    version=study.version,
                    broken=bool(study.broken),
                    images=len(images_in(study.folder)),
                    quiet=study.is_quiet(self._quiet_s),
                )
                for study in own
            ),
        )

    def _check_space(self, size: int) -> None:
        """Raise OSError if the disk would be too full for a study to be scored."""
        stats = os.statvfs(self._root)
        if stats.f_bavail * stats.f_frsize < LEAST_FREE_BYTES + size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _name(self, identity: str) -> str:
        return name_of(Unusable(identity=identity, source=self._root, message=""), self._salt)

    def _digest(self, uid: str) -> str:
        return hashlib.sha256(self._salt + b"\0" + uid.encode(errors="surrogateescape")).hexdigest()[:32]
