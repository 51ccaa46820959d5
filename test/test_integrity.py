"""NaN in NIfTI, which ITK's reader turns into 0; what else integrity refuses is in test_reading and bad_inputs."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from model import integrity
from model.errors import CaseError
from model.integrity import check_bytes


def nifti(array: np.ndarray, version: int = 1, before: int = 0, after: bytes = b"") -> bytes:
    """A NIfTI file by the fields of nifti1.h and nifti2.h that say where its data are."""
    order = ">" if array.dtype.byteorder == ">" else "<"
    datatype = {"f4": 16, "f8": 64, "i2": 4}[array.dtype.str[1:]]
    size, dim_at, type_at, offset_at, kinds = {1: (348, 40, 70, 108, "hf"), 2: (540, 40 - 24, 12, 168, "qq")}[version]
    offset = size + 4 + before
    head = bytearray(offset)
    struct.pack_into(f"{order}i", head, 0, size)
    struct.pack_into(f"{order}8{kinds[0]}", head, dim_at, 3, *reversed(array.shape), 1, 1, 1, 1)
    struct.pack_into(f"{order}2h", head, type_at, datatype, array.dtype.itemsize * 8)
    struct.pack_into(f"{order}{kinds[1]}", head, offset_at, offset)
    return bytes(head) + array.tobytes() + after


def write(folder: Path, content: bytes, compressed: bool) -> Path:
    path = folder / ("p.nii.gz" if compressed else "p.nii")
    path.write_bytes(gzip.compress(content) if compressed else content)
    return path


@pytest.mark.parametrize("chunk", [100, 777, 1 << 22])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(("kind", "version"), [("<f4", 1), (">f4", 1), ("<f8", 1), ("<f4", 2), (">f8", 2)])
def test_values_that_are_not_finite_are_counted(
    kind: str, version: int, compressed: bool, chunk: int, tmp_path, monkeypatch
) -> None:
    """Three of them; a fourth lies before the data and a fifth behind, where no voxel is."""
    monkeypatch.setattr(integrity, "CHUNK_BYTES", chunk)
    array = np.ones((5, 6, 7), kind)
    array[0, 0, 0], array[2, 3, 4], array[4, 5, 6] = np.nan, np.inf, -np.inf
    stray = np.array([np.nan], kind).tobytes()
    content = nifti(array, version, before=60, after=stray)
    with pytest.raises(CaseError, match="has 3 voxels that are NaN or infinite; replace them first"):
        check_bytes(write(tmp_path, content, compressed), "PET")
    check_bytes(write(tmp_path, nifti(np.ones((5, 6, 7), kind), version, after=stray), compressed), "PET")


def test_whole_numbers_are_never_nan(tmp_path) -> None:
    """0x7fc0 twice is a NaN of four bytes, and two voxels of a CT."""
    check_bytes(write(tmp_path, nifti(np.full((5, 6, 8), 0x7FC0, "<i2")), False), "CT")


def test_the_reader_would_have_made_zeros_of_them(tmp_path) -> None:
    """Why they are counted in the bytes: SimpleITK 2 writes NaN and reads 0."""
    array = np.ones((5, 6, 7), np.float32)
    array[1, 1, 1] = np.nan
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / "p.nii.gz"))
    assert sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "p.nii.gz")))[1, 1, 1] == 0
    with pytest.raises(CaseError, match="has 1 voxels"):
        check_bytes(tmp_path / "p.nii.gz", "PET")


def test_a_header_that_asks_for_more_is_told(tmp_path) -> None:
    content = nifti(np.ones((5, 6, 7), "<f4"))
    with pytest.raises(CaseError, match=f"it has {len(content) - 4} bytes, its header asks for {len(content)}"):
        check_bytes(write(tmp_path, content[:-4], True), "PET")
