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
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parent.parent
CI = ["run", "container.sh", "install", "wheels"]
SCRIPTS = ["build.sh", "test.sh", "export.sh", "engine.sh", "score.sh", *(f".ci/{name}" for name in CI)]
BASH = shutil.which("bash") or "/bin/bash"
MASK = "images/automated-petct-lesion-segmentation/ct-1.mha"

# Notes what it is asked for; `save` writes an image of four bytes; $IS_FOR stands in the image's environment.  In
# invoke mode the container lives until it is stopped, and answers with $HEALTH and $ANSWER.
STAND_IN = """#!/bin/sh
echo "$@" >> "$CALLS"
case "$*" in
  save*) printf 'save' ;;
  --version) echo podman ;;
  *api-method*) echo "${API:-exec}" ;;
  *Config.Env*) printf 'PATH=/bin\\n%s\\n\\n' "${IS_FOR:-}" ;;
  image*) echo 4 ;;
  *:/input:ro*) [ "${API:-exec}" = exec ] || until [ -e "$CALLS.stopped" ]; do sleep 0.1; done ;;
  *GET*/health*) cat > /dev/null; echo "$HEALTH" ;;
  *POST*/invoke*) cat > /dev/null; echo "$ANSWER" ;;
  stop*) touch "$CALLS.stopped" ;;
esac
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


@pytest.mark.parametrize("edition", ["1", "2", "3", "4", "5"])
def test_every_edition_has_its_folder_and_the_third_its_json(edition: str, sample: Path) -> None:
    folder = "images/automated-petct-lesion-segmentation" if edition < "4" else "images/tumor-lesion-segmentation"
    mask = (sample / "output" / MASK).rename(sample / "mask.mha")
    shutil.rmtree(sample / "output")
    (sample / "output" / folder).mkdir(parents=True)
    shutil.copy(mask, sample / "output" / folder / "ct-1.mha")
    if edition == "3":
        assert "exactly 2 files must come out" in _compare(sample, 1, edition)
        for text, status in (("false", 0), ("true", 0), ("0", 1), ('"false"', 1), ("", 1)):
            (sample / "output/data-centric-model.json").write_text(text)
            _compare(sample, status, edition)
        return
    assert "Dice 1.000000" in _compare(sample, 0, edition)
    assert "exactly one file must come out" in _compare(sample, 1, "1" if edition > "3" else "5")
    (sample / "output/data-centric-model.json").write_text("false")
    assert "exactly one file must come out" in _compare(sample, 1, edition)


def test_the_expected_mask_may_lie_in_the_folder_of_any_edition(sample: Path) -> None:
    (sample / "expected/images/automated-petct-lesion-segmentation").rename(
        sample / "expected/images/tumor-lesion-segmentation"
    )
    assert "Dice 1.000000" in _compare(sample, 0, "2")


def test_an_edition_that_is_none_is_refused(sample: Path) -> None:
    assert "usage" in _compare(sample, 2, "6") and "usage" in _compare(sample, 2, "")


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


def test_build_hands_on_what_the_image_is_for_and_says_it(tree: Path) -> None:
    said = _run(
        tree,
        "build.sh",
        API_METHOD="invoke",
        EDITION="4",
        WEIGHTS="slices eoa",
        API="invoke",
        IS_FOR="AUTOPET_EDITION=4\nLESION_DEFAULT_WEIGHTS=slices eoa",
    )
    arguments = "--build-arg API_METHOD=invoke --build-arg EDITION=4 --build-arg WEIGHTS=slices eoa"
    assert arguments in (tree / "calls").read_text()
    assert "API method invoke, autoPET edition 4, weights slices\n" in said
    said = _run(tree, "build.sh", IS_FOR="LESION_DEFAULT_WEIGHTS=")
    assert "API method exec, autoPET edition 2, weights eoa\n" in said


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


@pytest.fixture
def tested(tree: Path) -> Path:
    """A tree with a sample."""
    for folder in ("input", "expected_output", "expected_output_slices"):
        (tree / "test" / folder).mkdir(parents=True)
    return tree


@pytest.mark.parametrize(
    ("health", "answer", "said"),
    [("200", "201", None), ("200", "500", "did not answer 201"), ("200", "", "did not answer 201")],
)
def test_test_asks_an_image_of_invoke_mode_for_its_health_and_for_the_job(
    health: str, answer: str, said: str | None, tested: Path
) -> None:
    environment = {"API": "invoke", "HEALTH": health, "ANSWER": answer, "IS_FOR": "AUTOPET_EDITION=5"}
    if said:
        assert said in _run(tested, "test.sh", status=1, **environment)
    else:
        assert f"POST /invoke: '{answer}'" in _run(tested, "test.sh", **environment)
        assert "/compare/output 5" in (tested / "calls").read_text()
    asked = [line for line in (tested / "calls").read_text().splitlines() if line.startswith(("exec", "stop"))]
    assert [line.split()[0] for line in asked] == ["exec", "exec", "stop"]
    assert [line.split()[-3:-1] for line in asked[:2]] == [["GET", "/health"], ["POST", "/invoke"]]


def test_test_fails_when_a_service_ends_before_it_is_healthy(tested: Path) -> None:
    (tested / "calls.stopped").touch()
    said = _run(tested, "test.sh", status=1, API="invoke", HEALTH="", ANSWER="")
    assert "was not healthy" in said


def test_test_compares_with_the_mask_of_the_image_s_weights_or_says_that_there_is_none(tested: Path) -> None:
    for weights, folder in (("", ""), ("diwa eoa", ""), ("slices", "_slices")):
        (tested / "calls").unlink(missing_ok=True)
        _run(tested, "test.sh", IS_FOR=f"LESION_DEFAULT_WEIGHTS={weights}")
        assert f"-v {tested}/test/expected_output{folder}:/compare/expected_output:ro" in (tested / "calls").read_text()
    said = _run(tested, "test.sh", status=1, IS_FOR="LESION_DEFAULT_WEIGHTS=mine")
    assert "weights are 'mine'" in said and "TEST_FOLDER" in said
    shutil.copytree(tested / "test", tested / "own")
    _run(tested, "test.sh", IS_FOR="LESION_DEFAULT_WEIGHTS=mine", TEST_FOLDER="own")
    assert f"-v {tested}/own/expected_output:/compare/expected_output:ro" in (tested / "calls").read_text()


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


def test_export_packs_the_image_s_own_bundle_and_says_what_the_image_is_for(tree: Path) -> None:
    shutil.copytree(tree / "weights/eoa", tree / "weights/slices")
    said = _run(tree, "export.sh", "out", API="invoke", IS_FOR="AUTOPET_EDITION=3\nLESION_DEFAULT_WEIGHTS=slices eoa")
    assert (tree / "out/petct-lesion-segmentation-1.2.3-weights-slices.tar.gz").is_file()
    assert "API method invoke, autoPET edition 3, weights slices" in said


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
    _program(tree / ".ci/wheels", note)
    _program(tree / "python", trained)
    for tool in ("git", "python3"):  # that it looks for
        _program(tree / "bin" / tool, note)
    _program(tree / "bin/make", '#!/bin/sh\n[ "$1" = test ] && mkdir -p .venv/bin && cp python .venv/bin/python\n')
    made = tmp_path_factory.mktemp("made")
    assert "ALL PASSED" in _run(tree, ".ci/run", TMPDIR=str(made))
    folders = re.findall(rf"{made}/\S+", (tree / "calls").read_text())
    assert [folder.split("/")[-1] for folder in folders] == [
        "chain-volumes",
        "phantoms",
        "nested",
        "phantoms",
        "nested",
        "bundles",
        "diwa",
        "chain-slices",
        "table2-smoke",
        "table3-smoke",
        "wholebody-smoke",
    ]
    assert list(made.iterdir()) == [] and (tree / "runs/weeks.pt").exists()


# what the tests above use


def _write(file: Path, array: np.ndarray) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((4.0, 4.0, 3.0))
    image.SetOrigin((-100.0, 50.0, 7.0))
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(file), True)


def _compare(sample: Path, status: int, *edition: str) -> str:
    folders = [str(sample / name) for name in ("input", "expected", "output")]
    command = [sys.executable, str(ROOT / "test/compare_output.py"), *folders, *edition]
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
    files = [path for path in (ROOT / "benchmark").rglob("*.py") if "def main(" in path.read_text()]
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files}
    assert names == set(re.findall(r"`(?:python -m )?(benchmark\.[a-z_.]+)", (ROOT / "README.md").read_text()))


# the Dockerfile


def choose(folder: Path, **arguments: str) -> subprocess.CompletedProcess[str]:
    """Run what the Dockerfile's first stage runs, on bundles in folder/all; what it chooses is in folder/chosen."""
    stage = re.search(r"^COPY weights/ /all/\nRUN (.+?)\n\n", (ROOT / "Dockerfile").read_text(), re.M | re.S)
    assert stage is not None
    lines = stage[1].replace("/all", f"{folder}/all").replace("/chosen", f"{folder}/chosen")
    for name in ("eoa", "diwa", "slices", "mine"):
        (folder / "all" / name).mkdir(parents=True, exist_ok=True)
        (folder / "all" / name / "manifest.json").touch()
    (folder / "all" / "notes").mkdir(exist_ok=True)
    shutil.rmtree(folder / "chosen", ignore_errors=True)
    settings = {"PATH": "/usr/bin:/bin", "API_METHOD": "exec", "EDITION": "2", "WEIGHTS": "", **arguments}
    return subprocess.run(["sh", "-c", lines], check=False, env=settings, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("weights", "copied"),
    [("", "diwa eoa slices"), ("slices", "slices"), ("mine eoa", "eoa mine"), ("eoa eoa", "eoa"), ("  eoa ", "eoa")],
)
def test_the_image_takes_the_bundles_that_are_named(weights: str, copied: str, tmp_path: Path) -> None:
    run = choose(tmp_path, WEIGHTS=weights, API_METHOD="invoke", EDITION="5")
    assert run.returncode == 0, run.stderr
    assert sorted(path.name for path in (tmp_path / "chosen").iterdir()) == copied.split()
    assert all([p.name for p in bundle.iterdir()] == ["manifest.json"] for bundle in (tmp_path / "chosen").iterdir())


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("API_METHOD", "serve", "must be exec or invoke, got 'serve'"),
        ("API_METHOD", "Invoke", "got 'Invoke'"),
        ("API_METHOD", "", "got ''"),
        ("API_METHOD", "exec invoke", "got 'exec invoke'"),
        ("EDITION", "6", "must be 1 to 5, got '6'"),
        ("EDITION", "IV", "got 'IV'"),
        ("EDITION", "", "got ''"),
        ("EDITION", "44", "got '44'"),
        ("WEIGHTS", "absent", "there is no weights/absent/manifest.json; there are: diwa eoa mine slices"),
        ("WEIGHTS", "eoa notes", "there is no weights/notes/manifest.json"),
        ("WEIGHTS", "eoa,diwa", "there is no weights/eoa,diwa/manifest.json"),
        ("WEIGHTS", "../eoa", "takes names under weights/, got '../eoa'"),
        ("WEIGHTS", "/all/eoa", "takes names under weights/"),
        ("WEIGHTS", "*", "there is no weights/*/manifest.json"),
        ("WEIGHTS", " ", "names no bundle"),
    ],
)
def test_a_wrong_build_argument_is_named(name: str, value: str, said: str, tmp_path: Path) -> None:
    run = choose(tmp_path, **{name: value})
    assert run.returncode == 1
    assert run.stderr.startswith(f"build argument {name}") and said in run.stderr and run.stderr.count("\n") == 1


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


