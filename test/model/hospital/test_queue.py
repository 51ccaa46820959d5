"""The order in which studies are scored, with a scoring process that scores nothing."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from model.errors import OutputError
from model.hospital import queue
from model.hospital.find.entry import Entry
from model.hospital.folder import LOCK, REPORT, STUDIES
from model.hospital.job import Job, Options
from model.hospital.journal import DONE, FAILED, Journal, read_journal, stat_of
from model.hospital.queue import TimeLeft, score_one_by_one, size_of
from model.hospital.stored_results import UNFINISHED
from model.hospital.worker_process import Died, TookTooLong


class Fake:
    """Answers done; dies at the studies in `deadly`, and at the ones in `heavy` if another is read meanwhile."""

    def __init__(self, deadly: set[str] = frozenset(), heavy: set[str] = frozenset()) -> None:
        self.deadly, self.heavy, self.asked = deadly, heavy, []

    def ask(self, job: Job, following: Job | None) -> dict[str, Any]:
        self.asked.append((job.name, following.name if following else None))
        if job.name in self.deadly or (following and {job.name, following.name} & self.heavy):
            raise Died("the process that scored it was ended by SIGKILL")
        return {"state": DONE, "row": {"lesions": 1}, "input_sha256": "i", "stat": "t"}


def jobs(output: Path, *names: str) -> list[Job]:
    output.mkdir(exist_ok=True)
    (output / LOCK).touch()  # as score.py does before anything else
    entry = Entry(identity="x", source=output, kind="images", pet=(), ct=())
    return [Job(name=n, entry=entry, root=output.parent, output=output, key="k", options=Options()) for n in names]


def test_the_next_study_is_always_sent_along_so_that_it_can_be_read(tmp_path) -> None:
    process = Fake()
    score_one_by_one(jobs(tmp_path, "a", "b", "c"), process, Journal(tmp_path), lambda record: None, 0)
    assert process.asked == [("a", "b"), ("b", "c"), ("c", None)]
    assert {name: record.state for name, record in read_journal(tmp_path).items()} == dict.fromkeys("abc", DONE)


def test_a_study_that_ends_the_process_twice_is_a_failure_and_the_others_go_on(tmp_path) -> None:
    process = Fake(deadly={"b"})
    seen = []
    records = score_one_by_one(jobs(tmp_path, "a", "b", "c"), process, Journal(tmp_path), seen.append, 0)
    # once beside a, which then is tried alone; then b, read ahead or alone, twice
    assert [record.state for record in records.values()] == [DONE, FAILED, DONE] == [r.state for r in seen]
    assert "SIGKILL, twice" in records["b"].message and "more memory" in records["b"].remedy
    assert read_journal(tmp_path)["b"].stage == "segment"


def test_a_failure_names_the_series_that_were_taken(tmp_path) -> None:
    (job,) = jobs(tmp_path, "a")
    job = replace(job, entry=replace(job.entry, taken="PET series 3 (6 slices, 15 mm), CT series 2 (...)"))
    record = score_one_by_one([job], Fake(deadly={"a"}), Journal(tmp_path), lambda record: None, 0)["a"]
    assert record.message.endswith("(taken: PET series 3 (6 slices, 15 mm), CT series 2 (...))")
    assert "taken" not in score_one_by_one([job], Fake(), Journal(tmp_path), lambda record: None, 0)["a"].message


def test_a_study_that_takes_too_long_is_not_tried_again(tmp_path) -> None:
    class Slow(Fake):
        def ask(self, job: Job, following: Job | None) -> dict[str, Any]:
            super().ask(job, following)
            raise TookTooLong("it took longer than 120 minutes")

    process = Slow()
    records = score_one_by_one(jobs(tmp_path, "a"), process, Journal(tmp_path), lambda record: None, 0)
    assert len(process.asked) == 1 and records["a"].state == FAILED and "--limit-minutes" in records["a"].remedy


def test_a_study_that_is_too_much_beside_another_is_scored_alone(tmp_path) -> None:
    process = Fake(heavy={"b"})
    records = score_one_by_one(jobs(tmp_path, "a", "b", "c"), process, Journal(tmp_path), lambda record: None, 0)
    assert {record.state for record in records.values()} == {DONE}
    assert process.asked == [("a", "b"), ("a", None), ("b", "c"), ("b", None), ("c", None)]


def test_a_results_folder_that_is_gone_ends_the_run_and_keeps_what_is_done(tmp_path) -> None:
    output = tmp_path / "out"
    output.mkdir()

    def vanish(record) -> None:
        if record.study == "b":
            output.rename(tmp_path / "elsewhere")

    with pytest.raises(OutputError, match="is gone.*what is done is kept"):
        score_one_by_one(jobs(output, "a", "b", "c"), Fake(), Journal(output), vanish, 0)
    assert set(read_journal(tmp_path / "elsewhere")) == {"a", "b"}


def test_a_share_that_comes_back_in_time_is_waited_for(tmp_path, monkeypatch) -> None:
    output, away = tmp_path / "out", tmp_path / "away"
    away.mkdir()
    monkeypatch.setattr(queue.time, "sleep", lambda seconds: away.exists() and away.rename(output))
    assert len(score_one_by_one(jobs(output, "a"), Fake(), Journal(output), lambda record: None, 600)) == 1


def test_a_share_that_is_gone_is_recognised(tmp_path, monkeypatch) -> None:
    """An empty mount point, results made anew below one, and a share that refuses every question."""
    studies, output = tmp_path / "studies", tmp_path / "output"
    for folder in (studies, output):
        folder.mkdir()
    (output / LOCK).touch()
    assert "are gone" in queue._why_unavailable(studies, output)
    (studies / "a").touch()
    assert queue._why_unavailable(studies, output) == ""
    (output / LOCK).unlink()
    assert "the results folder" in queue._why_unavailable(studies, output)

    def stale(path: Path) -> bool:
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(Path, "exists", stale)
    assert "cannot be reached: Stale file handle" in queue._why_unavailable(studies, output)


def test_a_full_disk_ends_the_run_before_another_study_is_begun(tmp_path, monkeypatch) -> None:
    process = Fake()
    monkeypatch.setattr(queue, "LEAST_FREE_BYTES", 1 << 70)
    with pytest.raises(OutputError, match="MB free, and a study needs"):
        score_one_by_one(jobs(tmp_path, "a"), process, Journal(tmp_path), lambda record: None, 0)
    assert process.asked == []


def test_a_wait_is_printed_once_with_its_reason_and_its_end(tmp_path, monkeypatch, capsys) -> None:
    output, away, slept = tmp_path / "out", tmp_path / "away", []
    away.mkdir()
    (away / LOCK).touch()

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            away.rename(output)

    monkeypatch.setattr(queue.time, "sleep", sleep)
    queue.wait_until_ready(tmp_path, output, 600)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[1] == "going on"
    assert lines[0].startswith("waiting, up to 10.0 min: the results folder") and "is gone" in lines[0]


def test_a_wait_for_space_is_printed_once_though_the_space_changes(tmp_path, monkeypatch, capsys) -> None:
    free = iter([10, 20, 30, 250])
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "a").touch()
    (tmp_path / LOCK).touch()
    monkeypatch.setattr(queue.os, "statvfs", lambda path: SimpleNamespace(f_bavail=next(free), f_frsize=1_000_000))
    monkeypatch.setattr(queue.time, "sleep", lambda seconds: None)
    queue.wait_until_ready(tmp_path / "studies", tmp_path, 60)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and "has 10 MB free, and a study needs 200 MB or more to begin" in lines[0]


def test_the_time_left_follows_the_sizes_of_the_studies() -> None:
    left = TimeLeft({"small": 10, "alike": 10, "large": 480})
    assert left.share_of("small") == 50 and left.share_of("large") == 500 / 480
    assert left.after("small", 20) == 20 / 10 * 490  # 2 s a unit: 980 s, not 40
    assert left.after("alike", 40) == 40 / 20 * 480
    assert left.after("large", 1000) == 0


def test_a_study_is_as_large_as_its_pet_and_small_with_a_mask(tmp_path) -> None:
    slices = tuple(tmp_path / str(number) for number in range(5))
    for path in slices:
        path.write_bytes(b"x" * 1000)
    entry = Entry(identity="x", source=tmp_path, kind="dicom", pet=slices, ct=())
    job = Job(name="a", entry=entry, root=tmp_path, output=tmp_path, key="k", options=Options())
    assert size_of(job) == 5000 and size_of(replace(job, stored="a")) == 500
    slices[0].unlink()
    assert size_of(job) == 1


def test_a_study_whose_seg_ends_the_process_keeps_its_mask_and_says_so(tmp_path) -> None:
    """The first time it dies of the SEG, the mask is there: the second time no network is needed; then it is done."""
    (job,) = jobs(tmp_path, "a")
    folder = tmp_path / STUDIES / "a"

    class DiesOfTheSeg(Fake):
        def ask(self, job: Job, following: Job | None) -> dict[str, Any]:
            folder.mkdir(parents=True, exist_ok=True)
            batch = {
                "key": UNFINISHED + job.key,
                "row": {"warnings": ["w"]},
                "input_sha256": "i",
                "stat": "t",
                "images_stat": stat_of(()),
                "images_sha256": "",
            }
            (folder / REPORT).write_text(json.dumps({"warnings": ["w"], "batch": batch}))
            self.asked.append(job.stored)
            raise Died("the process that scored it was ended by SIGKILL")

    process = DiesOfTheSeg()
    record = score_one_by_one([job], process, Journal(tmp_path), lambda record: None, 0)["a"]
    assert process.asked == ["", "a"] and record.state == DONE and record.input_sha256 == "i"
    report = json.loads((folder / REPORT).read_text())
    assert record.row["warnings"] == report["warnings"] == report["batch"]["row"]["warnings"]
    assert (
        record.row["warnings"][0] == "w"
        and "no SEG, RTSTRUCT, picture, SR or PDF was made: the process" in record.row["warnings"][1]
    )
    assert report["batch"]["key"] == record.key == "k"
