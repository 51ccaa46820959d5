"""The SR as its bytes have it: pydicom walks the tree by codes written down here from DICOM PS3.16."""

import io

import numpy as np
import pydicom
import pytest
from dicom_writer import FRAME, PATIENT, STUDY, write_ct
from lesion_masks import TURNS, pet_headers

from model.dicom.headers import find_series
from model.dicom.seg import dicom_seg
from model.dicom.sr import MeasuredLesions, dicom_sr, sr_uid
from model.errors import CaseError

LESIONS = [
    {"number": 1, "volume_ml": 1.5, "suv_max": 9.25, "suv_mean": 4.5, "suv_peak": 8.0, "tlg_suv_ml": 6.75}
    | {"long_diameter_mm": 21.5, "centroid_x_mm": 3.0},
    {"number": 2, "volume_ml": 0.5, "suv_max": 3.0, "suv_mean": 2.5, "suv_peak": 2.75, "tlg_suv_ml": 1.25}
    | {"long_diameter_mm": 7.0, "sul_peak": 1.75, "sul_max": None, "sphericity": 0.75},
]
TOTALS = {"lesions": 2, "mtv_ml": 2.0, "tlg_suv_ml": 8.0, "suv_max": 9.25, "suv_peak": 8.0, "dmax_mm": 12.5}
NONE = {"lesions": 0, "mtv_ml": 0.0, "tlg_suv_ml": 0, "suv_max": None, "suv_peak": None, "dmax_mm": None}
TERMS = "Licence of the weights: CC BY 4.0"
MEASURED = MeasuredLesions(lesions=LESIONS, totals=TOTALS)
SUV = ("126401", "DCM", "g/ml{SUVbw}")
PT_IMAGE, SEG_CLASS = "1.2.840.10008.5.1.4.1.1.128", "1.2.840.10008.5.1.4.1.1.66.4"


def code(sequence) -> tuple[str, str]:
    return sequence[0].CodeValue, sequence[0].CodingSchemeDesignator


def children(item, value: str, scheme: str = "DCM") -> list:
    return [one for one in item.get("ContentSequence", []) if code(one.ConceptNameCodeSequence) == (value, scheme)]


def numbers(group) -> dict:
    """(code, scheme, unit, derivation or None) -> value, of a measurement group."""
    found = {}
    for item in group.ContentSequence:
        if item.ValueType == "NUM":
            (measured,) = item.MeasuredValueSequence
            (unit,) = measured.MeasurementUnitsCodeSequence
            assert unit.CodingSchemeDesignator == "UCUM"
            derived = [code(one.ConceptCodeSequence)[0] for one in children(item, "121401")]
            symbol = unit.get("CodeValue") or unit.LongCodeValue  # of more than 16 characters
            key = (*code(item.ConceptNameCodeSequence), symbol, derived[0] if derived else None)
            found[key] = float(measured.NumericValue)
    return found


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """PET and CT headers, numbered lesions 1 and 2 on slices 1 and 2, and 5, and their SEG."""
    folder = tmp_path_factory.mktemp("study")
    headers, _ = pet_headers(
        folder / "pet", TURNS["oblique"], fields={"PatientName": "Müller", "StudyDate": "20240305"}
    )
    write_ct(folder / "ct")
    lesions = np.zeros((8, 7, 6), int)
    lesions[1:3, 2:4, 2:4], lesions[5, 1, 1] = 1, 2
    return headers, find_series(folder / "ct")[0].headers, lesions, seg_of(lesions, headers)


def seg_of(lesions, headers, run="run"):
    return pydicom.dcmread(io.BytesIO(dicom_seg(lesions, headers, "tiny (eoa)", run)))


def report(study, measured=MEASURED, seg=None, **options):
    headers, ct, _, own = study
    return pydicom.dcmread(io.BytesIO(dicom_sr(measured, own if seg is None else seg, headers, ct, **options)))


@pytest.fixture(scope="module")
def sr(study):
    return report(study, terms=TERMS)


def test_every_lesions_numbers_stand_under_their_codes_and_units(sr) -> None:
    assert sr.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    (measurements,) = children(sr, "126010")  # Imaging Measurements
    first, second, whole = children(measurements, "125007")  # Measurement Group
    assert numbers(first) == {
        ("126032", "DCM", "ml", None): 1.5,  # Metabolic Volume
        (*SUV, "56851009"): 9.25,  # Maximum
        (*SUV, "373098007"): 4.5,  # Mean
        (*SUV, "126031"): 8.0,  # Peak Value Within ROI
        ("126034", "DCM", "g", None): 6.75,  # Glycolysis
        ("L0JK", "IBSI", "mm", None): 21.5,  # maximum 3D diameter
    }
    assert numbers(second)["126032", "DCM", "ml", None] == 0.5
    assert numbers(second)["126405", "DCM", "g/ml{SUVlbm(Janma)}", "126031"] == 1.75  # SUVlbm(Janma)
    assert numbers(second)["QCFX", "IBSI", "1", None] == 0.75 and len(numbers(second)) == 8
    assert numbers(whole) == {
        ("246206008", "SCT", "1", None): 2,  # Number of lesions
        ("126032", "DCM", "ml", "255619001"): 2.0,  # Total
        ("126033", "DCM", "g", None): 8.0,  # Total Lesion Glycolysis
        (*SUV, "56851009"): 9.25,
        (*SUV, "126031"): 8.0,
        ("121206", "DCM", "mm", "56851009"): 12.5,  # Distance, Maximum
    }


