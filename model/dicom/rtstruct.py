"""Lesions as DICOM RT Structure Set: one ROI a lesion, contours slice by slice along the edges of its voxels.

The patient's and the study's identity are those of the PET, byte by byte, so that a PACS or a planning system
files it beside the PET.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage
from scipy import ndimage

from model import RESEARCH, __version__
from model.dicom.contours import outlines
from model.dicom.derived import (
    MANUFACTURER,
    MODEL,
    as_bytes,
    plain_text,
    segments_of,
    series_description,
    sources_from,
    uid_from,
)
from model.dicom.headers import by_series
from model.dicom.identity import identity_of
from model.study.geometry import Grid

SERIES_NUMBER = 9002
LONGEST_DESCRIPTION = 1024  # characters of ST
STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"  # Detached Study Management, as RT structure sets require (PS3.3, C.8.8.5)
RED = [214, 30, 30]


def dicom_rtstruct(
    numbers: NDArray[Any],
    headers: Sequence[FileDataset],
    grid: Grid,
    run: str,
    terms: str = "",
    edited: str = "",
    mark: str = "",
) -> bytes:
    """A DICOM file of the outlines of numbered lesions (z, y, x), 0 outside, on the slices of `headers`, ordered alike.

    grid: of numbers. run: names all that the lesions depend on besides the PET; the same run gives the same UIDs. ROIs
    are called by the numbers of the lesion table. Without lesions there is one ROI without contours. A contour encloses
    the centres of the lesion's voxels and of no others. terms: licence and citation of the weights, for the
    description. edited: what is said of a reader's edit; then ROIs are semiautomatic. mark: goes into the series'
    description.
    """
    sources = sources_from(headers)
    first = sources[0]
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = RTStructureSetStorage
    made.SOPInstanceUID = uid_from("rtstruct", first.SeriesInstanceUID, run)
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made.StudyInstanceUID = first.StudyInstanceUID
    identity_of(headers[0]).fill(made)
    now = datetime.now()
    made.Modality, made.SeriesNumber, made.OperatorsName = "RTSTRUCT", SERIES_NUMBER, ""
    made.SeriesInstanceUID = uid_from("rtstruct series", first.SeriesInstanceUID, run)
    made.SeriesDescription = series_description("Lesions, edited" if edited else "Lesions", mark)
    made.Manufacturer, made.ManufacturerModelName, made.SoftwareVersions = MANUFACTURER, MODEL, __version__
    made.StructureSetLabel, made.StructureSetDescription = (
        "LESIONS EDITED" if edited else "LESIONS",
        plain_text(f"{RESEARCH} {edited}. {terms}" if edited else f"{RESEARCH} {terms}", LONGEST_DESCRIPTION),
    )
    made.StructureSetDate = made.InstanceCreationDate = f"{now:%Y%m%d}"
    made.StructureSetTime = made.InstanceCreationTime = f"{now:%H%M%S}"
    made.ApprovalStatus = "UNAPPROVED"
    frame = first.FrameOfReferenceUID or uid_from("frame", first.SeriesInstanceUID)
    made.FrameOfReferenceUID, made.PositionReferenceIndicator = frame, ""
    made.ReferencedFrameOfReferenceSequence = Items([_frame(frame, sources)])
    _add_rois(made, numbers, sources, grid, "SEMIAUTOMATIC" if edited else "AUTOMATIC")
    return as_bytes(made)


def _add_rois(made: Dataset, numbers: NDArray[Any], sources: list[Dataset], grid: Grid, algorithm: str) -> None:
    """Add an ROI, its contours and its observation for each lesion, or one ROI for all."""
    segments, labels = segments_of(numbers)
    boxes = ndimage.find_objects(segments)  # empty without lesions
    rois, contours_of_rois, observations = [], [], []
    for number, label in enumerate(labels, start=1):
        rois.append(
            _item(
                ROINumber=number,
                ReferencedFrameOfReferenceUID=made.FrameOfReferenceUID,
                ROIName=label,
                ROIDescription=RESEARCH,
                ROIGenerationAlgorithm=algorithm,
            )
        )
        planes = range(boxes[number - 1][0].start, boxes[number - 1][0].stop) if boxes else ()
        contours = [_contour(p, z, sources[z], grid) for z in planes for p in outlines(segments[z] == number)]
        contours_of_rois.append(_item(ReferencedROINumber=number, ROIDisplayColor=RED))
        if contours:
            contours_of_rois[-1].ContourSequence = Items(contours)
        observations.append(
            _item(ObservationNumber=number, ReferencedROINumber=number, RTROIInterpretedType="", ROIInterpreter="")
        )
    made.StructureSetROISequence, made.ROIContourSequence = Items(rois), Items(contours_of_rois)
    made.RTROIObservationsSequence = Items(observations)


def _contour(polygon: NDArray[np.float64], z: int, source: Dataset, grid: Grid) -> Dataset:
    """One closed polygon of a slice, in patient coordinates to 0.001 mm."""
    matrix = np.array(grid.direction).reshape(3, 3) * grid.spacing_mm
    points = np.column_stack([polygon, np.full(len(polygon), float(z))]) @ matrix.T + np.array(grid.origin_mm)
    return _item(
        ContourImageSequence=Items([_reference(source)]),
        ContourGeometricType="CLOSED_PLANAR",
        NumberOfContourPoints=len(points),
        ContourData=[f"{value:.3f}" for value in points.ravel()],
    )


def _frame(frame: str, sources: list[Dataset]) -> Dataset:
    """The frame of reference, study, series and slices that the contours lie on."""
    series = [
        _item(SeriesInstanceUID=uid, ContourImageSequence=Items([_reference(s) for s in part]))
        for uid, part in by_series(sources).items()
    ]  # several where the PET was sent as several series
    study = _item(
        ReferencedSOPClassUID=STUDY_CLASS,
        ReferencedSOPInstanceUID=sources[0].StudyInstanceUID,
        RTReferencedSeriesSequence=Items(series),
    )
    return _item(FrameOfReferenceUID=frame, RTReferencedStudySequence=Items([study]))


def _reference(source: Dataset) -> Dataset:
    return _item(ReferencedSOPClassUID=source.SOPClassUID, ReferencedSOPInstanceUID=source.SOPInstanceUID)


def _item(**values: Any) -> Dataset:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item
