"""What all formats share: data files beside headers, streams, lengths, grids; each header has a test of its own."""

import gzip
import os
import zlib
from pathlib import Path

import metaimage_writer
import nrrd_writer
import numpy as np
import pytest
import SimpleITK as sitk

from model.errors import CaseError
from model.study.geometry import grid_of
from model.study.integrity import check_grid_read, check_header, data_file
from model.study.reading import read_volume

ARRAY = metaimage_writer.ARRAY


def header(folder: Path, name: str, form: str) -> Path:
    """A header whose voxels are in a file of this name."""
    folder.mkdir(parents=True, exist_ok=True)
    if form == "mhd":
        return metaimage_writer.write(folder, beside=name)
    return nrrd_writer.write(folder, **{"data file": name})


@pytest.mark.parametrize("form", ["mhd", "nrrd"])
def test_voxels_beside_their_header_or_in_a_folder_below_are_read(form: str, tmp_path) -> None:
    for name in ("p.raw", "below/p.raw", "./p.raw"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(ARRAY.tobytes())
        np.testing.assert_array_equal(read_volume(header(tmp_path, name, form), "PET").array, ARRAY)


@pytest.mark.parametrize("form", ["mhd", "nrrd"])
@pytest.mark.parametrize("name", ["/etc/passwd", "../other/p.raw", "below/../../other/p.raw", "{}/other/p.raw"])
def test_a_header_that_names_a_file_elsewhere_is_refused(name: str, form: str, tmp_path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/p.raw").write_bytes(ARRAY.tobytes())
    (tmp_path / "study/below").mkdir(parents=True)
    path = header(tmp_path / "study", name.format(tmp_path), form)
    with pytest.raises(CaseError, match="leads out of the header's folder; put the data file beside its header"):
        read_volume(path, "PET")
    assert data_file(path) is None


@pytest.mark.parametrize("form", ["mhd", "nrrd"])
def test_a_data_file_that_is_a_link_to_elsewhere_is_refused(form: str, tmp_path) -> None:
    (tmp_path / "p.raw").write_bytes(ARRAY.tobytes())
    path = header(tmp_path / "study", "p.raw", form)
    (tmp_path / "study/p.raw").symlink_to(tmp_path / "p.raw")
    with pytest.raises(CaseError, match="leads out of the header's folder"):
        read_volume(path, "PET")


@pytest.mark.parametrize("form", ["mhd", "nrrd"])
def test_a_study_of_links_is_read_where_header_and_voxels_lie_together(form: str, tmp_path) -> None:
    store = tmp_path / "store"
    path = header(store, "p.raw", form)
    (store / "p.raw").write_bytes(ARRAY.tobytes())
    (tmp_path / "study").mkdir()
    for file in (path, store / "p.raw"):
        (tmp_path / "study" / file.name).symlink_to(file)
    np.testing.assert_array_equal(read_volume(tmp_path / "study" / path.name, "PET").array, ARRAY)


@pytest.mark.parametrize("suffix", [".mha", ".nrrd", ".nii.gz"])
def test_a_whole_image_may_be_a_link_to_anywhere(suffix: str, tmp_path) -> None:
    image = sitk.GetImageFromArray(ARRAY)
    sitk.WriteImage(image, str(tmp_path / f"p{suffix}"), True)
    (tmp_path / "study").mkdir()
    (tmp_path / f"study/q{suffix}").symlink_to(tmp_path / f"p{suffix}")
    np.testing.assert_array_equal(read_volume(tmp_path / f"study/q{suffix}", "PET").array, ARRAY)


@pytest.mark.parametrize("form", ["mhd", "nrrd"])
@pytest.mark.parametrize("kind", ["a named pipe", "a folder", "a device", "not there"])
def test_a_data_file_that_is_no_regular_file_is_refused_at_once(kind: str, form: str, tmp_path) -> None:
    path, place = header(tmp_path, "p.raw", form), tmp_path / "p.raw"
    if kind == "a named pipe":
        os.mkfifo(place)
    elif kind == "a folder":
        place.mkdir()
    elif kind == "a device":
        place.symlink_to("/dev/zero")
    with pytest.raises(CaseError, match="leads out" if kind == "a device" else f"p.raw' is {kind}"):
        read_volume(path, "PET")
    assert data_file(path) is None


def test_a_damaged_stream_is_refused_whatever_bit_is_wrong(tmp_path) -> None:
    """gzip's CRC-32 finds each flipped bit of the data; one in its header may say nothing of them."""
    stream = gzip.compress(ARRAY.tobytes(), mtime=0)
    for place in range(10, len(stream), 5):
        damaged = bytearray(stream)
        damaged[place] ^= 8
        with pytest.raises(CaseError, match="cut off or damaged"):
            read_volume(nrrd_writer.write(tmp_path, data=bytes(damaged), encoding="gzip"), "PET")


@pytest.mark.parametrize("behind", [b"", bytes(512)])
def test_streams_in_a_row_are_one_and_zeros_may_follow(behind: bytes, tmp_path) -> None:
    raw = ARRAY.tobytes()
    data = gzip.compress(raw[:101]) + gzip.compress(raw[101:]) + behind
    np.testing.assert_array_equal(
        read_volume(nrrd_writer.write(tmp_path, data=data, encoding="gzip"), "PET").array, ARRAY
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (gzip.compress(ARRAY.tobytes()) + b"more", "other bytes follow"),
        (gzip.compress(ARRAY.tobytes() + b"x"), "holds more than the 240 bytes"),
        (gzip.compress(ARRAY.tobytes()[:-1]), "holds 239 bytes"),
        (gzip.compress(bytes(10**6)), "holds more than the 240 bytes"),
        (gzip.compress(ARRAY.tobytes())[:-9], "end before their end mark"),
        (zlib.compress(ARRAY.tobytes()), "read"),
        (b"", "holds at most 0 bytes"),
    ],
)
def test_a_stream_of_another_length_is_refused(data: bytes, message: str, tmp_path) -> None:
    with pytest.raises(CaseError, match=message):
        read_volume(nrrd_writer.write(tmp_path, data=data, encoding="gzip"), "PET")


def test_a_header_that_asks_for_more_than_any_stream_can_hold_is_refused_before_memory_is_taken(tmp_path) -> None:
    path = nrrd_writer.write(tmp_path, data=gzip.compress(ARRAY.tobytes()), encoding="gzip", sizes="60000 50000 4000")
    with pytest.raises(CaseError, match="its header asks for 24000000000000"):
        check_header(path, "PET")


def test_a_grid_other_than_the_headers_is_refused(tmp_path) -> None:
    path = metaimage_writer.write(tmp_path)
    stored, grid = check_header(path, "PET"), grid_of(sitk.ReadImage(str(path)))
    check_grid_read(stored, path, "PET", grid)
    image = sitk.ReadImage(str(path))
    image.SetOrigin((1, -2, 3.6))
    with pytest.raises(CaseError, match="was read onto the grid"):
        check_grid_read(stored, path, "PET", grid_of(image))


def test_a_file_that_the_reader_refuses_is_refused_for_its_reason(tmp_path) -> None:
    """Not for voxels that were read otherwise: none were. An NRRD's axis has either a minimum or a direction."""
    path = nrrd_writer.write(tmp_path, **{"axis mins": "0 0 0"})
    with pytest.raises(CaseError, match="cannot be read: .*has a direction vector, and so can't have min"):
        read_volume(path, "PET")
    path = nrrd_writer.write(tmp_path, **{"dimension": "4", "sizes": "2 3 4 1", "kinds": "domain domain domain list"})
    with pytest.raises(CaseError) as caught:
        read_volume(path, "PET")
    assert "0x" not in str(caught.value) and "read otherwise" not in str(caught.value)
