"""SEG and RTSTRUCT, ours and others', read back onto the PET's grid."""

import copy
import io
import unicodedata
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from dicom_writer import write_pet
from lesion_masks import TURNS, pet_headers, random_lesions
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders import RLELosslessEncoder
from pydicom.sr.codedict import codes
from pydicom.uid import RLELossless

from model.dicom.drawn import belonging_of, read_lesions
from model.dicom.headers import find_series
from model.dicom.read_rtstruct import CALLED_LESION
from model.dicom.rtstruct import dicom_rtstruct
from model.dicom.seg import dicom_seg
from model.dicom.series import order_slices
from model.errors import CaseError
from model.study.masks import points_of

TISSUE = (codes.SCT.Tissue, codes.SCT.Tissue)  # what 3D Slicer and OHIF give a segment that nobody described
ORGAN = (codes.SCT.AnatomicalStructure, codes.SCT.Liver)


def read(content: bytes | Dataset, headers, grid, folder: Path):
    path = folder / "drawn.dcm"
    path.write_bytes(content) if isinstance(content, bytes) else content.save_as(path)
    return read_lesions(path, "edit", grid, Path(str(headers[0].filename)), is_dicom=True)


def with_hole() -> np.ndarray:
    numbers = random_lesions()
    numbers[5, 1:6, 1:5], numbers[5, 2:4, 2:4] = 2, 0
    return numbers


@pytest.mark.parametrize("turn", TURNS)
def test_our_seg_and_rtstruct_come_back_as_they_were(turn: str, tmp_path) -> None:
    headers, grid = pet_headers(tmp_path / "pet", TURNS[turn])
    numbers = with_hole()
    for content in (dicom_seg(numbers, headers, "w", "run"), dicom_rtstruct(numbers, headers, grid, "run")):
        drawn = read(content, headers, grid, tmp_path)
        np.testing.assert_array_equal(drawn.mask, numbers > 0)
        assert drawn.notes == ()
        nothing = read(dicom_seg(numbers * 0, headers, "w", "run"), headers, grid, tmp_path)
        assert not nothing.mask.any()


def foreign_seg(headers, masks, kinds, kind="BINARY") -> bytes:
    """A SEG that highdicom writes, (slice, y, x, segment), with a category and type for each segment."""
    sources = [pydicom.dcmread(header.filename) for header in headers]
    for source in sources:
        source.PatientBirthDate = source.PatientSex = source.StudyDate = source.StudyTime = source.StudyID = ""
        source.AccessionNumber = source.ReferringPhysicianName = source.PositionReferenceIndicator = ""
        source.SliceThickness = 3.0
    algorithm = hd.seg.SegmentAlgorithmTypeValues.MANUAL
    made = hd.seg.Segmentation(
        source_images=sources,
        pixel_array=masks,
        segmentation_type=kind,
        segment_descriptions=[
            hd.seg.SegmentDescription(number, f"S{number}", category, found, algorithm)
            for number, (category, found) in enumerate(kinds, start=1)
        ],
        series_instance_uid=hd.UID(),
        series_number=5,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="somebody",
        manufacturer_model_name="viewer",
        software_versions="1",
        device_serial_number="1",
    )
    content = io.BytesIO()
    made.save_as(content)
    return content.getvalue()


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL"])
def test_segments_may_overlap_and_organs_are_no_lesion(kind: str, tmp_path) -> None:
    headers, grid = pet_headers(tmp_path / "pet", TURNS["oblique"])
    masks = np.zeros((8, 7, 6, 3), np.uint8)
    masks[3, 2:5, 1:4, 0] = masks[3, 4:6, 3:5, 1] = masks[6, :, :, 2] = 1
    values = masks if kind == "BINARY" else masks * 0.7
    drawn = read(foreign_seg(headers, values, [TISSUE, TISSUE, ORGAN], kind), headers, grid, tmp_path)
    np.testing.assert_array_equal(drawn.mask, masks[..., :2].any(axis=-1))
    assert "segment 3 is an anatomical structure, and no lesion" in drawn.notes[0]
    with pytest.raises(CaseError, match="no segment of edit .* is a lesion"):
        read(foreign_seg(headers, masks[..., 2:], [ORGAN]), headers, grid, tmp_path)


@pytest.mark.parametrize("compressed", [False, True])
def test_frames_of_bits_may_each_begin_with_a_byte(compressed: bool, tmp_path) -> None:
    """As cornerstone (OHIF) packs them, and as RLE must: 42 pixels a frame are 6 bytes, 48 bits."""
    headers, grid = pet_headers(tmp_path / "pet", TURNS["axial"])
    masks = (random_lesions() > 0).astype(np.uint8)[..., None]
    data = pydicom.dcmread(io.BytesIO(foreign_seg(headers, masks, [TISSUE])))
    bits = data.pixel_array.reshape(-1, 42)
    packed = np.packbits(np.pad(bits, ((0, 0), (0, 6))), axis=1, bitorder="little")
    data.PixelData = packed.tobytes()
    if compressed:
        one = {"rows": 1, "columns": 6, "samples_per_pixel": 1, "bits_allocated": 8, "bits_stored": 8}
        one |= {"pixel_representation": 0, "photometric_interpretation": "MONOCHROME2", "number_of_frames": 1}
        data.PixelData = encapsulate([RLELosslessEncoder.encode(frame.tobytes(), **one) for frame in packed])
        data["PixelData"].is_undefined_length, data.file_meta.TransferSyntaxUID = True, RLELossless
    np.testing.assert_array_equal(read(data, headers, grid, tmp_path).mask, masks[..., 0] > 0)


