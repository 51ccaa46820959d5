"""From DICOM files to a case, and the two real DICOM sets, whose SUV and HU are known."""

import dataclasses
import zipfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_writer import DECAYED_BQ, ramp, write_ct, write_pet, write_study
from tiny_studies import tiny_images

from model.bundle.settings import Limits
from model.dicom.headers import find_series
from model.dicom.reading import read_ct, read_dicom, read_pet
from model.errors import CaseError
from model.study.geometry import grid_of

FACTOR = 70_000 / DECAYED_BQ  # SUV per Bq/ml of the writer's PET


def body(stored: int = 7000) -> np.ndarray:
    """A PET whose body has a mean SUV of 1.4, as the slopes of 1.0 to 2.25 have the mean 1.625."""
    pet = np.zeros((6, 4, 5), np.int16)
    pet[:, 1:3, 1:4] = stored / (70_000 / DECAYED_BQ) / 7000 / 1.625 * 1.4
    return pet


def study(folder: Path, pet: dict | None = None, ct: dict | None = None) -> Path:
    write_pet(folder / "pet", **({"stored": body()} | (pet or {})))
    write_ct(folder / "ct", **(ct or {}))
    return folder


def test_a_folder_gives_pet_in_suv_and_ct_in_hu_and_the_conversion(tmp_path) -> None:
    found = read_dicom(study(tmp_path), Limits(), name="s1")
    case, conversion = found.case, found.conversion
    assert case.name == "s1" and case.warnings == conversion.warnings == ()
    slopes = (1.0 + 0.25 * np.arange(6))[:, None, None]
    np.testing.assert_allclose(case.pet.array, body() * slopes * FACTOR, rtol=1e-6)
    assert case.pet.array.dtype == np.float32 and case.ct.array.dtype == np.int16
    assert set(np.unique(case.ct.array)) == {-1000, 40}
    assert case.pet.grid == grid_of(case.pet.image) and case.pet.grid.size == (5, 4, 6)
    assert case.ct.grid.size == (10, 8, 6) and case.ct.grid.spacing_mm == (2.0, 2.0, 3.0)
    assert conversion.body_mean_suv == pytest.approx(1.4, rel=1e-3)


def test_a_list_of_files_gives_the_same_as_their_folder(tmp_path) -> None:
    folder = study(tmp_path)
    files = sorted(folder.rglob("*.dcm"), key=lambda p: p.name)
    one, other = read_dicom(folder, Limits()), read_dicom(files, Limits())
    np.testing.assert_array_equal(one.case.pet.array, other.case.pet.array)
    assert dataclasses.asdict(one.conversion) == dataclasses.asdict(other.conversion)


def test_the_conversion_holds_no_date(tmp_path) -> None:
    conversion = read_dicom(study(tmp_path, {"vendor": "siemens"}), Limits()).conversion
    assert "2024" not in str(dataclasses.asdict(conversion)).replace(str(tmp_path), "")


@pytest.mark.parametrize("vendor", ["ge", "siemens", "philips"])
@pytest.mark.parametrize("turn", ["upright", "flipped", "oblique"])
def test_any_image_written_as_dicom_comes_back_in_place(vendor: str, turn: str, tmp_path) -> None:
    suv, hu = (image[:20, :18, :9] for image in tiny_images())
    if turn != "upright":
        angles = {"flipped": (0.0, np.pi, 0.0), "oblique": (0.1, -0.2, 0.3)}[turn]
        for image in (suv, hu):
            image.SetDirection(sitk.Euler3DTransform((0.0, 0.0, 0.0), *angles).GetMatrix())
    case = read_dicom(write_study(tmp_path, suv, hu, vendor), Limits()).case
    top = sitk.GetArrayFromImage(suv).max(axis=(1, 2))[:, None, None]
    assert (np.abs(case.pet.array - sitk.GetArrayFromImage(suv)) <= 0.51 / 32767 * top + 1e-6 * top).all()
    np.testing.assert_array_equal(case.ct.array, sitk.GetArrayFromImage(hu).clip(-1024))
    assert case.pet.grid.equals(grid_of(suv)) and case.ct.grid.equals(grid_of(hu))


