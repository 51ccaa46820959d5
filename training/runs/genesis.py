"""Models Genesis: a CT crop is distorted in four ways, and a network learns to restore it.

Zhou et al., Medical Image Analysis 67 (2021), 101840. Probabilities, ranges and order are from the authors' code
(github.com/MrGiovanni/ModelsGenesis: pytorch/config.py, pytorch/utils.py, with crops of 64 x 64 x 32), written anew.
Crops are float32 (X, Y, Z) in [0, 1] of any size; every distortion returns a new array in [0, 1] and is a pure function
of the crop and the generator.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from msgspec.structs import replace
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from model.bundle.network import Network
from model.errors import ConfigError
from model.inference.preprocess import scale_hu
from model.inference.sliding import centred
from model.networks.unet import UNet
from training.batches.crops import draw_box
from training.data.prepared import Prepared, load
from training.settings import Training

Crop = NDArray[np.float32]
Generator = np.random.Generator

FLIP = 0.4  # flip_rate: of a first flip, then of a second, then of a third; of both crops, so no distortion
LOCAL = 0.5  # local_rate
NONLINEAR = 0.9  # nonlinear_rate
PAINT = 0.9  # paint_rate: in-painting or out-painting
IN_PAINT = 0.2  # inpaint_rate: share of in-painting among the two
AGAIN = 0.95  # chance of one more box to paint or to keep
MOST_BOXES = 5
PAINT_MARGIN = 3  # voxels between a painted or kept box and the crop's border
COVER = 10_000 * (3.5 * 3.5 * 2) / (64 * 64 * 32)  # windows that hold a voxel, on average: their count times mean size
CURVE_POINTS = 1000
LEVELS = 2**14  # of the table that intensities are looked up in: CT has 2,000 between -1000 and 1000 HU
AIR_HU, LEAST_BODY, DRAWS = -900.0, 0.15, 5  # ours: see `body_box`


class DistortedCrops(Dataset[tuple[Tensor, Tensor]]):
    """Crop number n of a run: CT distorted and as it was, both float32 (1, *size) in [0, 1].

    CT is scaled by `intensity` and always clipped. Every pass over the studies has a new order.
    """

    def __init__(self, cache: Path, cases: Sequence[str], settings: Training) -> None:
        self.cache, self.cases, self.settings = cache, tuple(cases), settings
        self.studies = [load(cache, case) for case in cases]

    def __reduce__(self) -> tuple[type, tuple[Path, tuple[str, ...], Training]]:
        return DistortedCrops, (
            self.cache,
            self.cases,
            self.settings,
        )  # a worker opens the files itself, so nothing is copied

    def __len__(self) -> int:
        return len(self.studies)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        seed, count = self.settings.seed, len(self.studies)
        rng = np.random.default_rng([seed, number])
        order = np.random.default_rng([seed, 1, number // count]).permutation(count)
        study = self.studies[order[number % count]]
        scaled = scale_hu(study.hu[body_box(study, self.settings, rng)], replace(self.settings.intensity, ct_clip=True))
        whole = centred(torch.from_numpy(scaled)[None], self.settings.crops.size)[0].numpy()
        original = flipped(whole, rng)
        return torch.from_numpy(distorted(original, rng))[None], torch.from_numpy(original)[None]


def body_box(study: Prepared, settings: Training, rng: Generator) -> tuple[slice, slice, slice]:
    """Slices of a crop anywhere, drawn up to DRAWS times until at least LEAST_BODY of it is above AIR_HU.

    The authors' code (infinite_generator_3D.py) keeps crops of chests with at most 15 % above -150 HU: lung. Here
    every part of a body is wanted, lung too, so only crops that are nearly all air are drawn again.
    """
    anywhere = replace(settings.crops, sought=0.0, uptake=0.0)
    for _ in range(DRAWS):
        box = draw_box(study, anywhere, rng)
        if np.mean(study.hu[box] > AIR_HU) >= LEAST_BODY:
            break
    return box


def network_for(settings: Network) -> nn.Module:
    """A CT encoder as that of the middle-fusion network, and a decoder to one channel.

    The state of its submodule `encoder` loads into `MiddleFusion.ct_encoder`. (B, 1, X, Y, Z) in, logits of the same
    shape out. Raises ConfigError for a network that has no encoder of CT alone.
    """
    if settings.fusion != "middle":
        raise ConfigError(
            f"network.fusion is {settings.fusion!r}: only 'middle' has a CT encoder to pre-train; set network.fusion "
            "to middle, or train without --ct-encoder"
        )
    return UNet(1, settings.widths, classes=1)


def reconstruction_loss(out: Tensor, original: Tensor) -> Tensor:
    """Mean squared error of sigmoid(out): crops lie in [0, 1] (the authors' network ends in a sigmoid, too)."""
    return functional.mse_loss(out.sigmoid(), original)


def distorted(crop: Crop, rng: Generator) -> Crop:
    """The crop after local shuffling, non-linear intensity, and in- or out-painting, each with its probability.

    One time in 200 none of them happens: that crop is returned unchanged, in a new array.
    """
    out = crop.copy()
    if rng.random() < LOCAL:
        out = locally_shuffled(out, rng)
    if rng.random() < NONLINEAR:
        out = remapped(out, rng)
    if rng.random() < PAINT:
        out = in_painted(out, rng) if rng.random() < IN_PAINT else out_painted(out, rng)
    return out


def flipped(crop: Crop, rng: Generator) -> Crop:
    """The crop with none to three flips, each along an axis drawn anew."""
    for _ in range(_count(3, FLIP, rng)):
        crop = np.flip(crop, int(rng.integers(3)))
    return crop.copy()


def remapped(crop: Crop, rng: Generator) -> Crop:
    """Intensities through a random monotonic curve from [0, 1] to [0, 1], as often rising as falling."""
    x, y = bezier_curve(rng.random((2, 2)))
    table = np.interp(np.linspace(0, 1, LEVELS), x, y if rng.random() < 0.5 else y[::-1]).astype(np.float32)
    mapped: Crop = table[np.rint(crop * (LEVELS - 1)).astype(np.intp)]
    return mapped


def bezier_curve(inner: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Points x, y, (CURVE_POINTS,) each, of the cubic Bezier curve from (0, 0) to (1, 1).

    inner: its two inner control points (2, 2), in [0, 1]: so that neither x nor y ever falls.
    """
    t = np.linspace(0, 1, CURVE_POINTS)[:, None]
    x, y = (3 * (1 - t) ** 2 * t * inner[0] + 3 * (1 - t) * t**2 * inner[1] + t**3).T
    return x, y


def locally_shuffled(crop: Crop, rng: Generator) -> Crop:
    """Voxels shuffled inside windows of random place and size, at most a tenth of the crop's edge.

    At least 2 voxels are allowed, so that small crops change too. Where windows overlap a voxel belongs to the last.
    Their number grows with the crop so that they cover it as in the authors' code (10,000 in 64 x 64 x 32).
    """
    shape = np.array(crop.shape)
    most = np.minimum(np.maximum(shape // 10, 2), shape)
    count = round(COVER * crop.size / float(np.prod((1 + most) / 2)))  # under 16,000 whatever the crop
    window = np.zeros(crop.shape, np.uint16)  # 16 bits: numpy sorts them in linear time
    for number, box in enumerate(_boxes(shape, 0 * most + 1, most, count, 0, rng), start=1):
        window[box] = number
    return shuffled_within(crop, window, rng)


def shuffled_within(crop: Crop, window: NDArray[np.uint16], rng: Generator) -> Crop:
    """Values shuffled among the voxels of the same window number; voxels of window 0 keep theirs."""
    owner = window.ravel()
    inside = np.flatnonzero(owner)
    home = inside[np.argsort(owner[inside], kind="stable")]
    mixed = rng.permutation(inside)
    source = mixed[np.argsort(owner[mixed], kind="stable")]
    out = crop.flatten()
    out[home] = crop.ravel()[source]
    return out.reshape(crop.shape)


def in_painted(crop: Crop, rng: Generator) -> Crop:
    """Up to five boxes, a sixth to a third of the crop's edges, filled with noise in [0, 1); one time in 20 none."""
    shape = np.array(crop.shape)
    least = np.maximum(shape // 6, 1)
    out = crop.copy()
    for box in _boxes(shape, least, np.maximum(shape // 3, least), _count(MOST_BOXES, AGAIN, rng), PAINT_MARGIN, rng):
        out[box] = rng.random(out[box].shape, np.float32)
    return out


def out_painted(crop: Crop, rng: Generator) -> Crop:
    """Noise in [0, 1) everywhere but in one to five boxes, three to four sevenths of the crop's edges."""
    shape = np.array(crop.shape)
    out = rng.random(crop.shape, np.float32)
    count = 1 + _count(MOST_BOXES - 1, AGAIN, rng)
    for box in _boxes(shape, shape - 4 * shape // 7, shape - 3 * shape // 7, count, PAINT_MARGIN, rng):
        out[box] = crop[box]
    return out


def _count(most: int, chance: float, rng: Generator) -> int:
    """How many times in a row something with this chance happens, at most `most`."""
    count = 0
    while count < most and rng.random() < chance:
        count += 1
    return count


def _boxes(
    shape: NDArray[Any], least: NDArray[Any], most: NDArray[Any], count: int, margin: int, rng: Generator
) -> Iterator[tuple[slice, slice, slice]]:
    """Boxes inside a crop with edges from least to most (3,), `margin` voxels from its border if there is room."""
    size = rng.integers(least, most + 1, (count, 3))
    free = np.minimum(margin, (shape - size) // 2)
    first = rng.integers(free, shape - size - free + 1)
    for (x, y, z), (i, j, k) in zip(first.tolist(), (first + size).tolist(), strict=True):
        yield slice(x, i), slice(y, j), slice(z, k)
