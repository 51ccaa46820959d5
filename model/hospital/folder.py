"""The results of one study in a folder of its own. The folder gets its name only when everything is in it."""

import fcntl
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from model import RESEARCH
from model.errors import OutputError
from model.files import silence
from model.hospital.find.drawn import foreign_files
from model.hospital.names import digest_in, is_name
from model.study.geometry import Grid, grid_of, image_on
from model.terminal import say
from model.whole import remove_folder, remove_left_behind, whole_file, whole_folder

STUDIES = "studies"  # the folder of the studies' folders
COMPARISONS = "comparisons"  # the folder of the pairs' folders
REPORT = "report.json"
LOCK = ".lock"


@dataclass(frozen=True)
class Folder:
    """A study's folder while it is written. path: where it lies now; target: where it will be."""

    path: Path
    target: Path

    def write(self, name: str, content: bytes) -> None:
        """Write a file, which may lie in a folder of the study's. Raises OutputError."""
        with _errors_as_output(self.target / name):
            (self.path / name).parent.mkdir(exist_ok=True)
            (self.path / name).write_bytes(content)

    def write_image(self, name: str, array: NDArray[Any], grid: Grid, notes: Mapping[str, str] | None = None) -> None:
        """Write an array (z, y, x) in the format of the name's ending, and read it back. Raises OutputError.

        notes: more entries of the header; NIfTI has no place for them.
        """
        path = self.path / name
        image = image_on(array, grid)
        image.SetMetaData("ITK_FileNotes" if ".nii" in name else "Notice", RESEARCH)
        for key, text in (notes or {}).items():
            image.SetMetaData(key, text)
        try:
            with silence():
                sitk.WriteImage(image, str(path), useCompression=True)
                back = sitk.ReadImage(str(path))
        except RuntimeError:
            raise OutputError(f"cannot write '{self.target / name}' whole; free some space and run again") from None
        if not (grid_of(back).equals(grid) and np.array_equal(sitk.GetArrayViewFromImage(back), array)):
            raise OutputError(f"'{self.target / name}' does not read back as written; check the disk and run again")


@contextmanager
def study_folder(output: Path, name: str) -> Iterator[Folder]:
    """A study's folder to write into, see `result_folder`.

    Older results of the study are removed, also those under its other name, with or without --names; what another
    program put there stays. Raises OutputError.
    """
    with result_folder(output / STUDIES, name) as folder:
        yield folder
        with _errors_as_output(folder.target):
            for old in (folder.target, *_under_other_names(folder.target)):
                _keep_foreign_files(old, folder.path)
    with _errors_as_output(folder.target):
        for other in _under_other_names(folder.target):
            remove_folder(other)


@contextmanager
def result_folder(parent: Path, name: str) -> Iterator[Folder]:
    """A folder to write into. It takes its name when the block ends well, and all of it is on the disk then.

    `parent` is made if the results folder, in which it lies, is there. Raises OutputError.
    """
    target = parent / name
    with _errors_as_output(target):
        parent.mkdir(exist_ok=True)  # and not the results folder: without it the share is gone
        with whole_folder(target) as path:
            yield Folder(path, target)


def _keep_foreign_files(old: Path, new: Path) -> None:
    """Copy what other programs put into a study's older folder: a reader's edits, scenes and notes."""
    for path in foreign_files(old) if old.is_dir() else ():
        if (new / path.name).exists():
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, new / path.name, symlinks=True)
        else:
            shutil.copy2(path, new / path.name, follow_symlinks=path.is_file())


def _under_other_names(target: Path) -> list[Path]:
    """Folders of the same study beside this one: names that end in the same hash."""
    if not is_name(target.name):
        return []
    digest = digest_in(target.name)
    return [
        path
        for path in target.parent.iterdir()
        if path != target and is_name(path.name) and digest_in(path.name) == digest
    ]


def add_files(output: Path, name: str, files: dict[str, bytes]) -> None:
    """Put files into a study's folder that is there, each whole, in order. Raises OutputError."""
    target = output / STUDIES / name
    with _errors_as_output(target):
        for file, content in files.items():
            with whole_file(target / file, folder=target.parent) as partial:
                partial.write_bytes(content)


def remove_partial(output: Path) -> None:
    """Remove what interrupted runs left; only while no other run works in this folder."""
    remove_left_behind(output, alone=True)
    for folder in (STUDIES, COMPARISONS):
        remove_left_behind(output / folder, alone=True)


@contextmanager
def _errors_as_output(target: Path) -> Iterator[None]:
    """Turns OSError into an OutputError about `target`."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write '{target}': {error.strerror or error}; the results folder must be there, "
            "writable, and have free space; then run the same command again"
        ) from None


@contextmanager
def locked(output: Path, patience_s: float = 60.0) -> Iterator[int | None]:
    """Hold the results folder for this run and the processes it starts; the lock's file descriptor.

    None on a file system without locks. Raises OutputError if another run works there.
    """
    end = time.monotonic() + patience_s  # a killed run's scoring process takes a moment to end, more on a busy machine
    with _errors_as_output(output / LOCK):
        number = os.open(output / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    announced = False
    try:
        while True:
            try:
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
                held: int | None = number
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise OutputError(
                        f"another run works in '{output}'; wait for it, end it, or give another --output"
                    ) from None
                if not announced:
                    say(f"another run works in '{output}'; waiting up to {patience_s:g} s for it", sys.stdout)
                announced = True
                time.sleep(0.1)
            except OSError:
                held = None
                break
        yield held
    finally:
        os.close(number)
