"""From a released model of nnU-Net v2 to a hospital's report in three commands, each in a process of its own."""

import json
import os
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import warm
from program import run_process
from tiny_batches import dicom_studies, image_study

from benchmark.nnunet_cases import LEAST_DICE, LEAST_SAME, dice, same_share
from benchmark.nnunet_models import FOLDER, dataset_of, plans_of, write_model
from benchmark.nnunet_oracle import nnunet_mask
from model.bundle.settings import Limits
from model.dicom.reading import read_dicom
from model.inference.preprocess import place
from model.stopwatch import Stopwatch

pytestmark = pytest.mark.slow
DATASET = "Dataset777_Fdg"
LICENCE, CITATION = "CC BY-NC-SA 4.0", "Nobody et al., A Model of Random Weights"
SPELT_OUT = "CC BY-NC-SA 4.0 (not for commercial use)"
BY_NNUNET = """
from nnunetv2.model_sharing.model_export import export_pretrained_model
export_pretrained_model(777, {zip!r}, ("3d_fullres",), folds=(0, 1))
"""


def run(*words: object) -> subprocess.CompletedProcess[str]:
    """Python with these words. Not tiny_batches.score: what nnU-Net brings opens a socket when it is imported."""
    return warm.run(*words)


def release(folder: Path, archive: Path) -> None:
    """The zip that nnU-Net's own command makes of a trained model; where it is not installed, one of the same files."""
    model = folder / DATASET / FOLDER
    (model / "dataset_fingerprint.json").write_text("{}")
    (model / "crossval_results_folds_0_1").mkdir()
    (model / "crossval_results_folds_0_1/postprocessing.pkl").write_bytes(b"not read")
    for fold in (0, 1):
        (model / f"fold_{fold}/progress.png").write_bytes(b"not read")
        (model / f"fold_{fold}/validation").mkdir()
        (model / f"fold_{fold}/validation/summary.json").write_text("{}")
    if find_spec("nnunetv2") is None:
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
            for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                file.write(path, path.relative_to(folder))
        return
    folders = {name: str(folder) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    command = [sys.executable, "-c", BY_NNUNET.format(zip=str(archive))]
    subprocess.run(command, env=os.environ | folders, check=True, capture_output=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """The model's own folder, of two folds with an organ head, on voxels of 5 mm."""
    plans = plans_of(residual=True, widths=[4, 8, 12], spacing=[5.0, 5.0, 5.0])
    folder = tmp_path_factory.mktemp("nnunet")
    return write_model(folder / DATASET, plans, dataset_of(), folds=(0, 1), organs=11)


@pytest.fixture(scope="module")
def roads(model: Path, tmp_path_factory) -> dict[str, Path | str]:
    """What the three commands printed and where they wrote."""
    root = tmp_path_factory.mktemp("hospital")
    archive, studies = root / "released.zip", dicom_studies(root / "studies", 1)
    release(model.parent.parent, archive)
    checked = run("-m", "training", "import", archive, "--check")
    assert checked.returncode == 0, checked.stderr
    words = ["--licence", LICENCE, "--citation", CITATION, "--no-mirroring", "--store", "float32"]
    imported = run("-m", "training", "import", archive, "--name", "public", *words, "--output-folder", root / "weights")
    assert imported.returncode == 0, imported.stderr
    bundle, results = root / "weights/public", root / "results"
    scored = run("score.py", studies, "--output", results, "--weights", bundle, "--rtstruct", "--device", "cpu")
    assert scored.returncode == 0, scored.stderr
    (folder,) = (results / "studies").iterdir()
    printed = {"checked": checked.stdout, "imported": imported.stdout}
    return {"studies": studies, "bundle": bundle, "results": results, "folder": folder} | printed


def test_check_and_import_say_what_the_model_is(roads) -> None:
    assert "folds 0, 1" in roads["checked"] and "residual_unet" in roads["checked"]
    assert f"licence {SPELT_OUT}" in roads["imported"]


def test_every_output_tells_licence_and_citation(roads) -> None:
    report = json.loads((roads["folder"] / "report.json").read_text())
    assert (report["weights"]["licence"], report["weights"]["citation"]) == (SPELT_OUT, CITATION)
    totals = json.loads((roads["results"] / "summary.json").read_text())
    assert (totals["licence"], totals["citation"]) == (SPELT_OUT, CITATION)
    page = (roads["results"] / "report.html").read_text()
    assert SPELT_OUT in page and CITATION in page
    sentence = f"Licence of the weights: {SPELT_OUT}. Cite: {CITATION}"
    assert pydicom.dcmread(roads["folder"] / "seg.dcm").ImageComments == sentence
    assert sentence in pydicom.dcmread(roads["folder"] / "rtstruct.dcm").StructureSetDescription


def test_process_prints_licence_and_citation(roads, tmp_path) -> None:
    study = image_study(tmp_path / "study")
    pair = (study / "study_pet.mha", study / "study_ct.mha")
    done = run_process("--input", *pair, "--output", tmp_path / "out", "--weights", roads["bundle"])
    assert done.returncode == 0, done.stderr
    assert f"weights: public, licence {SPELT_OUT}; cite: {CITATION}" in done.stdout


def test_the_mask_of_dicom_is_that_of_nnunet(model: Path, roads, tmp_path) -> None:
    pytest.importorskip("nnunetv2", reason="nnunetv2 is not here: pip install --no-deps -r benchmark/requirements.txt")
    placed = place(read_dicom(roads["studies"], Limits()).case, -1e6, Stopwatch())
    images = []
    for array in (placed.hu, placed.suv):
        image = sitk.GetImageFromArray(np.ascontiguousarray(array, np.float32))
        image.SetSpacing(placed.view.grid.spacing_mm)
        images.append(image)
    expected = nnunet_mask(model, images, tmp_path, (0, 1), mirrored=False) == 1
    written = sitk.GetArrayFromImage(sitk.ReadImage(str(roads["folder"] / "mask.mha")))
    found = placed.view.to_las(written).astype(bool)
    assert 0.005 < expected.mean() < 0.99
    assert same_share(found, expected) >= LEAST_SAME and dice(found, expected) >= LEAST_DICE
