import fcntl
import os
from pathlib import Path

import pytest

from training.placing import locked, placing, recover


def filled(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "file").write_text(text)
    return folder


def test_a_folder_takes_its_place_with_all_it_holds_and_nothing_else_is_left(tmp_path) -> None:
    filled(tmp_path / "result", "old")
    with placing(tmp_path / "result") as hidden:
        (hidden / "file").write_text("new")
        assert (tmp_path / "result/file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["result"]
    assert (tmp_path / "result/file").read_text() == "new"


def test_what_fails_leaves_what_was_there(tmp_path) -> None:
    filled(tmp_path / "result", "old")
    with pytest.raises(ZeroDivisionError), placing(tmp_path / "result") as hidden:
        (hidden / "file").write_text(str(1 / 0))
    assert [path.name for path in tmp_path.iterdir()] == ["result"]
    assert (tmp_path / "result/file").read_text() == "old"


def test_what_a_process_killed_between_its_two_renames_moved_away_comes_back(tmp_path) -> None:
    filled(tmp_path / ".replaced-1-result", "old")
    filled(tmp_path / ".partial-1-result", "new")
    recover(tmp_path / "result")
    assert [path.name for path in tmp_path.iterdir()] == ["result"]
    assert (tmp_path / "result/file").read_text() == "old"


def test_what_was_replaced_goes_when_the_new_one_is_there(tmp_path) -> None:
    filled(tmp_path / ".replaced-1-result", "old")
    filled(tmp_path / "result", "new")
    recover(tmp_path / "result")
    assert [path.name for path in tmp_path.iterdir()] == ["result"]
    assert (tmp_path / "result/file").read_text() == "new"


def test_another_process_that_still_works_and_other_names_are_left_alone(tmp_path) -> None:
    working = filled(tmp_path / ".partial-1-result", "half")
    other = filled(tmp_path / ".partial-1-another", "half")
    with locked(working, fcntl.LOCK_EX) as held:
        assert held
        recover(tmp_path / "result")
        assert working.is_dir()
    recover(tmp_path / "result")
    assert not working.exists() and other.is_dir()


def test_a_lock_that_another_holds_is_not_to_be_had(tmp_path) -> None:
    number = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(number, fcntl.LOCK_EX)
    with locked(tmp_path, fcntl.LOCK_EX | fcntl.LOCK_NB) as held:
        assert not held
    os.close(number)