def test_a_seg_on_other_slices_is_resampled_with_a_note(tmp_path) -> None:
    """Drawn on voxels of 2 x 2 x 3 mm that begin with the PET's 4 x 4 x 3 mm: every second one has the same centre."""
    headers, grid = pet_headers(tmp_path / "pet", TURNS["axial"])
    place = {"spacing_mm": (2.0, 2.0, 3.0), "origin_mm": (-31.5, 12.25, -700.0)}
    write_pet(tmp_path / "fine", np.zeros((8, 13, 11), np.int16), **place)
    fine, _ = order_slices(find_series(tmp_path / "fine")[0], "PT")
    masks = np.zeros((8, 13, 11, 1), np.uint8)
    masks[2, 4:7, 2:7] = 1
    drawn = read(foreign_seg(fine, masks, [TISSUE]), headers, grid, tmp_path)
    np.testing.assert_array_equal(drawn.mask, masks[:, ::2, ::2, 0] == 1)
    assert "was resampled (nearest neighbour)" in drawn.notes[0]


@pytest.mark.parametrize("make", [dicom_seg, dicom_rtstruct])
def test_another_patient_or_frame_of_reference_is_refused(make, tmp_path) -> None:
    headers, grid = pet_headers(tmp_path / "pet", TURNS["axial"])
    others = [
        ("PatientID", "OTHER", "another PatientID"),
        ("FrameOfReferenceUID", "1.2.3.77", "frame of reference 1.2"),
    ]
    for keyword, value, message in others:
        strange, _ = pet_headers(tmp_path / keyword, TURNS["axial"], fields={keyword: value})
        own = (strange, "w", "run") if make is dicom_seg else (strange, grid, "run")
        with pytest.raises(CaseError, match=f"edit '.*drawn.dcm' .*{message}.*PET '"):
            read(make(random_lesions(), *own), headers, grid, tmp_path)


def test_dicom_of_another_kind_is_refused(tmp_path) -> None:
    headers, grid = pet_headers(tmp_path / "pet", TURNS["axial"])
    with pytest.raises(CaseError, match="is DICOM, but neither a SEG nor an RTSTRUCT"):
        read_lesions(Path(str(headers[0].filename)), "edit", grid, Path(str(headers[0].filename)), True)
    assert belonging_of(Path(str(headers[0].filename))).kind == ""


def edited_rtstruct(headers, grid, edit) -> Dataset:
    made = pydicom.dcmread(io.BytesIO(dicom_rtstruct(with_hole(), headers, grid, "run")))
    edit(made)
    return made


def test_an_roi_is_lesion_by_its_name_or_its_type(tmp_path) -> None:
    headers, grid = pet_headers(tmp_path / "pet", TURNS["axial"])
    names = ("Liver", "GTV_neck", "Something")  # of the ROIs 1, 2 and 3

    def edit(made: Dataset) -> None:
        for roi, seen, name in zip(made.StructureSetROISequence, made.RTROIObservationsSequence, names, strict=True):
            roi.ROIName, seen.RTROIInterpretedType = name, "" if name == "Something" else "ORGAN"

    drawn = read(edited_rtstruct(headers, grid, edit), headers, grid, tmp_path)
    np.testing.assert_array_equal(drawn.mask, with_hole() > 1)
    assert "ROI 1 has the type ORGAN, and is no lesion" in drawn.notes[0]
    assert "ROI 3 has no type, and counts as lesion" in drawn.notes[1]

    def in_two_frames(made: Dataset) -> None:
        made.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = "1.2.3.77"

    drawn = read(edited_rtstruct(headers, grid, in_two_frames), headers, grid, tmp_path)
    np.testing.assert_array_equal(drawn.mask, with_hole() > 1)
    assert "ROI 1 is in another frame of reference, and is left out" in drawn.notes[0]


def moved(made: Dataset, mm: float) -> None:
    """Move all contours along z."""
    for roi in made.ROIContourSequence:
        for contour in roi.ContourSequence:
            points = np.array(contour.ContourData, float).reshape(-1, 3) + (0, 0, mm)
            contour.ContourData = [f"{value:.3f}" for value in points.ravel()]


