"""Lesions as DICOM Segmentation (SEG) on the slices of their PET, one segment a lesion.

The patient's and the study's identity are those of the PET, byte by byte, so that a PACS files it beside it.
Segments have the numbers of the lesion table, so that a viewer shows which lesion is which.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset
from pydicom.sr.codedict import codes

from model import RESEARCH, __version__
from model.dicom.derived import MANUFACTURER, MODEL, SERIAL, as_bytes, plain_text, segments_of, sources_from, uid_from
from model.dicom.headers import by_series
from model.dicom.identity import identity_of

warnings.filterwarnings("ignore", module=r"highdicom\.")  # a name of one part is no reason to complain
SERIES_NUMBER = 9001  # above the numbers that scanners use
LONGEST_COMMENT = 1024  # characters; LT may have 10,240


def dicom_seg(numbers: NDArray[Any], headers: Sequence[FileDataset], weights: str, run: str, terms: str = "") -> bytes:
    """A DICOM file of numbered lesions (z, y, x), 0 outside, on the slices of `headers`, ordered by `order_slices`.

    weights: the bundle's name and method, shown as the algorithm. run: names all that the lesions depend on
    besides the PET; the same run gives the same UIDs. terms: licence and citation of the weights, for ImageComments.
    Without lesions there is one segment of empty frames: "nothing found" is a result, too. Raises CaseError, or an
    error of highdicom, where headers cannot be referred to.
    """
    sources = sources_from(headers)
    positions = np.array([source.ImagePositionPatient for source in sources], np.float64)
    step_mm = float(np.linalg.norm(positions[-1] - positions[0])) / (len(sources) - 1)
    for source in sources:
        if not source.FrameOfReferenceUID:
            source.FrameOfReferenceUID = uid_from("frame", source.SeriesInstanceUID)
        source.SliceThickness = source.SpacingBetweenSlices = f"{step_mm:.10g}"  # voxels without gaps
    segments, labels = segments_of(numbers)
    made = _segmentation(segments, labels, sources, weights, run)
    identity_of(headers[0]).fill(made)
    if terms:
        made.ImageComments = plain_text(terms, LONGEST_COMMENT)
    return as_bytes(made)


def _segmentation(
    segments: NDArray[np.uint8], labels: list[str], sources: list[Dataset], weights: str, run: str
) -> Dataset:
    first = sources[0]
    made: Dataset = hd.seg.Segmentation(
        source_images=_as_one_series(sources),
        pixel_array=segments,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _description(number, label, weights, uid_from("lesions", first.SeriesInstanceUID, run, number))
            for number, label in enumerate(labels, start=1)
        ],
        series_instance_uid=uid_from("seg series", first.SeriesInstanceUID, run),
        series_number=SERIES_NUMBER,
        sop_instance_uid=uid_from("seg", first.SeriesInstanceUID, run),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MODEL,
        software_versions=__version__,
        device_serial_number=SERIAL,
        content_label="LESIONS",
        content_description=RESEARCH,
        series_description=f"Lesions, {RESEARCH}",
        omit_empty_frames=bool(segments.any()),
    )
    _refer_to_parts(made, sources)
    return made


def _as_one_series(sources: list[Dataset]) -> list[Dataset]:
    """The slices under the UID of the first series, since highdicom takes only one series."""
    copies = []
    for source in sources:
        copy = Dataset()
        copy.update(source)
        copy.add_new(
            "SeriesInstanceUID", "UI", sources[0].SeriesInstanceUID
        )  # a new element, since the copies share the others
        copies.append(copy)
    return copies


def _refer_to_parts(made: Dataset, sources: list[Dataset]) -> None:
    """Move the slices that a SEG refers to back under the UIDs of their own series."""
    parts = by_series(sources)
    if len(parts) == 1:
        return
    (whole,) = made.ReferencedSeriesSequence
    instances = {item.ReferencedSOPInstanceUID: item for item in whole.ReferencedInstanceSequence}
    referred = []
    for uid, part in parts.items():
        item = Dataset()
        item.SeriesInstanceUID = uid
        item.ReferencedInstanceSequence = [
            instances[source.SOPInstanceUID] for source in part if source.SOPInstanceUID in instances
        ]
        if item.ReferencedInstanceSequence:
            referred.append(item)
    made.ReferencedSeriesSequence = referred


def _description(number: int, label: str, weights: str, tracking_uid: str) -> hd.seg.SegmentDescription:
    name = f"{MODEL}: {weights}".encode("ascii", "replace").decode()[:64]  # ASCII is valid in every character set
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=label,
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,  # SNOMED CT 49755003
        segmented_property_type=codes.SCT.Lesion,  # SNOMED CT 52988006
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=name, family=codes.DCM.ArtificialIntelligence, version=__version__
        ),
        tracking_uid=tracking_uid,
        tracking_id=label,
    )
