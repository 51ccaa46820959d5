"""Measurements as DICOM Structured Report: TID 1500, the measurement report that viewers and archives of numbers read.

A lesion is a measurement group of its own (TID 1411) that refers to its segment in the SEG; all lesions together are
one more (TID 1501). The patient's and the study's identity are those of the PET, byte by byte, as in the SEG.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import highdicom as hd
from pydicom.dataset import Dataset, FileDataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from model import RESEARCH, __version__
from model.dicom.derived import (
    ALL,
    DEVICE,
    LESION,
    MANUFACTURER,
    MODEL,
    as_bytes,
    plain_text,
    series_description,
    sources_from,
    uid_from,
)
from model.dicom.headers import by_series
from model.dicom.identity import identity_of
from model.dicom.seg import LESION_TYPE
from model.errors import CaseError

SERIES_NUMBER = 9004
LONGEST_COMMENT = 1024  # characters; UT may have 2^32
PROCEDURE = codes.LN.PETUnspecifiedBodyRegion  # LOINC 44136-0 of CID 100
TRACKED = "Lesion number"  # how a group is called whose lesion has no segment of its own


@dataclass(frozen=True, kw_only=True)
class CodedNumber:
    """What a number is and its unit as codes; derivation: which value of a region it is, of CID 7464."""

    name: Code
    unit: Code
    derivation: Code | None = None


ML = Code("ml", "UCUM", "milliliter")
MM = codes.UCUM.Millimeter
GRAM = Code("g", "UCUM", "gram")  # of SUV x ml, as SUV is g/ml
SUV_UNIT = codes.cid85.StandardizedUptakeValueBodyWeight  # g/ml{SUVbw}; older editions: {SUVbw}g/ml
ONE = Code("1", "UCUM", "no units")
SUL_UNIT = codes.cid85.StandardizedUptakeValueLeanBodyMassJanma
JAMES_UNIT = codes.cid85.StandardizedUptakeValueLeanBodyMassJames128Multiplier
SUV, SUL = codes.DCM.Suvbw, codes.DCM.SuvlbmJanma  # 126401, 126405
PEAK = codes.DCM.PeakValueWithinROI  # 126031
OF_A_LESION = {
    "volume_ml": CodedNumber(name=codes.DCM.MetabolicVolume, unit=ML),  # 126032
    "suv_max": CodedNumber(name=SUV, unit=SUV_UNIT, derivation=codes.SCT.Maximum),  # 56851009
    "suv_mean": CodedNumber(name=SUV, unit=SUV_UNIT, derivation=codes.SCT.Mean),  # 373098007
    "suv_peak": CodedNumber(name=SUV, unit=SUV_UNIT, derivation=PEAK),
    "tlg_suv_ml": CodedNumber(name=codes.DCM.Glycolysis, unit=GRAM),  # 126034: of one lesion
    "long_diameter_mm": CodedNumber(name=codes.IBSI.Maximum3DDiameterOfAMesh, unit=MM),  # L0JK
    "sul_max": CodedNumber(name=SUL, unit=SUL_UNIT, derivation=codes.SCT.Maximum),
    "sul_mean": CodedNumber(name=SUL, unit=SUL_UNIT, derivation=codes.SCT.Mean),
    "sul_peak": CodedNumber(name=SUL, unit=SUL_UNIT, derivation=PEAK),
    "sul_peak_james": CodedNumber(name=codes.DCM.SuvlbmJames128, unit=JAMES_UNIT, derivation=PEAK),  # 126406
    "sphericity": CodedNumber(name=codes.IBSI.Sphericity, unit=ONE),  # QCFX
}
OF_ALL = {
    "lesions": CodedNumber(name=Code("246206008", "SCT", "Number of lesions"), unit=ONE),
    "mtv_ml": CodedNumber(name=codes.DCM.MetabolicVolume, unit=ML, derivation=codes.SCT.Total),  # 255619001
    "tlg_suv_ml": CodedNumber(name=codes.DCM.TotalLesionGlycolysis, unit=GRAM),  # 126033
    "suv_max": OF_A_LESION["suv_max"],
    "suv_peak": OF_A_LESION["suv_peak"],
    "dmax_mm": CodedNumber(name=codes.DCM.Distance, unit=MM, derivation=codes.SCT.Maximum),  # 121206
}  # of CID 7466 and 218 where they have one


@dataclass(frozen=True, kw_only=True)
class MeasuredLesions:
    """The lesion table and its totals by their names there; those without a code here are not written.

    lesions: each has its `number`, which its segment's label ends with.
    """

    lesions: Sequence[Mapping[str, Any]]
    totals: Mapping[str, Any]


def sr_uid(measured: MeasuredLesions, seg: Dataset) -> str:
    """The UID of the report of these numbers on this SEG: the same numbers have the same one."""
    coded = [{name: values.get(name) for name in ("number", *OF_A_LESION)} for values in measured.lesions]
    return uid_from(
        "sr",
        SUV_UNIT.value,
        seg.SOPInstanceUID,
        json.dumps([coded, {name: measured.totals.get(name) for name in OF_ALL}]),
    )


def dicom_sr(
    measured: MeasuredLesions,
    seg: Dataset,
    pet: Sequence[FileDataset],
    ct: Sequence[FileDataset],
    terms: str = "",
    mark: str = "",
) -> bytes:
    """A DICOM file of the lesions' measurements. seg: of these lesions, on the slices `pet`, ordered by `order_slices`.

    ct: the slices of the CT, if there is one. terms: licence and citation of the weights, for a comment. mark: goes
    into the series' description. Lesions without a segment of
    their own have a group without a region; without lesions there are the totals alone. Raises CaseError, or an error
    of highdicom, where headers cannot be referred to.
    """
    images = [sources_from(one) for one in (pet, ct) if one]
    evidence = [Dataset(), *(image for series in images for image in series)]
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"):
        setattr(evidence[0], keyword, seg[keyword].value)
    report = hd.sr.MeasurementReport(
        observation_context=_observer(),
        procedure_reported=PROCEDURE,
        imaging_measurements=[*_lesion_groups(measured, seg), _group_of_all(measured, seg)],
        title=codes.DCM.ImagingMeasurementReport,  # 126000: the one title whose numbers OHIF shows
    )
    content = report[0].ContentSequence
    content.insert(len(content) - 1, _image_library([part for series in images for part in by_series(series).values()]))
    comment = plain_text(f"{RESEARCH} {terms}", LONGEST_COMMENT)
    content.append(
        hd.sr.TextContentItem(
            name=codes.DCM.Comment, value=comment, relationship_type=hd.sr.RelationshipTypeValues.CONTAINS
        )
    )
    made: Dataset = hd.sr.ComprehensiveSR(
        evidence=[*evidence[1:], evidence[0]],  # the first gives patient and study
        content=report,
        series_instance_uid=uid_from("sr series", seg.SOPInstanceUID),
        series_number=SERIES_NUMBER,
        sop_instance_uid=sr_uid(measured, seg),
        instance_number=1,
        series_description=series_description("Measurements", mark),
        is_complete=True,
        **DEVICE,
    )
    identity_of(pet[0]).fill(made)
    return as_bytes(made)


def _lesion_groups(measured: MeasuredLesions, seg: Dataset) -> list[hd.sr.MeasurementsAndQualitativeEvaluations]:
    """A group for each lesion."""
    segments = {segment.SegmentLabel: segment for segment in seg.SegmentSequence}
    groups = []
    for values in measured.lesions:
        number, label = int(values["number"]), f"{LESION} {values['number']}"
        numbers = _numbers(values, OF_A_LESION)
        if ALL in segments:
            uid = uid_from("lesion", seg.SOPInstanceUID, number)
            groups.append(_group(numbers, hd.sr.TrackingIdentifier(uid=uid, identifier=f"{TRACKED} {number}"), seg))
            continue
        if label not in segments:
            raise CaseError(f"the SEG '{seg.SOPInstanceUID}' has no segment '{label}', which the SR must refer to")
        segment = segments[label]
        groups.append(
            hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
                tracking_identifier=hd.sr.TrackingIdentifier(uid=segment.TrackingUID, identifier=segment.TrackingID),
                referenced_segment=_segment_reference(seg, segment.SegmentNumber),
                finding_category=LESION_TYPE[0],
                finding_type=LESION_TYPE[1],
                algorithm_id=_algorithm(seg),
                measurements=numbers,
            )
        )
    return groups


def _segment_reference(seg: Dataset, number: int) -> hd.sr.ReferencedSegment:
    """A segment, and the slices that it lies on. What all frames share stands apart, as highdicom writes it."""
    (shared,) = seg.SharedFunctionalGroupsSequence
    slices: dict[str, str] = {}
    for frame in seg.PerFrameFunctionalGroupsSequence:
        (identified,) = (frame if "SegmentIdentificationSequence" in frame else shared).SegmentIdentificationSequence
        if identified.ReferencedSegmentNumber == number:
            for derived in frame.get("DerivationImageSequence") or shared.DerivationImageSequence:
                for image in derived.SourceImageSequence:
                    slices[image.ReferencedSOPInstanceUID] = image.ReferencedSOPClassUID
    return hd.sr.ReferencedSegment(
        sop_class_uid=seg.SOPClassUID,
        sop_instance_uid=seg.SOPInstanceUID,
        segment_number=number,
        source_images=[hd.sr.SourceImageForSegmentation(kind, uid) for uid, kind in slices.items()],
    )


def _group_of_all(measured: MeasuredLesions, seg: Dataset) -> hd.sr.MeasurementsAndQualitativeEvaluations:
    """The group of the totals."""
    tracking = hd.sr.TrackingIdentifier(uid=uid_from("all lesions", seg.SOPInstanceUID), identifier=ALL)
    return _group(_numbers(measured.totals, OF_ALL), tracking, seg)


def _group(
    numbers: list[hd.sr.Measurement], tracking: hd.sr.TrackingIdentifier, seg: Dataset
) -> hd.sr.MeasurementsAndQualitativeEvaluations:
    """A group without a region (TID 1501)."""
    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=tracking,
        finding_category=LESION_TYPE[0],
        finding_type=LESION_TYPE[1],
        algorithm_id=_algorithm(seg),
        measurements=numbers,
    )


def _numbers(values: Mapping[str, Any], coded: Mapping[str, CodedNumber]) -> list[hd.sr.Measurement]:
    """The measurements that there are; a value that is not defined, None, is left out."""
    return [
        hd.sr.Measurement(name=code.name, value=values[name], unit=code.unit, derivation=code.derivation)
        for name, code in coded.items()
        if values.get(name) is not None
    ]


def _algorithm(seg: Dataset) -> hd.sr.AlgorithmIdentification | None:
    """What found the lesions, as the SEG says; None where it does not, as it was drawn by hand."""
    stated = seg.SegmentSequence[0].get("SegmentationAlgorithmIdentificationSequence")
    if not stated:
        return None
    return hd.sr.AlgorithmIdentification(name=stated[0].AlgorithmName, version=stated[0].AlgorithmVersion)


def _observer() -> hd.sr.ObservationContext:
    """This software, as the device that observed."""
    device = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=uid_from("device", MODEL, __version__), name=MODEL, manufacturer_name=MANUFACTURER, model_name=MODEL
    )
    context = hd.sr.ObserverContext(observer_type=codes.DCM.Device, observer_identifying_attributes=device)
    return hd.sr.ObservationContext(observer_device_context=context)


def _image_library(series: Sequence[Sequence[Dataset]]) -> hd.sr.ContainerContentItem:
    """The slices that were looked at, a group for each series (TID 1600), with what they share."""
    contains, context = hd.sr.RelationshipTypeValues.CONTAINS, hd.sr.RelationshipTypeValues.HAS_ACQ_CONTEXT
    library = hd.sr.ContainerContentItem(name=codes.DCM.ImageLibrary, relationship_type=contains)
    library.ContentSequence = hd.sr.ContentSequence()
    for images in series:
        group = hd.sr.ContainerContentItem(name=codes.DCM.ImageLibraryGroup, relationship_type=contains)
        modality = {"PT": codes.DCM.PositronEmissionTomography, "CT": codes.DCM.ComputedTomography}[images[0].Modality]
        group.ContentSequence = hd.sr.ContentSequence(
            [hd.sr.CodeContentItem(name=codes.DCM.Modality, value=modality, relationship_type=context)]
        )
        if images[0].FrameOfReferenceUID:
            frame = images[0].FrameOfReferenceUID
            group.ContentSequence.append(
                hd.sr.UIDRefContentItem(name=codes.DCM.FrameOfReferenceUID, value=frame, relationship_type=context)
            )
        for image in images:
            group.ContentSequence.append(
                hd.sr.ImageContentItem(
                    name=Code("260753009", "SCT", "Source"),
                    referenced_sop_class_uid=image.SOPClassUID,
                    referenced_sop_instance_uid=image.SOPInstanceUID,
                    relationship_type=contains,
                )
            )
        library.ContentSequence.append(group)
    return library
