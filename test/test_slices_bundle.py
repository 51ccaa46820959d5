"""A bundle for slices by every way in: process.py, its service, score.py, and the check when an image is built.

The expected mask is that of the network's steps written out (slices_bundles.py).
"""

import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from program import run_process
from safetensors.torch import load_file
from slices_bundles import logits_by_steps
from tiny_batches import image_study, small
from tiny_studies import write_study

from model.bundle.manifest import Bundle, load_bundle
from model.challenge import run, serving
from model.challenge.arguments import arguments
from model.hospital.bundles import Bundles
from model.hospital.find.tree import find_studies
from model.hospital.job import Options, Setup
from model.hospital.plan import make_plan
from model.hospital.worker import Scorer
from model.networks import weights
from model.networks.unet import build

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bundle(tiny_slices_bundle) -> Bundle:
    return load_bundle(tiny_slices_bundle)


@pytest.fixture(scope="module")
def expected(bundle) -> np.ndarray:
    """The mask of `small()`, bool (z, y, x): where the logits are above zero, in most of it but not in all."""
    network = build(bundle.manifest.network)
    network.load_state_dict(load_file(bundle.folder / bundle.manifest.members[0].file))
    mask = logits_by_steps(network.eval(), *small(), 64) > 0
    assert 0.1 < mask.mean() < 0.9
    return mask


def check_mask(expected: np.ndarray, folder: Path) -> None:
    """The folder holds one mask, the expected one but for voxels whose logit is nearly zero."""
    (path,) = folder.rglob("*.mha")
    assert np.mean(sitk.GetArrayFromImage(sitk.ReadImage(str(path))) == expected) > 0.999


def test_process_py_runs_it(bundle, expected, tmp_path) -> None:
    study = write_study(tmp_path / "study", *small())
    done = run_process("--input", study, "--output", tmp_path / "out", "--weights", bundle.folder)
    assert done.returncode == 0, done.stderr
    check_mask(expected, tmp_path / "out")


def test_the_service_runs_it(bundle, expected, tmp_path, cpu, monkeypatch) -> None:
    study = write_study(tmp_path / "study", *small())
    words = ["--serve", "--input", study, "--output", tmp_path / "out", "--weights", bundle.folder]
    monkeypatch.setattr(sys, "argv", ["process.py", *map(str, words), "--device", "cpu", "--precision", "float32"])
    for module in (serving, run):  # pytest's own handlers stay
        monkeypatch.setattr(module, "on_signals", lambda handler: None)
    networks = weights.load_now(weights.voters(bundle), cpu.torch_device)
    status, message = serving.attempt(arguments(), bundle, networks, signal.SIG_DFL)
    assert status == 201, message
    check_mask(expected, tmp_path / "out")


def test_score_py_runs_it(bundle, expected, tmp_path) -> None:
    studies, output = tmp_path / "in", tmp_path / "out"
    image_study(studies / "one")
    output.mkdir()
    (job,) = make_plan(
        find_studies(studies, output), studies, output, b"salt", {}, Bundles(main=bundle), Options()
    ).todo
    answer = Scorer(Setup(weights=str(bundle.folder), method=None, device="cpu", precision="float32")).answer(job, None)
    assert answer["state"] == "done", answer
    check_mask(expected, output)


def test_the_check_of_an_image_s_bundles_accepts_it(bundle, monkeypatch, capsys) -> None:
    """The Dockerfile runs it on every bundle that was copied."""
    monkeypatch.setattr(sys, "argv", ["weights", str(bundle.folder)])
    assert weights.main() == 0 and "1 members, all as the manifest says" in capsys.readouterr().out
