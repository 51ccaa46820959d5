"""NIfTI headers, written here field by field by nifti1.h; values and places are compared with nibabel."""

import gzip
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from nifti_writer import ARRAY, ORIGIN, ROWS, SPACING, content

from model.errors import CaseError
from model.study import stored
from model.study.nifti import nifti_header
from model.study.reading import read_volume


def write(folder: Path, data: bytes, packed: bool = False) -> Path:
    path = folder / ("p.nii.gz" if packed else "p.nii")
    path.write_bytes(gzip.compress(data) if packed else data)
    return path


def refused(folder: Path, message: str, packed: bool = False, **changes: object) -> None:
    with pytest.raises(CaseError, match=message):
        read_volume(write(folder, content(**changes), packed), "PET")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["<i2", ">i2", "<f4", ">f8", "u1"])
def test_values_and_places_are_nibabels(kind: str, packed: bool, tmp_path) -> None:
    turned = np.array([[0, -5, 0], [5, 0, 0], [0, 0, 4.0]])
    rows = tuple(np.column_stack([turned, ORIGIN]).ravel())
    half = float(np.sqrt(0.5))
    path = write(tmp_path, content(ARRAY.astype(kind), rows=rows, quaternion=(0, 0, half, *ORIGIN)), packed)
    volume, other = read_volume(path, "PET"), nibabel.load(path)
    np.testing.assert_array_equal(volume.array, other.get_fdata().T)
    affine = np.diag([-1, -1, 1, 1]) @ other.affine
    np.testing.assert_allclose(volume.grid.origin_mm, affine[:3, 3])
    own = np.array(volume.grid.direction).reshape(3, 3) * volume.grid.spacing_mm
    np.testing.assert_allclose(own, affine[:3, :3], atol=1e-5)


@pytest.mark.parametrize("slope", [0.0, float("nan")])
def test_a_slope_of_zero_or_nan_scales_nothing(slope: float, tmp_path) -> None:
    path = write(tmp_path, content(scaling=(slope, 0.0)))
    np.testing.assert_array_equal(read_volume(path, "PET").array, ARRAY)


@pytest.mark.parametrize("packed", [False, True])
def test_scaled_values_are_those_of_the_header(packed: bool, tmp_path) -> None:
    path = write(tmp_path, content(scaling=(0.25, -1024.0)), packed)
    np.testing.assert_allclose(read_volume(path, "PET").array, ARRAY * 0.25 - 1024)


@pytest.mark.parametrize("length", [1, 4, 347, 348, 349, 351, 352, 400, 543])
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_cut_off_anywhere_is_refused(length: int, packed: bool, tmp_path) -> None:
    with pytest.raises(CaseError, match="cut off or damaged"):
        read_volume(write(tmp_path, content()[:length], packed), "PET")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dim", [(3, 5, 5, 6, 1, 1, 1, 1), (3, 6, 5, 3, 1, 1, 1, 1), (3, 6, 5, 5, 1, 1, 1, 1)])
def test_other_sizes_than_the_voxels_have_are_refused(dim: tuple, packed: bool, tmp_path) -> None:
    refused(tmp_path, "its header asks for", packed, dim=dim)