def test_a_group_refers_to_its_segment_and_that_segments_slices(study, sr) -> None:
    headers, _, _, seg = study
    first, second, _ = children(children(sr, "126010")[0], "125007")
    for number, group, slices in ((1, first, (1, 2)), (2, second, (5,))):
        (segment,) = children(group, "121191")  # Referenced Segment
        (referred,) = segment.ReferencedSOPSequence
        assert (referred.ReferencedSOPClassUID, referred.ReferencedSOPInstanceUID) == (SEG_CLASS, seg.SOPInstanceUID)
        assert referred.ReferencedSegmentNumber == number
        sources = {one.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for one in children(group, "121233")}
        assert sources == {headers[z].SOPInstanceUID for z in slices}
        assert children(group, "112039")[0].TextValue == f"Lesion {number}"
        assert children(group, "112040")[0].UID == seg.SegmentSequence[number - 1].TrackingUID
        assert code(children(group, "121071")[0].ConceptCodeSequence) == ("52988006", "SCT")


def test_it_names_pet_ct_and_seg_and_is_filed_beside_them(study, sr) -> None:
    headers, ct, _, seg = study
    groups = children(children(sr, "111028")[0], "126200")  # Image Library, its groups
    assert [code(children(group, "121139")[0].ConceptCodeSequence) for group in groups] == [
        ("PT", "DCM"),
        ("CT", "DCM"),
    ]
    assert all(children(group, "112227")[0].UID == FRAME for group in groups)
    for group, slices in zip(groups, (headers, ct), strict=True):
        images = [one.ReferencedSOPSequence[0] for one in children(group, "260753009", "SCT")]
        assert {one.ReferencedSOPInstanceUID for one in images} == {one.SOPInstanceUID for one in slices}
    (evidence,) = sr.CurrentRequestedProcedureEvidenceSequence
    listed = {one.SeriesInstanceUID: len(one.ReferencedSOPSequence) for one in evidence.ReferencedSeriesSequence}
    assert listed == {headers[0].SeriesInstanceUID: 8, ct[0].SeriesInstanceUID: 6, seg.SeriesInstanceUID: 1}
    assert (sr.PatientID, str(sr.PatientName), sr.StudyInstanceUID) == (PATIENT, "Müller", STUDY)
    assert (sr.Modality, sr.StudyDate, sr.CompletionFlag) == ("SR", "20240305", "COMPLETE")
    said = f"Research use only; not a medical device. {TERMS}"
    assert children(sr, "121106")[0].TextValue == said and "Research use" in sr.SeriesDescription


def test_a_single_lesion_refers_to_its_segment_too(study) -> None:
    """Its frames share the number of their segment, which then stands elsewhere in the SEG."""
    headers, _, lesions, _ = study
    alone = MeasuredLesions(lesions=LESIONS[:1], totals=TOTALS)
    (group, _) = children(
        children(report(study, alone, seg_of(lesions * (lesions == 1), headers)), "126010")[0], "125007"
    )
    sources = {one.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for one in children(group, "121233")}
    assert sources == {headers[z].SOPInstanceUID for z in (1, 2)}


def test_no_lesion_is_a_report_too(study) -> None:
    headers, _, lesions, _ = study
    sr = report(study, MeasuredLesions(lesions=[], totals=NONE), seg_of(lesions * 0, headers))
    (whole,) = children(children(sr, "126010")[0], "125007")
    assert numbers(whole) == {
        ("246206008", "SCT", "1", None): 0,
        ("126032", "DCM", "ml", "255619001"): 0,
        ("126033", "DCM", "g", None): 0,
    }


def test_more_lesions_than_segments_have_numbers_without_a_region(study) -> None:
    headers, _, _, _ = study
    many = (np.arange(8 * 7 * 6).reshape(8, 7, 6) < 256) * (1 + np.arange(8 * 7 * 6).reshape(8, 7, 6))
    sr = report(study, seg=seg_of(many, headers))  # one segment for all
    groups = children(children(sr, "126010")[0], "125007")
    assert [children(group, "112039")[0].TextValue for group in groups] == [
        "Lesion number 1",
        "Lesion number 2",
        "Lesions",
    ]
    assert not any(children(group, "121191") for group in groups)


def test_the_same_numbers_have_the_same_uid_and_others_another(study, sr) -> None:
    headers, _, lesions, seg = study
    assert sr.SOPInstanceUID == sr_uid(MEASURED, seg)
    changed = MeasuredLesions(lesions=[LESIONS[0] | {"suv_max": 9.5}, LESIONS[1]], totals=TOTALS)
    again = report(study, changed)
    others = {sr_uid(MEASURED, seg_of(lesions, headers, "other")), sr.SOPInstanceUID, again.SOPInstanceUID}
    assert len(others) == 3 and again.SeriesInstanceUID == sr.SeriesInstanceUID


def test_a_lesion_that_the_seg_lacks_is_an_error(study) -> None:
    third = MeasuredLesions(lesions=[*LESIONS, LESIONS[0] | {"number": 3}], totals=TOTALS)
    with pytest.raises(CaseError, match="has no segment 'Lesion 3'"):
        report(study, third)
