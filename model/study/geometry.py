"""The grid of a volume, its LAS view, and the one place where axis orders are turned into each other.

Outside the network: arrays (z, y, x) as SimpleITK gives them. LAS: first index (x) grows to the
patient's left, y to anterior, z to superior, as in autoPET's training volumes. Network tensors are
(B, C, X, Y, Z) of the LAS volume.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike, NDArray

SNAP_PER_MM = 2**20  # LAS origins are rounded to this: see `las_view`


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Where the voxels of a volume lie. size, spacing and origin in (x, y, z); mm; direction row by row."""

    size: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float]
    direction: tuple[float, ...]

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(np.prod(self.spacing_mm)) / 1000

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the grid's arrays, (z, y, x)."""
        return self.size[2], self.size[1], self.size[0]

    def corner_span_mm(self) -> NDArray[np.float64]:
        """Lowest and highest physical coordinate of the voxel edges, (2, 3) in mm, axes x, y, z of the patient."""
        ends = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in self.size])).reshape(3, -1)
        matrix = np.array(self.direction).reshape(3, 3) * self.spacing_mm
        points = matrix @ ends + np.array(self.origin_mm)[:, None]
        return np.stack([points.min(axis=1), points.max(axis=1)])

    def equals(self, other: "Grid", tolerance_voxel: float = 1e-3) -> bool:
        """Whether both grids put every voxel in the same place, to a share of a voxel."""
        if self.size != other.size:
            return False
        far = [np.array(g.direction).reshape(3, 3) * g.spacing_mm @ (np.array(g.size) - 1) for g in (self, other)]
        limit = tolerance_voxel * min(self.spacing_mm)
        origin = np.subtract(self.origin_mm, other.origin_mm)
        return bool(
            np.abs(origin).max() <= limit
            and np.abs(origin + far[0] - far[1]).max() <= limit
            and np.allclose(self.direction, other.direction, atol=1e-4)
            and np.allclose(self.spacing_mm, other.spacing_mm, atol=limit)
        )


@dataclass(frozen=True, kw_only=True)
class LasView:
    """How a stored volume is seen in LAS: which axes are exchanged and which are flipped.

    order[i] is the stored axis that becomes LAS axis i (x, y, z); flips[i] says that LAS axis i runs
    against the stored one. `grid` is the LAS grid.
    """

    order: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    grid: Grid

    def to_las(self, stored: NDArray[np.generic]) -> NDArray[np.generic]:
        """A view of `stored` (z, y, x) in LAS (z, y, x); nothing is copied or interpolated."""
        view = stored.transpose([2 - self.order[2 - axis] for axis in range(3)])
        return view[tuple(slice(None, None, -1 if self.flips[2 - axis] else 1) for axis in range(3))]

    def from_las(self, las: NDArray[np.generic]) -> NDArray[np.generic]:
        """The inverse of `to_las`, a view too."""
        view = las[tuple(slice(None, None, -1 if self.flips[2 - axis] else 1) for axis in range(3))]
        back = [2 - self.order[2 - axis] for axis in range(3)]
        return view.transpose(np.argsort(back))


def grid_of(image: sitk.Image) -> Grid:
    """The grid of a SimpleITK image (or of a reader after ReadImageInformation)."""
    return Grid(
        size=tuple(image.GetSize()),
        spacing_mm=tuple(image.GetSpacing()),
        origin_mm=tuple(image.GetOrigin()),
        direction=tuple(image.GetDirection()),
    )


def grid_from(size: Sequence[int], spacing_mm: ArrayLike, origin_mm: ArrayLike, direction: ArrayLike) -> Grid:
    """A grid of three dimensions from any rows of numbers; direction (3, 3), an axis a column."""
    x, y, z = size
    spacing, origin = (tuple(map(float, np.ravel(part))) for part in (spacing_mm, origin_mm))
    return Grid(
        size=(x, y, z),
        spacing_mm=(spacing[0], spacing[1], spacing[2]),
        origin_mm=(origin[0], origin[1], origin[2]),
        direction=tuple(map(float, np.ravel(direction))),
    )


def image_on(array: NDArray[Any], grid: Grid) -> sitk.Image:
    """An array (z, y, x) as an image on a grid."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(grid.spacing_mm)
    image.SetOrigin(grid.origin_mm)
    image.SetDirection(grid.direction)
    return image


class _Held:
    """Hands out an image's memory and keeps the image alive as long as an array on it lives."""

    def __init__(self, image: sitk.Image) -> None:
        self.image = image
        self.__array_interface__ = sitk.GetArrayViewFromImage(image).__array_interface__


def array_of(image: sitk.Image) -> NDArray[Any]:
    """The image's voxels (z, y, x), read-only and not copied; unlike SimpleITK's own view it keeps the image alive."""
    array: NDArray[Any] = np.asarray(_Held(image))
    array.flags.writeable = False
    return array


def las_view(grid: Grid) -> LasView:
    """How a volume on `grid` is seen in LAS; oblique grids take the nearest axes, as DICOMOrient does.

    The LAS origin is a corner computed from another corner, so its last bits depend on how the
    volume was stored; they are rounded away (to 2^-20 mm), so that the same study gives the same
    grid, and the same resampled CT, however it is stored.
    """
    probe = sitk.Image(1, 1, 1, sitk.sitkUInt8)
    probe.SetDirection(grid.direction)
    orient = sitk.DICOMOrientImageFilter()
    orient.SetDesiredCoordinateOrientation("LAS")
    orient.Execute(probe)
    i, j, k = orient.GetPermuteOrder()
    order, flips = (i, j, k), tuple(bool(f) for f in orient.GetFlipAxes())

    columns = np.array(grid.direction).reshape(3, 3)[:, order]
    size = grid.size[i], grid.size[j], grid.size[k]
    spacing = grid.spacing_mm[i], grid.spacing_mm[j], grid.spacing_mm[k]
    origin = np.array(grid.origin_mm)
    for axis in range(3):
        if flips[axis]:
            origin = origin + columns[:, axis] * spacing[axis] * (size[axis] - 1)
            columns[:, axis] *= -1
    origin = np.round(origin * SNAP_PER_MM) / SNAP_PER_MM + 0.0  # + 0.0: no negative zero
    las = Grid(size=size, spacing_mm=spacing, origin_mm=tuple(origin), direction=tuple((columns + 0.0).ravel()))
    return LasView(order=order, flips=(flips[0], flips[1], flips[2]), grid=las)
