"""Read the lesions of a DICOM Segmentation (SEG) that another program, or this one, wrote.

Every segment is lesion, except those whose category is an anatomical structure, an object or a substance. Frames are
put where their position says (PS3.3, C.7.6.2.1.1), whatever slices they refer to.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import UID, RLELossless

from model.dicom.elements import UNREADABLE, items, number, text
from model.errors import CaseError
from model.study.geometry import Grid, grid_from
from model.study.masks import SAME_PLACE, DrawnMask, indices_on, placed_on
from model.study.segmentations import NO_LESION

HALF = 0.5  # of MaximumFractionalValue: from here on a fractional voxel is lesion
EVEN = 0.1  # of the step between slices: how far a frame may lie from its place
IN_PLANE_MM = 0.01  # how far frames may be shifted against each other within their plane
MOST_SLICES = 10_000


@dataclass(frozen=True, kw_only=True)
class _Frames:
    """Lesion pixels (frame, y, x), the position of each frame's first pixel (frame, 3), in mm; steps along a row and
    down a column (2, 3), in mm. step_mm, thickness_mm: between slices, and of one, as the header says, or None.
    """

    pixels: NDArray[np.bool_]
    positions: NDArray[np.float64]
    steps: NDArray[np.float64]
    step_mm: float | None = None
    thickness_mm: float | None = None


def segmented_lesions(data: FileDataset, label: str, grid: Grid, of_what: str) -> DrawnMask:
    """The lesions of a SEG on the grid of its PET. label, of_what: what messages call the two.

    Frames on the PET's own pixels are copied, others are resampled with a note. Raises CaseError for a file that cannot
    be read, or in which no segment is lesion.
    """
    lesions, notes = _lesion_segments(data, label)
    frames = _read_frames(data, label, lesions)
    if str(data.get("SegmentationType", "")) == "FRACTIONAL":
        notes.append(f"{label} is fractional: voxels of a half and more are lesion")
    mask = _on_same_pixels(frames, grid)
    if mask is not None:
        return DrawnMask(mask=mask, grid=grid, notes=tuple(notes))
    return placed_on(_on_own_grid(frames, label), grid, label, of_what).noted(*notes)


def _lesion_segments(data: FileDataset, label: str) -> tuple[list[int], list[str]]:
    """The numbers of the segments that are lesion, and a note for each other. Raises CaseError if none is lesion."""
    lesions, notes = [], []
    for segment in items(data, "SegmentSequence"):
        value = number(segment, "SegmentNumber")
        category = next(iter(items(segment, "SegmentedPropertyCategoryCodeSequence")), Dataset())
        why = NO_LESION.get(text(category, "CodeValue"))
        if why:
            notes.append(f"{label}: segment {value:g} is {why}, and no lesion")
        elif value:  # 0 is the background of a label map
            lesions.append(int(value))
    if not lesions:
        raise CaseError(
            f"no segment of {label} is a lesion: {len(notes)} are organs, objects or substances; give lesions another "
            "category, such as morphologically abnormal structure, or save them as a mask"
        )
    return lesions, notes


def _read_frames(data: FileDataset, label: str, lesions: list[int]) -> _Frames:
    """The frames of the lesions, where the header puts them. Raises CaseError."""
    pixels = _pixels(data, label)
    shared = next(iter(items(data, "SharedFunctionalGroupsSequence")), Dataset())
    groups = items(data, "PerFrameFunctionalGroupsSequence")
    if len(groups) != len(pixels):
        raise CaseError(f"{label} has {len(pixels)} frames and says where {len(groups)} lie; export it again")
    kind = text(data, "SegmentationType")
    top = (number(data, "MaximumFractionalValue") or 255.0) if kind == "FRACTIONAL" else 1.0
    kept, positions, places = [], [], set()
    for plane, group in zip(pixels, groups, strict=True):
        if kind == "LABELMAP":
            found = np.isin(plane, lesions)
        else:
            segment = number(_item(group, shared, "SegmentIdentificationSequence", label), "ReferencedSegmentNumber")
            if segment not in lesions:
                continue
            found = plane >= HALF * top if kind == "FRACTIONAL" else plane > 0
        measures = _item(group, shared, "PixelMeasuresSequence", label)
        axes = _numbers(_item(group, shared, "PlaneOrientationSequence", label), "ImageOrientationPatient", 6, label)
        spacing = _numbers(measures, "PixelSpacing", 2, label)
        places.add((axes, spacing, number(measures, "SpacingBetweenSlices"), number(measures, "SliceThickness")))
        positions.append(
            _numbers(_item(group, shared, "PlanePositionSequence", label), "ImagePositionPatient", 3, label)
        )
        kept.append(found)
    if not kept:
        return _Frames(pixels=np.zeros((0, 1, 1), bool), positions=np.zeros((0, 3)), steps=np.eye(2, 3))
    if len(places) != 1:
        raise CaseError(f"the frames of {label} have {len(places)} orientations or spacings; export one volume")
    ((axes, (down_mm, across_mm), step_mm, thickness_mm),) = places
    steps = np.array([axes[:3], axes[3:]]) * [[across_mm], [down_mm]]
    return _Frames(
        pixels=np.array(kept),
        positions=np.array(positions),
        steps=steps,
        step_mm=step_mm or None,
        thickness_mm=thickness_mm or None,
    )


def _pixels(data: FileDataset, label: str) -> NDArray[Any]:
    """The frames' pixels (frame, y, x). Raises CaseError."""
    syntax = UID(text(data.file_meta, "TransferSyntaxUID"))
    try:
        rows, columns, frames = int(data.Rows), int(data.Columns), int(data.get("NumberOfFrames") or 1)
        frame_bytes = -(-rows * columns // 8)
        padded = frames * frame_bytes
        own_bytes = syntax == RLELossless or len(data.PixelData) in (padded, padded + padded % 2)
        if int(data.BitsAllocated) == 1 and own_bytes and (rows * columns % 8 or syntax == RLELossless):
            bits = np.unpackbits(_bytes_of_frames(data, frames, frame_bytes), axis=1, bitorder="little")
            return bits[:, : rows * columns].reshape(frames, rows, columns)
        return np.asarray(data.pixel_array).reshape(-1, rows, columns)
    except UNREADABLE as error:
        raise CaseError(
            f"the pixels of {label} cannot be read ({type(error).__name__}; its transfer syntax is {syntax.name}); "
            "export it again, uncompressed"
        ) from None


def _bytes_of_frames(data: FileDataset, frames: int, frame_bytes: int) -> NDArray[np.uint8]:
    """The packed bits of each frame, (frame, byte), where every frame begins with a byte of its own.

    That is so with RLE, and in what cornerstone (OHIF) writes; else frames follow each other bit by bit (PS3.5, 8.1.1).
    """
    as_bytes = Dataset()
    as_bytes.file_meta = data.file_meta
    as_bytes.Rows, as_bytes.Columns, as_bytes.NumberOfFrames = 1, frame_bytes, frames
    as_bytes.BitsAllocated, as_bytes.BitsStored, as_bytes.HighBit, as_bytes.PixelRepresentation = 8, 8, 7, 0
    as_bytes.SamplesPerPixel, as_bytes.PhotometricInterpretation = 1, "MONOCHROME2"
    as_bytes["PixelData"] = data["PixelData"]
    return np.asarray(as_bytes.pixel_array, np.uint8).reshape(-1, frame_bytes)


def _on_same_pixels(frames: _Frames, grid: Grid) -> NDArray[np.bool_] | None:
    """The mask, if every frame's pixels are pixels of the grid's slices; else None. Without frames it is empty."""
    mask = np.zeros(grid.shape, bool)
    if not len(frames.pixels):
        return mask
    origin = np.array(grid.origin_mm)
    across, down = indices_on(grid, frames.steps + origin)
    whole = np.abs(np.round([across, down]))
    alike = (
        whole.sum() == 2 and (whole.sum(axis=1) == 1).all() and not whole[:, 2].any() and (whole[0] != whole[1]).any()
    )
    corners = indices_on(grid, frames.positions)
    reach = max(frames.pixels.shape[1:])
    if not alike or np.abs([across - np.round(across), down - np.round(down)]).max() * reach > SAME_PLACE * 2:
        return None
    if np.abs(corners - np.round(corners)).max() > SAME_PLACE * 2:
        return None
    if frames.step_mm is not None and abs(frames.step_mm / grid.spacing_mm[2] - 1) > SAME_PLACE:
        return None
    frame, y, x = np.nonzero(frames.pixels)
    at = np.round(corners[frame] + x[:, None] * across + y[:, None] * down).astype(int)
    inside = ((at >= 0) & (at < grid.size)).all(axis=1)
    if not inside.all():
        return None  # `placed_on` says how much lies outside
    mask[tuple(at[:, ::-1].T)] = True
    return mask


def _on_own_grid(frames: _Frames, label: str) -> DrawnMask:
    """The frames as one volume. Raises CaseError if they are not evenly spaced."""
    normal = np.cross(frames.steps[0], frames.steps[1])
    normal = normal / np.linalg.norm(normal)
    depths = frames.positions @ normal
    step_mm = _step_mm(frames, depths - depths.min())
    if step_mm is None:
        raise CaseError(f"{label} has one slice and does not say how thick it is; export it with SliceThickness")
    lowest = frames.positions[int(np.argmin(depths))]
    slices = (depths - depths.min()) / step_mm
    shifted = frames.positions - lowest - np.outer(depths - depths.min(), normal)
    if (
        np.abs(slices - np.round(slices)).max() > EVEN
        or np.abs(shifted).max() > IN_PLANE_MM
        or slices.max() > MOST_SLICES
    ):
        raise CaseError(f"the frames of {label} are no volume of evenly spaced slices; export it as one")
    mask = np.zeros((int(np.round(slices.max())) + 1, *frames.pixels.shape[1:]), bool)
    np.logical_or.at(mask, np.round(slices).astype(int), frames.pixels)
    spacing = (*np.linalg.norm(frames.steps, axis=1), step_mm)
    axes = np.column_stack([*(frames.steps / np.linalg.norm(frames.steps, axis=1)[:, None]), normal])
    return DrawnMask(mask=mask, grid=grid_from(mask.shape[::-1], spacing, lowest, axes))


def _step_mm(frames: _Frames, depths: NDArray[np.float64]) -> float | None:
    """The distance between slices: as stated if the frames lie so, since empty ones may be left out; else the least."""
    for stated in (frames.step_mm, frames.thickness_mm):
        if stated and np.abs(depths / stated - np.round(depths / stated)).max() <= EVEN:
            return stated
    gaps = np.diff(np.unique(np.round(depths, 3)))
    return float(gaps.min()) if len(gaps) else None


def _item(group: Dataset, shared: Dataset, keyword: str, label: str) -> Dataset:
    """The item that a frame has of its own, or shares with all."""
    found = items(group, keyword) or items(shared, keyword)
    if not found:
        raise CaseError(f"{label} has no {keyword}: where its frames lie is not known; export it again")
    return found[0]


def _numbers(item: Dataset, keyword: str, count: int, label: str) -> tuple[float, ...]:
    try:
        values: list[Any] = [float(value) for value in item.get(keyword) or ()]
    except UNREADABLE:
        values = []
    if len(values) != count or not np.isfinite(values).all():
        raise CaseError(
            f"{label}: {keyword} of a frame is {text(item, keyword)!r}, not {count} numbers; export it again"
        )
    return tuple(values)
