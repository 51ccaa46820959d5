"""Table 1 on all crops of a batch at once, on the device that holds them, in float32, with what was drawn on the host.

Every row is training.batches.augment's, to the rounding of float32. A row touches the crops that it was drawn for
alone. Nothing here waits for the device: which crops a row touches is known on the host.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor
from torch.nn import functional

from training.batches.augment import Changes, Elastic, centred_points, lowered_size, to_grid

Axes = tuple[np.ndarray, np.ndarray, np.ndarray]  # a matrix (n, n) for each of x, y, z


def change_together(images: Tensor, truths: Tensor, changes: Sequence[Changes]) -> None:
    """Change every crop as was drawn for it, in place.

    images: float32 (B, 2, X, Y, Z) in network units; truths: float32 (B, 1, X, Y, Z) of 0 and 1; both contiguous.
    """
    flip(images, truths, changes)
    bend(images, truths, changes)
    raise_to_gamma(images, changes)
    shift_and_scale(images, changes)
    blur(images, changes)
    add_noise(images, changes)


def flip(images: Tensor, truths: Tensor, changes: Sequence[Changes]) -> None:
    """Row 1."""
    turned = [(n, [axis + 1 for axis in one.flips]) for n, one in enumerate(changes) if one.flips]
    for volumes in (images, truths):
        put_back(volumes, [n for n, _ in turned], [volumes[n].flip(axes) for n, axes in turned])


def bend(images: Tensor, truths: Tensor, changes: Sequence[Changes]) -> None:
    """Rows 2 and 3: one resampling of all crops that are turned or bent, as `augment.resampled` has it."""
    bent = [n for n, one in enumerate(changes) if one.degrees or one.elastic]
    if not bent:
        return
    size, device = images.shape[2:], images.device
    points = centred_points(size, device).repeat(len(bent), 1, 1, 1, 1)
    elastic = [(at, one) for at, n in enumerate(bent) if (one := changes[n].elastic)]
    if elastic:
        moved = [points[at] for at, _ in elastic]
        torch._foreach_add_(moved, list(displacements([one for _, one in elastic], size, device)))
    turns = np.stack([to_grid(size, changes[n].degrees or (0.0, 0.0, 0.0)) for n in bent])
    grid = torch.bmm(points.flatten(2).transpose(1, 2), on(turns, device).transpose(1, 2)).reshape(-1, *size, 3)
    for volumes, mode in ((images, "bilinear"), (truths, "nearest")):
        out = functional.grid_sample(picked(volumes, bent), grid, mode, "reflection", align_corners=False)
        put_back(volumes, bent, list(out))


def raise_to_gamma(images: Tensor, changes: Sequence[Changes]) -> None:
    """Row 4, as `augment.with_gamma` has it."""
    gammas = {n: one.gamma for n, one in enumerate(changes) if one.gamma is not None}
    if not gammas:
        return
    chosen = picked(images, list(gammas))
    low, high = chosen.amin((2, 3, 4), keepdim=True), chosen.amax((2, 3, 4), keepdim=True)
    span = (high - low).clamp_min_(1e-7)
    shares = chosen.sub_(low).div_(span)
    torch._foreach_pow_(list(shares), list(gammas.values()))
    put_back(images, list(gammas), list(shares.mul_(span).add_(low)))


def shift_and_scale(images: Tensor, changes: Sequence[Changes]) -> None:
    """Rows 5 and 6."""
    offsets = {n: one.offset for n, one in enumerate(changes) if one.offset is not None}
    factors = {n: 1 + one.factor for n, one in enumerate(changes) if one.factor is not None}
    if offsets:
        torch._foreach_add_([images[n] for n in offsets], list(offsets.values()))
    if factors:
        torch._foreach_mul_([images[n] for n in factors], list(factors.values()))


def blur(images: Tensor, changes: Sequence[Changes]) -> None:
    """Rows 7 and 8: both are products with a matrix along each axis, so that together they are one such product."""
    blurred = [n for n, one in enumerate(changes) if one.sigmas or one.shares]
    if blurred:
        axes = [blurring(images.shape[2:], changes[n]) for n in blurred]
        put_back(images, blurred, list(along_axes(picked(images, blurred), axes)))


def add_noise(images: Tensor, changes: Sequence[Changes]) -> None:
    """Row 9."""
    for image, one in zip(images, changes, strict=True):
        if noise := one.noise:
            image.add_(
                values(noise.normal, tuple(image.shape), image.device, torch.randn).mul_(noise.std).add_(noise.mean)
            )


def displacements(drawn: Sequence[Elastic], size: Sequence[int], device: torch.device) -> Tensor:
    """Elastic displacements, float32 (n, 3, X, Y, Z) in voxels, as `augment.displacement` has each."""
    noise = [values(one.noise, (3, *size), device, torch.rand) for one in drawn]
    axes = []
    for one in drawn:
        x, y, z = (gaussian(n, one.sigma, truncate=3, zeros_outside=True) for n in size)
        axes.append((one.alpha * x, y, z))
    return along_axes(torch.stack(noise).mul_(2).sub_(1), axes)


def values(
    drawn: np.ndarray | int, shape: tuple[int, ...], device: torch.device, kind: Callable[..., Tensor]
) -> Tensor:
    """The values of single voxels in a new tensor: those that were drawn, or those of their seed."""
    if isinstance(drawn, int):
        return kind(shape, generator=torch.Generator(device).manual_seed(drawn), device=device)
    return torch.from_numpy(drawn).to(device, copy=True)


def along_axes(volumes: Tensor, axes: Sequence[Axes]) -> Tensor:
    """Every volume of (n, C, X, Y, Z) multiplied by its own matrices along x, y and z."""
    for axis in (2, 1, 0):  # the last axis is multiplied, and becomes the first after n
        matrices = on(np.stack([one[axis] for one in axes]).astype(np.float32), volumes.device)
        n, *rest, edge = volumes.shape
        volumes = torch.bmm(matrices, volumes.reshape(n, -1, edge).transpose(1, 2)).reshape(n, edge, *rest)
    return volumes.movedim(-1, 1)  # from (n, X, Y, Z, C)


def blurring(size: Sequence[int], one: Changes) -> Axes:
    """Smoothing, then low resolution, as a matrix along each axis."""
    smooth = [
        gaussian(n, sigma, truncate=4, zeros_outside=False) for n, sigma in zip(size, one.sigmas or (), strict=False)
    ]
    low = [lowering(n, share) for n, share in zip(size, one.shares or (), strict=False)]
    x, y, z = [after @ before for after, before in zip(low, smooth, strict=True)] if low and smooth else low or smooth
    return x, y, z


def gaussian(n: int, sigma: float, truncate: float, zeros_outside: bool) -> np.ndarray:
    """scipy's gaussian_filter1d as a matrix (n, n) in float64; a sigma of 0 changes nothing.

    truncate: radius of the kernel in sigmas. Outside lie zeros, or the value of the nearest voxel.
    """
    if sigma < 1e-15:
        return np.eye(n)
    radius = int(truncate * sigma + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    row = np.zeros(2 * n - 1)  # by the distance of the read voxel from the written one, from 1 - n on
    reach = min(radius, n - 1)
    row[n - 1 - reach : n + reach] = kernel[radius - reach : radius + reach + 1]
    matrix: np.ndarray = sliding_window_view(row, n)[::-1].copy()
    if not zeros_outside:
        total = np.concatenate([[0.0], np.cumsum(kernel)])
        before = np.clip(radius - np.arange(n), 0, None)  # how many of the kernel's steps lie before the first voxel
        matrix[:, 0] += total[before]
        matrix[:, -1] += total[before[::-1]]  # the kernel is symmetric
    return matrix


def lowering(n: int, share: float) -> np.ndarray:
    """`augment.lowered` as a matrix (n, n) in float64: means over larger voxels, and linear between their centres."""
    size = lowered_size(n, share)
    down = np.zeros((size, n))
    for voxel in range(size):
        first, last = voxel * n // size, -(-(voxel + 1) * n // size)
        down[voxel, first:last] = 1 / (last - first)
    places = np.clip((np.arange(n) + 0.5) * size / n - 0.5, 0, size - 1)
    below = places.astype(int)
    upper = (places - below)[:, None]
    matrix: np.ndarray = (1 - upper) * down[below] + upper * down[np.minimum(below + 1, size - 1)]
    return matrix


def picked(volumes: Tensor, numbers: Sequence[int]) -> Tensor:
    """A copy of some of the volumes of a batch."""
    return torch.stack([volumes[n] for n in numbers])


def put_back(volumes: Tensor, numbers: Sequence[int], parts: list[Tensor]) -> None:
    """Write the parts over the volumes of these numbers."""
    if numbers:
        torch._foreach_copy_([volumes[n] for n in numbers], parts)


def on(array: np.ndarray, device: torch.device) -> Tensor:
    """A small array on the device; the copy does not wait for what the device does."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)
