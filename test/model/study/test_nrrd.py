"""NRRD headers, written here line by line; values and places are compared with pynrrd."""

import gzip
from pathlib import Path

import nrrd
import numpy as np
import pytest
from nrrd_writer import ARRAY, write

from model.errors import CaseError
from model.study.reading import read_volume


def refused(path: Path, message: str) -> None:
    with pytest.raises(CaseError, match=message):
        read_volume(path, "PET")


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
@pytest.mark.parametrize(
    ("space", "signs"), [("left-posterior-superior", (1, 1, 1)), ("right-anterior-superior", (-1, -1, 1))]
)
def test_values_and_places_are_pynrrds(space: str, signs: tuple[int, ...], encoding: str, tmp_path) -> None:
    data = gzip.compress(ARRAY.tobytes()) if encoding == "gzip" else ARRAY.tobytes()
    path = write(tmp_path, "# a comment", "key:=a value", data=data, space=space, encoding=encoding)
    volume, (values, header) = read_volume(path, "PET"), nrrd.read(str(path))
    np.testing.assert_array_equal(volume.array, values.T)
    np.testing.assert_allclose(volume.grid.origin_mm, np.multiply(signs, header["space origin"]))
    own = np.array(volume.grid.direction).reshape(3, 3) * volume.grid.spacing_mm
    np.testing.assert_allclose(own, np.array(signs)[:, None] * np.array(header["space directions"]).T, atol=1e-12)


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
@pytest.mark.parametrize("sizes", ["5 6 4", "6 5 3", "6 5 5", "7 5 4"])
def test_other_sizes_than_the_voxels_have_are_never_scrambled(sizes: str, encoding: str, tmp_path) -> None:
    """5 x 6 x 4 has as many voxels as 6 x 5 x 4: only a wrong number of them can be noticed."""
    data = gzip.compress(ARRAY.tobytes()) if encoding == "gzip" else ARRAY.tobytes()
    path = write(tmp_path, data=data, sizes=sizes, encoding=encoding)
    if sizes == "5 6 4":
        np.testing.assert_array_equal(read_volume(path, "PET").array.ravel(), ARRAY.ravel())
    else:
        refused(path, "its header asks for")


@pytest.mark.parametrize(
    "origin", ["(-232.n1,0,0)", "(nan,0,0)", "(1,2)", "1 2 3", "(1,2,3)(4,5,6)", "(1,2,3) x", "(1_0,2,3)"]
)
def test_an_origin_that_is_no_three_numbers_is_refused(origin: str, tmp_path) -> None:
    refused(write(tmp_path, space_origin=origin), "space origin")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space directions": None}, "has no space directions"),
        ({"space origin": None}, "has no space origin"),
        ({"space": None}, "says nothing of a space"),
        ({"space": "scanner-xyz"}, "space: scanner-xyz, which is not supported"),
        ({"space directions": "(nan,0,0) (0,5,0) (0,0,6)"}, "space directions"),
        ({"space directions": "(0,0,0) (0,5,0) (0,0,6)"}, "one of length 0"),
        ({"spacings": "1 1 1"}, "spacings beside space directions"),
        ({"space units": '"cm" "cm" "cm"'}, "space units 'cm', which is not supported; write lengths in mm"),
        ({"old max": "9"}, "quantised"),
        ({"line skip": "1"}, "line skip: 1, which is not supported"),
        ({"byte skip": "-1"}, "byte skip: -1, which is not supported"),
        ({"encoding": "hex"}, "encoding: hex, which is not supported"),
        ({"encoding": None}, "encoding"),
        ({"endian": None}, "not little or big"),
        ({"endian": "Little"}, "not little or big"),
        ({"type": "block"}, "type: block, which is not supported"),
        ({"kinds": "vector domain domain"}, "give one scalar 3-D volume"),
        ({"data file": "LIST"}, "several files are not supported"),
        ({"sizes": "6 5"}, "3 whole numbers"),
    ],
)
def test_what_the_reader_would_take_otherwise_is_refused(changes: dict, message: str, tmp_path) -> None:
    refused(write(tmp_path, **changes), message)


@pytest.mark.parametrize("line", ["a line", "sixes: 6 5 4", "space:left", "type: short"])
def test_a_line_that_is_no_field_or_a_second_one_is_refused(line: str, tmp_path) -> None:
    refused(write(tmp_path, line), "line 11 of its header is no field|says type twice")


def test_the_rare_space_that_the_image_library_once_misread_is_right_or_refused(tmp_path) -> None:
    """left-anterior-superior: x stays, y is turned round against left-posterior-superior."""
    path = write(tmp_path, space="left-anterior-superior")
    try:
        grid = read_volume(path, "PET").grid
    except CaseError as error:
        assert "was read onto the grid" in str(error)
    else:
        assert grid.origin_mm == (1, 2, 3.5) and grid.direction == (0, -1, 0, -1, 0, 0, 0, 0, 1)
