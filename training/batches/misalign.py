"""CT that does not lie where the PET does, as after a breath or a movement between the two scans."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from training.settings import Misalignment


def misaligned(image: Tensor, spacing_mm: Sequence[float], settings: Misalignment, rng: np.random.Generator) -> Tensor:
    """The crop (2, X, Y, Z), channel 0 = CT, with its CT moved against the PET; the crop itself if chance has it so.

    Without a chance nothing is drawn. The CT is read linearly; beyond the crop the nearest voxel counts.
    """
    if not settings.chance or rng.random() >= settings.chance:
        return image
    return torch.cat([moved(image[:1], movement(image.shape[1:], spacing_mm, settings, rng)), image[1:]])


def movement(
    size: Sequence[int], spacing_mm: Sequence[float], settings: Misalignment, rng: np.random.Generator
) -> Tensor:
    """A smooth field, float32 (3, X, Y, Z) in voxels: drawn uniformly at nodes `smooth_mm` apart, linear between them,
    so at most `most_mm` along each axis.
    """
    nodes = [2 + int(n * step / settings.smooth_mm) for n, step in zip(size, spacing_mm, strict=True)]
    drawn = rng.uniform(-settings.most_mm, settings.most_mm, (3, *nodes)) / np.reshape(spacing_mm, (3, 1, 1, 1))
    coarse = torch.from_numpy(drawn.astype(np.float32))[None]
    return functional.interpolate(coarse, size=tuple(size), mode="trilinear", align_corners=True)[0]


def moved(volume: Tensor, field: Tensor) -> Tensor:
    """A volume (C, X, Y, Z) read at p + field(p), in voxels, linearly."""
    size, device = volume.shape[1:], volume.device
    axes = [torch.arange(n, dtype=torch.float32, device=device) for n in size]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij")) + field.to(device)
    scale = torch.tensor([2 / max(n - 1, 1) for n in size], device=device).reshape(3, 1, 1, 1)
    grid = (points * scale - 1).flip(0).permute(1, 2, 3, 0)[None]  # grid_sample takes the last axis first
    return functional.grid_sample(volume[None], grid, mode="bilinear", padding_mode="border", align_corners=True)[0]
