import os
import socket
from pathlib import Path

import pytest

from model.bundle.manifest import load_bundle
from model.errors import CaseError, WeightsError
from model.opening import open_regular, other_kind, read_regular
from model.study.reading import find_pair, read_volume


def make(kind: str, path: Path) -> None:
    if kind == "a named pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a socket":
        here = os.getcwd()
        os.chdir(path.parent)  # the name of a socket is short
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
        os.chdir(here)
    else:
        path.symlink_to("/dev/zero")


KINDS = ["a named pipe", "a folder", "a socket", "a device"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_regular_file_is_refused_at_once(kind: str, tmp_path) -> None:
    path = tmp_path / "one"
    make(kind, path)
    assert other_kind(path) == kind
    with pytest.raises(OSError, match=f"it is {kind}, not a regular file"):
        open_regular(path)


def test_a_file_and_a_link_to_one_are_opened(tmp_path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "b").symlink_to("a")
    assert other_kind(tmp_path / "b") == "" and read_regular(tmp_path / "b") == b"x"
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "c")


@pytest.mark.parametrize("kind", KINDS)
def test_no_input_is_waited_for(kind: str, tiny_study, tiny_bundle, tmp_path) -> None:
    """An image, the list of sockets, a manifest, a member of a bundle."""
    make(kind, tmp_path / "p.mha")
    with pytest.raises(CaseError, match=f"p.mha' is {kind}, not a file; give a regular file"):
        read_volume(tmp_path / "p.mha", "PET")
    make(kind, tiny_study / "inputs.json")
    with pytest.raises(CaseError, match=f"inputs.json' cannot be read: it is {kind}, not a regular file"):
        find_pair(tiny_study)
    for name in ("manifest.json", "m1.safetensors"):
        folder = tmp_path / name.replace(".", "-")
        folder.mkdir()
        for file in tiny_bundle.iterdir():
            (folder / file.name).symlink_to(file)
        (folder / name).unlink()
        make(kind, folder / name)
        with pytest.raises(WeightsError, match=f"{name}': it is {kind}, not a regular file"):
            load_bundle(folder)
