"""The scripts of .ci/, with stand-ins for all that they start."""

import re
import shutil
from pathlib import Path

import pytest
from conftest import ROOT
from image_facts import base, pins
from script_tree import copy_scripts, run_script, write_program

PIP = """#!/bin/sh
echo "$@" >> "$CALLS"
case "$*" in *"$ABSENT"*) exit 1 ;; esac
"""


APT = """#!/bin/sh
echo "$@" >> "$CALLS"
if [ "$(wc -l < "$CALLS")" -le "$BUSY" ]; then echo "$MESSAGE" >&2; exit 100; fi
"""
LOCKS = [
    "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 7 (apt-get)",
    "E: Unable to lock directory /var/cache/apt/archives/",
    "E: Unable to acquire the dpkg frontend lock (/var/lib/dpkg/lock-frontend), is another process using it?",
]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return copy_scripts(tmp_path)


def test_run_trains_in_a_temporary_folder_and_removes_it(tree: Path, tmp_path_factory) -> None:
    """A user's own runs/ stays as it is."""
    for folder in (".ci", "training", "runs", ".venv/bin"):
        (tree / folder).mkdir(parents=True)
    shutil.copy(ROOT / ".ci/run", tree / ".ci/run")
    (tree / "runs/weeks.pt").touch()
    note = '#!/bin/sh\necho "$0 $@" >> "$CALLS"\n'
    trained = note + 'for word; do case $word in /*) mkdir -p "$word"; echo x > "$word/table.md" ;; esac; done\n'
    write_program(tree / "training/chain.sh", trained)
    write_program(tree / ".ci/container.sh", note)
    write_program(tree / ".ci/wheels", note)
    write_program(tree / ".ci/nnunet", note)
    write_program(tree / "python", trained)
    for tool in ("git", "python3"):  # that it looks for
        write_program(tree / "bin" / tool, note)
    write_program(tree / "bin/make", '#!/bin/sh\n[ "$1" = test ] && mkdir -p .venv/bin && cp python .venv/bin/python\n')
    made = tmp_path_factory.mktemp("made")
    assert "ALL PASSED" in run_script(tree, ".ci/run", TMPDIR=str(made))
    folders = re.findall(rf"{made}/\S+", (tree / "calls").read_text())
    assert sorted(folder.split("/")[-1] for folder in folders) == [
        "bundles",
        "chain-resenc",
        "chain-slices",
        "chain-volumes",
        "diwa",
        "nested",
        "nested",
        "phantoms",
        "phantoms",
        "table2-smoke",
        "table3-smoke",
        "wholebody-smoke",
    ]
    assert list(made.iterdir()) == [] and (tree / "runs/weeks.pt").exists()


def test_wheels_asks_for_every_pin_but_torch_with_the_image_s_python(tree: Path) -> None:
    (tree / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/wheels", tree / ".ci/wheels")
    for name in ("Dockerfile", "requirements.txt"):
        shutil.copy(ROOT / name, tree / name)
    write_program(tree / "python", PIP)
    run_script(tree, ".ci/wheels", PYTHON="./python", ABSENT="nothing")
    calls = (tree / "calls").read_text().splitlines()
    asked = [call.split()[-1] for call in calls]
    assert asked == [f"{n}=={v}" for n, v in pins("requirements.txt").items() if n != "torch"] and len(asked) > 9
    for call in calls:
        assert "--only-binary=:all:" in call and "--no-deps" in call and f"--python-version {base()[2]} " in call
    output = run_script(tree, ".ci/wheels", status=1, PYTHON="./python", ABSENT="scipy==")
    assert f"Python {base()[2]}" in output and "scipy==" in output and "numpy" not in output


@pytest.mark.slow
@pytest.mark.parametrize("lock", LOCKS)
def test_install_waits_for_another_process_s_lock_and_for_nothing_else(lock: str, tree: Path) -> None:
    (tree / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/install", tree / ".ci/install")
    write_program(tree / "bin/apt-get", APT)
    run_script(tree, ".ci/install", "podman", "runc", BUSY="2", MESSAGE=lock)
    calls = (tree / "calls").read_text().splitlines()
    assert [call.split()[2] for call in calls] == ["update", "update", "update", "install"]
    assert calls[-1].endswith(" podman runc") and all("DPkg::Lock::Timeout=" in call for call in calls)
    (tree / "calls").unlink()
    assert "No space left" in run_script(
        tree, ".ci/install", "podman", status=1, BUSY="9", MESSAGE="E: No space left on device"
    )
    (tree / "calls").unlink()
    assert lock in run_script(tree, ".ci/install", "podman", status=1, BUSY="9", MESSAGE=lock, APT_PATIENCE="1")
