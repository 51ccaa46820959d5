"""The crop to PET foreground (Ahn and Park, section 3.1: background cropping based on the PET image)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Box = tuple[slice, slice, slice]


def foreground_box(suv: NDArray[Any], above: float) -> Box | None:
    """The bounding box of suv > above, without a margin, as slices (z, y, x); None if there is no such voxel."""
    inside = suv > above
    box = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        hits = np.flatnonzero(inside.any(axis=others))
        if hits.size == 0:
            return None
        box.append(slice(int(hits[0]), int(hits[-1]) + 1))
    return box[0], box[1], box[2]


def paste(part: NDArray[Any], box: Box, shape: tuple[int, int, int]) -> NDArray[Any]:
    """`part` put back into zeros of `shape` (z, y, x) at `box`."""
    whole = np.zeros(shape, dtype=part.dtype)
    whole[box] = part
    return whole
