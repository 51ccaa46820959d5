"""Edits by hand: taken back from SEG, RTSTRUCT and masks, lesions dropped by number, and undone."""

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import ComprehensiveSRStorage
from tiny_batches import dicom_studies, image_study, score_here

from model.dicom.headers import find_series
from model.dicom.rtstruct import dicom_rtstruct
from model.dicom.seg import dicom_seg
from model.dicom.series import order_slices
from model.errors import CaseError, ConfigError
from model.files import sha256_of

DICOM, IMAGES = "Smith_John_0", "pair"  # the two studies


@pytest.fixture(scope="module")
def scored(make_bundle, tmp_path_factory) -> Path:
    """A folder with `in`, a DICOM study and a pair of images, and `out`, their results, without SEG of the first."""
    root = tmp_path_factory.mktemp("edits")
    studies = dicom_studies(root / "in", 1)
    image_study(studies / IMAGES)
    bundle = make_bundle(root / "tiny", 1)
    score_here(studies, "--output", root / "out", "--weights", bundle, "--rtstruct", "--device", "cpu")
    return root


@pytest.fixture
def results(scored, tmp_path) -> Path:
    return Path(shutil.copytree(scored / "out", tmp_path / "out"))


@pytest.fixture
def no_network(monkeypatch) -> None:
    monkeypatch.setattr("model.networks.weights.load_now", lambda *_: pytest.fail("a network was loaded"))


pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_network")]


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


def study(results: Path, source: str) -> Path:
    """The folder of a study's results, by its source folder."""
    (name,) = (row["study"] for row in table(results / "keys.csv") if Path(row["source"]).name == source)
    return results / "studies" / name


def row_of(results: Path, folder: Path) -> dict[str, str]:
    (row,) = (row for row in table(results / "summary.csv") if row["study"] == folder.name)
    return row


