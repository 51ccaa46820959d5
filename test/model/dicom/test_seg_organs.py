import io

import highdicom as hd
import numpy as np
import pydicom
import pytest
from lesion_masks import TURNS, pet_headers, random_lesions

from model.bundle.organs import ORGANS
from model.dicom.seg import dicom_seg
from model.dicom.seg_organs import CODES, organs_seg

SNOMED = {  # as SNOMED CT has them, written down once more
    "spleen": "78961009",
    "kidneys": "64033007",
    "liver": "10200004",
    "urinary bladder": "89837001",
    "lungs": "39607008",
    "brain": "12738006",
    "heart": "80891009",
    "stomach": "69695003",
    "prostate": "41216001",
    "salivary glands": "385294005",
}


def organ_map(*labels: int) -> np.ndarray:
    """A map that holds these labels and 0."""
    found = np.random.default_rng(1).choice((0, *labels), (8, 7, 6)).astype(np.uint8)
    found[2] = 0
    return found


def made(labels: np.ndarray, folder, run: str = "run", names=ORGANS) -> pydicom.Dataset:
    headers, _ = pet_headers(folder, TURNS["axial"])
    return pydicom.dcmread(io.BytesIO(organs_seg(labels, names, headers, "tiny (eoa)", run)))


def test_every_organ_of_the_public_models_has_its_code() -> None:
    assert {name: code.value for name, code in CODES.items()} == SNOMED and set(ORGANS) == set(SNOMED)
    assert {code.scheme_designator for code in CODES.values()} == {"SCT"}


def test_highdicoms_reader_gives_every_organ_back(tmp_path) -> None:
    headers, _ = pet_headers(tmp_path, TURNS["oblique"])
    labels = organ_map(2, 3, 10)
    seg = hd.seg.segread(io.BytesIO(organs_seg(labels, ORGANS, headers, "tiny", "run")))
    back = seg.get_pixels_by_source_instance(
        [h.SOPInstanceUID for h in headers], combine_segments=True, assert_missing_frames_are_empty=True
    )
    numbers = {2: 1, 3: 2, 10: 3, 0: 0}  # segments count from 1 without a gap
    np.testing.assert_array_equal(back, np.vectorize(numbers.get)(labels))


def test_a_segment_says_which_organ_it_is_and_who_found_it(tmp_path) -> None:
    seg = made(organ_map(2, 3), tmp_path)
    kidneys, liver = seg.SegmentSequence
    assert (kidneys.SegmentLabel, liver.SegmentLabel) == ("Kidneys", "Liver")
    for segment, code in ((kidneys, "64033007"), (liver, "10200004")):
        category, kind = segment.SegmentedPropertyCategoryCodeSequence[0], segment.SegmentedPropertyTypeCodeSequence[0]
        assert (category.CodeValue, kind.CodeValue, kind.CodingSchemeDesignator) == ("91723000", code, "SCT")
        assert segment.SegmentAlgorithmType == "AUTOMATIC" and "tiny (eoa)" in segment.SegmentAlgorithmName
    (side,) = kidneys.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence
    assert side.CodeValue == "51440002"  # right and left
    assert "SegmentedPropertyTypeModifierCodeSequence" not in liver.SegmentedPropertyTypeCodeSequence[0]
    assert seg.SeriesDescription.startswith("Organs, Research use")


def test_an_organ_without_a_code_is_an_organ_with_its_name(tmp_path) -> None:
    seg = made(organ_map(1), tmp_path, names=("thymus",))
    (segment,) = seg.SegmentSequence
    assert segment.SegmentLabel == "Thymus"
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == "91772007"  # organ


def test_uids_are_those_of_the_run_and_the_map_and_of_no_other_series(tmp_path) -> None:
    headers, _ = pet_headers(tmp_path / "pet", TURNS["axial"])
    labels = organ_map(2, 3)
    lesions = pydicom.dcmread(io.BytesIO(dicom_seg(random_lesions(), headers, "tiny (eoa)", "run")))
    one, same = made(labels, tmp_path / "a"), made(labels, tmp_path / "b")
    others = [made(labels, tmp_path / "c", "other"), made(organ_map(2, 4), tmp_path / "d"), lesions]
    assert one.SOPInstanceUID == same.SOPInstanceUID and one.SeriesInstanceUID == same.SeriesInstanceUID
    assert (
        len({seg.SOPInstanceUID for seg in (one, *others)}) == len({s.SeriesInstanceUID for s in (one, *others)}) == 4
    )
    assert one.SeriesNumber != lesions.SeriesNumber and one.StudyInstanceUID == lesions.StudyInstanceUID


def test_without_any_organ_there_is_no_file(tmp_path) -> None:
    with pytest.raises(ValueError, match="no organ was found"):
        made(organ_map(), tmp_path)
