"""The journal of a batch: one line of JSON for each study that was scored or failed; the last line of a study counts.

A line is written whole and flushed to the disk after its results are; a line cut short by a crash is passed over.
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
    """How a study ended. key: hash of the weights and settings; input_sha256: of its files' contents, in order.

    stat: hash of the files' sizes, times and places on the disk: where it is as it was, contents need not be read.
    row: what the summary shows of a study that was scored; stage, message, remedy: of one that failed.
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
    """The last record of every study; none where there is no journal. Raises OutputError if it cannot be read."""
    records: dict[str, Record] = {}
    path = output / JOURNAL
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return records
    except OSError as error:
        raise OutputError(f"cannot read '{path}': {error.strerror}; it must be readable by this user") from None
    for line in lines:
        with suppress(ValueError, TypeError):  # a line cut short, or of another version
            record = Record(**json.loads(line))
            records[record.study] = record
    return records


class Journal:
    """Appends records; what cannot be written, as the disk is full or gone, is kept and tried again with the next."""

    def __init__(self, output: Path) -> None:
        self._path = output / JOURNAL
        self._waiting: list[Record] = []

    def add(self, record: Record) -> bool:
        """Write a record, and those that wait; False if that was not possible."""
        self._waiting.append(record)
        return self.flush()

    def flush(self) -> bool:
        """Write what waits; False if that was not possible."""
        content = b"".join(json.dumps(dataclasses.asdict(record)).encode() + b"\n" for record in self._waiting)
        if not content:
            return True
        try:
            number = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                size = os.fstat(number).st_size
                if size and os.pread(number, 1, size - 1) != b"\n":
                    content = b"\n" + content  # after a line that was cut short
                if os.write(number, content) != len(content):
                    return False  # the disk filled up within a line, which the next one leaves behind
                os.fsync(number)
            finally:
                os.close(number)
        except OSError:
            return False
        self._waiting = []
        return True


def stat_of(files: Iterable[Path]) -> str:
    """A hash of what the file system says of files: size, times, number; any write changes it. Raises OSError."""
    said = []
    for path in files:
        stat = path.stat()
        said.append(f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}")
    return hashlib.sha256("\n".join(said).encode()).hexdigest()


def contents_of(files: Iterable[Path]) -> str:
    """One hash of the contents of files, in order. Raises OSError."""
    return hash_of_hashes(sha256_of(path) for path in files)


def hash_of_hashes(hashes: Iterable[str]) -> str:
    """One hash of the hashes of contents, in order."""
    return hashlib.sha256("".join(hashes).encode()).hexdigest()