def test_a_length_of_one_in_the_fourth_dimension_is_no_dimension(tmp_path) -> None:
    assert read_volume(write(tmp_path, content(dim=(5, 6, 5, 4, 1, 1, 7, 0))), "PET").grid.size == (6, 5, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pixdim": (1, float("nan"), 5, 4, 1, 1, 1, 1)}, "pixdim = .nan, 5, 4."),
        ({"pixdim": (1, 0, 5, 4, 1, 1, 1, 1)}, "pixdim = .0, 5, 4."),
        ({"pixdim": (1, -5, 5, 4, 1, 1, 1, 1)}, "pixdim"),
        ({"pixdim": (3, 5, 5, 4, 1, 1, 1, 1)}, r"pixdim\[0\] = 3"),
        ({"codes": (0, 0)}, "qform_code and sform_code are 0"),
        ({"codes": (1, 900)}, "sform_code = 900"),
        ({"units": 1}, "lengths in metres"),
        ({"units": 3}, "lengths in micrometres"),
        ({"magic": b"ni1\0"}, "no NIfTI in one file"),
        ({"magic": b"\0\0\0\0"}, "no NIfTI in one file"),
        ({"type": (128, 24)}, "datatype = 128, which is not supported"),
        ({"type": (4, 8)}, "datatype = 4 with bitpix = 8"),
        ({"vox_offset": 348.0}, "vox_offset = 348, not 352 or more"),
        ({"vox_offset": 352.5}, "vox_offset"),
        ({"dim": (0, 6, 5, 4, 1, 1, 1, 1)}, "0 dimensions"),
        ({"dim": (3, 6, -5, 4, 1, 1, 1, 1)}, "dim = "),
        ({"scaling": (float("inf"), 0.0)}, "scl_slope = inf"),
        ({"scaling": (2.0, float("nan"))}, "scl_inter = nan"),
        ({"scaling": (0.0, 7.0)}, "scl_slope = 0 and scl_inter = 7"),
        ({"size": 540}, "NIfTI-2, which is not supported; convert it to NIfTI-1"),
        ({"size": 0}, "does not begin as a NIfTI does"),
        ({"quaternion": (0, 0, 1.2, *ORIGIN)}, "no rotation"),
        ({"rows": (5, 0, 0, float("nan"), *ROWS[4:])}, "sform holds NaN"),
    ],
)
def test_a_field_that_the_reader_would_replace_is_refused(changes: dict, message: str, tmp_path) -> None:
    refused(tmp_path, message, **changes)


def test_a_qform_and_an_sform_50_mm_apart_are_refused_with_both(tmp_path) -> None:
    refused(
        tmp_path,
        r"disagree, by 50 mm at a corner .*sform .*\(-97.5, -90, 12\), qform .*\(-97.5, -90, 62\)",
        quaternion=(0, 0, 0, -97.5, -90, 62),
    )


@pytest.mark.parametrize("codes", [(1, 1), (0, 1), (1, 2)])
def test_two_sizes_of_a_voxel_are_refused_with_both(codes: tuple[int, int], tmp_path) -> None:
    refused(tmp_path, r"pixdim \(4, 4, 4\) mm and sform \(5, 5, 4\) mm", codes=codes, pixdim=(1, 4, 4, 4, 1, 1, 1, 1))


def test_rows_without_a_spacing_are_refused(tmp_path) -> None:
    """An sform of ones beside a pixdim of 0.87 mm, as a PET software writes it."""
    refused(
        tmp_path,
        "two sizes of a voxel",
        codes=(0, 1),
        rows=(1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0),
        pixdim=(1, 0.87, 0.87, 0.8, 1, 1, 1, 1),
    )


def test_an_unused_form_may_hold_anything(tmp_path) -> None:
    for codes in ((1, 0), (0, 1)):
        odd = {"rows": (float("nan"),) * 12} if codes == (1, 0) else {"quaternion": (9, 9, 9, 0, 0, float("nan"))}
        assert read_volume(write(tmp_path, content(codes=codes, **odd)), "PET").grid.spacing_mm == SPACING


@pytest.mark.parametrize("shear", [1e-5, 3e-4, 5e-4, 0.001, 0.0056, 0.4])
def test_a_sheared_sform_is_read_within_the_limit_and_refused_beyond(shear: float, tmp_path) -> None:
    """shear / 4 is the cosine between two axes; the limit is 1e-4."""
    rows = (5, 0, shear, -97.5, *ROWS[4:])
    path = write(tmp_path, content(codes=(0, 1), rows=rows))
    if shear / 4 < 1e-4:
        read_volume(path, "PET")
    else:
        with pytest.raises(CaseError, match="sheared or tilted volume; resample it"):
            read_volume(path, "PET")


