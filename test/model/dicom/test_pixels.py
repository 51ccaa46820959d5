"""Slices in several compressions, and damaged ones."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_writer import write_ct, write_pet
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from model.dicom.pixels import read_values
from model.errors import CaseError

STORED = np.random.default_rng(2).integers(-900, 20000, (6, 40, 36)).astype(np.int16)
SLICE_2 = STORED[2] * 1.5 - 7.0  # the third slice of the writer: slope 1 + 2 x 0.25


def one_slice(folder: Path, **changes) -> Path:
    return write_pet(folder, STORED, fields={"RescaleIntercept": -7}, **changes)[2]


def compress(path: Path, compressor: str, syntax: str) -> None:
    """Put the pixels of a file into another compression, made by GDCM."""
    data, made = pydicom.dcmread(path), path.with_name("made.dcm")
    image = sitk.GetImageFromArray(data.pixel_array[None])
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.SetFileName(str(made))
    writer.SetUseCompression(True)
    writer.SetCompressor(compressor)
    writer.Execute(image)
    other = pydicom.dcmread(made)
    made.unlink()
    assert other.file_meta.TransferSyntaxUID == syntax
    data.PixelData, data.file_meta.TransferSyntaxUID = other.PixelData, UID(syntax)
    data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
    data.save_as(path)


def test_values_are_rescaled_by_the_slices_own_slope(tmp_path) -> None:
    np.testing.assert_array_equal(read_values(one_slice(tmp_path)), SLICE_2)


@pytest.mark.parametrize(
    "compressor, syntax",
    [
        ("JPEG", "1.2.840.10008.1.2.4.70"),
        ("JPEG2000", "1.2.840.10008.1.2.4.90"),
    ],
)
def test_compressed_files_give_the_same_values(compressor: str, syntax: str, tmp_path) -> None:
    path = one_slice(tmp_path)
    compress(path, compressor, syntax)
    np.testing.assert_array_equal(read_values(path), SLICE_2)


@pytest.mark.parametrize("syntax", [RLELossless, DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_rle_deflated_and_implicit_files_give_the_same_values(syntax: UID, tmp_path) -> None:
    path = one_slice(tmp_path)
    data = pydicom.dcmread(path)
    if syntax == RLELossless:
        data.compress(RLELossless)
    data.file_meta.TransferSyntaxUID = syntax
    data.save_as(path, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=True)
    np.testing.assert_array_equal(read_values(path), SLICE_2)


def test_a_file_without_preamble_is_read(tmp_path) -> None:
    path = one_slice(tmp_path)
    data = pydicom.dcmread(path)
    data.remove_private_tags()
    old = pydicom.Dataset(data)
    old.save_as(path, implicit_vr=True, little_endian=True, enforce_file_format=False)
    assert path.read_bytes()[128:132] != b"DICM"
    np.testing.assert_array_equal(read_values(path), SLICE_2)


def test_a_compression_that_nothing_reads_is_refused_with_a_way_out(tmp_path) -> None:
    path = one_slice(tmp_path)
    compress(path, "JPEG2000", "1.2.840.10008.1.2.4.90")
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.100")
    data.save_as(path)
    with pytest.raises(CaseError, match="transfer syntax MPEG2.*decompress the series first"):
        read_values(path)


def test_ct_padding_becomes_air(tmp_path) -> None:
    stored = np.full((2, 4, 5), 1000, np.int16)
    stored[:, 0] = -2000
    paths = write_ct(tmp_path, stored, fields={"PixelPaddingValue": -2000})
    assert read_values(paths[0])[:, 0].tolist() == [-1024.0, -24.0, -24.0, -24.0]


@pytest.mark.parametrize("cut", [0, 60, 200, 700, -30])
def test_files_that_were_cut_short_are_refused(cut: int, tmp_path) -> None:
    path = one_slice(tmp_path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CaseError, match=f"'{path}'"):
        read_values(path)


def test_damage_anywhere_in_a_file_is_either_refused_or_harmless(tmp_path) -> None:
    path, rng = one_slice(tmp_path), np.random.default_rng(1)
    whole = path.read_bytes()
    for _ in range(60):
        broken = bytearray(whole)
        broken[int(rng.integers(132, len(whole)))] = int(rng.integers(256))
        path.write_bytes(broken)
        try:
            assert read_values(path).shape == (40, 36)
        except CaseError as error:
            assert str(path) in str(error)


def test_no_rescale_slope_is_refused(tmp_path) -> None:
    for slope in (0, None):
        with pytest.raises(CaseError, match="RescaleSlope .0028,1053. (None|0.0) .*have no unit"):
            read_values(one_slice(tmp_path, edit=lambda header, z, slope=slope: setattr(header, "RescaleSlope", slope)))
