"""Table 1 of Ahn and Park: nine random changes of a training crop, each a row with its probability and range.

The rows act in the table's order; rotation and elastic deformation are one resampling. Both channels share what a row
draws, as in the authors' code, which gives MONAI's dictionary transforms both keys; only the noise values differ.
Nothing is clipped to [0, 1].
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.nn import functional

from model.errors import ConfigError

CPU = torch.device("cpu")
STRENGTH_LIMIT = 2.0  # beyond it a gamma nears 0 and an axis of low resolution vanishes


@dataclass(frozen=True)
class Range:
    """A number drawn uniformly from [low, high) at strength 1.

    Strength multiplies its distance from `neutral`, the value that changes nothing. None: strength does not change
    this range, as for the smoothness of a deformation.
    """

    low: float
    high: float
    neutral: float | None = 0.0

    def at(self, strength: float) -> tuple[float, float]:
        """The two ends at this strength."""
        if self.neutral is None:
            return self.low, self.high
        low, high = (self.neutral + strength * (end - self.neutral) for end in (self.low, self.high))
        return low, high

    def draw(self, strength: float, rng: np.random.Generator) -> float:
        return float(rng.uniform(*self.at(strength)))


@dataclass(frozen=True)
class Row:
    """One row of table 1: its probability at strength 1 (times strength, at most `limit`) and what it draws."""

    probability: float
    ranges: Mapping[str, Range]
    limit: float = 1.0

    def chance(self, strength: float) -> float:
        return min(self.probability * strength, self.limit)

    def happens(self, strength: float, rng: np.random.Generator) -> bool:
        return bool(rng.random() < self.chance(strength))


TABLE_1: Mapping[str, Row] = MappingProxyType(
    {
        # of each axis by itself. The limit: above 0.5 a flip would mix the two sides less, not more
        "flip": Row(0.5, {}, limit=0.5),
        "rotate": Row(0.2, {"degrees": Range(-15, 15)}),  # about each axis; in voxels, as MONAI's RandRotate
        # alpha, times noise from [-1, 1] smoothed by sigma voxels, is the displacement (MONAI's Rand3DElastic)
        "elastic": Row(0.2, {"alpha": Range(100, 400), "sigma": Range(5, 13, neutral=None)}),
        "gamma": Row(0.3, {"gamma": Range(0.7, 1.5, neutral=1.0)}),  # between each channel's least and largest value
        "shift": Row(0.2, {"offset": Range(-0.1, 0.1)}),  # in network units
        "scale": Row(0.2, {"factor": Range(-0.25, 0.25)}),  # values times 1 + factor
        "smooth": Row(0.2, {"sigma": Range(0.25, 1.1)}),  # voxels, drawn for each axis
        # "randomly determined" in the paper; numbers of the authors' code. share: of the voxels, lost on each axis
        "low_resolution": Row(0.3, {"share": Range(0, 0.4)}),
        "noise": Row(0.2, {"mean": Range(0, 0.1), "std": Range(0.001, 0.1)}),
    }
)
NOISE_WITHOUT_MEAN = 0.5  # share of the noise with mean 0: the paper has noise with and without mean; the share is ours


def augmented(
    image: Tensor, truth: Tensor, strength: float, rng: np.random.Generator, flips: Sequence[int] = (0, 1, 2)
) -> tuple[Tensor, Tensor]:
    """A crop changed as table 1 says, a pure function of its inputs and of the generator's state.

    image: float32 (2, X, Y, Z) in network units, channel 0 = CT, 1 = PET, resampled linearly; truth: float32
    (1, X, Y, Z) of 0 and 1, or more such channels, resampled by nearest neighbour. Both lie on one device, where every
    row is computed. The inputs are not changed; the result may be the inputs themselves, always at strength 0.
    strength: see training.settings.STRENGTHS; flips: the axes that may be flipped. Raises ConfigError for a strength
    outside [0, 2] and for shapes that do not belong together.
    """
    if not 0 <= strength <= STRENGTH_LIMIT:
        raise ConfigError(f"augmentation strength must be from 0 to {STRENGTH_LIMIT:g}, got {strength}")
    if image.ndim != 4 or truth.ndim != 4 or image.shape[1:] != truth.shape[1:] or truth.shape[0] < 1:
        raise ConfigError(
            f"a crop is (channels, X, Y, Z) and its truth (1, X, Y, Z), got {tuple(image.shape)} and "
            f"{tuple(truth.shape)}"
        )
    axes = [axis + 1 for axis in flips if TABLE_1["flip"].happens(strength, rng)]
    if axes:
        image, truth = image.flip(axes), truth.flip(axes)
    image, truth = _bent(image, truth, strength, rng)
    return _intensities(image, strength, rng), truth


def resampled(image: Tensor, truth: Tensor, degrees: Sequence[float], shift: Tensor | None) -> tuple[Tensor, Tensor]:
    """The crop turned about its centre and bent, image linear, truth by nearest neighbour, mirrored at its faces.

    degrees: about the axes x, y, z, the turn about z first. shift: (3, X, Y, Z) voxels, added before the turn; None:
    none. A voxel of the result at p, counted from the centre, is the input's at turn(p + shift(p)).
    """
    size, device = image.shape[1:], image.device
    axes = [torch.arange(n, dtype=torch.float32, device=device) - (n - 1) / 2 for n in size]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    if shift is not None:
        points += shift
    turn = Rotation.from_euler("XYZ", degrees, degrees=True).as_matrix()
    to_unit = np.diag([2 / n for n in size])  # grid_sample counts from -1 to 1, and the last axis first
    matrix = torch.from_numpy((to_unit @ turn)[::-1].astype(np.float32)).to(device)
    grid = (matrix @ points.flatten(1)).T.reshape(1, *size, 3)
    both = [
        functional.grid_sample(volume[None], grid, mode=mode, padding_mode="reflection", align_corners=False)[0]
        for volume, mode in ((image, "bilinear"), (truth, "nearest"))
    ]
    return both[0], both[1]


def with_gamma(image: Tensor, gamma: float) -> Tensor:
    """Raise every channel, scaled to [0, 1] between its own least and largest value, to the power gamma."""
    low, high = image.amin((1, 2, 3), keepdim=True), image.amax((1, 2, 3), keepdim=True)
    span = (high - low).clamp_min(1e-7)  # so that a channel of one value stays as it is
    return ((image - low) / span) ** gamma * span + low


def smoothed(image: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Every channel smoothed by a Gaussian; sigmas in voxels along x, y, z.

    Outside the image the value of the nearest voxel counts.
    """
    if image.device.type == "cpu":
        return torch.from_numpy(gaussian_filter(image.numpy(), (0, *sigmas), mode="nearest"))
    return convolved(image, sigmas, truncate=4, outside="replicate")


