import hashlib
import os
from dataclasses import replace

import pytest

from model.hospital.journal import DONE, FAILED, JOURNAL, Journal, Record, contents_of, read_journal, stat_of

RECORD = Record(study="s-1", state=DONE, key="k", input_sha256="i", stat="t", row={"mtv_ml": 1.5, "warnings": ["ä"]})


def test_the_last_line_of_a_study_counts(tmp_path) -> None:
    journal = Journal(tmp_path)
    failed = Record(study="s-2", state=FAILED, key="k", stage="read", message="m", remedy="r")
    for record in (replace(RECORD, state=FAILED), failed, RECORD):
        assert journal.add(record)
    assert read_journal(tmp_path) == {"s-1": RECORD, "s-2": failed}
    assert len((tmp_path / JOURNAL).read_bytes().splitlines()) == 3


@pytest.mark.parametrize("cut", [1, 10, 60])
def test_a_line_cut_short_is_passed_over_and_the_next_stands_alone(cut: int, tmp_path) -> None:
    Journal(tmp_path).add(RECORD)
    whole = (tmp_path / JOURNAL).read_bytes()
    (tmp_path / JOURNAL).write_bytes(whole + whole[:cut])
    Journal(tmp_path).add(replace(RECORD, study="s-2"))
    assert set(read_journal(tmp_path)) == {"s-1", "s-2"}


def test_there_need_be_no_journal(tmp_path) -> None:
    assert read_journal(tmp_path) == {}


def test_a_record_that_cannot_be_written_is_written_with_the_next(tmp_path) -> None:
    journal = Journal(tmp_path / "gone")
    assert not journal.add(RECORD)
    (tmp_path / "gone").mkdir()
    assert journal.add(replace(RECORD, study="s-2"))
    assert set(read_journal(tmp_path / "gone")) == {"s-1", "s-2"}


def test_contents_are_hashed_in_order(tmp_path) -> None:
    one, two = tmp_path / "1", tmp_path / "2"
    one.write_bytes(b"a")
    two.write_bytes(b"b")
    inner = [hashlib.sha256(content).hexdigest() for content in (b"a", b"b")]
    assert contents_of([one, two]) == hashlib.sha256("".join(inner).encode()).hexdigest() != contents_of([two, one])


def test_a_write_is_seen_though_size_and_time_of_change_are_put_back(tmp_path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"aaaa")
    before, stat = stat_of([path]), path.stat()
    assert stat_of([path]) == before
    path.write_bytes(b"bbbb")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert stat_of([path]) != before
