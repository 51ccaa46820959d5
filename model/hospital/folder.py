"""The results of one study in a folder of its own. The folder gets its name only when everything is in it."""

import fcntl
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from model import RESEARCH
from model.errors import OutputError
from model.files import PARTIAL, silence, umask
from model.hospital.names import digest_in, is_name
from model.study.geometry import Grid, grid_of, image_on
from model.terminal import say

STUDIES = "studies"  # the folder of the studies' folders
REPORT = "report.json"
LOCK = ".lock"


class Folder:
    """A study's folder while it is written: under a temporary name beside the final one, renamed by `commit`."""

    def __init__(self, output: Path, name: str) -> None:
        """Make it. Raises OutputError if that cannot be."""
        self.target = output / STUDIES / name
        with _told(self.target):
            self.target.parent.mkdir(exist_ok=True)  # and not `output`: without it the share is gone
            self.path = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=self.target.parent))
            self.path.chmod(0o777 & ~umask())  # mkdtemp makes it private

    def __enter__(self) -> "Folder":
        return self

    def __exit__(self, *error: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)  # nothing is there after a commit

    def write(self, name: str, content: bytes) -> None:
        """Write a file. Raises OutputError."""
        with _told(self.target / name):
            (self.path / name).write_bytes(content)

    def write_image(self, name: str, array: NDArray[Any], grid: Grid) -> None:
        """Write an array (z, y, x) in the format of the name's ending, and read it back. Raises OutputError."""
        path = self.path / name
        image = image_on(array, grid)
        image.SetMetaData("ITK_FileNotes" if ".nii" in name else "Notice", RESEARCH)
        try:
            with silence():
                sitk.WriteImage(image, str(path), useCompression=True)
                back = sitk.ReadImage(str(path))
        except RuntimeError:
            raise OutputError(f"cannot write '{self.target / name}' whole; free some space and run again") from None
        if not (grid_of(back).equals(grid) and np.array_equal(sitk.GetArrayViewFromImage(back), array)):
            raise OutputError(f"'{self.target / name}' does not read back as written; check the disk and run again")

    def commit(self) -> None:
        """Flush everything to the disk, then rename the folder; older results of the study give way, also those under
        the name that it has with or without --names. Raises OutputError.
        """
        old = self.path.with_name(f"{self.path.name}-old")
        with _told(self.target):
            for path in self.path.iterdir():
                with path.open("rb+") as file:
                    os.fsync(file.fileno())
            if self.target.exists():
                os.replace(self.target, old)
            os.replace(self.path, self.target)
            shutil.rmtree(old, ignore_errors=True)
            for other in self._under_other_names():
                os.replace(other, old)
                shutil.rmtree(old, ignore_errors=True)

    def _under_other_names(self) -> list[Path]:
        """Folders of the same study beside this one: names that end in the same hash."""
        if not is_name(self.target.name):
            return []
        digest = digest_in(self.target.name)
        return [
            path
            for path in self.target.parent.iterdir()
            if path != self.target and is_name(path.name) and digest_in(path.name) == digest
        ]


def add_files(output: Path, name: str, files: dict[str, bytes]) -> None:
    """Put files into a study's folder that is there, each whole under another name and renamed, in order.

    Raises OutputError.
    """
    target = output / STUDIES / name
    with _told(target):
        for file, content in files.items():
            number, partial = tempfile.mkstemp(prefix=PARTIAL, dir=target.parent)
            try:
                with os.fdopen(number, "wb") as opened:
                    opened.write(content)
                    opened.flush()
                    os.fsync(opened.fileno())
                os.chmod(partial, 0o666 & ~umask())
                os.replace(partial, target / file)
            finally:
                with suppress(OSError):
                    os.unlink(partial)


def remove_partial(output: Path) -> None:
    """Remove what interrupted runs left; only while no other run works in this folder."""
    for path in [*output.glob(f"{PARTIAL}*"), *(output / STUDIES).glob(f"{PARTIAL}*")]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()


class _told:
    """Turns OSError into an OutputError about `target`."""

    def __init__(self, target: Path) -> None:
        self._target = target

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise OutputError(
                f"cannot write '{self._target}': {error.strerror or error}; the results folder must be there, "
                "writable, and have free space; then run the same command again"
            ) from None


@contextmanager
def locked(output: Path, patience_s: float = 60.0) -> Iterator[int | None]:
    """Hold the results folder for this run and the processes it starts; the lock's file descriptor.

    None on a file system without locks. Raises OutputError if another run works there.
    """
    end = time.monotonic() + patience_s  # a killed run's scoring process takes a moment to end, more on a busy machine
    with _told(output / LOCK):
        number = os.open(output / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    told = False
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
                if not told:
                    say(f"another run works in '{output}'; waiting up to {patience_s:g} s for it", sys.stdout)
                told = True
                time.sleep(0.1)
            except OSError:
                held = None
                break
        yield held
    finally:
        os.close(number)
