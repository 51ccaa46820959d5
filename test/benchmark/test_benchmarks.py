"""Every benchmark runs at toy size and writes what benchmark.compare reads; what it measures is not looked at."""

import subprocess
import sys
from argparse import Namespace

import numpy as np
import pytest
from conftest import ROOT

from benchmark import inference
from benchmark.compare import read

TOYS = {
    "floor": "--widths 2 4 --windows 16",
    "road": "--pet 24 20 22 --ct 31 26 40 --runs 1",
    "window": "--widths 2 4 --windows 16 --runs 1 --check --grouped",
    "studies": "--size 24 20 22 --widths 2 4 --window 16 --studies 2 --runs 1",
    "training": "--size 24 20 22 --widths 2 4 --crop 16 --steps 1 --epochs 1",
}


def run(name: str, words: str, path) -> dict:
    device = [] if name == "road" else ["--device", "cpu"]
    command = [sys.executable, "-m", f"benchmark.{name}", *words.split(), *device, "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    found = read(path)
    assert "\n".join(found["printed"]) in done.stdout and all(one["values"] for one in found["figures"].values())
    return found


@pytest.mark.parametrize("name", TOYS)
def test_it_runs_at_toy_size(name: str, tmp_path) -> None:
    assert run(name, TOYS[name], tmp_path / "r.json")["benchmark"] == name


def test_who_cannot_be_imported_is_named_and_an_error_if_asked_for(monkeypatch) -> None:
    monkeypatch.setattr(inference, "import_trouble", lambda one: "no torch" if one.name == "nnU-Net v2" else None)
    found, absent = inference.contenders(Namespace(nnunet=None, only=["monai", "nnunet"]))
    assert [one.name for one in found] == ["ours", "MONAI, 4 passes", "MONAI, 5 passes"]
    assert absent[0].startswith("nnU-Net v2 took no part: no torch")
    with pytest.raises(SystemExit, match="asked for with --nnunet"):
        inference.contenders(Namespace(nnunet="/some/python", only=["nnunet"]))


def test_masks_of_several_runs_count_by_the_one_least_alike() -> None:
    """Two of two voxels, and one of the two: Dice 1 and 2 * 1 / (1 + 2)."""
    ours, same, other = ({"mask": np.array(mask, bool)} for mask in ([1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0]))
    assert inference.least_alike([same, other], [ours]) == (2 / 3, 1)


def test_ours_and_monais_loop_give_the_same_mask(tmp_path) -> None:
    """The same study and weights by two roads: SimpleITK, MONAI, softmax and argmax on the one side."""
    words = "--size 24 20 22 --widths 2 4 --windows 16 --runs 1 --matrix 64"
    figures = run("inference", words, tmp_path / "r.json")["figures"]
    for passes in (4, 5):
        assert figures[f"MONAI, {passes} passes at 16^3: Dice with ours"]["values"][0] >= 0.999
