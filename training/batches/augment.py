"""Table 1 of Ahn and Park: nine random changes of a training crop, each a row with its probability and range.

The rows act in the table's order; rotation and elastic deformation are one resampling. Both channels share what a row
draws, as in the authors' code, which gives MONAI's dictionary transforms both keys; only the noise values differ.
Nothing is clipped to [0, 1].
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.nn import functional

from model.errors import ConfigError

ELASTIC_FILTER: Mapping[str, Any] = MappingProxyType({"mode": "constant", "truncate": 3})  # zeros outside; in sigmas
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


@dataclass(frozen=True, kw_only=True)
class Elastic:
    """A drawn elastic deformation. noise: float32 (3, X, Y, Z) in [0, 1), or the seed of a device's generator of it."""

    alpha: float
    sigma: float
    noise: np.ndarray | int


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Drawn noise. normal: standard normal float32 (C, X, Y, Z), or the seed of a device's generator of it."""

    mean: float
    std: float
    normal: np.ndarray | int


@dataclass(frozen=True, kw_only=True)
class Changes:
    """All that table 1 draws for one crop; None where a row does not happen. See TABLE_1 for units."""

    flips: tuple[int, ...] = ()
    degrees: tuple[float, ...] | None = None
    elastic: Elastic | None = None
    gamma: float | None = None
    offset: float | None = None
    factor: float | None = None
    sigmas: tuple[float, ...] | None = None
    shares: tuple[float, ...] | None = None
    noise: Noise | None = None


def augmented(
    image: Tensor, truth: Tensor, strength: float, rng: np.random.Generator, flips: Sequence[int] = (0, 1, 2)
) -> tuple[Tensor, Tensor]:
    """A crop changed as table 1 says, a pure function of its inputs and of the generator's state.

    image: float32 (2, X, Y, Z) in network units, channel 0 = CT, 1 = PET, resampled linearly; truth: float32
    (1, X, Y, Z) of 0 and 1, resampled by nearest neighbour; both on the host. The inputs are not changed; the result
    may be the inputs themselves, always at strength 0. strength: see training.settings.STRENGTHS; flips: the axes that
    may be flipped. Raises ConfigError for a strength outside [0, 2] and for shapes that do not belong together.
    """
    if image.ndim != 4 or truth.ndim != 4 or image.shape[1:] != truth.shape[1:] or truth.shape[0] != 1:
        raise ConfigError(
            f"a crop is (channels, X, Y, Z) and its truth (1, X, Y, Z), got {tuple(image.shape)} and "
            f"{tuple(truth.shape)}"
        )
    return changed(image, truth, drawn_changes(tuple(image.shape), strength, rng, flips))


def drawn_changes(
    shape: tuple[int, ...], strength: float, rng: np.random.Generator, flips: Sequence[int], seeded: bool = False
) -> Changes:
    """What table 1 does to a crop of this shape (C, X, Y, Z): all random numbers, in the table's order.

    seeded: draw one seed in place of the values of single voxels, which a device then draws where they are used. Raises
    ConfigError for a strength outside [0, 2].
    """
    if not 0 <= strength <= STRENGTH_LIMIT:
        raise ConfigError(f"augmentation strength must be from 0 to {STRENGTH_LIMIT:g}, got {strength}")

    def happens(name: str) -> bool:
        return TABLE_1[name].happens(strength, rng)

    def draw(name: str, what: str) -> float:
        return TABLE_1[name].ranges[what].draw(strength, rng)

    def thrice(name: str, what: str) -> tuple[float, ...] | None:
        return tuple(draw(name, what) for _ in range(3)) if happens(name) else None

    def elastic() -> Elastic:
        alpha, sigma = draw("elastic", "alpha"), draw("elastic", "sigma")
        noise = int(rng.integers(2**63)) if seeded else rng.random((3, *shape[1:]), dtype=np.float32)
        return Elastic(alpha=alpha, sigma=sigma, noise=noise)

    def noise() -> Noise:
        mean = 0.0 if rng.random() < NOISE_WITHOUT_MEAN else draw("noise", "mean")
        normal = int(rng.integers(2**63)) if seeded else rng.standard_normal(shape, dtype=np.float32)
        return Noise(mean=mean, normal=normal, std=draw("noise", "std"))

    return Changes(  # arguments are computed from first to last
        flips=tuple(axis for axis in flips if happens("flip")),
        degrees=thrice("rotate", "degrees"),
        elastic=elastic() if happens("elastic") else None,
        gamma=draw("gamma", "gamma") if happens("gamma") else None,
        offset=draw("shift", "offset") if happens("shift") else None,
        factor=draw("scale", "factor") if happens("scale") else None,
        sigmas=thrice("smooth", "sigma"),
        shares=thrice("low_resolution", "share"),
        noise=noise() if happens("noise") else None,
    )


