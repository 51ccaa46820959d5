"""The picture as a Secondary Capture."""

import io

import numpy as np
import pytest
from dicom_writer import write_pet
from PIL import Image
from pydicom import dcmread

from model.dicom.headers import read_header
from model.dicom.picture import dicom_picture


@pytest.fixture(scope="module")
def headers(tmp_path_factory) -> list:
    return [read_header(path) for path in write_pet(tmp_path_factory.mktemp("pet"))]


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


PIXELS = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


def test_it_shows_the_same_colours_in_the_same_study(headers) -> None:
    found = dcmread(io.BytesIO(dicom_picture(png(PIXELS), headers, "run", named=False, terms="CC BY")))
    assert np.array_equal(found.pixel_array, PIXELS)
    for keyword in ("StudyInstanceUID", "PatientID", "PatientName"):
        assert found[keyword].value == headers[0][keyword].value
    assert found.SeriesInstanceUID != headers[0].SeriesInstanceUID
    assert (found.Modality, found.BurnedInAnnotation, found.ImageComments) == ("OT", "NO", "CC BY")
    assert "Research use only" in found.SeriesDescription


def test_the_same_picture_has_the_same_uid_and_another_one_has_not(headers) -> None:
    uids = [
        dcmread(io.BytesIO(dicom_picture(png(pixels), headers, "run", named=True))).SOPInstanceUID
        for pixels in (PIXELS, PIXELS, PIXELS + 1)
    ]
    assert uids[0] == uids[1] != uids[2]
