import hashlib
import os
import subprocess
import sys

from conftest import ROOT

from model.files import free_memory_bytes, is_lfs_pointer, sha256_of, silence


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
    """In a process of its own, which holds little before."""
    code = "from model.files import peak_memory_bytes as peak; before = peak(); block = b'x' * (before + 50_000_000)"
    code += "; print(peak() - before)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) > 40_000_000


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
