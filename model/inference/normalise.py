"""nnU-Net's way from HU and SUV to network units: the box of non-zero voxels, and a normalisation a channel. No torch.

Source: nnunetv2 2.8.1, preprocessing/cropping and preprocessing/normalization.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from model.bundle.nnunet import Normalisation, Preprocessing
from model.inference.preprocess import Box, bounding_box, nonzero

LEAST_DEVIATION = 1e-8  # what a deviation, or a range, of nearly nothing is taken as


def nonzero_box(hu: NDArray[Any] | None, suv: NDArray[Any]) -> Box | None:
    """The bounding box (z, y, x) of voxels that are not zero in one channel at least; None without any."""
    return bounding_box(nonzero(hu, suv))


def network_channels(hu: NDArray[Any] | None, suv: NDArray[Any], settings: Preprocessing) -> NDArray[np.float32]:
    """HU and SUV (z, y, x), cropped to `nonzero_box`, in network units: float32 (2, z, y, x), CT before PET.

    hu: None for a network that sees PET alone; then (1, z, y, x).
    """
    ways = [(suv, settings.pet)]
    if hu is not None:
        assert settings.ct is not None  # as the manifest of a network with CT has it
        ways.insert(0, (hu, settings.ct))
    inside = None
    if any(way.inside for _, way in ways):
        inside = ndimage.binary_fill_holes(nonzero(hu, suv))
    channels = np.empty((len(ways), *suv.shape), dtype=np.float32)
    for channel, (image, way) in zip(channels, ways, strict=True):
        channel[:] = normalised(image, way, inside)
    return channels


def normalised(image: NDArray[Any], settings: Normalisation, inside: NDArray[np.bool_] | None) -> NDArray[np.float32]:
    """A channel in network units, float32 of the same shape.

    inside: where `settings.inside` takes mean and deviation, and what it changes; outside, values stay as they are.
    """
    image = image.astype(np.float32)
    match settings.scheme:
        case "clip":
            np.clip(image, settings.low, settings.high, out=image)
            image -= settings.mean
            image /= max(settings.deviation, LEAST_DEVIATION)
        case "zscore" if settings.inside:
            assert inside is not None  # the caller makes it where one channel needs it
            values = image[inside]
            image[inside] = (values - values.mean()) / max(values.std(), LEAST_DEVIATION)
        case "zscore":
            mean, deviation = image.mean(), image.std()
            image -= mean
            image /= max(deviation, LEAST_DEVIATION)
        case "zero_to_one":
            image -= image.min()
            image /= max(image.max(), LEAST_DEVIATION)
        case _:
            pass
    return image
