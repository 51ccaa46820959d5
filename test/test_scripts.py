"""build.sh, test.sh, export.sh and score.sh without a container engine: a stand-in takes its place."""

import hashlib
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from conftest import ROOT
from script_tree import BASH, COPIED, copy_scripts, run_script, write_program

SCRIPTS = [*COPIED, *(f".ci/{name}" for name in ("run", "container.sh", "install", "wheels", "nnunet"))]


@pytest.mark.parametrize("script", SCRIPTS)
def test_bash_can_read(script: str) -> None:
    subprocess.run([BASH, "-n", str(ROOT / script)], check=True)


@pytest.mark.parametrize("script", [*SCRIPTS, "training/chain.sh"])
def test_an_unknown_word_starts_nothing(script: str) -> None:
    """.ci/run removes .venv, so --help must not start it."""
    if script in ("score.sh", "engine.sh"):
        pytest.skip("score.sh asks for its two folders; engine.sh is part of others")
    done = subprocess.run([BASH, script, "--help"], cwd=ROOT, env={"PATH": ""}, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: ") and script in done.stderr and "got" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing() -> None:
    subprocess.run(["shellcheck", "-x", *SCRIPTS], cwd=ROOT, check=True)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return copy_scripts(tmp_path)


@pytest.mark.parametrize("script", COPIED[:3])
def test_without_an_engine_the_message_says_what_to_install(script: str) -> None:
    run = subprocess.run([BASH, script], check=False, cwd=ROOT, env={"PATH": ""}, capture_output=True, text=True)
    assert run.returncode != 0
    assert run.stderr == (
        f"{script}: no usable container engine: install Docker or podman, or name one in CONTAINER_ENGINE.\n"
    )


def test_an_engine_that_does_not_exist_is_named(tree: Path) -> None:
    output = run_script(tree, "build.sh", status=1, CONTAINER_ENGINE="nonexistent")
    assert (
        output == "build.sh: CONTAINER_ENGINE='nonexistent' is no usable container engine. There is no such command.\n"
    )


def test_a_client_without_an_engine_is_passed_over(tree: Path) -> None:
    write_program(tree / "bin/docker", "#!/bin/sh\nexit 1\n")
    assert "with podman" in run_script(tree, "build.sh")


def test_a_client_without_an_engine_is_explained(tree: Path) -> None:
    write_program(tree / "bin/docker", "#!/bin/sh\nexit 1\n")
    assert "start its engine" in run_script(tree, "build.sh", status=1, CONTAINER_ENGINE="docker")


def test_build_names_the_image_by_version(tree: Path) -> None:
    run_script(tree, "build.sh")
    build = "build --build-arg VERSION=1.2.3 --tag petct-lesion-segmentation:1.2.3 ."
    assert build in (tree / "calls").read_text().splitlines()


def test_build_hands_the_base_image_on(tree: Path) -> None:
    run_script(tree, "build.sh", BASE_IMAGE="localhost/base:1")
    assert "--build-arg BASE_IMAGE=localhost/base:1" in (tree / "calls").read_text()


def test_build_hands_on_what_the_image_is_for_and_says_it(tree: Path) -> None:
    output = run_script(
        tree,
        "build.sh",
        API_METHOD="invoke",
        EDITION="4",
        WEIGHTS="mine eoa",
        API="invoke",
        IS_FOR="AUTOPET_EDITION=4\nLESION_DEFAULT_WEIGHTS=mine eoa",
    )
    arguments = "--build-arg API_METHOD=invoke --build-arg EDITION=4 --build-arg WEIGHTS=mine eoa"
    assert arguments in (tree / "calls").read_text()
    assert "API method invoke, autoPET edition 4, weights mine\n" in output
    output = run_script(tree, "build.sh", IS_FOR="LESION_DEFAULT_WEIGHTS=")
    assert "API method exec, autoPET edition 2, weights eoa\n" in output


def test_build_fails_when_the_engine_fails(tree: Path) -> None:
    write_program(tree / "bin/podman", '#!/bin/sh\n[ "$1" != build ]\n')
    assert "could not build petct-lesion-segmentation:1.2.3" in run_script(tree, "build.sh", status=1)


@pytest.mark.parametrize("script", COPIED[:3])
def test_a_git_lfs_pointer_is_refused_with_the_remedy(tree: Path, script: str) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (tree / "weights/eoa/one.safetensors").write_text(pointer)
    (tree / "test/input").mkdir(parents=True)
    (tree / "test/expected_output").mkdir()
    output = run_script(tree, script, status=1)
    assert "weights/eoa/one.safetensors" in output and "git lfs pull" in output
    assert "build" not in (tree / "calls").read_text()


def test_test_runs_the_image_under_the_platforms_flags(tree: Path) -> None:
    (tree / "test/input").mkdir(parents=True)
    (tree / "test/expected_output").mkdir()
    assert "test of petct-lesion-segmentation:1.2.3 passed" in run_script(tree, "test.sh")
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
    write_program(
        tree / "bin/podman", '#!/bin/sh\ncase "$*" in *:/input:ro*) echo "PET is broken" >&2; exit 3 ;; esac\n'
    )
    output = run_script(tree, "test.sh", status=1)
    assert "PET is broken" in output and "the container exited with 3" in output


@pytest.fixture
def tested(tree: Path) -> Path:
    """A tree with a sample."""
    for folder in ("input", "expected_output", "expected_output_own"):
        (tree / "test" / folder).mkdir(parents=True)
    return tree


@pytest.mark.parametrize(
    ("health", "answer", "message"),
    [("200", "201", None), ("200", "500", "did not answer 201"), ("200", "", "did not answer 201")],
)
def test_test_asks_an_image_of_invoke_mode_for_its_health_and_for_the_job(
    health: str, answer: str, message: str | None, tested: Path
) -> None:
    environment = {"API": "invoke", "HEALTH": health, "ANSWER": answer, "IS_FOR": "AUTOPET_EDITION=5"}
    if message:
        assert message in run_script(tested, "test.sh", status=1, **environment)
    else:
        assert f"POST /invoke: '{answer}'" in run_script(tested, "test.sh", **environment)
        assert "/compare/output 5" in (tested / "calls").read_text()
    asked = [line for line in (tested / "calls").read_text().splitlines() if line.startswith(("exec", "stop"))]
    assert [line.split()[0] for line in asked] == ["exec", "exec", "stop"]
    assert [line.split()[-3:-1] for line in asked[:2]] == [["GET", "/health"], ["POST", "/invoke"]]


def test_test_fails_when_a_service_ends_before_it_is_healthy(tested: Path) -> None:
    (tested / "calls.stopped").touch()
    output = run_script(tested, "test.sh", status=1, API="invoke", HEALTH="", ANSWER="")
    assert "was not healthy" in output


@pytest.mark.slow
def test_test_compares_with_the_mask_of_the_image_s_weights_or_says_that_there_is_none(tested: Path) -> None:
    for weights, folder in (("", ""), ("diwa eoa", ""), ("own", "_own")):
        (tested / "calls").unlink(missing_ok=True)
        run_script(tested, "test.sh", IS_FOR=f"LESION_DEFAULT_WEIGHTS={weights}")
        assert f"-v {tested}/test/expected_output{folder}:/compare/expected_output:ro" in (tested / "calls").read_text()
    output = run_script(tested, "test.sh", status=1, IS_FOR="LESION_DEFAULT_WEIGHTS=mine")
    assert "weights are 'mine'" in output and "TEST_FOLDER" in output
    shutil.copytree(tested / "test", tested / "own")
    run_script(tested, "test.sh", IS_FOR="LESION_DEFAULT_WEIGHTS=mine", TEST_FOLDER="own")
    assert f"-v {tested}/own/expected_output:/compare/expected_output:ro" in (tested / "calls").read_text()


def test_export_writes_image_weights_and_their_sums(tree: Path) -> None:
    run_script(tree, "export.sh")
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
    run_script(tree, "export.sh", "first")
    os.utime(tree / "weights/eoa/manifest.json", (1, 1))
    (tree / "weights/eoa/one.safetensors").chmod(0o600)
    run_script(tree, "export.sh", "second")
    assert (tree / "first" / name).read_bytes() == (tree / "second" / name).read_bytes()


def test_export_packs_the_bundle_that_is_named(tree: Path) -> None:
    shutil.copytree(tree / "weights/eoa", tree / "weights/diwa")
    run_script(tree, "export.sh", "out", "weights/diwa")
    assert (tree / "out/petct-lesion-segmentation-1.2.3-weights-diwa.tar.gz").is_file()


def test_export_packs_the_image_s_own_bundle_and_says_what_the_image_is_for(tree: Path) -> None:
    shutil.copytree(tree / "weights/eoa", tree / "weights/mine")
    output = run_script(
        tree, "export.sh", "out", API="invoke", IS_FOR="AUTOPET_EDITION=3\nLESION_DEFAULT_WEIGHTS=mine eoa"
    )
    assert (tree / "out/petct-lesion-segmentation-1.2.3-weights-mine.tar.gz").is_file()
    assert "API method invoke, autoPET edition 3, weights mine" in output


def test_export_leaves_no_image_when_saving_fails(tree: Path) -> None:
    write_program(tree / "bin/podman", "#!/bin/sh\ncase $1 in save) echo half; exit 1 ;; esac\n")
    assert "could not save" in run_script(tree, "export.sh", status=1)
    assert not (tree / "export/petct-lesion-segmentation-1.2.3.tar.gz").exists()


LISTS = """#!/bin/sh
echo "$@" >> "$CALLS"
case $1 in images) echo localhost/petct-lesion-segmentation:1.2.3 ;; --version) echo docker ;; esac
"""


def test_score_runs_offline_without_rights_and_hands_options_on(tree: Path) -> None:
    write_program(tree / "bin/podman", LISTS)
    for folder in ("my studies", "truth"):
        (tree / folder).mkdir()
    run_script(tree, "score.sh", "my studies", "results", "--truth", "truth", "--weights", "diwa", "--rtstruct")
    (run,) = (line for line in (tree / "calls").read_text().splitlines() if line.startswith("run"))
    for flag in ("--network=none", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--read-only", "--tmpfs /tmp"):
        assert f" {flag} " in run
    assert f"-v {tree}/my studies:/studies:ro -v {tree}/results:/results -v {tree}/truth:/mounted--truth:ro" in run
    assert run.endswith(
        "--entrypoint python3 localhost/petct-lesion-segmentation:1.2.3 score.py /studies --output /results "
        "--truth /mounted--truth --weights diwa --rtstruct"
    )


def test_score_that_listens_opens_one_port_and_keeps_the_rest_of_its_isolation(tree: Path) -> None:
    write_program(tree / "bin/podman", LISTS)
    (tree / "key.pem").touch()
    listen = ["--listen", "11112", "--aet", "LESIONS", "--send", "pacs:104:ARCHIVE"]
    run_script(tree, "score.sh", "results", *listen, "--bind", "10.0.0.7", "--tls-key", "key.pem")
    calls = (tree / "calls").read_text().splitlines()
    (run,) = (line for line in calls if line.startswith("run"))
    assert " --network=petct-lesion-segmentation --publish 10.0.0.7:11112:11112 --cap-drop=ALL " in run
    for flag in ("--security-opt=no-new-privileges", "--read-only", "--tmpfs /tmp", f"-v {tree}/results:/results"):
        assert f" {flag} " in run
    assert "/studies" not in run and f"-v {tree}/key.pem:/mounted--tls-key:ro" in run
    assert run.endswith(
        "score.py --output /results --listen 11112 --aet LESIONS --send pacs:104:ARCHIVE --tls-key /mounted--tls-key "
        "--bind 0.0.0.0"
    )
    run_script(tree, "score.sh", "results", *listen)
    assert "--publish 127.0.0.1:11112:11112" in (tree / "calls").read_text()
    assert "--listen takes a port, got 'x'" in run_script(tree, "score.sh", "results", "--listen", "x", status=1)
    assert "usage: ./score.sh RESULTS --listen" in run_script(tree, "score.sh", *listen, status=1)


def test_score_takes_a_csv_and_says_what_is_missing(tree: Path) -> None:
    write_program(tree / "bin/podman", LISTS)
    (tree / "lists").mkdir()
    (tree / "lists" / "a.csv").touch()
    run_script(tree, "score.sh", "lists/a.csv", "results")
    assert f"-v {tree}/lists:/studies:ro" in (tree / "calls").read_text()
    assert "score.py /studies/a.csv" in (tree / "calls").read_text()
    assert "usage:" in run_script(tree, "score.sh", "lists", status=1)
    assert "there is no folder 'gone'" in run_script(tree, "score.sh", "gone", "results", status=1)
    write_program(tree / "bin/podman", "#!/bin/sh\n")
    assert "load it with" in run_script(tree, "score.sh", "lists", "results", status=1)