def changed(image: Tensor, truth: Tensor, changes: Changes) -> tuple[Tensor, Tensor]:
    """A crop on the host with these changes, whose values of single voxels are drawn; see `augmented`."""
    if changes.flips:
        axes = [axis + 1 for axis in changes.flips]
        image, truth = image.flip(axes), truth.flip(axes)
    if changes.degrees or changes.elastic:
        shift = displacement(changes.elastic) if changes.elastic else None
        image, truth = resampled(image, truth, changes.degrees or (0.0, 0.0, 0.0), shift)
    if changes.gamma is not None:
        image = with_gamma(image, changes.gamma)
    if changes.offset is not None:
        image = image + changes.offset
    if changes.factor is not None:
        image = image * (1 + changes.factor)
    if changes.sigmas:
        image = smoothed(image, changes.sigmas)
    if changes.shares:
        image = lowered(image, changes.shares)
    if noise := changes.noise:
        image = image + torch.from_numpy(np.asarray(noise.normal)).mul(noise.std).add_(noise.mean)
    return image, truth


def resampled(image: Tensor, truth: Tensor, degrees: Sequence[float], shift: Tensor | None) -> tuple[Tensor, Tensor]:
    """The crop turned about its centre and bent, image linear, truth by nearest neighbour, mirrored at its faces.

    degrees: about the axes x, y, z, the turn about z first. shift: (3, X, Y, Z) voxels, added before the turn; None:
    none. A voxel of the result at p, counted from the centre, is the input's at turn(p + shift(p)).
    """
    size = image.shape[1:]
    points = centred_points(size)
    if shift is not None:
        points += shift
    grid = (torch.from_numpy(to_grid(size, degrees)) @ points.flatten(1)).T.reshape(1, *size, 3)
    both = [
        functional.grid_sample(volume[None], grid, mode=mode, padding_mode="reflection", align_corners=False)[0]
        for volume, mode in ((image, "bilinear"), (truth, "nearest"))
    ]
    return both[0], both[1]


def centred_points(size: Sequence[int], device: torch.device | None = None) -> Tensor:
    """Where every voxel lies, counted from the centre of the crop, float32 (3, X, Y, Z)."""
    axes = [torch.arange(n, dtype=torch.float32, device=device) - (n - 1) / 2 for n in size]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def to_grid(size: Sequence[int], degrees: Sequence[float]) -> np.ndarray:
    """The turn, float32 (3, 3), from points counted from the centre to grid_sample's: from -1 to 1, last axis first."""
    turn = Rotation.from_euler("XYZ", degrees, degrees=True).as_matrix()
    matrix: np.ndarray = (np.diag([2 / n for n in size]) @ turn)[::-1].astype(np.float32)
    return matrix


def with_gamma(image: Tensor, gamma: float) -> Tensor:
    """Raise every channel, scaled to [0, 1] between its own least and largest value, to the power gamma."""
    low, high = image.amin((1, 2, 3), keepdim=True), image.amax((1, 2, 3), keepdim=True)
    span = (high - low).clamp_min(1e-7)  # so that a channel of one value stays as it is
    return ((image - low) / span) ** gamma * span + low


def smoothed(image: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Every channel smoothed by a Gaussian; sigmas in voxels along x, y, z.

    Outside the image the value of the nearest voxel counts.
    """
    return torch.from_numpy(gaussian_filter(image.numpy(), (0, *sigmas), mode="nearest"))


def lowered(image: Tensor, shares: Sequence[float]) -> Tensor:
    """The image resampled to a grid without these shares of its voxels along x, y, z, and back to its size.

    A larger voxel holds the mean of what it covers, as a scanner's does; the way back is linear.
    """
    size = [lowered_size(n, share) for n, share in zip(image.shape[1:], shares, strict=True)]
    small = functional.interpolate(image[None], size=size, mode="area")
    return functional.interpolate(small, size=image.shape[1:], mode="trilinear")[0]


def lowered_size(n: int, share: float) -> int:
    """How many of n voxels an axis keeps at low resolution."""
    return max(1, round(n * (1 - share)))


def displacement(elastic: Elastic) -> Tensor:
    """Elastic displacements, float32 (3, X, Y, Z) in voxels: alpha times noise from [-1, 1] smoothed by sigma voxels.

    With table 1's ranges their standard deviation is 0.2 to 3 voxels.
    """
    width = (0, *[elastic.sigma] * 3)
    return torch.from_numpy(elastic.alpha * gaussian_filter(np.asarray(elastic.noise) * 2 - 1, width, **ELASTIC_FILTER))
