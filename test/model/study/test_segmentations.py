"""Segmentations as 3D Slicer saves them (.seg.nrrd)."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from nrrd_writer import write

from model.errors import CaseError
from model.study.masks import read_drawn

LIVER = "SCT^123037004^Anatomical Structure~SCT^10200004^Liver~^^~"
MASS = "SCT^49755003^Morphologically Altered Structure~SCT^4147007^Mass~^^~"


def tags(number: int, kind: str) -> str:
    return f"Segment{number}_Tags:=Segmentation.Status:inprogress|TerminologyEntry:Category~{kind}Anatomy~^^~^^|"


def segmentation(folder: Path, layers: np.ndarray, *entries: str) -> Path:
    """A file of layers (layer, z, y, x), uint8, compressed; the layer is the fastest axis."""
    count, z, y, x = layers.shape
    return write(
        folder,
        *entries,
        type="unsigned char",
        endian=None,
        dimension="4",
        sizes=f"{count} {x} {y} {z}",
        space_directions="none (4,0,0) (0,5,0) (0,0,6)",
        kinds="list domain domain domain",
        encoding="gzip",
        data=gzip.compress(np.moveaxis(layers, 0, -1).tobytes()),
    )


def two_layers() -> np.ndarray:
    """A mass (1) and a liver (2) in the first layer, and another mass that overlaps the liver in the second."""
    layers = np.zeros((2, 4, 5, 6), np.uint8)
    layers[0, 0, 0, 0] = 1
    layers[0, 1:3, 1:3, 1:3] = 2
    layers[1, 2, 2, 2:5] = 1
    return layers


def test_layers_are_joined_and_organs_left_out(tmp_path) -> None:
    entries = [tags(0, MASS), "Segment0_LabelValue:=1", "Segment0_Layer:=0"]
    entries += [tags(1, LIVER), "Segment1_LabelValue:=2", "Segment1_Layer:=0"]
    entries += [tags(2, MASS), "Segment2_LabelValue:=1", "Segment2_Layer:=1"]
    drawn = read_drawn(segmentation(tmp_path, two_layers(), *entries), "edit")
    wanted = np.zeros((4, 5, 6), bool)
    wanted[0, 0, 0] = True
    wanted[2, 2, 2:5] = True
    np.testing.assert_array_equal(drawn.mask, wanted)
    assert drawn.grid.size == (6, 5, 4) and drawn.grid.spacing_mm == (4, 5, 6) and drawn.grid.origin_mm == (1, -2, 3.5)
    assert ["an anatomical structure" in note for note in drawn.notes] == [True, False]
    assert drawn.notes[1].endswith("all its 2 segments are lesion")


def test_without_terminology_every_segment_is_lesion(tmp_path) -> None:
    drawn = read_drawn(segmentation(tmp_path, two_layers()), "edit")
    np.testing.assert_array_equal(drawn.mask, (two_layers() > 0).any(axis=0))


def test_a_file_of_organs_alone_is_refused(tmp_path) -> None:
    whole = np.ones((1, 4, 5, 6), np.uint8)
    path = segmentation(tmp_path, whole, tags(0, LIVER), "Segment0_LabelValue:=1", "Segment0_Layer:=0")
    with pytest.raises(CaseError, match="every segment of edit .* is an anatomical structure, and none a lesion"):
        read_drawn(path, "edit")


def test_a_single_voxel_stands_for_an_empty_segmentation(tmp_path) -> None:
    path = segmentation(tmp_path, np.zeros((1, 1, 1, 1), np.uint8), "Segment0_LabelValue:=1")
    assert not read_drawn(path, "edit").mask.any()


def test_a_cut_off_file_is_refused(tmp_path) -> None:
    path = segmentation(tmp_path, two_layers())
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(CaseError, match="cut off or damaged"):
        read_drawn(path, "edit")
