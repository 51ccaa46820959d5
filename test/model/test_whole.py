import fcntl
import os
import shutil
import stat
from pathlib import Path

import pytest

from model.errors import OutputError
from model.whole import (
    NEW,
    OLD,
    PARTIAL,
    Staging,
    locked,
    recover,
    remove_folder,
    remove_left_behind,
    whole_file,
    whole_folder,
)


def test_files_appear_together_and_only_on_commit(tmp_path) -> None:
    targets = [tmp_path / "new" / "a.txt", tmp_path / "b.txt"]
    with Staging() as staging:
        for target in targets:
            staging.path(target).write_text(target.name)
        assert not any(target.exists() for target in targets)
        staging.commit()
    assert [target.read_text() for target in targets] == ["a.txt", "b.txt"]
    assert not list(tmp_path.rglob(f"{PARTIAL}*"))


def test_a_failure_leaves_no_file_and_no_new_folder_and_keeps_what_was_there(tmp_path) -> None:
    old = tmp_path / "old.txt"
    old.write_text("kept")
    with pytest.raises(RuntimeError), Staging() as staging:
        staging.path(old).write_text("half")
        staging.path(tmp_path / "new" / "deep" / "a.txt").write_text("half")
        raise RuntimeError
    assert old.read_text() == "kept" and list(tmp_path.iterdir()) == [old]


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with Staging() as staging, pytest.raises(OutputError, match="cannot write into"):
        staging.path(tmp_path / "file" / "a.txt")


def test_no_temporary_name_ends_in_mha(tmp_path) -> None:
    with Staging() as staging:
        assert [staging.path(tmp_path / name).suffix for name in ("a.mha", "b.MHA", "c.png")] == ["", "", ".png"]


def test_a_rename_that_fails_leaves_none_of_the_files(tmp_path) -> None:
    (tmp_path / "mask.txt").mkdir()  # nothing can be renamed onto a folder
    with Staging() as staging:
        for name in ("mask.txt", "report.txt"):
            staging.path(tmp_path / name).write_text("x")
        with pytest.raises(OutputError, match="cannot finish"):
            staging.commit()
    assert [p.name for p in tmp_path.iterdir()] == ["mask.txt"]


def test_what_a_killed_run_left_is_removed_and_nothing_else(tmp_path) -> None:
    left, folder, other = tmp_path / f"{PARTIAL}x.png", tmp_path / f"{PARTIAL}folder", tmp_path / "x.txt"
    left.write_text("")
    other.write_text("")
    folder.mkdir()
    with Staging() as staging:  # a run that lives
        running = staging.path(tmp_path / "y.png")
        remove_left_behind(tmp_path)
        assert running.exists() and not left.exists() and folder.exists() and other.exists()