def convolved(image: Tensor, sigmas: Sequence[float], truncate: float, outside: str) -> Tensor:
    """scipy's gaussian_filter of every channel (C, X, Y, Z), on the image's device.

    truncate: radius of the kernels in sigmas; outside: "replicate" (scipy's nearest) or "constant" (zeros).
    """
    out = image[None]
    for axis, sigma in enumerate(sigmas):
        radius = int(truncate * sigma + 0.5)
        at = torch.arange(-radius, radius + 1, dtype=torch.float64)
        kernel = torch.exp(-0.5 * (at / sigma) ** 2)
        shape, pad = [1, 1, 1, 1, 1], [0] * 6
        shape[2 + axis] = len(at)
        pad[4 - 2 * axis] = pad[5 - 2 * axis] = radius  # torch counts them from the last axis
        weight = (kernel / kernel.sum()).to(image).reshape(shape).expand(len(image), *[-1] * 4)
        out = functional.conv3d(functional.pad(out, pad, mode=outside), weight, groups=len(image))
    return out[0]


def lowered(image: Tensor, shares: Sequence[float]) -> Tensor:
    """The image resampled to a grid without these shares of its voxels along x, y, z, and back to its size.

    A larger voxel holds the mean of what it covers, as a scanner's does; the way back is linear.
    """
    size = [max(1, round(n * (1 - share))) for n, share in zip(image.shape[1:], shares, strict=True)]
    small = functional.interpolate(image[None], size=size, mode="area")
    return functional.interpolate(small, size=image.shape[1:], mode="trilinear")[0]


def displacement(
    size: tuple[int, ...], alpha: float, sigma: float, rng: np.random.Generator, device: torch.device = CPU
) -> Tensor:
    """Elastic displacements, float32 (3, X, Y, Z) in voxels: alpha times noise from [-1, 1] smoothed by sigma voxels.

    With table 1's ranges their standard deviation is 0.2 to 3 voxels.
    """
    if device.type == "cpu":
        noise = rng.random((3, *size), dtype=np.float32) * 2 - 1
        return torch.from_numpy(alpha * gaussian_filter(noise, (0, sigma, sigma, sigma), mode="constant", truncate=3))
    there = torch.rand((3, *size), generator=generator_of(rng, device), device=device) * 2 - 1
    return alpha * convolved(there, (sigma, sigma, sigma), truncate=3, outside="constant")


def generator_of(rng: np.random.Generator, device: torch.device) -> torch.Generator:
    """A generator on a device, seeded by one draw from `rng`: it draws values for voxels where they are used."""
    return torch.Generator(device).manual_seed(int(rng.integers(2**63)))


def _bent(image: Tensor, truth: Tensor, strength: float, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Rows 2 and 3 in one resampling, none if neither happens."""
    degrees, shift = [0.0, 0.0, 0.0], None
    turns = (row := TABLE_1["rotate"]).happens(strength, rng)
    if turns:
        degrees = [row.ranges["degrees"].draw(strength, rng) for _ in range(3)]
    if (row := TABLE_1["elastic"]).happens(strength, rng):
        alpha, sigma = (row.ranges[name].draw(strength, rng) for name in ("alpha", "sigma"))
        shift = displacement(tuple(image.shape[1:]), alpha, sigma, rng, image.device)
    return (image, truth) if not turns and shift is None else resampled(image, truth, degrees, shift)


def noise_like(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Standard normal values of the image's shape, on its device."""
    if image.device.type == "cpu":
        return torch.from_numpy(rng.standard_normal(tuple(image.shape), dtype=np.float32))
    return torch.randn(image.shape, generator=generator_of(rng, image.device), device=image.device)


def _intensities(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """Rows 4 to 9."""

    def draw(name: str, what: str) -> float:
        return TABLE_1[name].ranges[what].draw(strength, rng)

    if TABLE_1["gamma"].happens(strength, rng):
        image = with_gamma(image, draw("gamma", "gamma"))
    if TABLE_1["shift"].happens(strength, rng):
        image = image + draw("shift", "offset")
    if TABLE_1["scale"].happens(strength, rng):
        image = image * (1 + draw("scale", "factor"))
    if TABLE_1["smooth"].happens(strength, rng):
        image = smoothed(image, [draw("smooth", "sigma") for _ in range(3)])
    if TABLE_1["low_resolution"].happens(strength, rng):
        image = lowered(image, [draw("low_resolution", "share") for _ in range(3)])
    if TABLE_1["noise"].happens(strength, rng):
        mean = 0.0 if rng.random() < NOISE_WITHOUT_MEAN else draw("noise", "mean")
        image = image + noise_like(image, rng).mul_(draw("noise", "std")).add_(mean)
    return image