def test_two_pet_series_or_none_are_refused(tmp_path) -> None:
    folder = study(tmp_path)
    with pytest.raises(CaseError, match="holds 0 PET series, not one"):
        read_dicom(folder / "ct", Limits())
    write_pet(folder / "nac", series_uid="1.2.3.10", fields={"SeriesDescription": "PET NAC"})
    with pytest.raises(CaseError, match="holds 2 PET series, not one.*PET NAC.*give the files of one"):
        read_dicom(folder, Limits())


def test_a_weight_that_is_given_counts(tmp_path) -> None:
    folder = study(tmp_path, {"stored": body(), "fields": {"PatientWeight": None}})
    found = read_dicom(folder, Limits(), weight_kg=35.0).conversion
    assert found.factor == pytest.approx(FACTOR / 2) and found.weight_from == "given"


def test_another_frame_of_reference_is_warned_about_where_pet_and_ct_overlap(tmp_path) -> None:
    found = read_dicom(study(tmp_path, ct={"fields": {"FrameOfReferenceUID": "1.2.3.4"}}), Limits())
    assert len(found.case.warnings) == 1 and "share no FrameOfReferenceUID" in found.case.warnings[0]


def test_another_frame_of_reference_is_refused_where_they_do_not_overlap(tmp_path) -> None:
    ct = {"fields": {"FrameOfReferenceUID": "1.2.3.4"}, "origin_mm": (0.0, 0.0, 900.0)}
    with pytest.raises(CaseError, match=r"do not overlap in space: .*FrameOfReferenceUID \(0020,0052\)"):
        read_dicom(study(tmp_path, ct=ct), Limits())


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "PatientID"])
def test_pet_and_ct_of_two_patients_are_warned_about_without_their_names(keyword: str, tmp_path) -> None:
    (warning,) = read_dicom(study(tmp_path, ct={"fields": {keyword: "9.8.7"}}), Limits()).case.warnings
    assert f"differ in {keyword}" in warning and "9.8.7" not in warning and "SYNTHETIC" not in warning


@pytest.mark.parametrize("share, warned", [(0.2, True), (0.22, False), (2.1, False), (2.2, True)])
def test_a_mean_suv_of_the_body_outside_its_limits_is_warned_about(share: float, warned: bool, tmp_path) -> None:
    found = read_dicom(study(tmp_path, {"stored": body(int(7000 * share))}), Limits())  # 1.4 x share; 0.3 to 3
    assert found.conversion.body_mean_suv == pytest.approx(1.4 * share, rel=2e-3)
    assert [("mean SUV" in w) for w in found.case.warnings] == [True] * warned


def test_a_ct_without_a_body_is_warned_about(tmp_path) -> None:
    found = read_dicom(study(tmp_path, ct={"stored": np.full((6, 8, 10), 24, np.uint16)}), Limits())
    assert found.conversion.body_mean_suv is None and "shows no body" in found.case.warnings[0]


def test_pet_in_bqml_that_was_called_suv_is_refused(tmp_path) -> None:
    with pytest.raises(CaseError, match="looks like Bq/ml, not SUV"):
        read_dicom(study(tmp_path, {"stored": body(), "fields": {"Units": "GML"}}), Limits())


