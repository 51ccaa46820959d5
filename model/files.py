"""Files and memory: sha256, how much memory is free, and silence for what libraries print."""

import hashlib
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock

from model.opening import open_regular

LFS_POINTER = b"version https://git-lfs"
_silence_lock = Lock()
_silent: list[tuple[int, int]] = []  # one entry for each thread within `silence`: the copies of the two streams


def sha256_of(path: Path) -> str:
    """The file's sha256 as 64 hexadecimal digits. Raises OSError, also for anything else than a regular file."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_bytes(content: bytes) -> str:
    """The sha256 of bytes as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def is_lfs_pointer(path: Path) -> bool:
    """Whether the file is a Git-LFS pointer in place of the data it stands for. Raises as `sha256_of`."""
    with open_regular(path) as file:
        return file.read(len(LFS_POINTER)) == LFS_POINTER


def free_memory_bytes() -> int | None:
    """Bytes this process may still take: the machine's free memory, or what the container's limit leaves if less.

    Where neither can be read (not Linux), all of the machine's memory; None where that is unknown, too.
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
    """The most memory this process has held so far, in bytes.

    On Linux it is read from /proc, because getrusage starts from the figure of the parent process.
    """
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@contextmanager
def silence() -> Iterator[None]:
    """Keep what C++ libraries print to the two standard streams away from the user.

    MetaIO and NRRD write to file descriptors 1 and 2 directly, so the descriptors are redirected. Of several threads,
    the first to enter redirects them and the last to leave restores them.
    """
    with _silence_lock:
        _silent.append(_silent[0] if _silent else _redirected())
    try:
        yield
    finally:
        with _silence_lock:
            copies = _silent.pop()
            if not _silent:
                for number, copy in zip((1, 2), copies, strict=True):
                    os.dup2(copy, number)
                    os.close(copy)


def _redirected() -> tuple[int, int]:
    """Point the two standard streams at the null device. Returns copies of what they were."""
    copies, sink = (os.dup(1), os.dup(2)), os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    os.close(sink)
    return copies


def _reclaimable_bytes(stat: Path) -> int:
    """Bytes of page cache, which a cgroup counts as used, but which the kernel frees when memory is needed."""
    for line in stat.read_text().splitlines():
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file"):
            return int(value)
    return 0
