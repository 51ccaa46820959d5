"""Run a network over a study slice by slice, as Zhong et al. do: cut a window, normalise it, predict, paste back.

As in their container: 256 x 256 pixels around the body, CT clipped to +-1000 HU, each modality of each slice to mean 0
and standard deviation 1, channel order PET, CT. Unlike theirs, our body is what is denser than SLICES_BODY_HU, so that
neither the table nor the scanner's circle moves the window; grids may have any size; and HU are rounded. Rows are y
and columns x of the network's order.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from model.bundle.settings import SLICES_BODY_HU, Intensity
from model.inference.sliding import OUTSIDE

BODY_SHARE = 0.5  # parts of at least this share of the largest one's pixels are body, too: a leg, but no table or arm
Size = tuple[int, int, int]


def clipped_image(hu: NDArray[Any], suv: NDArray[Any], settings: Intensity) -> Tensor:
    """HU and SUV in LAS (z, y, x) as float32 (2, X, Y, Z), channel 0 = CT in HU, 1 = PET in SUV, clipped as set.

    HU are rounded to whole numbers, as scanners store them, so that interpolation does not decide what is air.
    """
    channels = np.empty((2, *suv.shape), dtype=np.float32)
    np.rint(hu, out=channels[0], casting="same_kind")
    channels[1] = suv
    if settings.ct_clip:
        np.clip(channels[0], settings.ct_low_hu, settings.ct_high_hu, out=channels[0])
    if settings.suv_clip:
        np.minimum(channels[1], settings.suv_top, out=channels[1])
    return torch.from_numpy(channels).permute(0, 3, 2, 1)


def slide_slices(
    image: Tensor,
    predict: Callable[[Tensor], Tensor],
    *,
    starts: list[tuple[int, int]],
    window: Size,
    air_hu: float,
    device: torch.device,
    batch: int = 1,
    on_windows: Callable[[int], None] = lambda done: None,
) -> Tensor:
    """`predict` over every slice, (X, Y, Z) float32 on the host; OUTSIDE where no window lies.

    image: from `clipped_image`, on the host; `predict` turns (B, 2, Y, X), channel 0 = PET, on `device`, into
    (B, 1, Y, X). starts: from `slice_starts`. air_hu: CT at or below it is air. on_windows: called with how many slices
    were done since the last call.
    """
    out = torch.full(tuple(image.shape[1:]), OUTSIDE)
    for first in range(0, len(starts), batch):
        numbers = range(first, min(first + batch, len(starts)))
        patches = torch.stack([cut(image, starts[z], z, window, air_hu) for z in numbers]).to(device)
        predicted = predict(normalised(patches, air_hu)).float().cpu()
        for z, part in zip(numbers, predicted, strict=True):
            paste(out[..., z], part[0].T, starts[z])
        on_windows(len(numbers))
    return out


def slice_starts(hu: NDArray[Any], window: Size) -> tuple[list[tuple[int, int]], int]:
    """First pixel (x, y) of the window of each slice of CT (X, Y, Z); in how many slices the body is too wide for it.

    The window's middle is that of the body's bounding box, or of the slice if there is no body. The window is moved to
    lie inside the slice; a slice smaller than it lies in its middle (then the first pixel is below 0).
    """
    starts, too_wide = [], 0
    for z in range(hu.shape[2]):
        box = body_box(hu[..., z])
        low, high = box or ((0, 0), hu.shape[:2])
        start = []
        for a, b, edge, n in zip(low, high, window[:2], hu.shape[:2], strict=True):
            start.append(-((edge - n) // 2) if n < edge else min(max((a + b - 1) // 2 - edge // 2, 0), n - edge))
        starts.append((start[0], start[1]))
        axes = zip(low, high, start, window[:2], strict=True)
        too_wide += box is not None and any(a < s or b > s + edge for a, b, s, edge in axes)
    return starts, too_wide


def body_box(hu: NDArray[Any]) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """First pixel of the body in a slice (X, Y), and the first pixel beyond it; None if there is no body.

    The body is the largest part above SLICES_BODY_HU, with all that are nearly as large (BODY_SHARE).
    """
    labels, count = ndimage.label(hu > SLICES_BODY_HU)
    if not count:
        return None
    sizes = np.bincount(labels.ravel())[1:]
    all_boxes = ndimage.find_objects(labels)
    boxes = [all_boxes[number] for number in np.flatnonzero(sizes >= BODY_SHARE * sizes.max())]
    low = tuple(min(box[axis].start for box in boxes) for axis in (0, 1))
    return low, tuple(max(box[axis].stop for box in boxes) for axis in (0, 1))


def cut(image: Tensor, start: tuple[int, int], z: int, window: Size, air_hu: float) -> Tensor:
    """The window of one slice, (2, Y, X), channel 0 = PET, 1 = CT; beyond the slice there is air."""
    x, y = (slice(max(s, 0), s + w) for s, w in zip(start, window[:2], strict=True))
    ct, pet = (part[x, y, z].T for part in image)
    rows, columns = ((max(-s, 0), w) for s, w in ((start[1], window[1]), (start[0], window[0])))
    pad = [columns[0], columns[1] - columns[0] - ct.shape[1], rows[0], rows[1] - rows[0] - ct.shape[0]]
    return torch.stack([functional.pad(pet, pad), functional.pad(ct, pad, value=air_hu)])


def paste(slice_: Tensor, part: Tensor, start: tuple[int, int]) -> None:
    """Write a window (x, y) into its slice (X, Y), without what lies beyond the slice."""
    inside = [max(-s, 0) for s in start]
    x, y = (slice(max(s, 0), s + w) for s, w in zip(start, part.shape, strict=True))
    target = slice_[x, y]
    target[:] = part[inside[0] : inside[0] + target.shape[0], inside[1] : inside[1] + target.shape[1]]


def normalised(patches: Tensor, air_hu: float) -> Tensor:
    """Every channel of every slice (B, 2, Y, X) minus its mean, divided by its standard deviation.

    Mean and deviation are over the pixels of PET that are not 0, and over the pixels of CT above `air_hu`. If these
    pixels are all equal, the deviation is taken as 1; if there are none, the channel becomes 0.
    """
    counted = torch.stack([patches[:, 0] != 0, patches[:, 1] > air_hu], 1)
    number = counted.sum((2, 3), keepdim=True).clamp_min(1)
    mean = (patches.double() * counted).sum((2, 3), keepdim=True) / number
    off = patches - mean
    deviation = ((off**2 * counted).sum((2, 3), keepdim=True) / number).sqrt()
    constant = deviation < 1e-6 * mean.abs().clamp_min(1)  # no more than rounding
    any_counted = counted.any(3).any(2)[..., None, None]
    return torch.where(any_counted, off / deviation.masked_fill(constant, 1), 0).float()