def test_a_name_in_gz_must_hold_gzip(tmp_path) -> None:
    (tmp_path / "p.nii.gz").write_bytes(content())
    with pytest.raises(CaseError, match="does not begin as gzip"):
        read_volume(tmp_path / "p.nii.gz", "PET")


def test_a_header_and_an_image_in_two_files_are_told_apart_by_their_endings(tmp_path) -> None:
    (tmp_path / "p.hdr").write_bytes(content(magic=b"ni1\0")[:348])
    with pytest.raises(CaseError, match="is none of .mha.*; convert it first"):
        read_volume(tmp_path / "p.hdr", "PET")


@pytest.mark.parametrize("chunk", [100, 777, 1 << 22])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["<f4", ">f4", "<f8", ">f8"])
def test_values_that_are_not_finite_are_counted(kind: str, packed: bool, chunk: int, tmp_path, monkeypatch) -> None:
    """Three of them; a fourth lies before the voxels. ITK's reader would make zeros of them."""
    monkeypatch.setattr(stored, "CHUNK_BYTES", chunk)
    array = np.ones((5, 6, 7), kind)
    array[0, 0, 0], array[2, 3, 4], array[4, 5, 6] = np.nan, np.inf, -np.inf
    stray = np.full(16, np.nan, kind).tobytes()
    with pytest.raises(CaseError, match="has 3 voxels that are NaN or infinite; replace them first"):
        read_volume(write(tmp_path, content(array, more=stray), packed), "PET")
    read_volume(write(tmp_path, content(np.ones((5, 6, 7), kind), more=stray), packed), "PET")


def test_whole_numbers_are_never_nan(tmp_path) -> None:
    """0x7fc0 twice is a NaN of four bytes, and two voxels of a CT."""
    read_volume(write(tmp_path, content(np.full((5, 6, 8), 0x7FC0, "<i2"))), "CT")


def test_the_reader_would_have_made_zeros_of_them(tmp_path) -> None:
    """Why they are counted in the bytes: SimpleITK 2 writes NaN and reads 0."""
    array = np.ones((5, 6, 7), np.float32)
    array[1, 1, 1] = np.nan
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / "p.nii.gz"))
    assert sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "p.nii.gz")))[1, 1, 1] == 0
    with pytest.raises(CaseError, match="has 1 voxels"):
        read_volume(tmp_path / "p.nii.gz", "PET")


def test_both_forms_give_a_grid(tmp_path) -> None:
    header = nifti_header(write(tmp_path, content()))
    assert header.offset == 352 and header.bytes == 240
    assert {grid.origin_mm for grid in header.grids} == {(97.5, 90.0, 12.0)}


@pytest.mark.parametrize("turn", [0.0, 0.3, np.pi - 1e-4, np.pi])
@pytest.mark.parametrize("side", [1, -1])
def test_what_simpleitk_writes_of_a_turned_whole_body_is_one_place(turn: float, side: int, tmp_path) -> None:
    """A quaternion in float32 is rough near 180 degrees; 500 x 500 x 600 voxels away that is still little."""
    axis = np.array([0.6, -0.48, 0.64])
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    matrix = np.eye(3) + np.sin(turn) * cross + (1 - np.cos(turn)) * cross @ cross  # Rodrigues
    image = sitk.Image(2, 2, 2, sitk.sitkFloat32)
    image.SetSpacing((2.0, 2.0, 3.0))
    image.SetDirection((matrix * [1, 1, side]).ravel())
    sitk.WriteImage(image, str(tmp_path / "p.nii"))
    written = bytearray((tmp_path / "p.nii").read_bytes())
    struct.pack_into("<3h", written, 42, 500, 500, 600)
    (tmp_path / "p.nii").write_bytes(written)
    assert len(nifti_header(tmp_path / "p.nii").grids) == 4


def test_half_a_voxel_between_the_two_forms_is_refused(tmp_path) -> None:
    refused(tmp_path, "disagree, by 2.5 mm", quaternion=(0, 0, 0, -95, -90, 12))
