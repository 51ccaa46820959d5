"""--folds, --mirroring and --precision of process.py and score.py, with random weights of nnU-Net's kind."""

import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from nnunet_bundles import write_nnunet_bundle
from program import run_process
from tiny_batches import dicom_studies, score
from tiny_studies import lesion_study

MASKS = "images/automated-petct-lesion-segmentation"


@pytest.fixture(scope="module")
def two_folds(tmp_path_factory) -> Path:
    return write_nnunet_bundle(tmp_path_factory.mktemp("weights") / "both", "01")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> list[Path]:
    study = lesion_study(tmp_path_factory.mktemp("study"), 1)
    return [study.pet, study.ct]


def mask_and_report(images: list[Path], out: Path, weights: Path, *words: object, **environment: str):
    """process.py's mask, its report, and what it printed."""
    arguments = ("--input", *images, "--output", out, "--weights", weights, "--report", out / "r.json", *words)
    done = run_process(*arguments, **environment)
    assert done.returncode == 0, done.stderr
    (mask,) = (out / MASKS).iterdir()
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(mask))) == 1
    return found, json.loads((out / "r.json").read_text()), done


@pytest.mark.slow
def test_a_fold_without_mirroring_gives_the_mask_of_a_bundle_that_has_only_that(two_folds, images, tmp_path) -> None:
    alone = write_nnunet_bundle(tmp_path / "alone", "01", mirrored=())
    manifest = json.loads((alone / "manifest.json").read_text())
    manifest["members"] = manifest["members"][1:]
    (alone / "manifest.json").write_text(json.dumps(manifest))
    expected, _, _ = mask_and_report(images, tmp_path / "a", alone)
    found, report, done = mask_and_report(images, tmp_path / "b", two_folds, "--folds", 1, "--mirroring", "none")
    whole, usual, _ = mask_and_report(images, tmp_path / "c", two_folds)
    assert 20 < expected.sum() < expected.size / 2 and (whole != expected).any()
    np.testing.assert_array_equal(found, expected)
    assert "both (eoa, folds 1, not mirrored) on CPU" in done.stdout and ", float32" in done.stdout
    assert report["run"]["passes_a_window"] == 1 and report["run"]["precision"] == "float32"
    assert report["weights"]["changes"] == ["folds 1", "not mirrored"]
    assert [member["fold"] for member in report["weights"]["members"]] == ["1"]
    assert usual["run"]["passes_a_window"] == 16 and usual["weights"]["changes"] == []
    assert all(member["mirrored"] == ["x", "y", "z"] for member in usual["weights"]["members"])


@pytest.mark.slow
def test_the_environment_chooses_too_and_what_goes_beyond_the_manifest_is_a_warning(images, tmp_path) -> None:
    weights = write_nnunet_bundle(tmp_path / "w", "012", mirrored=())
    chosen = {"LESION_FOLDS": "0 2", "LESION_MIRRORING": "fast", "LESION_PRECISION": "bfloat16"}
    _, report, done = mask_and_report(images, tmp_path / "a", weights, **chosen)
    assert report["run"]["passes_a_window"] == 4 and report["run"]["precision"] == "bfloat16"
    assert report["weights"]["changes"] == ["folds 0 2", "mirrored along x"]
    beyond = [warning for warning in report["warnings"] if "--mirroring fast mirrors along x, which" in warning]
    assert len(beyond) == 1 and f"warning: {beyond[0]}" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--folds", "7"), "argument --folds: '7' is no fold: there are 0, 1, 2, 3, 4, all"),
        (("--folds", "4"), "error: --folds: 'both' has no fold 4; it has the folds 0, 1"),
        (("--mirroring", "half"), "error: --mirroring must be one of model, none, fast, full, got 'half'"),
        (("--precision", "int8"), "error: --precision must be one of auto, float32, bfloat16, float16, got 'int8'"),
        (
            ("--precision", "float16", "--device", "cpu"),
            "error: --precision float16: a CPU does not compute in float16",
        ),
    ],
)
@pytest.mark.slow
def test_what_cannot_be_is_refused_in_the_last_line(words, message: str, two_folds, images, tmp_path) -> None:
    done = run_process("--input", *images, "--output", tmp_path / "out", "--weights", two_folds, *words)
    assert done.returncode == 2 and message in done.stderr.splitlines()[-1]
    batch = score(images[0].parent, "--output", tmp_path / "results", "--weights", two_folds, *words)
    assert batch.returncode == 2 and message in batch.stderr.splitlines()[-1]


@pytest.mark.slow
def test_other_folds_are_scored_anew_and_the_same_precision_by_name_is_not(two_folds, tmp_path) -> None:
    studies, output = dicom_studies(tmp_path / "in", 1), tmp_path / "out"

    def run(*words: str) -> tuple[str, dict, pydicom.Dataset]:
        done = score(studies, "--output", output, "--weights", two_folds, *words)
        assert done.returncode == 0, done.stderr
        (folder,) = (output / "studies").iterdir()
        return done.stdout, json.loads((folder / "report.json").read_text()), pydicom.dcmread(folder / "seg.dcm")

    printed, report, seg = run("--folds", "0", "--mirroring", "none")
    assert "1 to do;" in printed and "weights: both (eoa, folds 0, not mirrored), precision float32" in printed
    assert report["run"]["passes_a_window"] == 1
    assert "both (eoa, folds 0, not mirrored)" in (output / "report.html").read_text()
    assert json.loads((output / "summary.json").read_text())["weights"] == "both (eoa, folds 0, not mirrored)"
    assert "folds 0" in seg.SegmentSequence[0].SegmentAlgorithmName
    printed, again, _ = run("--folds", "0", "--mirroring", "none", "--precision", "auto")
    assert "1 done before, 0 to do" in printed and again == report
    printed, _, added = run("--folds", "0", "--mirroring", "none", "--rtstruct")
    assert "1 to do (1 with the masks that are there)" in printed and added.SOPInstanceUID == seg.SOPInstanceUID
    printed, report, other = run()
    assert "1 to do;" in printed and report["run"]["passes_a_window"] == 16
    assert other.SOPInstanceUID != seg.SOPInstanceUID
