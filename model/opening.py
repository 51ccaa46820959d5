"""Open regular files only: reading from a named pipe, a socket or a device might never end."""

import errno
import stat
from io import BufferedReader
from pathlib import Path

KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def other_kind(path: Path) -> str:
    """What a path is if it is no regular file, such as "a named pipe"; "" for a regular file. Links are followed.

    Raises OSError if nothing is there, or if this user may not look.
    """
    mode = path.stat().st_mode
    if stat.S_ISREG(mode):
        return ""
    return next((name for is_kind, name in KINDS if is_kind(mode)), "no regular file")


def check_regular(path: Path) -> None:
    """Raise OSError unless the path is a regular file; the message says what it is."""
    if kind := other_kind(path):
        raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", str(path))


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading. Raises OSError, also for anything else than a regular file."""
    check_regular(path)
    return path.open("rb")


def read_regular(path: Path) -> bytes:
    """Read a regular file. Raises OSError, also for anything else than a regular file."""
    with open_regular(path) as file:
        return file.read()
