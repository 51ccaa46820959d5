"""Slices in order, complete and on one grid; where voxels lie is arithmetic on the writer's settings."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_writer import PT, ramp, write_ct, write_pet

from model.dicom.headers import find_series
from model.dicom.series import order_slices
from model.errors import CaseError
from model.study.geometry import Grid

SPACING = (4.0, 5.0, 3.0)
ORIGIN = (-10.0, 20.0, -300.0)


def ordered(folder: Path, modality: str = "PT") -> tuple[list[int], Grid]:
    """InstanceNumber of each slice of the volume (the writer counts down: z = 0 has the highest), and the grid."""
    (series,) = find_series(folder)
    headers, grid = order_slices(series, modality)
    return [int(h.InstanceNumber) for h in headers], grid


def turned(angles: tuple[float, float, float]) -> list[float]:
    """ImageOrientationPatient of a patient turned about x, y and z, in degrees."""
    transform = sitk.Euler3DTransform((0.0, 0.0, 0.0), *np.radians(angles))
    matrix = np.array(transform.GetMatrix()).reshape(3, 3)
    return [f"{v:.8f}" for v in (*matrix[:, 0], *matrix[:, 1])]


ORIENTATIONS = {
    "upright": [1, 0, 0, 0, 1, 0],
    "rows flipped": [-1, 0, 0, 0, 1, 0],
    "columns flipped": [1, 0, 0, 0, -1, 0],
    "prone": [-1, 0, 0, 0, -1, 0],
    "sagittal": [0, 1, 0, 0, 0, -1],
    "coronal": [1, 0, 0, 0, 0, -1],
    "oblique": turned((10, -20, 35)),
}


@pytest.mark.parametrize("forward", [True, False], ids=["forward", "backward"])
@pytest.mark.parametrize("name", ORIENTATIONS)
def test_every_voxel_lies_where_its_slices_header_says(name: str, forward: bool, tmp_path) -> None:
    orientation = [float(v) for v in ORIENTATIONS[name]]
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    step = 3.0 * np.cross(row, column) * (1 if forward else -1)
    write_pet(tmp_path, spacing_mm=SPACING, origin_mm=ORIGIN, orientation=orientation, step=step)
    numbers, grid = ordered(tmp_path)
    assert numbers == ([6, 5, 4, 3, 2, 1] if forward else [1, 2, 3, 4, 5, 6])
    image = sitk.Image(*grid.size, sitk.sitkUInt8)
    image.SetSpacing(grid.spacing_mm)
    image.SetOrigin(grid.origin_mm)
    image.SetDirection(grid.direction)
    for x, y, z in ((0, 0, 0), (4, 3, 5), (1, 2, 3)):  # DICOM PS3.3, equation C.7.6.2.1-1
        expected = np.array(ORIGIN) + 4.0 * x * row + 5.0 * y * column + z * step
        found = image.TransformIndexToPhysicalPoint((x, y, z if forward else 5 - z))
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.linalg.det(np.array(grid.direction).reshape(3, 3)) == pytest.approx(1)


def test_the_grid_is_that_of_gdcm(tmp_path) -> None:
    paths = write_pet(tmp_path, spacing_mm=SPACING, origin_mm=ORIGIN, orientation=[float(v) for v in turned((5, 8, 3))])
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    image, (_, grid) = reader.Execute(), ordered(tmp_path)
    assert len(paths) == grid.size[2]
    np.testing.assert_allclose(grid.direction, image.GetDirection(), atol=1e-6)
    np.testing.assert_allclose(grid.origin_mm, image.GetOrigin(), atol=1e-6)
    np.testing.assert_allclose(grid.spacing_mm, image.GetSpacing(), atol=1e-6)


def test_positions_rounded_to_a_tenth_are_even(tmp_path) -> None:
    def edit(header, z: int) -> None:
        header.ImagePositionPatient = [0, 0, round(0.625 * z, 1)]

    write_ct(tmp_path, np.zeros((9, 4, 5), np.uint16), edit=edit)
    assert ordered(tmp_path, "CT")[1].spacing_mm[2] == pytest.approx(0.625)


def test_a_missing_slice_inside_is_refused(tmp_path) -> None:
    write_pet(tmp_path, leave_out=[2], fields={"NumberOfSlices": None})
    with pytest.raises(CaseError, match=r"missing slices: between .*slice037-1.* are 6 mm, elsewhere 3 mm"):
        ordered(tmp_path)


def test_a_missing_slice_at_the_end_is_refused_where_the_header_counts(tmp_path) -> None:
    write_pet(tmp_path, leave_out=[5])
    with pytest.raises(CaseError, match=r"missing slices: 5 files, .* NumberOfSlices \(0054,0081\) 6"):
        ordered(tmp_path)


def test_a_slice_twice_is_refused(tmp_path) -> None:
    paths = write_pet(tmp_path)
    (tmp_path / "copy.dcm").write_bytes(paths[3].read_bytes())
    with pytest.raises(CaseError, match=r"doubled slices: .*copy.dcm.* lie in one place \(1 such"):
        ordered(tmp_path)


def test_two_frames_in_time_are_refused(tmp_path) -> None:
    write_pet(tmp_path / "a")
    write_pet(tmp_path / "b")
    with pytest.raises(CaseError, match=r"doubled slices: .*\(6 such pairs\).*dynamic or gated"):
        ordered(tmp_path)


def test_gantry_tilt_is_refused(tmp_path) -> None:
    angle = np.radians(10)  # slices are turned about x, and still move along z
    write_ct(tmp_path, orientation=[1, 0, 0, 0, float(np.cos(angle)), float(np.sin(angle))], step=(0, 0, 3))
    with pytest.raises(CaseError, match="beside the normal .* gantry tilt"):
        ordered(tmp_path, "CT")


def test_a_stated_tilt_of_upright_slices_is_refused(tmp_path) -> None:
    write_ct(tmp_path, fields={"GantryDetectorTilt": 12.5})
    with pytest.raises(CaseError, match="GantryDetectorTilt 12.5 degrees .limit 0.5., but upright"):
        ordered(tmp_path, "CT")


def test_uneven_spacing_is_refused(tmp_path) -> None:
    def edit(header, z: int) -> None:
        header.ImagePositionPatient = [0, 0, 3 * z + 0.4 * (z > 2)]

    write_pet(tmp_path, edit=edit)
    with pytest.raises(CaseError, match="uneven spacing: 3 to 3.4 mm between slices"):
        ordered(tmp_path)


@pytest.mark.parametrize(
    "keyword, value",
    [
        ("FrameOfReferenceUID", "1.2.3.77"),
        ("SeriesInstanceUID", "1.2.3.78"),
        ("PixelSpacing", [4.0, 4.1]),
        ("ImageOrientationPatient", [0, 1, 0, -1, 0, 0]),
    ],
)
def test_two_series_mixed_are_refused(keyword: str, value, tmp_path) -> None:
    def edit(header, z: int) -> None:
        if z == 4:
            setattr(header, keyword, value)

    paths = write_pet(tmp_path, edit=edit)
    both = [header for series in find_series(paths) for header in series.headers]
    series = find_series(paths)[0]
    mixed = type(series)(uid="", modality="PT", description="", files=tuple(paths), headers=tuple(both))
    with pytest.raises(CaseError, match=f"differ in {keyword} .*two series are mixed"):
        order_slices(mixed, "PT")


def test_slices_of_two_sizes_are_refused(tmp_path) -> None:
    write_pet(tmp_path, leave_out=[5])
    write_pet(tmp_path / "more", np.zeros((6, 5, 5), np.int16), leave_out=range(5))
    with pytest.raises(CaseError, match="differ in Rows"):
        ordered(tmp_path)


def test_a_scout_among_the_slices_is_refused(tmp_path) -> None:
    write_ct(tmp_path, fields={"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]})
    with pytest.raises(CaseError, match="is a scout"):
        ordered(tmp_path, "CT")


@pytest.mark.parametrize(
    "fields",
    [
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.130"},
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.128.1"},
        {"NumberOfFrames": 6},
    ],
)
def test_multi_frame_dicom_is_refused_with_a_way_out(fields: dict, tmp_path) -> None:
    write_pet(tmp_path, fields=fields)
    with pytest.raises(CaseError, match="multi-frame DICOM .* one slice a file first"):
        ordered(tmp_path)


def test_a_projection_is_refused(tmp_path) -> None:
    write_pet(tmp_path, fields={"SeriesType": ["WHOLE BODY", "REPROJECTION"]})
    with pytest.raises(CaseError, match="is a projection"):
        ordered(tmp_path)


def test_a_screenshot_is_refused(tmp_path) -> None:
    write_pet(tmp_path, fields={"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"})
    with pytest.raises(CaseError, match="is Secondary Capture Image Storage, not PET Image Storage"):
        ordered(tmp_path)


def test_a_single_slice_is_refused(tmp_path) -> None:
    write_pet(tmp_path, ramp(1))
    with pytest.raises(CaseError, match="one slice; a volume needs at least 2"):
        ordered(tmp_path)


@pytest.mark.parametrize("keyword", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"])
def test_slices_without_a_place_are_refused(keyword: str, tmp_path) -> None:
    def edit(header, z: int) -> None:
        delattr(header, keyword)

    write_pet(tmp_path, edit=edit)
    with pytest.raises(CaseError, match=f"{keyword} .* absent; it must hold"):
        ordered(tmp_path)


def test_an_orientation_that_is_no_rotation_is_refused(tmp_path) -> None:
    write_pet(tmp_path, orientation=[1, 0, 0, 0.5, 0.5, 0])
    with pytest.raises(CaseError, match="not two unit vectors at a right angle"):
        ordered(tmp_path)


def test_the_writer_names_files_out_of_order(tmp_path) -> None:
    paths = write_pet(tmp_path)
    assert sorted(paths) != paths and find_series(tmp_path)[0].headers[0].SOPClassUID == PT
