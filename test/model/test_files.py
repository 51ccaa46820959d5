import hashlib
import os

import pytest

from model.errors import OutputError
from model.files import (
    PARTIAL,
    Staging,
    free_memory_bytes,
    is_lfs_pointer,
    peak_memory_bytes,
    remove_left_behind,
    sha256_of,
    silence,
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


def test_a_folder_that_cannot_be_made_is_told(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with Staging() as staging, pytest.raises(OutputError, match="cannot write into"):
        staging.path(tmp_path / "file" / "a.txt")


def test_sha256_is_hashlibs(tmp_path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256_of(tmp_path / "x") == hashlib.sha256(b"abc").hexdigest()


def test_a_git_lfs_pointer_is_known_by_its_first_line(tmp_path) -> None:
    (tmp_path / "pointer").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    (tmp_path / "data").write_bytes(b"ObjectType = Image\n")
    assert is_lfs_pointer(tmp_path / "pointer") and not is_lfs_pointer(tmp_path / "data")


def test_free_memory_is_below_what_the_machine_has() -> None:
    free = free_memory_bytes()
    assert free is None or 0 < free <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_peak_memory_grows_with_what_is_held() -> None:
    before = peak_memory_bytes()
    block = b"x" * (before + 50_000_000)
    assert peak_memory_bytes() > before + 40_000_000 and len(block) > before


def test_what_libraries_print_is_kept_away(capfd) -> None:
    with silence():
        os.write(1, b"to the first\n")
        os.write(2, b"to the second\n")
    os.write(1, b"after\n")
    assert capfd.readouterr() == ("after\n", "")


def test_two_that_overlap_give_the_streams_back_when_the_last_is_done(capfd) -> None:
    first, second = silence(), silence()
    for one in (first, second):
        one.__enter__()
    first.__exit__(None, None, None)
    os.write(2, b"while the second goes on\n")
    second.__exit__(None, None, None)
    os.write(1, b"after\n")
    assert capfd.readouterr() == ("after\n", "")


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
