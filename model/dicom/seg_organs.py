"""Organs as a DICOM Segmentation (SEG) of their own, beside that of the lesions, whose segments keep their numbers.

A segment is an organ that was found, in the order of the labels. Its type is the organ's SNOMED CT code; organs of both
sides are one segment, which the type's modifier says (PS3.3, C.8.20.4; PS3.16, CID 244).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset
from pydicom.sr.codedict import codes

from model.dicom.derived import uid_from
from model.dicom.seg import SegSeries, describe_segment, segmentation, series_uid

CODES = {
    "spleen": codes.SCT.Spleen,  # 78961009
    "kidneys": codes.SCT.Kidney,  # 64033007
    "liver": codes.SCT.Liver,  # 10200004
    "urinary bladder": codes.SCT.Bladder,  # 89837001
    "lungs": codes.SCT.Lung,  # 39607008
    "brain": codes.SCT.Brain,  # 12738006
    "heart": codes.SCT.Heart,  # 80891009
    "stomach": codes.SCT.Stomach,  # 69695003
    "prostate": codes.SCT.Prostate,  # 41216001
    "salivary glands": codes.SCT.SalivaryGland,  # 385294005
}
OF_BOTH_SIDES = ("kidneys", "lungs", "salivary glands")
ORGAN_SERIES = SegSeries(title="Organs", number=9003, uid_word="organs seg")


def organs_seg(
    labels: NDArray[Any],
    names: Sequence[str],
    headers: Sequence[FileDataset],
    weights: str,
    run: str,
    terms: str = "",
    mark: str = "",
) -> bytes:
    """A DICOM file of organs, labels 1, 2, ... (z, y, x) called `names`, on the slices of `headers`.

    headers, weights, run, terms, mark: as `dicom_seg`; another map has other UIDs. An organ without a code here has the
    type organ and its name as the label. Raises CaseError, or an error of highdicom, where headers cannot be referred
    to; ValueError if no organ was found, as a SEG has a segment at least.
    """
    found = [label for label in range(1, len(names) + 1) if (labels == label).any()]
    if not found:
        raise ValueError("no organ was found")
    segment_of = np.zeros(256, np.uint8)
    segment_of[found] = range(1, len(found) + 1)
    segments: NDArray[np.uint8] = segment_of[labels]
    run = f"{run} {hashlib.sha256(np.ascontiguousarray(labels, np.uint8).tobytes()).hexdigest()}"
    descriptions = []
    for number, label in enumerate(found, start=1):
        name = names[label - 1]
        uid = uid_from("organs", series_uid(headers), run, label)
        kind = (codes.SCT.AnatomicalStructure, CODES.get(name, codes.SCT.Organ))
        made = describe_segment(number, name.capitalize(), weights, uid, kind)
        if name in OF_BOTH_SIDES:
            made.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [_both_sides()]
        descriptions.append(made)
    return segmentation(segments, descriptions, headers, run, replace(ORGAN_SERIES, mark=mark), terms)


def _both_sides() -> Dataset:
    """Right and left, SNOMED CT 51440002, of CID 244."""
    code, item = codes.SCT.RightAndLeft, Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme_designator, "Right and left"
    return item
