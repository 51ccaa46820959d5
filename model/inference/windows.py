"""Which windows of a study are run, and how many at a time."""

import math

import torch
from torch import Tensor

from model.bundle.settings import OF_NNUNET, Part
from model.inference.device import Device, free_bytes
from model.inference.preprocess import scale_suv
from model.inference.sliding import Size, window_starts, windows_above
from model.networks import slabs

MOST_WINDOWS = 16  # at a time
WINDOWS_OF_UNKNOWN_SIZE = 2  # at a time, of networks whose memory is not known: all but the U-Nets
STUDY_VALUES = 8  # float32 a voxel of the study on the GPU: image, weights, sums, margins, and what makes them
LEFT_FREE = 0.2  # of the GPU's free memory, for what the convolutions take themselves


def count_windows(shape: tuple[int, ...], part: Part) -> int:
    """How many windows, or slices, a network runs for a study of (X, Y, Z) voxels."""
    if part.network.kind == "slices":
        return shape[2]
    window = part.window_for(shape)
    x, y, z = (max(n, w) for n, w in zip(shape, window, strict=True))
    return len(window_starts((x, y, z), window, part.window.overlap, part.window.placing))


def bright_windows(image: Tensor, part: Part, skip_suv: float | None) -> list[Size] | None:
    """The windows that hold PET above `skip_suv`, for an image as a network needs it; None: no window is left out."""
    if skip_suv is None:
        return None
    threshold = scale_suv(torch.tensor([skip_suv]).numpy(), part.intensity)
    return windows_above(image[1], part.window_for(tuple(image.shape[1:])), part.window.overlap, float(threshold[0]))


def windows_at_a_time(device: Device, parts: list[Part], shape: tuple[int, ...]) -> int:
    """How many windows to run at a time for a study of (X, Y, Z) voxels.

    U-Nets: on a CPU one; on a GPU a power of two that the free memory holds and that is still computed whole. Networks
    for slices beside U-Nets do not count. Networks for slices alone, or a SwinUNETR: two; on a GPU nnU-Net's, too.
    """
    parts = [part for part in parts if part.network.kind == "volumes"]
    fusions = {part.network.fusion for part in parts}
    if not parts or "swin_unetr" in fusions:
        return WINDOWS_OF_UNKNOWN_SIZE
    if device.torch_device.type == "cpu":
        return 1
    if fusions & set(OF_NNUNET):
        return WINDOWS_OF_UNKNOWN_SIZE
    sizes = [
        (
            part.network.widths[0] * (2 if part.network.fusion == "middle" else 1),
            math.prod(part.window_for(shape)),
            device.precision.itemsize,
        )
        for part in parts
    ]
    room = free_bytes() * (1 - LEFT_FREE) - 4 * STUDY_VALUES * math.prod(shape)
    count = max(int(room // max(slabs.peak_bytes(*size) for size in sizes)), 1)
    count = min(count, MOST_WINDOWS, *(slabs.windows_of_one_slab(*size) for size in sizes))
    return 1 << (count.bit_length() - 1)