def test_a_file_takes_its_place_when_it_is_written_and_nothing_else_is_left(tmp_path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with whole_file(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old" and partial.parent == tmp_path
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(ZeroDivisionError), whole_file(path) as partial:
        partial.write_text(str(1 / 0))
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_a_file_has_the_permissions_of_any_new_file_unless_it_is_private(tmp_path) -> None:
    (tmp_path / "plain").touch()
    for name, private in (("a", False), ("b", True)):
        with whole_file(tmp_path / name, private=private) as partial:
            mode = stat.S_IMODE(partial.stat().st_mode)
        assert mode == (0o600 if private else stat.S_IMODE((tmp_path / "plain").stat().st_mode))
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == mode


def filled(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "file").write_text(text)
    return folder


def held_in(folder: Path) -> list[tuple[str, str]]:
    """Every file below a folder, by its path, with its text."""
    return sorted((str(path.relative_to(folder)), path.read_text()) for path in folder.rglob("*") if path.is_file())


def test_a_folder_takes_its_place_with_all_it_holds_and_nothing_else_is_left(tmp_path) -> None:
    filled(tmp_path / "result", "old")
    with whole_folder(tmp_path / "result") as hidden:
        (hidden / "deep").mkdir()
        (hidden / "deep" / "file").write_text("new")
        assert (tmp_path / "result/file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["result"]
    assert held_in(tmp_path) == [("result/deep/file", "new")]


def test_what_fails_leaves_what_was_there(tmp_path) -> None:
    filled(tmp_path / "result", "old")
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "result") as hidden:
        (hidden / "file").write_text(str(1 / 0))
    assert held_in(tmp_path) == [("result/file", "old")]


def test_a_rename_that_fails_puts_back_what_was_moved_away(tmp_path, monkeypatch) -> None:
    filled(tmp_path / "result", "old")
    replace = os.replace

    def second_fails(source: Path, target: Path) -> None:
        if target == tmp_path / "result":
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", second_fails)
    with pytest.raises(OSError, match="No space left"), whole_folder(tmp_path / "result") as hidden:
        (hidden / "file").write_text("new")
    assert held_in(tmp_path) == [("result/file", "old")]
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


def replace_and_be_killed(target: Path, at: str) -> None:
    """Replace a folder in a child process that is killed at the first or second rename, or when all is renamed."""
    child = os.fork()
    if not child:
        renames = ["first", "second"]
        replace = os.replace

        def rename(source: Path, place: Path) -> None:
            if renames.pop(0) == at:
                os._exit(0)
            replace(source, place)

        os.replace, shutil.rmtree = rename, lambda *_, **__: os._exit(0)
        with whole_folder(target) as hidden:
            (hidden / "file").write_text("new")
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize(("at", "text"), [("first", "old"), ("second", "old"), ("end", "new")])
@pytest.mark.parametrize("by", ["recover", "remove_left_behind"])
def test_a_process_killed_while_it_replaces_a_folder_loses_nothing(tmp_path, at: str, text: str, by: str) -> None:
    filled(tmp_path / "result", "old")
    replace_and_be_killed(tmp_path / "result", at)
    assert (tmp_path / "result").exists() == (at != "second")
    if by == "recover":
        recover(tmp_path / "result")
    else:
        remove_left_behind(tmp_path, alone=True)
    assert held_in(tmp_path) == [("result/file", text)]
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


def test_another_process_that_still_works_and_other_names_are_left_alone(tmp_path) -> None:
    working, other = tmp_path / f"{PARTIAL}1", tmp_path / f"{PARTIAL}2"
    filled(working / NEW / "result", "half")
    filled(other / NEW / "a-result", "half")
    with locked(working, fcntl.LOCK_EX) as held:
        assert held
        recover(tmp_path / "result")
        assert working.is_dir()
    recover(tmp_path / "result")
    assert not working.exists() and other.is_dir()


def test_a_folder_that_another_process_is_replacing_is_not_put_back(tmp_path) -> None:
    working = tmp_path / f"{PARTIAL}1"
    filled(working / OLD / "result", "old")
    with locked(working, fcntl.LOCK_EX):
        recover(tmp_path / "result")
    assert held_in(tmp_path) == [(f"{PARTIAL}1/old/result/file", "old")]


def test_on_a_disk_without_locks_the_old_folder_comes_back_and_nothing_is_removed(tmp_path, monkeypatch) -> None:
    def none(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", none)
    filled(tmp_path / f"{PARTIAL}1" / OLD / "result", "old")
    filled(tmp_path / f"{PARTIAL}1" / NEW / "result", "new")
    (tmp_path / f"{PARTIAL}file").touch()
    recover(tmp_path / "result")
    remove_left_behind(tmp_path)
    assert held_in(tmp_path) == [(f"{PARTIAL}1/new/result/file", "new"), (f"{PARTIAL}file", ""), ("result/file", "old")]
    with whole_folder(tmp_path / "another") as hidden, whole_file(tmp_path / "file") as partial:
        assert hidden.is_dir() and partial.is_file()
    assert (tmp_path / "another").is_dir() and (tmp_path / "file").is_file()


def test_a_folder_with_the_longest_name_a_disk_takes_is_written(tmp_path) -> None:
    with whole_folder(tmp_path / ("a" * 255)) as hidden:
        (hidden / "file").write_text("x")
    assert held_in(tmp_path) == [("a" * 255 + "/file", "x")]


def test_one_who_is_alone_removes_everything_temporary(tmp_path) -> None:
    filled(tmp_path / f"{PARTIAL}1", "half")
    filled(tmp_path / "kept", "x")
    (tmp_path / f"{PARTIAL}2").symlink_to(tmp_path / "kept")
    with Staging() as staging:
        staging.path(tmp_path / "y.png")
        remove_left_behind(tmp_path, alone=True)
        assert held_in(tmp_path) == [("kept/file", "x")]


def test_a_folder_is_removed_with_all_it_holds(tmp_path) -> None:
    remove_folder(filled(tmp_path / "result", "old"))
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_another_holds_differs_from_a_disk_without_locks(tmp_path) -> None:
    number = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(number, fcntl.LOCK_EX)
    with locked(tmp_path, fcntl.LOCK_EX | fcntl.LOCK_NB) as held:
        assert held is False
    os.close(number)