BASE = re.compile(r"^ARG BASE_IMAGE=\S+/pytorch:([0-9.]+)-cuda([0-9.]+)-cudnn9-runtime$", re.M)


def base() -> tuple[str, str, str]:
    """torch, CUDA and Python of the Dockerfile's base image; of its comment, too."""
    text = (ROOT / "Dockerfile").read_text()
    tag = BASE.search(text)
    told = re.search(r"^# PyTorch ([0-9.]+), CUDA ([0-9.]+), Python ([0-9.]+)\. ", text, re.M)
    assert tag is not None and told is not None and tag.groups() == told.groups()[:2]
    return told[1], told[2], told[3]


def pins(name: str) -> dict[str, str]:
    lines = [line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    return dict(line.split("==") for line in lines if "==" in line)


def test_one_torch_is_tested_and_shipped() -> None:
    assert pins("requirements.txt")["torch"] == base()[0]


def test_the_kernels_are_compiled_by_the_cuda_of_the_image() -> None:
    """NVRTC's version is CUDA's: 12.6.77 of 12.6."""
    version = pins("requirements-dev.txt")["nvidia-cuda-nvrtc-cu12"]
    assert version.split(".")[:2] == base()[1].split(".")


def test_every_requirement_accepts_the_torch_and_the_python_of_the_base_image() -> None:
    torch, _, python = base()
    for name in pins("requirements.txt"):
        assert SpecifierSet(metadata.metadata(name)["Requires-Python"] or "").contains(python), name
        for needed in map(Requirement, metadata.requires(name) or []):
            if needed.name == "torch" and (needed.marker is None or needed.marker.evaluate({"extra": ""})):
                assert torch in needed.specifier, f"{name} needs torch {needed.specifier}"


def test_documents_name_the_base_image_s_torch() -> None:
    for name in ("docs/gpu.md", "README.md"):
        text = (ROOT / name).read_text()
        assert set(re.findall(r"image's (?:own )?torch (2\.[0-9]+)", text)) <= {base()[0].rpartition(".")[0]}, name


PIP = """#!/bin/sh
echo "$@" >> "$CALLS"
case "$*" in *"$ABSENT"*) exit 1 ;; esac
"""


def test_ci_asks_for_a_wheel_of_every_pin_but_torch_for_the_python_of_the_image(tree: Path) -> None:
    (tree / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/wheels", tree / ".ci/wheels")
    for name in ("Dockerfile", "requirements.txt"):
        shutil.copy(ROOT / name, tree / name)
    _program(tree / "python", PIP)
    _run(tree, ".ci/wheels", PYTHON="./python", ABSENT="nothing")
    calls = (tree / "calls").read_text().splitlines()
    asked = [call.split()[-1] for call in calls]
    assert asked == [f"{n}=={v}" for n, v in pins("requirements.txt").items() if n != "torch"] and len(asked) > 9
    for call in calls:
        assert "--only-binary=:all:" in call and "--no-deps" in call and f"--python-version {base()[2]} " in call
    said = _run(tree, ".ci/wheels", status=1, PYTHON="./python", ABSENT="scipy==")
    assert f"Python {base()[2]}" in said and "scipy==" in said and "numpy" not in said


APT = """#!/bin/sh
echo "$@" >> "$CALLS"
if [ "$(wc -l < "$CALLS")" -le "$BUSY" ]; then echo "$SAID" >&2; exit 100; fi
"""
LOCKS = [
    "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 7 (apt-get)",
    "E: Unable to lock directory /var/cache/apt/archives/",
    "E: Unable to acquire the dpkg frontend lock (/var/lib/dpkg/lock-frontend), is another process using it?",
]


@pytest.mark.parametrize("lock", LOCKS)
def test_ci_waits_for_whoever_else_installs_and_for_nothing_else(lock: str, tree: Path) -> None:
    (tree / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/install", tree / ".ci/install")
    _program(tree / "bin/apt-get", APT)
    _run(tree, ".ci/install", "podman", "runc", BUSY="2", SAID=lock)
    calls = (tree / "calls").read_text().splitlines()
    assert [call.split()[2] for call in calls] == ["update", "update", "update", "install"]
    assert calls[-1].endswith(" podman runc") and all("DPkg::Lock::Timeout=" in call for call in calls)
    (tree / "calls").unlink()
    assert "No space left" in _run(tree, ".ci/install", "podman", status=1, BUSY="9", SAID="E: No space left on device")
    (tree / "calls").unlink()
    assert lock in _run(tree, ".ci/install", "podman", status=1, BUSY="9", SAID=lock, APT_PATIENCE="1")
