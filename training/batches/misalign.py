"""CT that does not lie where the PET does, as after a breath or a movement between the two scans."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from training.settings import Misalignment


def drawn_nodes(
    size: Sequence[int], spacing_mm: Sequence[float], settings: Misalignment, rng: np.random.Generator
) -> np.ndarray | None:
    """How far the CT of a crop of this size moves, float32 (3, nodes along x, y, z) in voxels; None if it stays.

    The nodes lie `smooth_mm` apart; each moves at most `most_mm` along each axis. Without a chance nothing is drawn.
    """
    if not settings.chance or rng.random() >= settings.chance:
        return None
    nodes = [2 + int(n * step / settings.smooth_mm) for n, step in zip(size, spacing_mm, strict=True)]
    drawn = rng.uniform(-settings.most_mm, settings.most_mm, (3, *nodes)) / np.reshape(spacing_mm, (3, 1, 1, 1))
    moves: np.ndarray = drawn.astype(np.float32)
    return moves


def misaligned(image: Tensor, nodes: np.ndarray | None) -> Tensor:
    """The crop (2, X, Y, Z), channel 0 = CT, with its CT moved against the PET; the crop itself without nodes.

    The CT is read linearly; beyond the crop the nearest voxel counts.
    """
    if nodes is None:
        return image
    return torch.cat([moved(image[:1], movement(torch.from_numpy(nodes), image.shape[1:])), image[1:]])


def movement(nodes: Tensor, size: Sequence[int]) -> Tensor:
    """A smooth field, (3, X, Y, Z), linear between its nodes (3, nodes along x, y, z), on their device."""
    return functional.interpolate(nodes[None], size=tuple(size), mode="trilinear", align_corners=True)[0]


def moved(volume: Tensor, field: Tensor) -> Tensor:
    """A volume (C, X, Y, Z) read at p + field(p), in voxels, linearly."""
    size, device = volume.shape[1:], volume.device
    axes = [torch.arange(n, dtype=torch.float32, device=device) for n in size]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij")) + field
    for along, n in zip(points, size, strict=True):
        along.mul_(2 / max(n - 1, 1)).sub_(1)
    grid = points.flip(0).permute(1, 2, 3, 0)[None]  # grid_sample takes the last axis first
    return functional.grid_sample(volume[None], grid, mode="bilinear", padding_mode="border", align_corners=True)[0]
