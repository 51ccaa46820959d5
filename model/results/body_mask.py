"""CT values on the PET's grid, and where the body is, for rules about lesions in air and outside the body."""

from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from model.dicom.pixels import OUTSIDE_HU
from model.dicom.reading import BODY_HU
from model.study.geometry import Grid, array_of
from model.study.reading import Volume

NOT_COVERED = -32768.0  # what the resampling writes where the CT does not reach
COARSE_MM = 4.0  # the body is looked for in voxels of about this size
LIMB_SHARE = 0.01  # of the largest part: a smaller one is no limb, but a bag, a hand or a cushion
MARGIN_MM = 10.0  # what is this near to the body's surface counts as body: PET and CT are not aligned to the millimetre


def hu_on(ct: Volume, grid: Grid) -> NDArray[np.float32]:
    """The CT's HU at every voxel of a grid, (z, y, x), linear between its own voxels; NaN where it does not reach."""
    hu = sitk.Resample(
        ct.image,
        grid.size,
        sitk.Transform(),
        sitk.sitkLinear,
        grid.origin_mm,
        grid.spacing_mm,
        grid.direction,
        NOT_COVERED,
        sitk.sitkFloat32,
    )
    values = np.array(array_of(hu))
    values[values == NOT_COVERED] = np.nan
    return values


def body_of(hu: NDArray[Any], grid: Grid) -> NDArray[np.bool_]:
    """Where the body is, (z, y, x), or may be, as the CT does not reach; everywhere if no voxel is dense.

    The body is the largest connected part above -500 HU, and every other of at least 1 % of its size, as a leg is where
    the field of view ends below the hips; with the holes of its slices filled, and 10 mm around it. A table belongs to
    it, too. The CT does not reach where it is NaN, or has padding's value, as beyond the circle that it reconstructs.
    """
    steps = [max(1, round(COARSE_MM / mm)) for mm in grid.spacing_mm[::-1]]
    coarse = hu[tuple(slice(None, None, step) for step in steps)]
    labels, count = ndimage.label(coarse > BODY_HU)
    if count == 0:
        return np.ones(hu.shape, bool)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    body = (sizes >= LIMB_SHARE * sizes.max())[labels] & (labels > 0)
    along = 2 - int(np.argmax(np.abs(np.array(grid.direction).reshape(3, 3)[2])))  # the axis along the body
    for flat in np.moveaxis(body, along, 0):
        ndimage.binary_fill_holes(flat, output=flat)
    sizes_mm = [step * mm for step, mm in zip(steps, grid.spacing_mm[::-1], strict=True)]
    body = ndimage.distance_transform_edt(~body, sampling=sizes_mm) <= MARGIN_MM
    for axis, (step, size) in enumerate(zip(steps, hu.shape, strict=True)):
        body = np.take(np.repeat(body, step, axis), range(size), axis) if step > 1 else body
    return np.asarray(body | np.isnan(hu) | (hu <= OUTSIDE_HU))
