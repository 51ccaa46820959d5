"""MetaImage headers, written here line by line."""

import zlib
from pathlib import Path

import numpy as np
import pytest
from metaimage_writer import ARRAY, write

from model.errors import CaseError
from model.study.integrity import data_file
from model.study.reading import read_volume


def refused(path: Path, message: str) -> None:
    with pytest.raises(CaseError, match=message):
        read_volume(path, "PET")


def test_a_good_file_lies_where_its_lines_say(tmp_path) -> None:
    """The lines of the matrix are the directions of the axes: x runs along patient y, y against patient x."""
    volume = read_volume(write(tmp_path), "PET")
    np.testing.assert_array_equal(volume.array, ARRAY)
    assert volume.grid.spacing_mm == (4, 5, 6) and volume.grid.origin_mm == (1, -2, 3.5)
    assert volume.grid.direction == (0, -1, 0, 1, 0, 0, 0, 0, 1)


@pytest.mark.parametrize(
    "line", ["", "   ", "Comment = a = b", "0010|0010 = Yamada=\x1b$B;3ED", "ITK_InputFilterName = MetaImageIO"]
)
def test_lines_that_say_nothing_of_the_image_are_passed_over(line: str, tmp_path) -> None:
    np.testing.assert_array_equal(read_volume(write(tmp_path, line), "PET").array, ARRAY)


def test_one_flipped_bit_is_found_in_a_compressed_file_with_a_blank_line_in_its_header(tmp_path) -> None:
    stream = zlib.compress(ARRAY.tobytes())
    for bit in range(0, len(stream) * 8, 7):
        damaged = bytearray(stream)
        damaged[bit // 8] ^= 1 << bit % 8
        path = write(tmp_path, "", data=bytes(damaged), CompressedData="True", CompressedDataSize=str(len(stream)))
        try:
            np.testing.assert_array_equal(read_volume(path, "PET").array, ARRAY)  # a bit that says nothing
        except CaseError as error:
            assert "cut off or damaged" in str(error)


@pytest.mark.parametrize("size", ["1", "20", "100000", "x", "-5"])
@pytest.mark.parametrize("beside", ["", "p.zraw"])
def test_a_wrong_length_of_the_stream_is_refused(size: str, beside: str, tmp_path) -> None:
    stream = zlib.compress(ARRAY.tobytes())
    (tmp_path / "p.zraw").write_bytes(stream)
    path = write(tmp_path, data=stream, beside=beside, CompressedData="True", CompressedDataSize=size)
    refused(path, "cut off or damaged")
    good = write(tmp_path, data=stream, beside=beside, CompressedData="True", CompressedDataSize=str(len(stream)))
    np.testing.assert_array_equal(read_volume(good, "PET").array, ARRAY)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ElementToIntensityFunctionSlope": "2"}, "Slope = 2, which is not supported; apply it"),
        ({"ElementToIntensityFunctionOffset": "-1024"}, "Offset = -1024, which is not supported"),
        ({"ElementSpacing": None}, "has no ElementSpacing"),
        ({"ElementSpacing": None, "ElementSize": "4 5 6"}, "has no ElementSpacing"),
        ({"ElementSpacing": "nan 5 6"}, "ElementSpacing = nan"),
        ({"ElementSpacing": "4 5"}, "ElementSpacing = 4 5, not 3 finite numbers"),
        ({"ElementSpacing": "4,0 5 6"}, "ElementSpacing = 4,0"),
        ({"ElementSpacing": "1_0 5 6"}, "ElementSpacing = 1_0"),
        ({"ElementSpacing": None, "elementspacing": "4 5 6"}, "is it misspelled"),
        ({"Offset": None, "Offzet": "1 2 3"}, "'Offzet' and no Offset: is it misspelled"),
        ({"Offset": "-232.n1 2 3"}, "Offset = -232.n1"),
        ({"Origin": "9 9 9"}, "Offset = 1 -2 3.5 and Origin = 9 9 9"),
        ({"TransformMatrix": "1 0 0 0 1 0 0 0"}, "not 9 finite numbers"),
        ({"DimSize": "6 5 4.0"}, "DimSize"),
        ({"DimSize": "5 6 5"}, "its header asks for 300"),
        ({"DimSize": "6 5 3"}, "its header asks for 180"),
        ({"DistanceUnits": "cm"}, "DistanceUnits = cm"),
        ({"BinaryData": "False"}, "BinaryData = False"),
        ({"BinaryDataByteOrderMSB": "Yes"}, "not True or False"),
        ({"HeaderSize": "2"}, "HeaderSize = 2, which is not supported"),
        ({"ElementType": "MET_LONG"}, "ElementType = MET_LONG, which is not supported"),
        ({"ObjectType": "Tube"}, "ObjectType = Tube"),
    ],
)
def test_a_line_that_the_reader_would_take_otherwise_is_refused(changes: dict, message: str, tmp_path) -> None:
    refused(write(tmp_path, **changes), message)


@pytest.mark.parametrize(
    "line", ["a line", "DistanceUnits = m\x00m", "Offset: 1 2 3", "= 4", "Comm\x07ent = x", "Offset = 9 9 9"]
)
def test_a_line_that_cannot_be_read_is_named_by_its_number(line: str, tmp_path) -> None:
    refused(write(tmp_path, line), "line 11 of its header")


@pytest.mark.parametrize("name", ["LIST", "LIST 2", "p%03d.raw 1 4 1"])
def test_voxels_in_several_files_are_refused(name: str, tmp_path) -> None:
    refused(write(tmp_path, beside=name), "several files are not supported; convert it to one file")


def test_a_data_file_is_found_whatever_else_the_header_says(tmp_path) -> None:
    (tmp_path / "p.raw").write_bytes(b"")
    assert data_file(write(tmp_path, beside="p.raw", ElementSpacing=None)) == tmp_path / "p.raw"
    assert data_file(write(tmp_path, beside="gone.raw")) is None


def test_a_stream_whose_length_is_not_stated_is_never_read_as_something_else(tmp_path) -> None:
    """SimpleITK 2.5 inflates the header of an .mha without CompressedDataSize; beside an .mhd it finds the length."""
    stream = zlib.compress(ARRAY.tobytes())
    (tmp_path / "p.zraw").write_bytes(stream)
    path = write(tmp_path, data=stream, CompressedData="True")
    try:
        np.testing.assert_array_equal(read_volume(path, "PET").array, ARRAY)
    except CaseError as error:
        assert "is its header's CompressedDataSize right" in str(error)
    beside = write(tmp_path, beside="p.zraw", CompressedData="True")
    np.testing.assert_array_equal(read_volume(beside, "PET").array, ARRAY)


@pytest.mark.parametrize("end", [b"", b"abcd"])
def test_a_stream_without_its_checksum_or_with_another_is_refused(end: bytes, tmp_path) -> None:
    """SimpleITK 2.5 takes both."""
    stream = zlib.compress(ARRAY.tobytes())[:-4] + end
    path = write(tmp_path, data=stream, CompressedData="True", CompressedDataSize=str(len(stream)))
    refused(path, "cut off or damaged")


def test_a_negative_spacing_is_refused(tmp_path) -> None:
    """SimpleITK 2.5 turns the axis round in its place."""
    refused(write(tmp_path, ElementSpacing="4 -5 6"), "spacing .4.0, -5.0, 6.0. mm; every value must be above 0")
