"""The order of a batch, with a station that scores nothing."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model import batch
from model.batch import run_batch
from model.errors import OutputError
from model.job import Job, Options
from model.journal import DONE, FAILED, Journal, read_journal
from model.results import LOCK
from model.station import Died, TookTooLong
from model.studies import Entry


class Fake:
    """Answers done, dies of the studies in `deadly`, and of those in `heavy` when another is read meanwhile."""

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


def test_the_next_study_is_always_named_so_that_it_is_read_ahead(tmp_path) -> None:
    station = Fake()
    run_batch(jobs(tmp_path, "a", "b", "c"), station, Journal(tmp_path), lambda record: None, 0)
    assert station.asked == [("a", "b"), ("b", "c"), ("c", None)]
    assert {name: record.state for name, record in read_journal(tmp_path).items()} == dict.fromkeys("abc", DONE)


def test_a_study_that_ends_the_process_twice_is_a_failure_and_the_others_go_on(tmp_path) -> None:
    station = Fake(deadly={"b"})
    told = []
    records = run_batch(jobs(tmp_path, "a", "b", "c"), station, Journal(tmp_path), told.append, 0)
    # once beside a, which then is tried alone; then b, read ahead or alone, twice
    assert [record.state for record in records.values()] == [DONE, FAILED, DONE] == [r.state for r in told]
    assert "SIGKILL, twice" in records["b"].message and "more memory" in records["b"].remedy
    assert read_journal(tmp_path)["b"].stage == "segment"


def test_a_failure_names_the_series_that_were_taken(tmp_path) -> None:
    (job,) = jobs(tmp_path, "a")
    job = replace(job, entry=replace(job.entry, taken="PET series 3 (6 slices, 15 mm), CT series 2 (...)"))
    record = run_batch([job], Fake(deadly={"a"}), Journal(tmp_path), lambda record: None, 0)["a"]
    assert record.message.endswith("(taken: PET series 3 (6 slices, 15 mm), CT series 2 (...))")
    assert "taken" not in run_batch([job], Fake(), Journal(tmp_path), lambda record: None, 0)["a"].message


def test_a_study_that_takes_too_long_is_not_tried_again(tmp_path) -> None:
    class Slow(Fake):
        def ask(self, job: Job, following: Job | None) -> dict[str, Any]:
            super().ask(job, following)
            raise TookTooLong("it took longer than 120 minutes")

    station = Slow()
    records = run_batch(jobs(tmp_path, "a"), station, Journal(tmp_path), lambda record: None, 0)
    assert len(station.asked) == 1 and records["a"].state == FAILED and "--limit-minutes" in records["a"].remedy


def test_a_study_that_is_too_much_beside_another_is_scored_alone(tmp_path) -> None:
    station = Fake(heavy={"b"})
    records = run_batch(jobs(tmp_path, "a", "b", "c"), station, Journal(tmp_path), lambda record: None, 0)
    assert {record.state for record in records.values()} == {DONE}
    assert station.asked == [("a", "b"), ("a", None), ("b", "c"), ("b", None), ("c", None)]


def test_a_results_folder_that_is_gone_ends_the_batch_and_keeps_what_is_done(tmp_path) -> None:
    output = tmp_path / "out"
    output.mkdir()

    def vanish(record) -> None:
        if record.study == "b":
            output.rename(tmp_path / "elsewhere")

    with pytest.raises(OutputError, match="is gone.*what is done is kept"):
        run_batch(jobs(output, "a", "b", "c"), Fake(), Journal(output), vanish, 0)
    assert set(read_journal(tmp_path / "elsewhere")) == {"a", "b"}


def test_a_share_that_comes_back_in_time_is_waited_for(tmp_path, monkeypatch) -> None:
    output, away = tmp_path / "out", tmp_path / "away"
    away.mkdir()
    monkeypatch.setattr(batch.time, "sleep", lambda seconds: away.exists() and away.rename(output))
    assert len(run_batch(jobs(output, "a"), Fake(), Journal(output), lambda record: None, 600)) == 1


def test_what_a_share_looks_like_when_it_is_gone_is_told(tmp_path, monkeypatch) -> None:
    """An empty mount point, results made anew below one, and a share that refuses every question."""
    studies, output = tmp_path / "studies", tmp_path / "output"
    for folder in (studies, output):
        folder.mkdir()
    (output / LOCK).touch()
    assert "are gone" in batch._trouble(studies, output)
    (studies / "a").touch()
    assert batch._trouble(studies, output) == ""
    (output / LOCK).unlink()
    assert "the results folder" in batch._trouble(studies, output)

    def stale(path: Path) -> bool:
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(Path, "exists", stale)
    assert "cannot be reached: Stale file handle" in batch._trouble(studies, output)


def test_a_full_disk_ends_the_batch_before_another_study_is_begun(tmp_path, monkeypatch) -> None:
    station = Fake()
    monkeypatch.setattr(batch, "LEAST_FREE_BYTES", 1 << 70)
    with pytest.raises(OutputError, match="MB free, and a study is begun with"):
        run_batch(jobs(tmp_path, "a"), station, Journal(tmp_path), lambda record: None, 0)
    assert station.asked == []
