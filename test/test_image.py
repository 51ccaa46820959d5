"""The Dockerfile's choices, and the versions that must agree: torch, CUDA, Python, and the project's own."""

import re
import shutil
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from image_facts import base, pins
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from model import __version__

REQUIREMENTS = ["requirements.txt", "requirements-dev.txt", "training/requirements.txt"]


def choose(folder: Path, **arguments: str) -> subprocess.CompletedProcess[str]:
    """Run what the Dockerfile's first stage runs, on bundles in folder/all; what it chooses is in folder/chosen."""
    stage = re.search(r"^COPY weights/ /all/\nRUN (.+?)\n\n", (ROOT / "Dockerfile").read_text(), re.M | re.S)
    assert stage is not None
    lines = stage[1].replace("/all", f"{folder}/all").replace("/chosen", f"{folder}/chosen")
    for name in ("eoa", "diwa", "mine"):
        (folder / "all" / name).mkdir(parents=True, exist_ok=True)
        (folder / "all" / name / "manifest.json").touch()
    (folder / "all" / "notes").mkdir(exist_ok=True)
    shutil.rmtree(folder / "chosen", ignore_errors=True)
    settings = {"PATH": "/usr/bin:/bin", "API_METHOD": "exec", "EDITION": "2", "WEIGHTS": "", **arguments}
    return subprocess.run(["sh", "-c", lines], check=False, env=settings, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("weights", "copied"),
    [("", "diwa eoa"), ("mine", "mine"), ("mine eoa", "eoa mine"), ("eoa eoa", "eoa"), ("  eoa ", "eoa")],
)
def test_the_image_takes_the_bundles_that_are_named(weights: str, copied: str, tmp_path: Path) -> None:
    run = choose(tmp_path, WEIGHTS=weights, API_METHOD="invoke", EDITION="5")
    assert run.returncode == 0, run.stderr
    assert sorted(path.name for path in (tmp_path / "chosen").iterdir()) == copied.split()
    assert all([p.name for p in bundle.iterdir()] == ["manifest.json"] for bundle in (tmp_path / "chosen").iterdir())


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("API_METHOD", "serve", "must be exec or invoke, got 'serve'"),
        ("API_METHOD", "Invoke", "got 'Invoke'"),
        ("API_METHOD", "", "got ''"),
        ("API_METHOD", "exec invoke", "got 'exec invoke'"),
        ("EDITION", "6", "must be 1 to 5, got '6'"),
        ("EDITION", "IV", "got 'IV'"),
        ("EDITION", "", "got ''"),
        ("EDITION", "44", "got '44'"),
        ("WEIGHTS", "absent", "there is no weights/absent/manifest.json; there are: diwa eoa mine"),
        ("WEIGHTS", "eoa notes", "there is no weights/notes/manifest.json"),
        ("WEIGHTS", "eoa,diwa", "there is no weights/eoa,diwa/manifest.json"),
        ("WEIGHTS", "../eoa", "takes names under weights/, got '../eoa'"),
        ("WEIGHTS", "/all/eoa", "takes names under weights/"),
        ("WEIGHTS", "*", "there is no weights/*/manifest.json"),
        ("WEIGHTS", " ", "names no bundle"),
    ],
)
def test_a_wrong_build_argument_is_named(name: str, value: str, message: str, tmp_path: Path) -> None:
    run = choose(tmp_path, **{name: value})
    assert run.returncode == 1
    assert run.stderr.startswith(f"build argument {name}") and message in run.stderr and run.stderr.count("\n") == 1


def test_the_image_s_label_and_variables_are_its_build_arguments() -> None:
    text = (ROOT / "Dockerfile").read_text()
    for line in (
        'org.grand-challenge.api-method="${API_METHOD}"',
        'LESION_SERVE="${API_METHOD}"',
        'AUTOPET_EDITION="${EDITION}"',
        'LESION_DEFAULT_WEIGHTS="${WEIGHTS}"',
    ):
        assert text.count(line) == 1
    for argument in ("API_METHOD=exec", "EDITION=2", 'WEIGHTS=""'):
        assert text.count(f"\nARG {argument}\n") == 2  # of the two stages, which must agree


def test_one_torch_is_tested_and_shipped() -> None:
    assert pins("requirements.txt")["torch"] == base()[0]


def test_the_kernels_are_compiled_by_the_cuda_of_the_image() -> None:
    """NVRTC's version is CUDA's: 12.6.77 of 12.6."""
    version = pins("requirements-dev.txt")["nvidia-cuda-nvrtc-cu12"]
    assert version.split(".")[:2] == base()[1].split(".")


def test_every_requirement_accepts_the_torch_and_the_python_of_the_base_image() -> None:
    torch, _, python = base()
    for name in pins("requirements.txt"):
        assert SpecifierSet(metadata.metadata(name).get("Requires-Python") or "").contains(python), name
        for needed in map(Requirement, metadata.requires(name) or []):
            if needed.name == "torch" and (needed.marker is None or needed.marker.evaluate({"extra": ""})):
                assert torch in needed.specifier, f"{name} needs torch {needed.specifier}"


def test_the_citation_and_the_changelog_name_this_version() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__
    assert f"\n## {__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_every_pin_accepts_the_lowest_and_the_highest_python_that_pyproject_allows() -> None:
    allowed = SpecifierSet(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"])
    versions = [f"3.{minor}" for minor in range(30) if allowed.contains(f"3.{minor}")]
    assert base()[2] in versions
    for name in (pin for file in REQUIREMENTS for pin in pins(file)):
        accepted = SpecifierSet(metadata.metadata(name).get("Requires-Python") or "")
        assert accepted.contains(versions[0]) and accepted.contains(versions[-1]), name


def test_every_data_file_of_the_package_is_let_into_the_image() -> None:
    """A template or a font that .dockerignore keeps out would be missed by score.py in the image alone."""
    let_in = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!model/")]
    data = [path for path in (ROOT / "model").rglob("*.*") if path.is_file() and path.suffix not in (".py", ".pyc")]
    kept_out = [path.name for path in data if not any(path.relative_to(ROOT).match(one) for one in let_in)]
    assert data and not kept_out
