"""The journal of a run: one line of JSON for each study that was scored or failed. The last line of a study counts.

A line is written and flushed to the disk after the study's results. A line that a crash cut short is ignored.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.errors import OutputError
from model.files import sha256_of

JOURNAL = "journal.jsonl"
DONE, FAILED = "done", "failed"


@dataclass(frozen=True, kw_only=True)
class Record:
    """How a study ended. key: hash of the weights and settings. input_sha256: hash of its files' contents, in order.

    stat: hash of the files' sizes, times and inode numbers; while it is unchanged, contents need not be read again.
    row: what the summary shows of a scored study. stage, message, remedy: of a failed one.
    """

    study: str
    state: str
    key: str
    input_sha256: str = ""
    stat: str = ""
    row: dict[str, Any] = field(default_factory=dict)
    stage: str = ""
    message: str = ""
    remedy: str = ""


def read_journal(output: Path) -> dict[str, Record]:
    """The last record of every study, by name; empty without a journal. Raises OutputError if it cannot be read."""
    records: dict[str, Record] = {}
    path = output / JOURNAL
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return records
    except OSError as error:
        raise OutputError(f"cannot read '{path}': {error.strerror}; give this user the right to read it") from None
    for line in lines:
        with suppress(ValueError, TypeError):  # a line cut short, or of another version
            record = Record(**json.loads(line))
            records[record.study] = record
    return records


class Journal:
    """Appends records. A record that cannot be written (the disk is full or gone) is kept and tried with the next."""

    def __init__(self, output: Path) -> None:
        self._path = output / JOURNAL
        self._waiting: list[Record] = []

    def add(self, record: Record) -> bool:
        """Write a record, and the ones that wait. Returns False if that was not possible."""
        self._waiting.append(record)
        return self.flush()

    def flush(self) -> bool:
        """Write the records that wait. Returns False if that was not possible."""
        content = b"".join(json.dumps(dataclasses.asdict(record)).encode() + b"\n" for record in self._waiting)
        if not content:
            return True
        try:
            number = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                size = os.fstat(number).st_size
                if size and os.pread(number, 1, size - 1) != b"\n":
                    content = b"\n" + content  # the last line was cut short
                if os.write(number, content) != len(content):
                    return False  # the disk filled up within a line; the next call starts a new line
                os.fsync(number)
            finally:
                os.close(number)
        except OSError:
            return False
        self._waiting = []
        return True


def stat_of(files: Iterable[Path]) -> str:
    """A hash of the size, times and inode number of each file; any write changes it. Raises OSError."""
    lines = []
    for path in files:
        stat = path.stat()
        lines.append(f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def contents_of(files: Iterable[Path]) -> str:
    """One hash of the contents of files, in order. Raises OSError."""
    return hash_of_hashes(sha256_of(path) for path in files)


def hash_of_hashes(hashes: Iterable[str]) -> str:
    """One hash of the hashes of contents, in order."""
    return hashlib.sha256("".join(hashes).encode()).hexdigest()
