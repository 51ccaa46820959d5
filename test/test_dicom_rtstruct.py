import io

import numpy as np
import pydicom
import pytest
from dicom_writer import FRAME, PATIENT, STUDY
from matplotlib.path import Path as Polygon
from test_dicom_seg import TURNS, pet_headers, random_mask

from model.dicom_rtstruct import dicom_rtstruct


def painted(content: bytes, headers: list) -> np.ndarray:
    """The mask that the contours enclose, by matplotlib's point-in-polygon test on the slice each contour names."""
    made = pydicom.dcmread(io.BytesIO(content))
    mask = np.zeros((len(headers), headers[0].Rows, headers[0].Columns), int)
    number = {header.SOPInstanceUID: z for z, header in enumerate(headers)}
    y, x = np.indices(mask.shape[1:])
    for contour in made.ROIContourSequence[0].get("ContourSequence", []):
        z = number[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
        points = np.array(contour.ContourData, float).reshape(-1, 3)
        assert len(points) == contour.NumberOfContourPoints and contour.ContourGeometricType == "CLOSED_PLANAR"
        corner = np.array(headers[z].ImagePositionPatient, float)
        row, column = np.array(headers[z].ImageOrientationPatient, float).reshape(2, 3)
        down, across = map(float, headers[z].PixelSpacing)
        off_plane = (points - corner) @ np.cross(row, column)
        assert np.abs(off_plane).max() < 0.01
        flat = np.stack([(points - corner) @ row / across, (points - corner) @ column / down], axis=1)
        mask[z] += Polygon(flat).contains_points(np.stack([x.ravel(), y.ravel()], 1)).reshape(y.shape)
    return mask


@pytest.mark.parametrize("turn", TURNS)
def test_the_contours_enclose_exactly_the_voxels_of_the_mask(turn: str, tmp_path) -> None:
    headers, grid = pet_headers(tmp_path, TURNS[turn])
    mask = random_mask()
    mask[5, 1:6, 1:5] = True
    mask[5, 2:4, 2:4] = False  # a hole
    np.testing.assert_array_equal(painted(dicom_rtstruct(mask, headers, grid, "run"), headers), mask)


def test_it_is_filed_beside_its_pet_and_refers_to_every_slice(tmp_path) -> None:
    headers, grid = pet_headers(tmp_path, TURNS["axial"])
    made = pydicom.dcmread(io.BytesIO(dicom_rtstruct(random_mask(), headers, grid, "run")))
    assert (made.PatientID, str(made.PatientName), made.StudyInstanceUID) == (PATIENT, "Synthetic", STUDY)
    assert made.Modality == "RTSTRUCT" and made.SOPClassUID == pydicom.uid.RTStructureSetStorage
    frame = made.ReferencedFrameOfReferenceSequence[0]
    series = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    assert frame.FrameOfReferenceUID == made.StructureSetROISequence[0].ReferencedFrameOfReferenceUID == FRAME
    assert series.SeriesInstanceUID == headers[0].SeriesInstanceUID
    assert {i.ReferencedSOPInstanceUID for i in series.ContourImageSequence} == {h.SOPInstanceUID for h in headers}
    assert "Research use" in made.SeriesDescription


def test_an_empty_mask_has_an_roi_without_contours(tmp_path) -> None:
    headers, grid = pet_headers(tmp_path, TURNS["axial"])
    made = pydicom.dcmread(io.BytesIO(dicom_rtstruct(np.zeros((8, 7, 6), bool), headers, grid, "run")))
    assert "ContourSequence" not in made.ROIContourSequence[0] and len(made.StructureSetROISequence) == 1
