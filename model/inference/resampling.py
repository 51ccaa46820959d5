"""CT onto the PET's LAS grid (linear; -1024 HU outside), and how much of the PET's uptake the CT covers."""

from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from model.errors import CaseError
from model.study.geometry import Grid, las_view
from model.study.reading import Volume

OUTSIDE_HU = -1024.0  # air, as in autoPET's CTres
UPTAKE_SUV = 0.5  # at and above: tissue; the noise in air about a patient stays below


def resample_ct(ct: Volume, las: Grid, suv: NDArray[Any]) -> tuple[NDArray[Any], float]:
    """CT in HU on the LAS grid, (z, y, x), and the share of the PET's uptake that it covers, in [0, 1].

    suv: the PET on that grid; uptake are its voxels of SUV 0.5 and above (none: 1), since a CT's field of view is
    often smaller than the PET's, and what it leaves out is mostly air.

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
    if outside.all():
        raise CaseError(f"CT '{ct.path}' covers no voxel of the PET. Are they of the same study?")
    hu[outside] = OUTSIDE_HU
    uptake = suv >= UPTAKE_SUV
    count = np.count_nonzero(uptake)
    return hu, 1.0 - float(np.count_nonzero(uptake & outside)) / count if count else 1.0
