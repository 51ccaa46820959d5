"""The shell scripts and test/compare_output.py, with no container engine: a stand-in takes its place."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
SCRIPTS = ["build.sh", "test.sh", "export.sh", "engine.sh", "score.sh", ".ci/run", ".ci/container.sh"]
BASH = shutil.which("bash") or "/bin/bash"
MASK = "images/automated-petct-lesion-segmentation/ct-1.mha"

# Notes what it is asked for; `save` writes an image of four bytes.
STAND_IN = """#!/bin/sh
echo "$@" >> "$CALLS"
case $1 in save) printf 'save' ;; --version) echo podman ;; image) echo 4 ;; esac
"""


# test/compare_output.py


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """PET, CT and the expected mask: 200,000 of 1,000,000 voxels; the output is the same mask."""
    mask = np.zeros((100, 100, 100), np.uint8)
    mask[:20] = 1
    _write(tmp_path / "input/images/pet/pet-1.mha", mask.astype(np.float32))
    _write(tmp_path / "input/images/ct/ct-1.mha", mask.astype(np.int16))
    _write(tmp_path / "expected" / MASK, mask)
    _write(tmp_path / "output" / MASK, mask)
    return tmp_path


def test_the_same_mask_passes(sample: Path) -> None:
    assert "Dice 1.000000" in _compare(sample, status=0)


def test_two_empty_masks_are_equal(sample: Path) -> None:
    _write(sample / "expected" / MASK, np.zeros((100, 100, 100), np.uint8))
    _write(sample / "output" / MASK, np.zeros((100, 100, 100), np.uint8))
    assert "Dice 1.000000" in _compare(sample, status=0)


def test_an_empty_mask_is_not_the_expected_one(sample: Path) -> None:
    _write(sample / "output" / MASK, np.zeros((100, 100, 100), np.uint8))
    assert "Dice 0.000000" in _compare(sample, status=1)


def test_a_dice_of_0_99_passes_and_less_fails(sample: Path) -> None:
    mask = np.zeros(1_000_000, np.uint8)
    mask[:196_040] = 1  # of 200,000: 2 * 196,040 / 396,040 = 0.990001
    _write(sample / "output" / MASK, mask.reshape(100, 100, 100))
    assert "Dice 0.990001" in _compare(sample, status=0)
    mask[196_039] = 0  # 2 * 196,039 / 396,039 = 0.989998
    _write(sample / "output" / MASK, mask.reshape(100, 100, 100))
    assert "Dice 0.989998" in _compare(sample, status=1)


def test_a_shifted_mask_fails(sample: Path) -> None:
    mask = np.zeros((100, 100, 100), np.uint8)
    mask[1:21] = 1  # 19 of 20 slices in common: Dice 0.95
    _write(sample / "output" / MASK, mask)
    assert "Dice 0.950000" in _compare(sample, status=1)


def test_64000_wrong_voxels_fail(sample: Path) -> None:
    mask = np.zeros(1_000_000, np.uint8)
    mask[: 200_000 + 64_000] = 1  # 64,000 = 250 * 256: squared and summed as uint8 it is 0
    _write(sample / "output" / MASK, mask.reshape(100, 100, 100))
    assert "64000 of 1000000 voxels differ" in _compare(sample, status=1)


def test_one_value_2_fails(sample: Path) -> None:
    mask = np.zeros((100, 100, 100), np.uint8)
    mask[:20] = 1
    mask[50, 50, 50] = 2
    _write(sample / "output" / MASK, mask)
    assert "holds the values [0, 1, 2]" in _compare(sample, status=1)


def test_another_number_type_fails(sample: Path) -> None:
    _write(sample / "output" / MASK, np.zeros((100, 100, 100), np.int16))
    assert "16-bit signed integer" in _compare(sample, status=1)


@pytest.mark.parametrize("what", ["spacing", "origin", "direction"])
def test_geometry_off_by_a_thousandth_fails(sample: Path, what: str) -> None:
    image = sitk.ReadImage(str(sample / "output" / MASK))
    if what == "spacing":
        image.SetSpacing((4.0, 4.0, 3.001))
    elif what == "origin":
        image.SetOrigin((-100.001, 50.0, 7.0))
    else:
        c, s = np.cos(1e-3), np.sin(1e-3)
        image.SetDirection((c, -s, 0, s, c, 0, 0, 0, 1))
    sitk.WriteImage(image, str(sample / "output" / MASK))
    said = _compare(sample, status=1)
    assert f"{what} is" in said and "the expected mask" in said and "the input PET" in said


def test_another_size_fails(sample: Path) -> None:
    _write(sample / "output" / MASK, np.zeros((99, 100, 100), np.uint8))
    assert "size is (100, 100, 99)" in _compare(sample, status=1)


@pytest.mark.parametrize("name", ["second.mha", "stray.json", "images/second.nii.gz"])
def test_two_files_fail(name: str, sample: Path) -> None:
    shutil.copy(sample / "output" / MASK, sample / "output" / name)
    assert "found 2 (" in _compare(sample, status=1)


def test_no_file_fails(sample: Path) -> None:
    (sample / "output" / MASK).unlink()
    assert "no file at all" in _compare(sample, status=1)


def test_a_file_at_another_place_fails(sample: Path) -> None:
    (sample / "output" / MASK).rename(sample / "output" / "ct-1.mha")
    assert "exactly one file must come out" in _compare(sample, status=1)


def test_a_file_that_is_no_image_fails(sample: Path) -> None:
    (sample / "output" / MASK).write_text("not an image")
    assert "could not be read" in _compare(sample, status=1)


# the shell scripts


@pytest.mark.parametrize("script", SCRIPTS)
def test_bash_can_read(script: str) -> None:
    subprocess.run([BASH, "-n", str(ROOT / script)], check=True)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing() -> None:
    subprocess.run(["shellcheck", "-x", *SCRIPTS], cwd=ROOT, check=True)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The scripts with a small bundle, and a stand-in for podman that notes its calls in `calls`."""
    for script in SCRIPTS[:5]:
        shutil.copy(ROOT / script, tmp_path / script)
    (tmp_path / "model").mkdir()
    (tmp_path / "model/__init__.py").write_text('"""Lesions."""\n\n__version__ = "1.2.3"\n')
    (tmp_path / "weights/eoa").mkdir(parents=True)
    (tmp_path / "weights/eoa/manifest.json").write_text("{}")
    (tmp_path / "weights/eoa/one.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    (tmp_path / "bin").mkdir()
    _program(tmp_path / "bin/podman", STAND_IN)
    return tmp_path


@pytest.mark.parametrize("script", SCRIPTS[:3])
def test_without_an_engine_the_message_says_what_to_install(script: str) -> None:
    run = subprocess.run([BASH, script], check=False, cwd=ROOT, env={"PATH": ""}, capture_output=True, text=True)
    assert run.returncode != 0
    assert run.stderr == (
        f"{script}: no usable container engine: install Docker or podman, or name one in CONTAINER_ENGINE.\n"
    )


def test_an_engine_that_does_not_exist_is_named(tree: Path) -> None:
    said = _run(tree, "build.sh", status=1, CONTAINER_ENGINE="nonexistent")
    assert said == "build.sh: CONTAINER_ENGINE='nonexistent' is no usable container engine. There is no such command.\n"


def test_a_client_without_an_engine_is_passed_over(tree: Path) -> None:
    _program(tree / "bin/docker", "#!/bin/sh\nexit 1\n")
    assert "with podman" in _run(tree, "build.sh")


def test_a_client_without_an_engine_is_explained(tree: Path) -> None:
    _program(tree / "bin/docker", "#!/bin/sh\nexit 1\n")
    assert "is its engine running" in _run(tree, "build.sh", status=1, CONTAINER_ENGINE="docker")


def test_build_names_the_image_by_version(tree: Path) -> None:
    _run(tree, "build.sh")
    build = "build --build-arg VERSION=1.2.3 --tag petct-lesion-segmentation:1.2.3 ."
    assert build in (tree / "calls").read_text().splitlines()


def test_build_hands_the_base_image_on(tree: Path) -> None:
    _run(tree, "build.sh", BASE_IMAGE="localhost/base:1")
    assert "--build-arg BASE_IMAGE=localhost/base:1" in (tree / "calls").read_text()


def test_build_fails_when_the_engine_fails(tree: Path) -> None:
    _program(tree / "bin/podman", '#!/bin/sh\n[ "$1" != build ]\n')
    assert "could not build petct-lesion-segmentation:1.2.3" in _run(tree, "build.sh", status=1)


@pytest.mark.parametrize("script", SCRIPTS[:3])
def test_a_git_lfs_pointer_is_refused_with_the_remedy(tree: Path, script: str) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (tree / "weights/eoa/one.safetensors").write_text(pointer)
    (tree / "test/input").mkdir(parents=True)
    (tree / "test/expected_output").mkdir()
    said = _run(tree, script, status=1)
    assert "weights/eoa/one.safetensors" in said and "git lfs pull" in said
    assert "build" not in (tree / "calls").read_text()


def test_test_runs_the_image_under_the_platforms_flags(tree: Path) -> None:
    (tree / "test/input").mkdir(parents=True)
    (tree / "test/expected_output").mkdir()
    assert "test of petct-lesion-segmentation:1.2.3 passed" in _run(tree, "test.sh")
    (run,) = (line for line in (tree / "calls").read_text().splitlines() if ":/input:ro" in line)
    for flag in (
        *("--memory=30g", "--memory-swap=30g", "--network=none", "--cap-drop=ALL", "--shm-size=128m"),
        *("--security-opt=no-new-privileges", "--pids-limit=256", "--read-only", "--tmpfs /tmp"),
    ):
        assert f" {flag} " in run
    assert "--entrypoint" not in run  # the image's own entry point is what is tested


def test_test_fails_when_the_container_fails(tree: Path) -> None:
    (tree / "test/input").mkdir(parents=True)
    (tree / "test/expected_output").mkdir()
    _program(tree / "bin/podman", '#!/bin/sh\ncase "$*" in *:/input:ro*) echo "PET is broken" >&2; exit 3 ;; esac\n')
    said = _run(tree, "test.sh", status=1)
    assert "PET is broken" in said and "the container exited with 3" in said


def test_export_writes_image_weights_and_their_sums(tree: Path) -> None:
    _run(tree, "export.sh")
    files = sorted(file.name for file in (tree / "export").iterdir())
    image, weights = "petct-lesion-segmentation-1.2.3.tar.gz", "petct-lesion-segmentation-1.2.3-weights-eoa.tar.gz"
    names = (image, weights, "score.sh")
    assert files == sorted([*names, *(f"{name}.sha256" for name in names)])
    for name in names:
        digest = hashlib.sha256((tree / "export" / name).read_bytes()).hexdigest()
        assert (tree / "export" / (name + ".sha256")).read_text().split() == [digest, name]
    with tarfile.open(tree / "export" / weights) as archive:
        assert archive.getnames() == ["manifest.json", "one.safetensors"]


def test_export_packs_the_same_bundle_into_the_same_bytes(tree: Path) -> None:
    name = "petct-lesion-segmentation-1.2.3-weights-eoa.tar.gz"
    _run(tree, "export.sh", "first")
    os.utime(tree / "weights/eoa/manifest.json", (1, 1))
    (tree / "weights/eoa/one.safetensors").chmod(0o600)
    _run(tree, "export.sh", "second")
    assert (tree / "first" / name).read_bytes() == (tree / "second" / name).read_bytes()


def test_export_packs_the_bundle_that_is_named(tree: Path) -> None:
    shutil.copytree(tree / "weights/eoa", tree / "weights/diwa")
    _run(tree, "export.sh", "out", "weights/diwa")
    assert (tree / "out/petct-lesion-segmentation-1.2.3-weights-diwa.tar.gz").is_file()


def test_export_leaves_no_image_when_saving_fails(tree: Path) -> None:
    _program(tree / "bin/podman", "#!/bin/sh\ncase $1 in save) echo half; exit 1 ;; esac\n")
    assert "could not save" in _run(tree, "export.sh", status=1)
    assert not (tree / "export/petct-lesion-segmentation-1.2.3.tar.gz").exists()


LISTS = """#!/bin/sh
echo "$@" >> "$CALLS"
case $1 in images) echo localhost/petct-lesion-segmentation:1.2.3 ;; --version) echo docker ;; esac
"""


def test_score_runs_offline_without_rights_and_hands_options_on(tree: Path) -> None:
    _program(tree / "bin/podman", LISTS)
    for folder in ("my studies", "truth"):
        (tree / folder).mkdir()
    _run(tree, "score.sh", "my studies", "results", "--truth", "truth", "--weights", "diwa", "--rtstruct")
    (run,) = (line for line in (tree / "calls").read_text().splitlines() if line.startswith("run"))
    for flag in ("--network=none", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--read-only", "--tmpfs /tmp"):
        assert f" {flag} " in run
    assert f"-v {tree}/my studies:/studies:ro -v {tree}/results:/results -v {tree}/truth:/mounted--truth:ro" in run
    assert run.endswith(
        "--entrypoint python3 localhost/petct-lesion-segmentation:1.2.3 score.py /studies --output /results "
        "--truth /mounted--truth --weights diwa --rtstruct"
    )


def test_score_takes_a_csv_and_says_what_is_missing(tree: Path) -> None:
    _program(tree / "bin/podman", LISTS)
    (tree / "lists").mkdir()
    (tree / "lists" / "a.csv").touch()
    _run(tree, "score.sh", "lists/a.csv", "results")
    assert f"-v {tree}/lists:/studies:ro" in (tree / "calls").read_text()
    assert "score.py /studies/a.csv" in (tree / "calls").read_text()
    assert "usage:" in _run(tree, "score.sh", "lists", status=1)
    assert "there is no folder 'gone'" in _run(tree, "score.sh", "gone", "results", status=1)
    _program(tree / "bin/podman", "#!/bin/sh\n")
    assert "load it with" in _run(tree, "score.sh", "lists", "results", status=1)


def test_ci_makes_what_it_trains_in_a_folder_of_its_own_and_removes_it(tree: Path, tmp_path_factory) -> None:
    """With stand-ins for all that it starts; runs/ of whoever works here stays."""
    for folder in (".ci", "training", "runs", ".venv/bin"):
        (tree / folder).mkdir(parents=True)
    shutil.copy(ROOT / ".ci/run", tree / ".ci/run")
    (tree / "runs/weeks.pt").touch()
    note = '#!/bin/sh\necho "$0 $@" >> "$CALLS"\n'
    trained = note + 'for word; do case $word in /*) mkdir -p "$word"; echo x > "$word/table.md" ;; esac; done\n'
    _program(tree / "training/chain.sh", trained)
    _program(tree / ".ci/container.sh", note)
    _program(tree / "python", trained)
    for tool in ("git", "python3"):  # that it looks for
        _program(tree / "bin" / tool, note)
    _program(tree / "bin/make", '#!/bin/sh\n[ "$1" = test ] && mkdir -p .venv/bin && cp python .venv/bin/python\n')
    made = tmp_path_factory.mktemp("made")
    assert "ALL PASSED" in _run(tree, ".ci/run", TMPDIR=str(made))
    folders = re.findall(rf"{made}/\S+", (tree / "calls").read_text())
    assert [folder.split("/")[-1] for folder in folders] == [
        "chain-volumes", "phantoms", "nested", "phantoms", "nested", "bundles", "diwa", "chain-slices",
        "table2-smoke", "table3-smoke", "wholebody-smoke",
    ]  # fmt: skip
    assert list(made.iterdir()) == [] and (tree / "runs/weeks.pt").exists()


# what the tests above use


def _write(file: Path, array: np.ndarray) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((4.0, 4.0, 3.0))
    image.SetOrigin((-100.0, 50.0, 7.0))
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(file), True)


def _compare(sample: Path, status: int) -> str:
    folders = [str(sample / name) for name in ("input", "expected", "output")]
    command = [sys.executable, str(ROOT / "test/compare_output.py"), *folders]
    run = subprocess.run(command, check=False, capture_output=True, text=True)
    assert run.returncode == status, run.stdout + run.stderr
    return run.stdout + run.stderr


def _program(file: Path, text: str) -> None:
    file.write_text(text)
    file.chmod(0o755)


def _run(tree: Path, script: str, *arguments: str, status: int = 0, **environment: str) -> str:
    """Run a script with the stand-in engine; CONTAINER_ENGINE is podman unless a docker stands in, too."""
    engine = {} if (tree / "bin/docker").exists() else {"CONTAINER_ENGINE": "podman"}
    settings = {"PATH": f"{tree / 'bin'}:/usr/bin:/bin", "CALLS": str(tree / "calls"), **engine, **environment}
    command = [BASH, script, *arguments]
    run = subprocess.run(command, check=False, cwd=tree, env=settings, capture_output=True, text=True)
    assert run.returncode == status, run.stdout + run.stderr
    return run.stderr if status else run.stdout


def test_readme_names_every_benchmark() -> None:
    names = {path.stem for path in (ROOT / "benchmark").glob("*.py") if "def main(" in path.read_text()}
    assert names == set(re.findall(r"`(?:python -m )?benchmark\.([a-z_]+)", (ROOT / "README.md").read_text()))


def test_every_requirement_accepts_the_torch_of_the_base_image() -> None:
    tag = re.search(r"^ARG BASE_IMAGE=\S+:([0-9.]+)-cuda", (ROOT / "Dockerfile").read_text(), re.M)
    assert tag is not None
    pinned = [line.split("==")[0] for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line]
    for name in pinned:
        for needed in map(Requirement, metadata.requires(name) or []):
            if needed.name == "torch" and (needed.marker is None or needed.marker.evaluate({"extra": ""})):
                assert tag[1] in needed.specifier, f"{name} needs torch {needed.specifier}"
