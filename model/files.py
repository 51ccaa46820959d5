"""Files and memory: temporary name and rename, sha256, what is free, and silence for library chatter."""

import fcntl
import hashlib
import os
import resource
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock

from model.errors import OutputError
from model.opening import open_regular

PARTIAL = ".partial-"  # names that start so are never results: an interrupted run may leave one
LFS_POINTER = b"version https://git-lfs"
_gate = Lock()
_silent: list[tuple[int, int]] = []  # of each thread within `silence`: copies of the streams, the same for all


class Staging:
    """Results written under temporary names beside their targets and renamed together.

    A reader of the folder sees all of a run's files or, when anything fails before `commit`, none. Each
    temporary file is locked while its run lives, so that `remove_left_behind` knows whose run was killed.
    A temporary name never ends in .mha: whoever counts masks must not count it.
    """

    def __init__(self) -> None:
        self._pairs: list[tuple[Path, Path]] = []
        self._made: list[Path] = []
        self._locks: list[int] = []

    def __enter__(self) -> "Staging":
        return self

    def __exit__(self, *error: object) -> None:
        self.discard()  # nothing is left to discard after a commit

    def path(self, target: Path) -> Path:
        """The temporary path to write for `target`; makes the folder. Raises OutputError if it cannot."""
        ending = "" if target.suffix.lower() == ".mha" else target.suffix
        try:
            self._make_folder(target.parent)
            number, name = tempfile.mkstemp(prefix=PARTIAL, suffix=ending, dir=target.parent)
            self._locks.append(number)
            partial = Path(name)
            self._pairs.append((partial, target))
            partial.chmod(0o666 & ~umask())  # mkstemp makes it private
            with suppress(OSError):  # a file system without locks: nothing is ever cleaned up there
                fcntl.flock(number, fcntl.LOCK_EX)
        except OSError as error:
            raise OutputError(
                f"cannot write into '{target.parent}': {error.strerror}; "
                "the output folder must be writable by the user this runs as, and have free space"
            ) from None
        return partial

    def commit(self) -> None:
        """Flush every file to the disk, then rename all, the first staged last. Raises OutputError, leaving none."""
        renamed: list[Path] = []
        try:
            for partial, _ in self._pairs:
                with partial.open("rb+") as file:
                    os.fsync(file.fileno())
            for partial, target in reversed(self._pairs):
                new = not target.exists()
                os.replace(partial, target)
                renamed += [target] if new else []
        except OSError as error:
            for target in renamed:
                with suppress(OSError):
                    target.unlink()
            self.discard()
            raise OutputError(f"cannot finish '{error.filename2 or error.filename}': {error.strerror}") from None
        self._made = []
        self.discard()

    def discard(self) -> None:
        """Remove every temporary file and every folder made for one; targets from earlier runs stay."""
        for partial, _ in self._pairs:
            with suppress(OSError):
                partial.unlink()
        for number in self._locks:
            os.close(number)
        for folder in reversed(self._made):
            with suppress(OSError):
                folder.rmdir()
        self._pairs, self._made, self._locks = [], [], []

    def _make_folder(self, folder: Path) -> None:
        missing = [f for f in [folder, *folder.parents] if not f.exists()]
        for step in reversed(missing):
            step.mkdir(exist_ok=True)
            self._made.append(step)


def remove_left_behind(folder: Path) -> None:
    """Remove temporary files in `folder` (not below it) whose run is gone: nobody holds their lock."""
    for path in folder.glob(f"{PARTIAL}*"):
        with suppress(OSError):
            if path.is_file() and not path.is_symlink():
                with path.open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: its run lives
                    path.unlink()


def sha256_of(path: Path) -> str:
    """The file's sha256 as 64 hexadecimal digits. Raises OSError, also for what is no regular file."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_lfs_pointer(path: Path) -> bool:
    """Whether the file is a Git-LFS pointer in place of the data it stands for. Raises as `sha256_of`."""
    with open_regular(path) as file:
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
    for folder, limit, used in (
        ("/sys/fs/cgroup", "memory.max", "memory.current"),
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        with suppress(OSError, ValueError):  # "max": no limit
            held = int(Path(folder, used).read_text()) - _reclaimable_bytes(Path(folder, "memory.stat"))
            free.append(int(Path(folder, limit).read_text()) - held)
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
def silence() -> Iterator[None]:
    """Keep what C++ libraries print to the two standard streams away from the user.

    MetaIO and NRRD write to file descriptors 1 and 2 directly, so the descriptors are redirected: by the first of
    several threads that comes, and back by the last that goes.
    """
    with _gate:
        _silent.append(_silent[0] if _silent else _redirected())
    try:
        yield
    finally:
        with _gate:
            copies = _silent.pop()
            if not _silent:
                for number, copy in zip((1, 2), copies, strict=True):
                    os.dup2(copy, number)
                    os.close(copy)


def _redirected() -> tuple[int, int]:
    """Point the two standard streams at nothing; copies of what they were."""
    copies, sink = (os.dup(1), os.dup(2)), os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    os.close(sink)
    return copies


def _reclaimable_bytes(stat: Path) -> int:
    """Page cache that the kernel gives back when memory is asked for; it counts as used in a cgroup's figure."""
    for line in stat.read_text().splitlines():
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file"):
            return int(value)
    return 0


def umask() -> int:
    """The permissions that new files of this process do not get."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
