"""Lesions as DICOM Segmentation (SEG) on the slices of their PET, one segment a lesion.

The patient's and the study's identity are those of the PET, byte by byte, so that a PACS files it beside it.
Segments have the numbers of the lesion table, so that a viewer shows which lesion is which.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from model import RESEARCH, __version__
from model.dicom.derived import (
    DEVICE,
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

warnings.filterwarnings("ignore", module=r"highdicom\.")  # a name of one part is no reason to complain
LONGEST_COMMENT = 1024  # characters; LT may have 10,240
LESION_TYPE = (codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.Lesion)  # SNOMED CT 49755003, 52988006


@dataclass(frozen=True, kw_only=True)
class SegSeries:
    """The series of a SEG: its title, its number, above those that scanners use, and a word that its UIDs depend on.
    mark: what else its description says.
    """

    title: str
    number: int
    uid_word: str
    mark: str = ""


LESION_SERIES = SegSeries(title="Lesions", number=9001, uid_word="seg")
EDITED_SERIES = SegSeries(title="Lesions, edited", number=9001, uid_word="seg")


def dicom_seg(
    numbers: NDArray[Any],
    headers: Sequence[FileDataset],
    weights: str,
    run: str,
    terms: str = "",
    edited: str = "",
    mark: str = "",
) -> bytes:
    """A DICOM file of numbered lesions (z, y, x), 0 outside, on the slices of `headers`, ordered by `order_slices`.

    weights: the bundle's name and method, shown as the algorithm. run: names all that the lesions depend on
    besides the PET; the same run gives the same UIDs. terms: licence and citation of the weights, for ImageComments.
    edited: what is said of a reader's edit; then segments are semiautomatic. mark: goes into the series' description.
    Without lesions there is one segment of empty frames: "nothing found" is a result, too. Raises CaseError, or an
    error of highdicom, where headers cannot be referred to.
    """
    segments, labels = segments_of(numbers)
    descriptions = [
        describe_segment(
            number, label, weights, uid_from("lesions", series_uid(headers), run, number), LESION_TYPE, bool(edited)
        )
        for number, label in enumerate(labels, start=1)
    ]
    series = replace(EDITED_SERIES if edited else LESION_SERIES, mark=mark)
    return segmentation(segments, descriptions, headers, run, series, f"{edited}. {terms}" if edited else terms)


def segmentation(
    segments: NDArray[np.uint8],
    descriptions: list[hd.seg.SegmentDescription],
    headers: Sequence[FileDataset],
    run: str,
    series: SegSeries,
    terms: str,
) -> bytes:
    """A SEG of segments 1, 2, ... (z, y, x), 0 outside, as the bytes of a file; raises as `dicom_seg`."""
    sources = sources_from(headers)
    positions = np.array([source.ImagePositionPatient for source in sources], np.float64)
    step_mm = float(np.linalg.norm(positions[-1] - positions[0])) / (len(sources) - 1)
    for source in sources:
        if not source.FrameOfReferenceUID:
            source.FrameOfReferenceUID = uid_from("frame", source.SeriesInstanceUID)
        source.SliceThickness = source.SpacingBetweenSlices = f"{step_mm:.10g}"  # voxels without gaps
    made: Dataset = hd.seg.Segmentation(
        source_images=_as_one_series(sources),
        pixel_array=segments,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=descriptions,
        series_instance_uid=uid_from(f"{series.uid_word} series", series_uid(headers), run),
        series_number=series.number,
        sop_instance_uid=uid_from(series.uid_word, series_uid(headers), run),
        instance_number=1,
        content_label=series.title.upper().replace(",", ""),  # CS has no commas
        content_description=RESEARCH,
        series_description=series_description(series.title, series.mark),
        omit_empty_frames=bool(segments.any()),
        **DEVICE,
    )
    _refer_to_parts(made, sources)
    identity_of(headers[0]).fill(made)
    if terms:
        made.ImageComments = plain_text(terms, LONGEST_COMMENT)
    return as_bytes(made)


def describe_segment(
    number: int, label: str, weights: str, tracking_uid: str, kind: tuple[Code, Code], edited: bool = False
) -> hd.seg.SegmentDescription:
    """What a segment is: its number and label, and its category and type as SNOMED CT codes; found by `weights`, and
    edited by a reader or not.
    """
    algorithm = hd.seg.SegmentAlgorithmTypeValues
    name = f"{MODEL}: {weights}".encode("ascii", "replace").decode()[:64]  # ASCII is valid in every character set
    category, found = kind
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=label,
        segmented_property_category=category,
        segmented_property_type=found,
        algorithm_type=algorithm.SEMIAUTOMATIC if edited else algorithm.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=name, family=codes.DCM.ArtificialIntelligence, version=__version__
        ),
        tracking_uid=tracking_uid,
        tracking_id=label,
    )


def series_uid(headers: Sequence[FileDataset]) -> str:
    """The SeriesInstanceUID of the PET; of a PET in several parts, that of the first slice."""
    return str(headers[0].get("SeriesInstanceUID", ""))  # without one `sources_from` refuses it


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
