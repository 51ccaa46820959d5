"""A study as each network needs it, and what the network finds back on the study's own voxels.

Networks of nnU-Net's kind see the box of non-zero voxels on voxels of their own size; the others the study's crop as it
is, or in a bundle of both kinds its box around the PET.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.bundle.nnunet import Preprocessing
from model.bundle.settings import Crop, Intensity, Part
from model.inference.normalise import network_channels, nonzero_box
from model.inference.outputs import lesion_margin
from model.inference.preprocess import Box, Placed, foreground_box, scale_hu, scale_suv
from model.inference.slices import clipped_image
from model.inference.sliding import Size
from model.inference.spacing import coarse_axis, resampled_size, resize

BACKGROUND = -50.0  # the margin of voxels outside a network's box: no lesion, and it votes


@dataclass(frozen=True, kw_only=True)
class StudyView:
    """shape: voxels (X, Y, Z) of the study's crop. image: the study as a network of a part takes it, float32
    (2, X, Y, Z), channel 0 = CT, 1 = PET, with norm body (3, X, Y, Z), 2 = body; for a network that sees PET alone
    without the CT. size: the voxels of that image.
    margin: what such a network put out, values (K, X, Y, Z) on its image, as a margin (X, Y, Z) on the crop. channel:
    one of its channels (X, Y, Z) on the crop, and a number outside its box.

    image is on the study's voxels; resampled brings it, on whatever device it lies, to the network's. sees_nothing:
    whether the box of a part's networks is empty, so that they need not run: they say background everywhere.
    """

    shape: Size
    image: Callable[[Part], Tensor]
    size: Callable[[Part], Size]
    margin: Callable[[Part, Tensor], Tensor]
    channel: Callable[[Part, Tensor, float], Tensor]
    resampled: Callable[[Part, Tensor], Tensor] = lambda part, image: image
    sees_nothing: Callable[[Part], bool] = lambda part: False


def view_of(placed: Placed, crop: Crop, mixed: bool) -> StudyView:
    """The view of a study. mixed: the bundle has networks of nnU-Net's kind and others, whose boxes differ."""
    spacing_mm = placed.view.grid.spacing_mm
    x, y, z = placed.suv.shape[::-1]
    shape = (x, y, z)

    @lru_cache
    def box_of(nnunet: bool) -> Box | None:
        """The box (z, y, x) of a kind of network within the study's crop; None: all of it, or nothing."""
        if not mixed:
            return None
        return nonzero_box(placed.hu, placed.suv) if nnunet else foreground_box(placed.suv, crop.suv_above)

    def channels(part: Part) -> tuple[NDArray[Any] | None, NDArray[Any]]:
        """What a network of this part sees, CT and PET; no CT if it sees PET alone."""
        box = box_of(part.preprocessing is not None)
        suv = placed.suv if box is None else placed.suv[box]
        if part.network.pet_alone:
            return None, suv
        return placed.ct_hu if box is None else placed.ct_hu[box], suv

    def sees_nothing(part: Part) -> bool:
        return mixed and part.preprocessing is None and box_of(False) is None

    def image(part: Part) -> Tensor:
        hu, suv = channels(part)
        if part.preprocessing is None:
            return image_of(hu, suv, part)
        return torch.from_numpy(network_channels(hu, suv, part.preprocessing)).permute(0, 3, 2, 1)

    def resampled(part: Part, image: Tensor) -> Tensor:
        if part.preprocessing is None:
            return image
        settings = part.preprocessing
        apart = coarse_axis(spacing_mm, settings.spacing_mm, settings.image.apart)
        return resize(image, size(part), settings.image.order, apart)

    def size(part: Part) -> Size:
        edges = channels(part)[1].shape[::-1]
        if part.preprocessing is not None:
            edges = resampled_size(edges, spacing_mm, part.preprocessing.spacing_mm)
        x, y, z = edges
        return x, y, z

    def margin(part: Part, values: Tensor) -> Tensor:
        box = box_of(part.preprocessing is not None)
        if part.preprocessing is not None:
            values = _back(values, channels(part)[1].shape[::-1], spacing_mm, part.preprocessing)
        return _within(lesion_margin(values, part.network), box, shape, BACKGROUND)

    def channel(part: Part, values: Tensor, outside: float) -> Tensor:
        box = box_of(part.preprocessing is not None)
        if part.preprocessing is not None:
            values = _back(values[None], channels(part)[1].shape[::-1], spacing_mm, part.preprocessing)[0]
        return _within(values, box, shape, outside)

    return StudyView(
        shape=shape,
        image=image,
        size=size,
        margin=margin,
        channel=channel,
        resampled=resampled,
        sees_nothing=sees_nothing,
    )


def _within(found: Tensor, box: Box | None, shape: Size, outside: float) -> Tensor:
    """What was found in a box (z, y, x) of the crop, on all of it: `outside` elsewhere."""
    if box is None:
        return found
    whole = torch.full(shape, outside, dtype=found.dtype, device=found.device)
    whole[box[::-1]] = found
    return whole


def _back(values: Tensor, size: tuple[int, ...], spacing_mm: tuple[float, ...], settings: Preprocessing) -> Tensor:
    """Values on a network's voxels brought back to the study's."""
    apart = coarse_axis(settings.spacing_mm, spacing_mm, settings.logits.apart)
    return resize(values, size, settings.logits.order, apart)


def image_of(hu: NDArray[Any] | None, suv: NDArray[Any], part: Part) -> Tensor:
    """HU and SUV in LAS (z, y, x) as a bundle's network takes them, float32 (2, X, Y, Z), channel 0 = CT, 1 = PET.

    A network that sees PET alone has no channel of CT, and `hu` is not looked at. A network with norm body has one
    more channel, the body.
    """
    if part.network.pet_alone:
        return with_body(network_image(None, suv, part.intensity), part)
    assert hu is not None  # a bundle that needs CT is not given a study without
    if part.network.kind == "slices":
        return clipped_image(hu, suv, part.intensity)
    return with_body(network_image(hu, suv, part.intensity), part)


def network_image(hu: NDArray[Any] | None, suv: NDArray[Any], settings: Intensity) -> Tensor:
    """HU and SUV in LAS (z, y, x) as the network's float32 (2, X, Y, Z), channel 0 = CT, 1 = PET; without HU (1, X, Y,
    Z), PET alone.
    """
    count = 1 if hu is None else 2
    channels = np.empty((count, *suv.shape), dtype=np.float32)  # filled one by one: a copy less than np.stack
    if hu is not None:
        channels[0] = scale_hu(hu, settings)
    channels[-1] = scale_suv(suv, settings)
    return torch.from_numpy(channels).permute(0, 3, 2, 1)  # (C, z, y, x) -> (C, X, Y, Z)


def with_body(image: Tensor, part: Part, suv_top: float | None = None) -> Tensor:
    """The image (2, X, Y, Z) of a study, in network units, with the body as a third channel: 1 inside, 0 outside.

    A network without norm body gets the image as it is. For one that sees PET alone the image is (1, X, Y, Z), and
    uptake alone tells the body. suv_top: what SUV were divided by, if not by the part's. Air that is padded around the
    result, as zeros, is no body.
    """
    if part.network.norm != "body":
        return image
    levels, units = part.network.body, part.intensity
    inside = image[-1] > levels.suv / (suv_top or units.suv_top)
    if not part.network.pet_alone:
        inside |= image[0] > (levels.hu - units.ct_low_hu) / (units.ct_high_hu - units.ct_low_hu)
    return torch.cat([image, inside[None].to(image.dtype)])
