"""Files and memory: temporary name and rename, sha256, what is free, and silence for library chatter."""

import hashlib
import os
import resource
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from model.errors import OutputError

PARTIAL = ".partial-"  # names that start so are never results: an interrupted run may leave one
LFS_POINTER = b"version https://git-lfs"


class Staging:
    """Results written under temporary names beside their targets and renamed together.

    A reader of the folder sees all of a run's files or, when anything fails before `commit`, none.
    """

    def __init__(self) -> None:
        self._pairs: list[tuple[Path, Path]] = []
        self._made: list[Path] = []

    def __enter__(self) -> "Staging":
        return self

    def __exit__(self, *error: object) -> None:
        self.discard()  # nothing is left to discard after a commit

    def path(self, target: Path) -> Path:
        """The temporary path to write for `target`; makes the folder. Raises OutputError if it cannot."""
        try:
            self._make_folder(target.parent)
            partial = target.parent / f"{PARTIAL}{os.getpid()}-{target.name}"
            partial.touch()
        except OSError as error:
            raise OutputError(
                f"cannot write into '{target.parent}': {error.strerror}; "
                "the output folder must be writable by the user this runs as, and have free space"
            ) from None
        self._pairs.append((partial, target))
        return partial

    def commit(self) -> None:
        """Flush every file to the disk, then rename all. Raises OutputError and leaves none if it cannot."""
        try:
            for partial, _ in self._pairs:
                with partial.open("rb+") as file:
                    os.fsync(file.fileno())
            for partial, target in self._pairs:
                os.replace(partial, target)
        except OSError as error:
            self.discard()
            raise OutputError(f"cannot finish '{error.filename}': {error.strerror}") from None
        self._pairs, self._made = [], []

    def discard(self) -> None:
        """Remove every temporary file and every folder made for one; targets from earlier runs stay."""
        for partial, _ in self._pairs:
            with suppress(OSError):
                partial.unlink()
        for folder in reversed(self._made):
            with suppress(OSError):
                folder.rmdir()
        self._pairs, self._made = [], []

    def _make_folder(self, folder: Path) -> None:
        missing = [f for f in [folder, *folder.parents] if not f.exists()]
        for step in reversed(missing):
            step.mkdir(exist_ok=True)
            self._made.append(step)


def sha256_of(path: Path) -> str:
    """The file's sha256 as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_lfs_pointer(path: Path) -> bool:
    """Whether the file is a Git-LFS pointer in place of the data it stands for."""
    with path.open("rb") as file:
        return file.read(len(LFS_POINTER)) == LFS_POINTER


def free_memory_bytes() -> int | None:
    """Bytes this process may still take: the machine's free memory or the container's limit, whichever is less.

    Where neither can be read (not Linux), all of the machine's memory; None where that is unknown too.
    """
    free: list[int] = []
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free.append(int(line.split()[1]) * 1024)
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        with suppress(OSError, ValueError):  # "max": no limit
            free.append(int(Path(limit).read_text()) - int(Path(used).read_text()))
    if not free:
        with suppress(OSError, ValueError):
            free.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return max(0, min(free)) if free else None


def peak_memory_bytes() -> int:
    """The most memory this process has held so far.

    On Linux from /proc: getrusage's figure is handed down from the process that started this one.
    """
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@contextmanager
def silence() -> Iterator[list[str]]:
    """Keep what C++ libraries print to the two standard streams away from the user; yields it as lines after.

    MetaIO and NRRD write to file descriptors 1 and 2 directly, so the descriptors are redirected.
    """
    said: list[str] = []
    with tempfile.TemporaryFile() as sink:
        saved = [os.dup(1), os.dup(2)]
        try:
            os.dup2(sink.fileno(), 1)
            os.dup2(sink.fileno(), 2)
            yield said
        finally:
            for number, copy in zip((1, 2), saved, strict=True):
                os.dup2(copy, number)
                os.close(copy)
            sink.seek(0)
            said += sink.read().decode(errors="replace").splitlines()
