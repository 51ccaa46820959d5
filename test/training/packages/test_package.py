"""The command: what it refuses, and that a folder is written whole or not at all."""

from pathlib import Path

import pytest

from training.__main__ import main
from training.commit import ROOT


def package(*words: object) -> int:
    return main(["package", *map(str, words)])


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to write; give --monai FOLDER, --mhub FOLDER, or both"),
        (["--mhub", "lesions"], "--mhub needs --repository URL"),
        (["--monai", "lesions", "--repository", "https://a.b"], "--mhub needs --repository URL"),
        (
            ["--mhub", "Lesions-1", "--repository", "https://a.b"],
            "lower-case letters, digits and '_'; rename the folder",
        ),
        (["--mhub", "lesions", "--repository", "a.b"], "begins with https://, got 'a.b'"),
        (["--monai", "x", "--mhub", "x/y", "--repository", "https://a.b"], "lie in each other; give two folders"),
        (["--monai", ROOT / "model" / "package"], "lies among the program's own files"),
        (["--monai", "used"], "holds no configs/metadata.json: it is no such package, and is not replaced"),
    ],
)
def test_what_cannot_be_is_refused(words, message: str, tiny_bundle, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Path("used").mkdir()
    Path("used/letter.txt").write_text("keep")
    before = tree(tmp_path)
    assert package(tiny_bundle, *words, "--force") == 2
    assert message in capsys.readouterr().err
    assert tree(tmp_path) == before


@pytest.mark.parametrize("licence", ["unknown", "MIT and unknown"])  # as imported, and as mixed with others
def test_weights_without_a_licence_are_not_packed(licence: str, make_bundle, tmp_path, capsys) -> None:
    make_bundle(tmp_path / "given", members=1, licence=licence)
    assert package(tmp_path / "given", "--monai", tmp_path / "out") == 2
    assert "its weights must not be passed on; if their authors state one" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_package_is_replaced_by_force_alone_and_then_whole(tiny_bundle, tmp_path, capsys, monkeypatch) -> None:
    out = tmp_path / "lesions"
    words = [tiny_bundle, "--mhub", out, "--repository", "https://example.org/program"]
    assert package(*words) == 0
    (out / "mine.txt").write_text("added by hand")
    written = tree(tmp_path)
    assert package(*words) == 2
    assert "is there already; choose another folder, or --force to replace it" in capsys.readouterr().err
    assert tree(tmp_path) == written

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr("training.packages.mhub_folder.copy_weights", full)
        assert package(*words, "--force") == 5
    assert tree(tmp_path) == written
    assert package(*words, "--force") == 0
    assert tree(tmp_path) == written - {"lesions/mine.txt"}