def test_contours_between_slices_count_for_the_nearest_one(tmp_path) -> None:
    headers, grid = pet_headers(tmp_path / "pet", TURNS["axial"])  # slices 3 mm apart
    drawn = read(edited_rtstruct(headers, grid, lambda made: moved(made, 1.2)), headers, grid, tmp_path)
    np.testing.assert_array_equal(drawn.mask, with_hole() > 0)
    assert "is not drawn on the slices" in drawn.notes[0] and "within 1.5 mm" in drawn.notes[0]
    with pytest.raises(CaseError, match="no contour of edit .* holds a voxel"):
        read(edited_rtstruct(headers, grid, lambda made: moved(made, 900.0)), headers, grid, tmp_path)


def drawn_by_hand(headers, grid, boxes: dict[int, list[tuple[float, int]]], **fields) -> Dataset:
    """An RTSTRUCT with a box of 3 x 2 pixels in planes (z, left edge) of each ROI; z may lie between the slices."""

    def edit(made: Dataset) -> None:
        for roi, seen in zip(made.ROIContourSequence, made.RTROIObservationsSequence, strict=True):
            planes, model = boxes.get(int(roi.ReferencedROINumber), []), roi.ContourSequence[0]
            seen.RTROIInterpretedType = fields.get("type", "GTV")
            roi.ContourSequence = [copy.deepcopy(model) for _ in planes]
            for contour, (z, x) in zip(roi.ContourSequence, planes, strict=True):
                corners = [(x - 0.5, 1.5), (x + 2.5, 1.5), (x + 2.5, 3.5), (x - 0.5, 3.5)]
                points = points_of(grid, np.array([(*corner, z) for corner in corners]))
                contour.ContourGeometricType = "CLOSED_PLANAR"
                contour.ContourData, contour.NumberOfContourPoints = [f"{v:.2f}" for v in points.ravel()], 4
        made.Manufacturer = fields.get("manufacturer", "planner")

    return edited_rtstruct(headers, grid, edit)


def test_contours_stand_for_as_many_slices_as_they_lie_apart_but_far_ones_for_their_own(tmp_path) -> None:
    headers, grid = pet_headers(tmp_path / "pet", TURNS["axial"])  # slices 3 mm apart
    wanted = np.zeros((8, 7, 6), bool)
    wanted[1:7, 2:4, 1:4] = True
    every_second = drawn_by_hand(headers, grid, {1: [(2, 1), (4, 1), (6, 1)]})
    drawn = read(every_second, headers, grid, tmp_path)
    np.testing.assert_array_equal(drawn.mask, wanted)
    assert "is not drawn on every slice of PET" in drawn.notes[0] and "within 3 mm" in drawn.notes[0]
    wanted[:] = False
    wanted[1, 2:4, 0:3] = wanted[6, 2:4, 2:5] = True  # each on one slice of a CT, 15 mm apart
    apart = drawn_by_hand(headers, grid, {1: [(1.3, 0)], 2: [(6.3, 2)]})
    np.testing.assert_array_equal(read(apart, headers, grid, tmp_path).mask, wanted)
    near = drawn_by_hand(headers, grid, {1: [(3.3, 0), (3.307, 3), (4.3, 0)]})  # 0.02 mm: one plane, two islands
    assert np.count_nonzero(read(near, headers, grid, tmp_path).mask) == 3 * 6


def test_what_counts_as_a_lesions_name(tmp_path) -> None:
    for name in ("Läsion 2", "La\u0308sion", "Metastase", "PET_GTVp 41%", "lésions", "Tumoren", "GTVnd", "Mets"):
        assert CALLED_LESION.match(unicodedata.normalize("NFC", name)), name
    for name in ("Lungs-GTV", "Liver", "Metal", "BODY", "PTV", "Tumbler"):
        assert not CALLED_LESION.match(name), name
    headers, grid = pet_headers(tmp_path / "pet", TURNS["axial"])
    box = {"boxes": {1: [(2, 1)]}, "type": "ORGAN"}
    made = drawn_by_hand(headers, grid, **box, manufacturer="cs3d")  # OHIF calls every ROI an organ
    for roi in made.StructureSetROISequence:
        roi.ROIName = "Segment"
    drawn = read(made, headers, grid, tmp_path)
    assert np.count_nonzero(drawn.mask) == 6
    assert "ROIs 1, 2, 3 have no type" in drawn.notes[0] and "ROI 2 has no contour" in drawn.notes[1]


def test_points_are_no_area_and_contours_across_the_slices_are_refused(tmp_path) -> None:
    headers, grid = pet_headers(tmp_path / "pet", TURNS["axial"])

    def point(made: Dataset) -> None:
        contour = made.ROIContourSequence[0].ContourSequence[0]
        contour.ContourGeometricType, contour.ContourData = "POINT", contour.ContourData[:3]

    assert "1 points or open contours" in read(edited_rtstruct(headers, grid, point), headers, grid, tmp_path).notes[0]

    def tilted(made: Dataset) -> None:
        contour = made.ROIContourSequence[0].ContourSequence[0]
        contour.ContourData[2] = float(contour.ContourData[2]) + 3

    with pytest.raises(CaseError, match="does not lie in one slice"):
        read(edited_rtstruct(headers, grid, tilted), headers, grid, tmp_path)
