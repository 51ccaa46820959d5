"""A folder that is made under a hidden name and then put in its place: whole or not at all, also after kill -9."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from model.files import PARTIAL

REPLACED = ".replaced-"


@contextmanager
def placing(target: Path) -> Iterator[Path]:
    """An empty hidden folder beside `target`, which takes its place when the block ends well, and else goes.

    What was there goes only after the new one is in its place; what killed processes left is put in order first.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    recover(target)
    hidden = target.with_name(f"{PARTIAL}{os.getpid()}-{target.name}")
    shutil.rmtree(hidden, ignore_errors=True)
    hidden.mkdir()
    try:
        with locked(hidden, fcntl.LOCK_EX | fcntl.LOCK_NB):
            yield hidden
            old = target.with_name(f"{REPLACED}{os.getpid()}-{target.name}")
            if target.exists():
                os.replace(target, old)
            os.replace(hidden, target)
            shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def recover(target: Path) -> None:
    """Put back a folder that a killed process had moved away to replace it; remove what killed ones left beside it."""
    for old in sorted(target.parent.glob(f"{REPLACED}*-{target.name}")):
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            with suppress(OSError):
                old.rename(target)
    for folder in target.parent.glob(f"{PARTIAL}*-{target.name}"):
        if folder.is_dir() and not folder.is_symlink():
            with locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB) as alone:
                if alone:
                    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def locked(folder: Path, how: int) -> Iterator[bool]:
    """Hold a lock on a folder itself (how: as of fcntl.flock); whether it was to be had: some disks grant none."""
    number = os.open(folder, os.O_RDONLY)
    try:
        held = True
        try:
            fcntl.flock(number, how)
        except OSError:
            held = False
        yield held
    finally:
        os.close(number)
