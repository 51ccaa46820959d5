"""Which windows of a study are run, and how many at a time."""

import math
from functools import lru_cache

import torch
from torch import Tensor

from model.bundle.network import OF_NNUNET, Network
from model.bundle.settings import Part
from model.inference.device import Device, free_bytes
from model.inference.preprocess import scale_suv
from model.inference.sliding import Size, window_starts, windows_above
from model.networks import slabs
from model.networks.fused_strided import most_bytes
from model.networks.unet import skeleton

MOST_WINDOWS = 16  # at a time
WINDOWS_OF_UNKNOWN_SIZE = 2  # at a time, of networks whose memory is not known: all but the U-Nets
STUDY_VALUES = 8  # float32 a voxel of the study on the GPU: image, weights, sums, margins, and what makes them or
# resamples them; two more for each further value that is summed up
IMAGE_VALUES = 2  # float32 a voxel of a window, as it was cut and as it is mirrored
BODY_VALUES = 3  # float32 a voxel of a window, for the body: as it was cut, at all stages, and as the kernels take it
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
    pet = image[part.network.channels.index("PET")]
    return windows_above(pet, part.window_for(tuple(image.shape[1:])), part.window.overlap, float(threshold[0]))


def windows_at_a_time(device: Device, parts: list[Part], shape: tuple[int, ...], with_organs: bool = False) -> int:
    """How many windows, mirrored ones included, to run at a time for a study of (X, Y, Z) voxels.

    U-Nets: on a CPU one; on a GPU a power of two that the free memory holds and that is still computed whole. Networks
    for slices beside U-Nets do not count. Networks for slices alone, or a SwinUNETR: two.
    """
    parts = [part for part in parts if part.network.kind == "volumes"]
    fusions = {part.network.fusion for part in parts}
    if not parts or "swin_unetr" in fusions:
        return WINDOWS_OF_UNKNOWN_SIZE
    if device.torch_device.type == "cpu":
        return 1
    sizes = [
        (
            part.network.widths[0] * (2 if part.network.fusion == "middle" else 1),
            math.prod(part.window_for(shape)),
            device.precision.itemsize,
        )
        for part in parts
    ]
    values = max(_values(part, with_organs) for part in parts)
    study_values = STUDY_VALUES + 2 * (values - 1) + max(part.network.image_channels - 2 for part in parts)
    room = free_bytes() * (1 - LEFT_FREE) - 4 * study_values * math.prod(shape)
    counts = []
    for part, size in zip(parts, sizes, strict=True):
        if part.network.fusion in OF_NNUNET:
            outputs = part.network.classes + (part.network.organs if with_organs else 0)
            window = most_bytes(part.network, *size[1:]) + 4 * size[1] * (2 * IMAGE_VALUES + 2 * outputs)
            counts.append(int((room - _weight_bytes(part.network)) // window))
        else:
            body = 4 * size[1] * BODY_VALUES if part.network.norm == "body" else 0
            counts.append(int(room // (slabs.peak_bytes(*size) + body)))
    count = min(max(min(counts), 1), MOST_WINDOWS, *(slabs.windows_of_one_slab(*size) for size in sizes))
    return 1 << (count.bit_length() - 1)


def _values(part: Part, with_organs: bool) -> int:
    """How many values of each voxel are summed up (`outputs.values_of`)."""
    one_number = part.network.classes <= (1 if part.network.regions else 2)
    return (1 if one_number else part.network.classes) + (part.network.organs if with_organs else 0)


@lru_cache
def _weight_bytes(network: Network) -> int:
    """Bytes of a network's weights on a GPU: as they were read, and in half precision for the kernels."""
    return 6 * sum(parameter.numel() for parameter in skeleton(network).parameters())