@pytest.mark.parametrize(
    "fields, named",
    [
        ({"Units": "GML"}, ["looks like Bq/ml, not SUV", "Units (0054,1001) GML"]),
        (
            {"Units": "BQML", "PatientWeight": 399},
            [
                "PatientWeight (0010,1030) 399 kg",
                "RadionuclideTotalDose (0018,1074) 3.5e+08",
                "RadionuclideHalfLife (0018,1075) 6586.2 s",
                "3600 s of decay",
            ],
        ),
    ],
)
def test_values_that_cannot_be_suv_are_refused_with_the_fields_they_are_made_from(fields, named, tmp_path) -> None:
    """And no limit is offered to be moved, by which SUV that is 1,000 times too high would pass."""
    with pytest.raises(CaseError) as refused:
        read_dicom(study(tmp_path, {"stored": body(32767 // 2), "fields": fields, "slopes": [500.0] * 6}), Limits())
    assert all(name in str(refused.value) for name in named) and "--limit" not in str(refused.value)


def test_one_hot_spot_in_a_body_of_usual_suv_may_be_let_through(tmp_path) -> None:
    pet = body()
    pet[3, 1, 1] = 32767
    slopes = [2.0] * 6
    slopes[3] = 200.0  # SUV 1,300 or more
    pet[3, 1:3, 1:4] = 1
    pet[3, 0, 0] = 32767
    folder = study(tmp_path, {"stored": pet, "slopes": slopes})
    with pytest.raises(CaseError, match="move the limit with --limit pet_max_suv="):
        read_dicom(folder, Limits())


def test_ct_with_fractions_is_float(tmp_path) -> None:
    write_ct(tmp_path, edit=lambda header, z: setattr(header, "RescaleSlope", 0.5))
    (series,) = find_series(tmp_path)
    volume = read_ct(series)
    assert volume.array.dtype == np.float32 and volume.array.min() == 24 * 0.5 - 1024


def test_ct_that_is_not_in_hu_is_refused(tmp_path) -> None:
    with pytest.raises(CaseError, match="RescaleType .0028,1054. US, not HU"):
        read_dicom(study(tmp_path, ct={"fields": {"RescaleType": "US"}}), Limits())


def test_loss_of_compression_is_warned_about(tmp_path) -> None:
    found = read_dicom(study(tmp_path, ct={"fields": {"LossyImageCompression": "01"}}), Limits())
    assert "compressed with loss" in found.case.warnings[0]


def test_voxels_that_no_scanner_makes_are_refused(tmp_path) -> None:
    with pytest.raises(CaseError, match="every edge must be 0.1 to 50 mm"):
        read_dicom(study(tmp_path, {"stored": ramp(), "spacing_mm": (400.0, 4.0, 3.0)}), Limits())


# The real sets; no shared function computes what is expected


def unpacked(archive: Path, folder: Path) -> Path:
    if not archive.is_file():
        pytest.skip(f"'{archive}' is not there")
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder)
    return folder


@pytest.mark.slow
def test_a_real_ge_pet_has_the_suv_of_its_published_crop(real_data, tmp_path) -> None:
    folder = unpacked(real_data / "dicom/sts001_ge_wholebody_pet.zip", tmp_path)
    (series,) = [s for s in find_series(folder) if s.modality == "PT"]
    volume, conversion = read_pet(series)
    crop = sitk.ReadImage(str(real_data / "sts/STS_001/SUV.nii.gz"))
    expected = sitk.GetArrayFromImage(crop)
    depth, height, width = expected.shape
    found = volume.array[:depth, 45 : 45 + height, 59 : 59 + width]
    assert np.abs(found - expected).max() <= 0.001
    np.testing.assert_allclose(volume.image.TransformIndexToPhysicalPoint((59, 45, 0)), crop.GetOrigin(), atol=1e-3)
    assert volume.array.shape == (267, 128, 128) and conversion.warnings == ()
    assert conversion.factor == pytest.approx(71_000 / (388_777_472 * 2 ** (-2711 / 6588)))  # 10:35:00 to 11:20:11


def test_a_real_study_has_the_suv_and_hu_of_its_published_images(real_data, tmp_path) -> None:
    folder = unpacked(real_data / "dicom/sts019_pet_ct_suv.zip", tmp_path)
    case = read_dicom(folder, Limits()).case
    for volume, name, limit in ((case.pet, "SUV", 0.001), (case.ct, "CT", 0)):
        expected = sitk.ReadImage(str(real_data / f"sts/STS_019/{name}.nii.gz"))
        assert np.abs(volume.array - sitk.GetArrayFromImage(expected)).max() <= limit
        assert volume.grid.equals(grid_of(expected))
    assert case.warnings == ()
