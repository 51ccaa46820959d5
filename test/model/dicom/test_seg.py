import io

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_writer import FRAME, PATIENT, STUDY
from lesion_masks import TURNS, pet_headers, random_lesions

from model.dicom.derived import MOST_NUMBERED
from model.dicom.rtstruct import dicom_rtstruct
from model.dicom.seg import dicom_seg
from model.errors import CaseError


def lesion_points(content: bytes) -> set[tuple[float, ...]]:
    """Segment and place (mm) of every voxel set in a SEG, by pydicom and the standard's C.7.6.2.1.1-1 alone."""
    seg = pydicom.dcmread(io.BytesIO(content))
    frames = seg.pixel_array.reshape(-1, seg.Rows, seg.Columns)
    shared = seg.SharedFunctionalGroupsSequence[0]
    row, column = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    down, across = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    points = set()
    for frame, groups in zip(frames, seg.PerFrameFunctionalGroupsSequence, strict=True):
        corner = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, float)
        segment = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        for j, i in np.argwhere(frame):
            points.add((segment, *(np.round(corner + row * across * i + column * down * j, 3) + 0.0)))
    return points


@pytest.mark.parametrize("turn", TURNS)
def test_every_voxel_lies_where_the_mask_has_it(turn: str, tmp_path) -> None:
    headers, grid = pet_headers(tmp_path, TURNS[turn])
    numbers = random_lesions()
    image = sitk.Image(*grid.size, sitk.sitkUInt8)
    image.SetSpacing(grid.spacing_mm)
    image.SetOrigin(grid.origin_mm)
    image.SetDirection(grid.direction)
    wanted = {
        (numbers[z, y, x], *(np.round(image.TransformIndexToPhysicalPoint((int(x), int(y), int(z))), 3) + 0.0))
        for z, y, x in np.argwhere(numbers)
    }
    assert lesion_points(dicom_seg(numbers, headers, "tiny (eoa)", "run")) == wanted


def test_each_frame_refers_to_the_slice_it_lies_on(tmp_path) -> None:
    headers, _ = pet_headers(tmp_path, TURNS["oblique"])
    seg = pydicom.dcmread(io.BytesIO(dicom_seg(random_lesions(), headers, "tiny (eoa)", "run")))
    by_uid = {header.SOPInstanceUID: header for header in headers}
    assert len(seg.PerFrameFunctionalGroupsSequence) == 3 * 7  # slice 2 is empty
    for groups in seg.PerFrameFunctionalGroupsSequence:
        source = groups.DerivationImageSequence[0].SourceImageSequence[0]
        assert source.ReferencedSOPClassUID == headers[0].SOPClassUID
        corner = by_uid[source.ReferencedSOPInstanceUID].ImagePositionPatient
        np.testing.assert_allclose(
            np.array(groups.PlanePositionSequence[0].ImagePositionPatient, float), np.array(corner, float), atol=1e-4
        )
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == headers[0].SeriesInstanceUID


def test_it_is_filed_beside_its_pet_and_says_what_it_is(tmp_path) -> None:
    headers, _ = pet_headers(tmp_path, TURNS["axial"], fields={"StudyDate": "20240305", "AccessionNumber": "A1"})
    seg = pydicom.dcmread(io.BytesIO(dicom_seg(random_lesions(), headers, "tiny (eoa)", "run")))
    assert (seg.PatientID, str(seg.PatientName)) == (PATIENT, "Synthetic")
    assert (seg.StudyInstanceUID, seg.FrameOfReferenceUID) == (STUDY, FRAME)
    assert (seg.StudyDate, seg.AccessionNumber, seg.Modality) == ("20240305", "A1", "SEG")
    assert seg.SOPClassUID == pydicom.uid.SegmentationStorage and seg.SegmentationType == "BINARY"
    assert [segment.SegmentLabel for segment in seg.SegmentSequence] == ["Lesion 1", "Lesion 2", "Lesion 3"]
    assert len({segment.TrackingUID for segment in seg.SegmentSequence}) == 3
    segment = seg.SegmentSequence[0]
    kind, category = segment.SegmentedPropertyTypeCodeSequence[0], segment.SegmentedPropertyCategoryCodeSequence[0]
    assert (kind.CodingSchemeDesignator, kind.CodeValue) == ("SCT", "52988006")  # Lesion
    assert (category.CodingSchemeDesignator, category.CodeValue) == ("SCT", "49755003")
    assert segment.SegmentAlgorithmType == "AUTOMATIC"
    assert "Research use" in seg.SeriesDescription and "Research use" in seg.ContentDescription


def test_an_empty_mask_is_a_file_too(tmp_path) -> None:
    headers, _ = pet_headers(tmp_path, TURNS["axial"])
    seg = pydicom.dcmread(io.BytesIO(dicom_seg(np.zeros((8, 7, 6), int), headers, "tiny", "run")))
    assert not seg.pixel_array.any() and [segment.SegmentLabel for segment in seg.SegmentSequence] == ["Lesions"]


