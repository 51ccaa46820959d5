"""Every benchmark runs at toy size and writes what benchmark.compare reads; what it measures is not looked at."""

import subprocess
import sys

import pytest
from conftest import ROOT

from benchmark.compare import read

TOYS = {
    "window": "--widths 2 4 --windows 16 --runs 1 --check --grouped",
    "studies": "--size 24 20 22 --widths 2 4 --window 16 --studies 2",
    "training": "--size 24 20 22 --widths 2 4 --crop 16 --steps 1 --epochs 1",
}


def run(name: str, words: str, path) -> dict:
    command = [sys.executable, "-m", f"benchmark.{name}", *words.split(), "--device", "cpu", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    found = read(path)
    assert "\n".join(found["printed"]) in done.stdout and all(one["values"] for one in found["figures"].values())
    return found


@pytest.mark.parametrize("name", TOYS)
def test_it_runs_at_toy_size(name: str, tmp_path) -> None:
    assert run(name, TOYS[name], tmp_path / "r.json")["benchmark"] == name


def test_ours_and_monais_loop_give_the_same_mask(tmp_path) -> None:
    """The same study and weights by two roads: SimpleITK, MONAI, softmax and argmax on the one side."""
    words = "--size 24 20 22 --widths 2 4 --windows 16 --runs 1 --matrix 64"
    figures = run("inference", words, tmp_path / "r.json")["figures"]
    for passes in (4, 5):
        assert figures[f"MONAI, {passes} passes at 16^3: Dice with ours"]["values"][0] >= 0.999
