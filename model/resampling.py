"""CT onto the PET's LAS grid (linear; -1024 HU outside), and how much of it the CT covers."""

from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from model.errors import CaseError
from model.geometry import Grid, las_view
from model.reading import Volume

OUTSIDE_HU = -1024.0  # air, as in autoPET's CTres


def resample_ct(ct: Volume, las: Grid) -> tuple[NDArray[Any], float]:
    """CT in HU on the LAS grid, (z, y, x), and the share of that grid which it covers, in [0, 1].

    A CT that is on the grid already is not interpolated: its own values come back, as a view.
    Raises CaseError if CT covers no voxel of the grid.
    """
    view = las_view(ct.grid)
    if view.grid.equals(las):
        return view.to_las(ct.array), 1.0
    image = ct.image
    if not (view.order == (0, 1, 2) and not any(view.flips)):  # bring it into one order first, so that the
        image = sitk.DICOMOrient(image, "LAS")  # result does not depend on how CT is stored
        image.SetDirection(view.grid.direction)
        image.SetOrigin(view.grid.origin_mm)
    moved = sitk.Resample(
        image, las.size, sitk.Transform(), sitk.sitkLinear,
        las.origin_mm, las.spacing_mm, las.direction, float("nan"), sitk.sitkFloat32,
    )  # fmt: skip
    hu = sitk.GetArrayFromImage(moved)
    del moved, image  # two volumes less while the next ones are made
    outside = np.isnan(hu)  # values were checked to be finite: NaN can only mean outside
    share = 1.0 - float(np.count_nonzero(outside)) / outside.size
    if share == 0.0:
        raise CaseError(f"CT '{ct.path}' covers no voxel of the PET. Are they of the same study?")
    hu[outside] = OUTSIDE_HU
    return hu, share
