"""Sliding-window inference. Windows lie and are weighted as in MONAI's sliding_window_inference."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

SIGMA_SHARE = 0.125  # of the window's edge: MONAI's sigma_scale
LEAST_WEIGHT = 1e-3  # of the Gaussian, as in MONAI
PEAK = 10.0  # of nnU-Net's Gaussian
OUTSIDE = -100.0  # the margin of voxels that no window covers: certain background

Size = tuple[int, int, int]


def slide(
    image: Tensor,
    predict: Callable[[Tensor], Tensor],
    *,
    window: Size,
    overlap: float,
    weighting: str = "constant",
    placing: str = "monai",
    batch: int = 1,
    sums_on: torch.device | None = None,
    starts: list[Size] | None = None,
    on_windows: Callable[[int], None] = lambda done: None,
) -> Tensor:
    """The weighted mean of overlapping windows' predictions.

    image: (C, X, Y, Z), on the device of `predict`; `predict` turns (B, C, *window) into
    (B, K, *window). A volume smaller than the window is padded with zeros on both sides. Sums are
    float32, on `sums_on` (default: the image's device). starts: the windows to run, from `window_starts` (default:
    all); voxels in none of them are OUTSIDE. on_windows: called with how many windows were done since the last call.
    Returns (K, X, Y, Z) float32 on `sums_on`; K is 1 if no window is run.
    """
    sums_on = sums_on or image.device
    original = image.shape[1:]
    before = [max(w - n, 0) // 2 for w, n in zip(window, original, strict=True)]
    image = centred(image, window)
    padded_x, padded_y, padded_z = image.shape[1:]
    run_all = starts is None
    starts = window_starts((padded_x, padded_y, padded_z), window, overlap, placing) if starts is None else starts
    if not starts:
        return torch.full((1, *original), OUTSIDE, device=sums_on)
    weight = window_weight(window, weighting).to(image.device)

    total: Tensor | None = None
    count = torch.zeros(image.shape[1:], device=sums_on)
    for first in range(0, len(starts), batch):
        boxes = [_box(start, window) for start in starts[first : first + batch]]
        patches = torch.stack([image[(slice(None), *box)] for box in boxes]).contiguous()
        parts = predict(patches)
        if total is None:
            total = torch.zeros((parts.shape[1], *image.shape[1:]), device=sums_on)
        for box, part in zip(boxes, parts, strict=True):
            total[(slice(None), *box)] += (part.float() * weight).to(sums_on)
            count[box] += weight.to(sums_on)
        on_windows(len(boxes))
    assert total is not None  # at least one window was run
    total /= count
    if not run_all:
        total.masked_fill_(count == 0, OUTSIDE)
    x, y, z = (slice(b, b + n) for b, n in zip(before, original, strict=True))
    return total[:, x, y, z]


def centred(image: Tensor, least: Size) -> Tensor:
    """The image (C, X, Y, Z) padded with zeros on both sides to at least `least` voxels; an odd voxel goes last."""
    missing = [max(w - n, 0) for w, n in zip(least, image.shape[1:], strict=True)]
    if not any(missing):
        return image
    return functional.pad(image, [p for n in reversed(missing) for p in (n // 2, n - n // 2)])


def window_starts(size: Size, window: Size, overlap: float, placing: str = "monai") -> list[Size]:
    """First voxels (x, y, z) of the windows that cover a volume of `size`, none smaller than `window`.

    monai: windows step by (1 - overlap) of their edge; the last of an axis is moved back to end at the volume's edge.
    even: as few as step by no more than that, spread evenly (nnU-Net, inference/sliding_window_prediction.py).
    """
    axes = []
    for n, w in zip(size, window, strict=True):
        if placing == "even":
            gaps = math.ceil((n - w) / (w * (1 - overlap)))
            axes.append([round((n - w) / gaps * i) for i in range(gaps + 1)] if gaps else [0])
            continue
        step = max(int(w * (1 - overlap)), 1)
        steps = math.ceil((n - w) / step) + 1
        axes.append([min(i * step, n - w) for i in range(steps)])
    return [(x, y, z) for x, y, z in itertools.product(*axes)]


def windows_above(pet: Tensor, window: Size, overlap: float, threshold: float) -> list[Size]:
    """The `window_starts` of windows that hold a voxel of `pet` (X, Y, Z) above `threshold`, which is 0 or more."""
    bright = centred((pet > threshold)[None], window)[0]
    x, y, z = bright.shape
    return [start for start in window_starts((x, y, z), window, overlap) if bright[_box(start, window)].any()]


def window_weight(window: Size, weighting: str) -> Tensor:
    """The weight of each voxel of a window, float32 (X, Y, Z): ones, or a Gaussian about the centre.

    nnunet: SciPy's filter of one voxel at edge // 2, cut off at four deviations, where it takes its least value.
    """
    if weighting == "constant":
        return torch.ones(window)
    if weighting == "nnunet":
        return _nnunet_weight(window)
    weight = torch.ones(())
    for edge in window:
        x = torch.arange(edge, dtype=torch.float32) - (edge - 1) / 2
        weight = weight[..., None] * torch.exp(x**2 / (-2 * (SIGMA_SHARE * edge) ** 2))
    return weight.clamp(min=max(float(weight.min()), LEAST_WEIGHT))


def _nnunet_weight(window: Size) -> Tensor:
    """compute_gaussian of nnunetv2 2.8.1, in float32; a common factor does not matter."""
    impulse = np.zeros(window)
    impulse[tuple(edge // 2 for edge in window)] = 1
    weight = ndimage.gaussian_filter(impulse, [edge * SIGMA_SHARE for edge in window], 0, mode="constant", cval=0)
    weight = torch.from_numpy(weight / weight.max() * PEAK).float()
    return torch.where(weight == 0, weight[weight > 0].min(), weight)


def _box(start: Size, window: Size) -> tuple[slice, slice, slice]:
    x, y, z = (slice(s, s + w) for s, w in zip(start, window, strict=True))
    return x, y, z
