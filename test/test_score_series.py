"""score.py on studies whose series must be picked or joined: what summary.csv and failures.csv say."""

import csv
import io
import shutil
from pathlib import Path

import pydicom
import pytest
import SimpleITK as sitk
from dicom_writer import write_study
from tiny_batches import score, small

pytestmark = pytest.mark.slow


def study(root: Path, number: int, **fields) -> Path:
    return write_study(root / f"n{number}", *small(), number=number, **fields)


def edited(files, **fields) -> None:
    for path in files:
        header = pydicom.dcmread(path)
        for keyword, value in fields.items():
            setattr(header, keyword, value)
        header.save_as(path)


def rows(path: Path) -> dict[str, dict[str, str]]:
    return {row["study"]: row for row in csv.DictReader(io.StringIO(path.read_text()))}


def split(folder: Path, count: int, **fields) -> None:
    """The last `count` slices of a PET under another series' UID."""
    paths = sorted((folder / "pet").iterdir(), key=lambda path: float(pydicom.dcmread(path).ImagePositionPatient[2]))
    edited(paths, NumberOfSlices=len(paths))
    edited(paths[:-count], NumberOfSlices=len(paths) - count)
    edited(paths[-count:], SeriesInstanceUID="1.2.3.99.1", SeriesNumber=7, NumberOfSlices=count, **fields)


def test_split_and_projected_series_and_other_tracers_are_in_the_tables(tiny_bundle, tmp_path) -> None:
    root, output = tmp_path / "studies", tmp_path / "out"
    study(root, 1)
    split(study(root, 2), 3)
    split(study(root, 3), 3, FrameOfReferenceUID="1.2.3.4.5")
    coronal = {"ImageType": ["DERIVED", "SECONDARY", "MIP"], "ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}
    edited((study(root, 4) / "pet").iterdir(), **coronal)
    for path in (study(root, 5) / "pet").iterdir():
        header = pydicom.dcmread(path)
        header.RadiopharmaceuticalInformationSequence[0].Radiopharmaceutical = "18F-PSMA-1007"
        header.save_as(path)
    done = score(root, "--output", output, "--weights", tiny_bundle, "--rtstruct")
    keys, summary = rows(output / "keys.csv"), rows(output / "summary.csv")
    by_number = {Path(row["source"]).name: name for name, row in keys.items()}
    (failure,) = rows(output / "failures.csv").values()
    assert done.returncode == 3 and failure["study"] == by_number["n4"]
    assert "is a projection (ImageType DERIVED\\SECONDARY\\MIP)" in failure["message"]
    assert "(taken: PET series 0 (9 slices" in failure["message"] and "CT series 0 (" in failure["message"]
    plain, whole, left = (by_number[f"n{number}"] for number in (1, 2, 3))
    assert summary[plain]["warnings"].replace(plain, whole) == summary[whole]["warnings"]
    masks = [sitk.ReadImage(str(output / "studies" / name / "mask.mha")) for name in (plain, whole, left)]
    assert [mask.GetSize()[2] for mask in masks] == [9, 9, 6]
    assert (sitk.GetArrayFromImage(masks[0]) == sitk.GetArrayFromImage(masks[1])).all()
    assert all((output / "studies" / whole / name).is_file() for name in ("seg.dcm", "rtstruct.dcm"))
    spacing = masks[0].GetSpacing()[2]
    assert f"PET: {3 * spacing:.0f} mm of the body are left out" in summary[left]["warnings"]
    assert "'18F-PSMA-1007'" in summary[by_number["n5"]]["warnings"]


def test_the_folders_of_a_csv_are_joined_in_the_same_way(tiny_bundle, tmp_path) -> None:
    folder = study(tmp_path, 1)
    split(folder, 3)
    (tmp_path / "list.csv").write_text("pet,ct\nn1/pet,n1/ct\n")
    done = score(tmp_path / "list.csv", "--output", tmp_path / "out", "--weights", tiny_bundle)
    assert done.returncode == 0, done.stderr
    (row,) = rows(tmp_path / "out/summary.csv").values()
    assert sitk.ReadImage(str(tmp_path / "out" / row["folder"] / "mask.mha")).GetSize()[2] == 9
    shutil.rmtree(tmp_path / "out")
    second = [path for path in (folder / "pet").iterdir() if pydicom.dcmread(path).get("SeriesNumber")]
    edited(second, FrameOfReferenceUID="1.2.7")
    listed = score(tmp_path / "list.csv", "--output", tmp_path / "out", "--weights", tiny_bundle, "--dry-run").stdout
    assert "mm of the body are left out" in listed
    score(tmp_path / "list.csv", "--output", tmp_path / "out", "--weights", tiny_bundle)
    assert "mm of the body are left out" in next(iter(rows(tmp_path / "out/summary.csv").values()))["warnings"]
