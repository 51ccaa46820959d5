"""Read segmentations of 3D Slicer and MITK: NRRD files with layers of labels, and with entries that name the segments.

Source: Slicer's developer guide, "Segmentations". Overlapping segments lie in several layers. A file of a single voxel
stands for a segmentation that is empty.
"""

import re
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.errors import CaseError
from model.files import free_memory_bytes
from model.study.geometry import Grid
from model.study.integrity import refusal
from model.study.nrrd import nrrd_layers
from model.study.stored import check_length, decoded

SEGMENT = re.compile(r"Segment(\d+)_(LabelValue|Layer|Tags)")
CATEGORY = re.compile(r"TerminologyEntry:[^~]*~[^~^]*\^([^~^]*)\^([^~^]*)~")  # list ~ scheme^code^meaning ~ ...
NO_LESION = {
    "91723000": "an anatomical structure",
    "123037004": "an anatomical structure",
    "T-D0005": "an anatomical structure",
    "T-D000A": "an anatomical structure",
    "260787004": "a physical object",
    "A-00004": "a physical object",
    "91720002": "a body substance",
    "T-D0080": "a body substance",
}  # categories of SNOMED CT and, in older files, SNOMED RT (DICOM PS3.16, CID 7150): segments that are no lesion


def is_segmentation(path: Path) -> bool:
    """Whether a file is an NRRD with layers or with named segments; False if its header cannot be read."""
    if not path.name.lower().endswith(".nrrd"):
        return False
    try:
        stored, entries = nrrd_layers(path)
    except (OSError, EOFError, ValueError, zlib.error):
        return False  # whoever reads it as an image says what is wrong
    return stored.channels > 1 or any(map(SEGMENT.fullmatch, entries))


def read_segmentation(path: Path, what: str) -> tuple[NDArray[np.bool_], Grid, tuple[str, ...]]:
    """Where a segment is that may be a lesion, (z, y, x); the grid; notes. Raises CaseError.

    Segments whose category is an anatomical structure, an object or a substance are no lesion.
    """
    try:
        stored, entries = nrrd_layers(path)
        check_length(stored)
        free = free_memory_bytes()
        if free is not None and 2 * stored.bytes > free:
            raise CaseError(f"{what} '{path}' does not fit into memory; use a machine with more")
        content = b"".join(decoded(stored))
    except OSError as error:
        raise CaseError(f"{what} '{path}' cannot be read: {error.strerror or error}; check access to it") from None
    except (EOFError, ValueError, zlib.error) as error:
        raise refusal(path, what, error) from None
    if stored.kind.kind == "f":
        raise CaseError(
            f"{what} '{path}' holds {stored.kind.name} values, and a segmentation labels; export it as labels"
        )
    if len(stored.size) != 3:
        raise CaseError(f"{what} '{path}' has {len(stored.size)} dimensions, not 3; export it as a label map")
    x, y, z = stored.size
    layers = np.frombuffer(content, stored.kind).reshape(z, y, x, stored.channels)
    (grid, *_) = stored.grids
    if stored.size == (1, 1, 1):
        return np.zeros((1, 1, 1), bool), grid, ()
    organs = [organ for organ in _organs(entries) if organ[0] < stored.channels]
    lesions = layers.copy() if organs else layers
    for layer, label, _ in organs:
        lesions[..., layer][lesions[..., layer] == label] = 0
    mask: NDArray[np.bool_] = np.asarray((lesions > 0).any(axis=-1))
    if organs and layers.any() and not mask.any():
        raise CaseError(
            f"every segment of {what} '{path}' is {' or '.join(sorted({why for _, _, why in organs}))}, and none a "
            "lesion; change its terminology in 3D Slicer, or save it as a label map"
        )
    count = sum(np.count_nonzero(np.unique(lesions[..., layer])) for layer in range(stored.channels))
    notes = [f"{what} '{path}': a segment is {why}, and no lesion" for _, _, why in organs]
    notes += [f"{what} '{path}': all its {count} segments are lesion"] if count > 1 else []
    return mask, grid, tuple(notes)


def _organs(entries: dict[str, str]) -> list[tuple[int, int, str]]:
    """Layer, label and kind of every segment that is no lesion. Without an own label a segment has 1, as in old files,
    where each has a layer.
    """
    segments: dict[int, dict[str, str]] = {}
    for key, value in entries.items():
        if found := SEGMENT.fullmatch(key):
            segments.setdefault(int(found[1]), {})[found[2]] = value
    organs = []
    for number, segment in sorted(segments.items()):
        category = CATEGORY.search(segment.get("Tags", ""))
        if category and category[1] in NO_LESION:
            layer, label = segment.get("Layer", str(number)), segment.get("LabelValue", "1")
            if layer.isdigit() and label.isdigit():
                organs.append((int(layer), int(label), NO_LESION[category[1]]))
    return organs