def test_more_lesions_than_viewers_tell_apart_are_one_segment(tmp_path) -> None:
    headers, _ = pet_headers(tmp_path, TURNS["axial"])
    numbers = np.arange(8 * 7 * 6).reshape(8, 7, 6) % (MOST_NUMBERED + 2)
    seg = pydicom.dcmread(io.BytesIO(dicom_seg(numbers, headers, "tiny", "run")))
    assert [segment.SegmentLabel for segment in seg.SegmentSequence] == ["Lesions"]
    assert seg.pixel_array.sum() == np.count_nonzero(numbers)


def test_highdicoms_reader_gives_every_lesion_back_under_its_number(tmp_path) -> None:
    headers, _ = pet_headers(tmp_path, TURNS["oblique"])
    numbers = random_lesions()
    seg = hd.seg.segread(io.BytesIO(dicom_seg(numbers, headers, "tiny", "run")))
    back = seg.get_pixels_by_source_instance(
        [h.SOPInstanceUID for h in headers], combine_segments=True, assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(back, numbers)


@pytest.mark.parametrize(("charset", "name"), [("ISO_IR 192", "山田^太郎"), ("ISO_IR 100", "Müller^Jürgen")])
def test_a_name_that_is_not_ascii_stays_what_it_is(charset: str, name: str, tmp_path) -> None:
    fields = {"SpecificCharacterSet": charset, "PatientName": name}
    headers, grid = pet_headers(tmp_path, TURNS["axial"], fields=fields)
    numbers = random_lesions()
    for content in (dicom_seg(numbers, headers, "tiny", "run"), dicom_rtstruct(numbers, headers, grid, "run")):
        assert str(pydicom.dcmread(io.BytesIO(content)).PatientName) == name


def test_the_same_result_has_the_same_uids_and_another_has_others(tmp_path) -> None:
    headers, _ = pet_headers(tmp_path, TURNS["axial"])
    one, same, other = (
        pydicom.dcmread(io.BytesIO(dicom_seg(random_lesions(), headers, "tiny", run))) for run in ("a", "a", "b")
    )
    assert one.SOPInstanceUID == same.SOPInstanceUID != other.SOPInstanceUID
    assert one.SeriesInstanceUID == same.SeriesInstanceUID != other.SeriesInstanceUID


def test_a_series_without_frame_of_reference_or_patient_still_gives_a_file(tmp_path) -> None:
    gone = dict.fromkeys(("FrameOfReferenceUID", "PatientName", "PatientID"))
    headers, _ = pet_headers(tmp_path, TURNS["axial"], fields=gone)
    seg = pydicom.dcmread(io.BytesIO(dicom_seg(random_lesions(), headers, "tiny", "run")))
    assert seg.FrameOfReferenceUID and seg.PatientID == ""


def test_slices_that_share_a_uid_are_not_referred_to(tmp_path) -> None:
    """One SOPInstanceUID for all slices, as careless de-identification leaves it: lesions would go to any of them."""
    headers, grid = pet_headers(tmp_path, TURNS["axial"], fields={"SOPInstanceUID": "1.2.3.4.5"})
    for make in (
        lambda: dicom_seg(random_lesions(), headers, "tiny", "run"),
        lambda: dicom_rtstruct(random_lesions(), headers, grid, "run"),
    ):
        with pytest.raises(CaseError, match=r"share a SOPInstanceUID \(0008,0018\)"):
            make()


def test_equipment_that_breaks_the_rules_breaks_nothing(tmp_path) -> None:
    fields = {
        "InstitutionName": "I" * 80,
        "StationName": "S" * 30,
        "SpecificCharacterSet": "ISO_IR 100",
        "ManufacturerModelName": "Größe",
    }
    headers, _ = pet_headers(tmp_path, TURNS["axial"], fields=fields)
    seg = pydicom.dcmread(io.BytesIO(dicom_seg(random_lesions(), headers, "Bündel 山 (eoa)", "run")))
    assert seg.pixel_array.sum() == np.count_nonzero(random_lesions())
    assert "B?ndel ? (eoa)" in seg.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0].AlgorithmName


def test_seg_and_rtstruct_tell_the_terms_of_the_weights_in_ascii(tmp_path) -> None:
    headers, grid = pet_headers(tmp_path, TURNS["oblique"])
    terms = "Licence of the weights: CC BY-NC 4.0 (not for commercial use). Cite: Müller\nand others"
    said = "Licence of the weights: CC BY-NC 4.0 (not for commercial use). Cite: Muller and others"
    numbers = random_lesions()
    seg = pydicom.dcmread(io.BytesIO(dicom_seg(numbers, headers, "tiny (eoa)", "run", terms)))
    rtstruct = pydicom.dcmread(io.BytesIO(dicom_rtstruct(numbers, headers, grid, "run", terms)))
    assert seg.ImageComments == said
    assert rtstruct.StructureSetDescription == f"Research use only; not a medical device. {said}"
    without = pydicom.dcmread(io.BytesIO(dicom_seg(numbers, headers, "tiny (eoa)", "run")))
    assert without.SOPInstanceUID == seg.SOPInstanceUID and "ImageComments" not in without
