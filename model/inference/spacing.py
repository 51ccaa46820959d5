"""A volume on other voxels, and logits back: nnU-Net's resampling, as matrices of its axes.

Spline interpolation on a grid is separable: along each axis it is one matrix, which SciPy's own zoom gives when it is
applied to the unit vectors. So a volume is resampled by three matrix products, on a CPU or a GPU alike, with the values
of skimage.transform.resize(mode="edge", anti_aliasing=False) that nnU-Net calls (nnunetv2 2.8.1,
preprocessing/resampling). Interpolated values are clipped to the range of what they are made of.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

ANISOTROPIC = (
    3.0  # the largest spacing over the smallest: above it the coarse axis is resampled apart (ANISO_THRESHOLD)
)


def resampled_size(size: Sequence[int], before_mm: Sequence[float], after_mm: Sequence[float]) -> tuple[int, ...]:
    """Voxels of each axis after `size` voxels of `before_mm` become voxels of `after_mm`; the same length, rounded."""
    return tuple(round(b / a * n) for n, b, a in zip(size, before_mm, after_mm, strict=True))


def coarse_axis(before_mm: Sequence[float], after_mm: Sequence[float], apart: bool | None = None) -> int | None:
    """The axis that is resampled apart, by nearest neighbours; None where all three are interpolated together.

    It is the axis of the largest spacing, before or else after, where that is more than three times the smallest; none
    where two axes share the largest. apart: True takes the coarsest axis before however small the ratio, False none.
    """
    if apart is False:
        return None
    chosen: Sequence[float] | None = before_mm if apart else None
    if apart is None:
        chosen = next((mm for mm in (before_mm, after_mm) if max(mm) / min(mm) > ANISOTROPIC), None)
    if chosen is None:
        return None
    coarsest = [axis for axis, mm in enumerate(chosen) if max(chosen) / mm == 1]
    return coarsest[0] if len(coarsest) == 1 else None


def resize(image: Tensor, size: Sequence[int], order: int, apart: int | None = None) -> Tensor:
    """(C, X, Y, Z) float32 interpolated to (C, *size) by splines of `order` (1 linear, 3 cubic), on the image's device.

    apart: the axis of `coarse_axis`, whose slices are interpolated one by one and then repeated or left out. Returns
    `image` itself where it has that size. Channels go one by one, for the sake of memory.
    """
    if tuple(image.shape[1:]) == tuple(size):
        return image
    out = torch.empty((len(image), *size), dtype=image.dtype, device=image.device)
    for number in range(len(image)):
        out[number] = _resized(image[number : number + 1], size, order, apart)[0]
    return out


def _resized(image: Tensor, size: Sequence[int], order: int, apart: int | None) -> Tensor:
    kept = (1, 2, 3) if apart is None else (apart + 1,)  # one range a channel, or one a slice
    ranged = tuple(axis for axis in (1, 2, 3) if axis not in kept) if apart is not None else (1, 2, 3)
    low, high = image.amin(ranged, keepdim=True), image.amax(ranged, keepdim=True)
    out = image
    for axis, edge in enumerate(size):
        before = image.shape[axis + 1]
        if axis != apart and before != edge:
            matrix = torch.from_numpy(_matrix(before, edge, order)).to(out)
            out = torch.tensordot(out, matrix, dims=([axis + 1], [1])).movedim(-1, axis + 1)
    if out is not image:
        torch.maximum(out, low, out=out)
        torch.minimum(out, high, out=out)
    if apart is not None and image.shape[apart + 1] != size[apart]:
        nearest = torch.from_numpy(_nearest(image.shape[apart + 1], size[apart])).to(out.device)
        out = out.index_select(apart + 1, nearest)
    return out


@lru_cache(maxsize=16)
def _matrix(before: int, after: int, order: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """What one axis of `before` voxels becomes, (after, before) float32."""
    unit = np.eye(before)
    rows = [
        ndimage.zoom(unit[number], after / before, order=order, mode="nearest", grid_mode=True)
        for number in range(before)
    ]
    return np.stack(rows, axis=1).astype(np.float32)


def _nearest(before: int, after: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The voxel of `before` in which the middle of each of `after` voxels lies."""
    middles = before / after * (np.arange(after) + 0.5) - 0.5
    out: np.ndarray[tuple[int], np.dtype[np.int64]] = ndimage.map_coordinates(
        np.arange(before), middles[None], order=0, mode="nearest"
    )
    return out
