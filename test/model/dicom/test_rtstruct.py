import io

import numpy as np
import pydicom
import pytest
from dicom_writer import FRAME, PATIENT, STUDY
from lesion_masks import TURNS, pet_headers, random_lesions
from matplotlib.path import Path as Polygon

from model.dicom.rtstruct import dicom_rtstruct


def painted(content: bytes, headers: list) -> np.ndarray:
    """The lesions that the contours enclose, by matplotlib's point-in-polygon test on the slice each contour names."""
    made = pydicom.dcmread(io.BytesIO(content))
    mask = np.zeros((len(headers), headers[0].Rows, headers[0].Columns), int)
    number = {header.SOPInstanceUID: z for z, header in enumerate(headers)}
    y, x = np.indices(mask.shape[1:])
    contours = [(roi.ReferencedROINumber, c) for roi in made.ROIContourSequence for c in roi.get("ContourSequence", [])]
    for lesion, contour in contours:
        z = number[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
        points = np.array(contour.ContourData, float).reshape(-1, 3)
        assert len(points) == contour.NumberOfContourPoints and contour.ContourGeometricType == "CLOSED_PLANAR"
        corner = np.array(headers[z].ImagePositionPatient, float)
        row, column = np.array(headers[z].ImageOrientationPatient, float).reshape(2, 3)
        down, across = map(float, headers[z].PixelSpacing)
        off_plane = (points - corner) @ np.cross(row, column)
        assert np.abs(off_plane).max() < 0.01
        flat = np.stack([(points - corner) @ row / across, (points - corner) @ column / down], axis=1)
        inside = Polygon(flat).contains_points(np.stack([x.ravel(), y.ravel()], 1))
        mask[z] += lesion * inside.reshape(y.shape)
    return mask


@pytest.mark.parametrize("turn", TURNS)
def test_the_contours_enclose_exactly_the_voxels_of_each_lesion(turn: str, tmp_path) -> None:
    headers, grid = pet_headers(tmp_path, TURNS[turn])
    numbers = random_lesions()
    numbers[5, 1:6, 1:5] = 2
    numbers[5, 2:4, 2:4] = 0  # a hole
    content = dicom_rtstruct(numbers, headers, grid, "run")
    np.testing.assert_array_equal(painted(content, headers), numbers)
    rois = pydicom.dcmread(io.BytesIO(content)).StructureSetROISequence
    assert [(roi.ROINumber, roi.ROIName) for roi in rois] == [(1, "Lesion 1"), (2, "Lesion 2"), (3, "Lesion 3")]


def test_it_is_filed_beside_its_pet_and_refers_to_every_slice(tmp_path) -> None:
    headers, grid = pet_headers(tmp_path, TURNS["axial"])
    made = pydicom.dcmread(io.BytesIO(dicom_rtstruct(random_lesions(), headers, grid, "run")))
    assert (made.PatientID, str(made.PatientName), made.StudyInstanceUID) == (PATIENT, "Synthetic", STUDY)
    assert made.Modality == "RTSTRUCT" and made.SOPClassUID == pydicom.uid.RTStructureSetStorage
    frame = made.ReferencedFrameOfReferenceSequence[0]
    series = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    assert frame.FrameOfReferenceUID == made.StructureSetROISequence[0].ReferencedFrameOfReferenceUID == FRAME
    assert series.SeriesInstanceUID == headers[0].SeriesInstanceUID
    assert {i.ReferencedSOPInstanceUID for i in series.ContourImageSequence} == {h.SOPInstanceUID for h in headers}
    assert "Research use" in made.SeriesDescription


def test_no_lesion_is_an_roi_without_contours(tmp_path) -> None:
    headers, grid = pet_headers(tmp_path, TURNS["axial"])
    made = pydicom.dcmread(io.BytesIO(dicom_rtstruct(np.zeros((8, 7, 6), int), headers, grid, "run")))
    assert "ContourSequence" not in made.ROIContourSequence[0] and len(made.StructureSetROISequence) == 1
