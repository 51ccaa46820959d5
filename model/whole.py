"""Files and folders that appear whole or not at all: written under a temporary name, flushed to the disk, renamed.

Temporary names begin with PARTIAL. What lies under one is locked while its process lives, so that another process can
tell what a killed one left behind. Some disks grant no locks (NFS, for one); nothing is taken for left behind there,
unless the caller knows that nobody else writes.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from model.errors import OutputError

PARTIAL = ".partial-"  # names that start so are never results
NEW, OLD = "new", "old"  # within the hidden folder of `whole_folder`: what is written, and what it replaces


class Staging:
    """Results written under temporary names beside their targets and renamed together.

    A reader of the folder sees all of a run's files or, when anything fails before `commit`, none.
    """

    def __init__(self) -> None:
        self._pairs: list[tuple[Path, Path]] = []
        self._made: list[Path] = []
        self._locks: list[int] = []

    def __enter__(self) -> "Staging":
        return self

    def __exit__(self, *error: object) -> None:
        self.discard()  # nothing is left to discard after a commit

    def path(self, target: Path, ending: str | None = None) -> Path:
        """The temporary path to write for `target`; makes the folder. Raises OutputError if it cannot.

        ending: of the temporary name (default: the target's, but none for .mha: whoever counts masks must not
        count it).
        """
        try:
            self._make_folder(target.parent)
            partial, lock = _temporary_file(target, target.parent, ending)
        except OSError as error:
            raise OutputError(
                f"cannot write into '{target.parent}': {error.strerror}; "
                "the output folder must be writable by the user this runs as, and have free space"
            ) from None
        self._locks.append(lock)
        self._pairs.append((partial, target))
        return partial

    def commit(self) -> None:
        """Flush every file to the disk, then rename all, the first staged last. Raises OutputError, leaving none."""
        renamed: list[Path] = []
        try:
            for partial, _ in self._pairs:
                _flush(partial)
            for partial, target in reversed(self._pairs):
                new = not target.exists()
                os.replace(partial, target)
                renamed += [target] if new else []
        except OSError as error:
            for target in renamed:
                with suppress(OSError):
                    target.unlink()
            self.discard()
            raise OutputError(
                f"cannot finish '{error.filename2 or error.filename}': {error.strerror}; check free space and write "
                "permission, then run again"
            ) from None
        self._made = []
        self.discard()

    def discard(self) -> None:
        """Remove every temporary file and every folder made for one; targets from earlier runs stay."""
        for partial, _ in self._pairs:
            with suppress(OSError):
                partial.unlink()
        for lock in self._locks:
            os.close(lock)
        for folder in reversed(self._made):
            with suppress(OSError):
                folder.rmdir()
        self._pairs, self._made, self._locks = [], [], []

    def _make_folder(self, folder: Path) -> None:
        missing = [f for f in [folder, *folder.parents] if not f.exists()]
        for step in reversed(missing):
            step.mkdir(exist_ok=True)
            self._made.append(step)


@contextmanager
def whole_file(target: Path, *, private: bool = False, folder: Path | None = None) -> Iterator[Path]:
    """An empty temporary file to fill, which takes the place of `target` when the block ends well, and else goes.

    private: only its owner may read it. folder: where the temporary file lies (default: beside the target). The
    target's folder must be there. Raises OSError.
    """
    partial, lock = _temporary_file(target, folder or target.parent, private=private)
    try:
        yield partial
        _flush(partial)
        os.replace(partial, target)
    finally:
        with suppress(OSError):
            partial.unlink()
        os.close(lock)


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """An empty hidden folder to fill, which takes the place of `target` when the block ends well, and else goes.

    An older `target` is removed only when the new one is in its place; `recover` and `remove_left_behind` put it back
    after a kill between the two. The folder that it lies in must be there. Raises OSError.
    """
    hidden = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=target.parent))
    new, old = hidden / NEW / target.name, hidden / OLD / target.name
    try:
        with locked(hidden, fcntl.LOCK_EX | fcntl.LOCK_NB):
            new.mkdir(parents=True)
            old.parent.mkdir()
            yield new
            for path in new.rglob("*"):
                if path.is_file():
                    _flush(path)
            if target.exists():
                os.replace(target, old)
            os.replace(new, target)
    finally:
        _put_in_order(hidden)


def recover(target: Path) -> None:
    """Put back a folder that a killed process had moved away to replace it, and remove what it left beside it."""
    for hidden in target.parent.glob(f"{PARTIAL}*"):
        old = hidden / OLD / target.name
        if not (old.exists() or (hidden / NEW / target.name).exists()):
            continue
        with suppress(OSError), locked(hidden, fcntl.LOCK_EX | fcntl.LOCK_NB) as held:
            if held:
                _put_in_order(hidden)
            elif held is None and not target.exists():  # without locks another process may still need the rest
                old.rename(target)


def remove_folder(folder: Path) -> None:
    """Remove a folder at once: it is renamed first, so that nobody meets half of it. Raises OSError if it cannot be."""
    hidden = tempfile.mkdtemp(prefix=PARTIAL, dir=folder.parent)
    try:
        os.replace(folder, hidden)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def remove_left_behind(folder: Path, alone: bool = False) -> None:
    """Remove temporary files in `folder` (not below it) whose process is gone: nobody holds their lock.

    alone: the caller knows that nobody else writes here. Then everything temporary goes, folders too, and a folder
    that was moved away to be replaced is put back.
    """
    for path in folder.glob(f"{PARTIAL}*"):
        with suppress(OSError):
            if path.is_dir() and not path.is_symlink():
                if alone:
                    _put_in_order(path)
            elif alone:
                path.unlink()
            elif path.is_file() and not path.is_symlink():
                with path.open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: its process lives
                    path.unlink()


@contextmanager
def locked(folder: Path, how: int) -> Iterator[bool | None]:
    """Lock a folder (how: as of fcntl.flock). Yields False where another process holds it, None where the disk grants
    no locks.
    """
    number = os.open(folder, os.O_RDONLY)
    held: bool | None = True
    try:
        try:
            fcntl.flock(number, how)
        except BlockingIOError:
            held = False
        except OSError:
            held = None
        yield held
    finally:
        os.close(number)


def _temporary_file(target: Path, folder: Path, ending: str | None = None, private: bool = False) -> tuple[Path, int]:
    """A new empty file for `target`, and the descriptor that holds its lock until it is closed."""
    if ending is None:
        ending = "" if target.suffix.lower() == ".mha" else target.suffix
    number, name = tempfile.mkstemp(prefix=PARTIAL, suffix=ending, dir=folder)
    try:
        if not private:
            os.chmod(name, 0o666 & ~_umask())  # mkstemp makes it private
        with suppress(OSError):  # a disk without locks
            fcntl.flock(number, fcntl.LOCK_EX)
    except OSError:
        os.close(number)
        os.unlink(name)
        raise
    return Path(name), number


def _flush(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)  # a copied file may be read-only
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _put_in_order(hidden: Path) -> None:
    """Put back what was moved into a hidden folder and has no newer one in its place, then remove the hidden folder.

    Where it cannot be put back, it stays in the hidden folder.
    """
    with suppress(OSError):
        for old in (hidden / OLD).glob("*"):
            target = hidden.parent / old.name
            if not target.exists():
                old.rename(target)
        shutil.rmtree(hidden, ignore_errors=True)


def _umask() -> int:
    """The permissions that new files of this process do not get."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