def voxels(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def two_boxes(like: Path) -> sitk.Image:
    """An edited mask of two lesions, 24 and 8 voxels, on the grid of another."""
    image = sitk.ReadImage(str(like))
    array = np.zeros(image.GetSize()[::-1], np.uint8)
    array[2:4, 5:8, 6:10], array[6:8, 12:14, 12:14] = 1, 1
    new = sitk.GetImageFromArray(array)
    new.CopyInformation(image)
    return new


def headers_of(scored: Path) -> tuple:
    (pet,) = (series for series in find_series(scored / "in" / DICOM) if series.modality == "PT")
    return order_slices(pet, "PT")


def made_elsewhere(content: bytes, path: Path) -> None:
    """The file as another program would have written it."""
    path.write_bytes(content)
    data = pydicom.dcmread(path)
    data.ManufacturerModelName = "viewer"
    data.save_as(path)


def test_a_mask_that_was_saved_in_the_results_gives_everything_anew(results) -> None:
    folder = study(results, DICOM)
    network, image = voxels(folder / "mask.mha"), two_boxes(folder / "mask.mha")
    before = {name: (folder / name).read_bytes() for name in ("lesions.csv", "seg.dcm")}
    sitk.WriteImage(image, str(folder / "mine.nrrd"), True)
    edited, ml = sitk.GetArrayFromImage(image), float(np.prod(image.GetSpacing())) / 1000
    sha = sha256_of(folder / "mine.nrrd")
    score_here(results, "--recompute")
    row, report = row_of(results, folder), json.loads((folder / "report.json").read_text())
    assert (int(row["lesions"]), float(row["mtv_ml"])) == (2, pytest.approx(32 * ml, abs=1e-3))
    volumes_ml = [float(one["volume_ml"]) for one in table(folder / "lesions.csv")]
    assert volumes_ml == pytest.approx([24 * ml, 8 * ml], abs=1e-3)
    assert np.array_equal(voxels(folder / "mask.mha"), edited)
    assert np.array_equal(voxels(folder / "network-mask.mha"), network)
    assert {name: (folder / "before-edit" / name).read_bytes() for name in before} == before
    assert report["edited"]["networks"]["mtv_ml"] == pytest.approx(network.sum() * ml, abs=1e-3)
    assert report["edited"]["added_ml"] == pytest.approx((edited > network).sum() * ml, abs=1e-3)
    assert report["edited"]["removed_ml"] == pytest.approx((network > edited).sum() * ml, abs=1e-3)
    seg, rtstruct = pydicom.dcmread(folder / "seg.dcm"), pydicom.dcmread(folder / "rtstruct.dcm")
    assert seg.pixel_array.sum() == 32 and seg.SegmentSequence[0].SegmentAlgorithmType == "SEMIAUTOMATIC"
    assert seg.SOPInstanceUID != pydicom.dcmread(folder / "before-edit" / "seg.dcm").SOPInstanceUID
    assert rtstruct.StructureSetLabel == "LESIONS EDITED" and "edited" in seg.SeriesDescription
    said = [row["edited"], seg.ImageComments, rtstruct.StructureSetDescription, report["edited"]["file_sha256"]]
    said += [(folder / "lesions.csv").read_text(), (folder / "lesions.json").read_text()]
    said += [(results / name).read_text() for name in ("report.html", "journal.jsonl")]
    said += [(folder / "mask.mha").read_bytes()[:2000].decode("latin-1")]
    assert all(sha in one for one in said)
    assert json.loads((results / "summary.json").read_text())["studies_edited"] == 1
    assert (folder / "mine.nrrd").is_file() and row_of(results, study(results, IMAGES))["edited"] == ""


def test_what_is_no_mask_is_named_and_stays(results, scored, capsys) -> None:
    folder = study(results, DICOM)
    measured = headers_of(scored)[0][0]
    for keyword in ("Rows", "Columns"):
        delattr(measured, keyword)
    measured.Modality, measured.SOPClassUID = "SR", ComprehensiveSRStorage
    measured.save_as(folder / "measured.dcm")
    (folder / "scene").mkdir()
    (folder / "scene" / "lesions.mrml").write_text("a scene of 3D Slicer")
    score_here(results, "--recompute")
    output = capsys.readouterr().out
    assert f"'{folder / 'measured.dcm'}' is a DICOM SR" in output and "0 to do" in output and "sr.dcm" not in output
    sitk.WriteImage(two_boxes(folder / "mask.mha"), str(folder / "mine.mha"))
    score_here(results, "--recompute")
    assert row_of(results, folder)["lesions"] == "2"
    assert all((folder / name).is_file() for name in ("measured.dcm", "scene/lesions.mrml", "mine.mha"))


def test_an_edit_stays_and_is_taken_once(results, scored, capsys) -> None:
    folder = study(results, IMAGES)
    sitk.WriteImage(two_boxes(folder / "mask.mha"), str(folder / "mine.nii.gz"))
    plain = [scored / "in", "--output", results, "--weights", scored / "tiny", "--rtstruct", "--device", "cpu"]
    for words, todo in ((["--recompute"], 1), (["--recompute"], 0), ([], 0), (["--convention", "autopet_3"], 2)):
        capsys.readouterr()
        score_here(*plain, *words)
        assert f"{2 - todo} done before, {todo} to do" in capsys.readouterr().out
        assert int(row_of(results, folder)["lesions"]) == 2
    (folder / "mine.nii.gz").unlink()
    score_here(results, "--undo-edits", folder.name)
    assert "edited" not in row_of(results, folder) and not (folder / "before-edit").exists()
    assert "edited" not in json.loads((folder / "report.json").read_text())
    with pytest.raises(ConfigError, match=f"study '{folder.name}' is not edited"):
        score_here(results, "--undo-edits", folder.name)


def test_an_edit_whose_images_are_gone_is_named(results, scored, capsys) -> None:
    folder = study(results, DICOM)
    shutil.copy(folder / "mask.mha", folder / "mine.mha")
    words = ["--output", results, "--weights", scored / "tiny", "--device", "cpu", "--recompute"]
    score_here(scored / "in" / IMAGES, *words)
    assert f"warning: the edit of {folder.name} is not taken back" in capsys.readouterr().out


def test_seg_and_rtstruct_are_matched_by_their_uids(results, scored, tmp_path) -> None:
    folder, (headers, grid) = study(results, DICOM), headers_of(scored)
    edited = sitk.GetArrayFromImage(two_boxes(folder / "mask.mha")).astype(int)
    contents = {"seg": dicom_seg(edited, headers, "w", "x"), "rtstruct": dicom_rtstruct(edited, headers, grid, "x")}
    for name, content in contents.items():
        masks = tmp_path / name
        masks.mkdir()
        made_elsewhere(content, masks / "IM0001")
        score_here(results, "--masks", masks)
        assert np.array_equal(voxels(folder / "mask.mha"), edited)
        assert row_of(results, folder)["edited"].endswith(sha256_of(masks / "IM0001"))


def test_images_are_matched_by_the_studys_name_or_its_path(results, tmp_path) -> None:
    one, other = study(results, DICOM), study(results, IMAGES)
    masks = tmp_path / "masks"
    (masks / one.name).mkdir(parents=True)
    sitk.WriteImage(two_boxes(one / "mask.mha"), str(masks / one.name / "any.nrrd"))
    sitk.WriteImage(two_boxes(other / "mask.mha"), str(masks / f"{IMAGES}.seg.nrrd"))
    score_here(results, "--masks", masks)
    assert all(row["edited"] for row in table(results / "summary.csv"))
    shutil.copy(masks / f"{IMAGES}.seg.nrrd", masks / f"{other.name}.nrrd")
    with pytest.raises(ConfigError, match=f"2 masks are of study '{other.name}'.*keep one of them"):
        score_here(results, "--masks", masks)
    (masks / f"{other.name}.nrrd").rename(masks / "unknown.nrrd")
    with pytest.raises(ConfigError, match="unknown.nrrd' is of none of the 2 studies; name it"):
        score_here(results, "--masks", masks)


def test_lesions_are_dropped_by_number_and_the_others_keep_theirs(results) -> None:
    folder = study(results, DICOM)
    lesions = table(folder / "lesions.csv")
    assert len(lesions) >= 4
    left = [row["number"] for row in lesions if row["number"] not in ("1", "3")]
    for numbers in (["1", "3"], ["1", "3"]):  # the second time nothing is left to do
        score_here(results, "--study", folder.name, "--drop", *numbers)
        assert [row["number"] for row in table(folder / "lesions.csv")] == left
    mtv_ml = sum(float(row["volume_ml"]) for row in lesions if row["number"] in left)
    assert float(row_of(results, folder)["mtv_ml"]) == pytest.approx(mtv_ml, abs=0.01)
    seg = pydicom.dcmread(folder / "seg.dcm")
    assert [segment.SegmentLabel for segment in seg.SegmentSequence] == [f"Lesion {number}" for number in left]
    assert row_of(results, folder)["edited"] == "Edited by hand, lesions dropped: 1, 3"
    score_here(results, "--drop", f"{DICOM}:{left[0]}")
    assert [row["number"] for row in table(folder / "lesions.csv")] == left[1:]
    for words, message in (
        (["--drop", "9999", "--study", folder.name], "there is no lesion 9999 to drop"),
        (["--drop", "3"], "of which of the 2 studies. Add --study NAME"),
        (["--drop", "nobody:3"], "'nobody' is not among the 2 studies"),
        (["--drop", "three"], "--drop 'three' is no lesion's number"),
    ):
        with pytest.raises(ConfigError, match=message):
            score_here(results, *words)


def test_a_mask_that_was_saved_over_is_taken_and_the_networks_own_comes_back(results) -> None:
    folder = study(results, DICOM)
    network, image = voxels(folder / "mask.mha"), two_boxes(folder / "mask.mha")
    sitk.WriteImage(image, str(folder / "mask.mha"), True)
    score_here(results, "--recompute")
    assert np.array_equal(voxels(folder / "network-mask.mha"), network)
    assert np.array_equal(voxels(folder / "mask.mha"), sitk.GetArrayFromImage(image))
    pair = study(results, IMAGES)  # has no SEG
    sitk.WriteImage(two_boxes(pair / "mask.mha"), str(pair / "mask.mha"), True)
    with pytest.raises(CaseError, match="1 of 2 studies could not be scored"):
        score_here(results, "--recompute")
    (failure,) = table(results / "failures.csv")
    assert "was edited, and the networks' own mask is gone" in failure["message"] and failure["study"] == pair.name


def test_an_empty_edit_is_a_result_and_one_of_another_patient_a_failure(results, scored) -> None:
    folder, (headers, _) = study(results, DICOM), headers_of(scored)
    image = two_boxes(folder / "mask.mha") * 0
    sitk.WriteImage(image, str(folder / "nothing.mha"))
    score_here(results, "--recompute")
    row = row_of(results, folder)
    assert row["lesions"] == "0" and "holds no lesion" in row["warnings"]
    (folder / "nothing.mha").unlink()
    made_elsewhere(dicom_seg(sitk.GetArrayFromImage(image) + 1, headers, "w", "x"), folder / "other.dcm")
    data = pydicom.dcmread(folder / "other.dcm")
    data.PatientID = "OTHER77"
    data.save_as(folder / "other.dcm")
    with pytest.raises(CaseError):
        score_here(results, "--recompute")
    (failure,) = table(results / "failures.csv")
    assert "edit' has another PatientID (0010,0020) than PET" in failure["message"]
    assert "Smith" not in failure["message"] and "other.dcm" not in failure["message"]


def test_without_options_of_a_last_run_the_whole_command_is_asked_for(results) -> None:
    (results / ".last-run").unlink()
    with pytest.raises(ConfigError, match="give them all again: score.py STUDIES --output RESULTS"):
        score_here(results, "--recompute")


def test_a_truth_may_be_a_seg(results, scored, tmp_path) -> None:
    folder, (headers, _) = study(results, DICOM), headers_of(scored)
    found = voxels(folder / "mask.mha")
    half = found.astype(int)
    half[: len(half) // 2] = 0
    (tmp_path / "truths").mkdir()
    made_elsewhere(dicom_seg(half, headers, "w", "x"), tmp_path / "truths" / "t.dcm")
    words = ["--weights", scored / "tiny", "--device", "cpu", "--truth", tmp_path / "truths"]
    score_here(scored / "in", "--output", results, *words)
    dice = 2 * np.count_nonzero(half) / (found.sum() + np.count_nonzero(half))  # the truth lies in the mask
    assert float(row_of(results, folder)["dice"]) == pytest.approx(dice, abs=1e-4)
