"""A CT as two dates are laid onto each other by: voxels of 4 mm, and what is not body (table, air) is air."""

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from model.study.reading import Volume

VOXEL_MM = 4.0
AROUND = 6  # voxels kept around the body
LOW_HU, HIGH_HU = -900.0, 400.0
BODY_HU, AIR_HU = -500.0, -1000.0


@dataclass(frozen=True)
class CoarseCt:
    """A CT in voxels of 4 mm along the patient's axes, HU, air outside the body; and the body, bool (z, y, x)."""

    image: sitk.Image
    body: NDArray[np.bool_]


def coarse_ct(ct: Volume) -> CoarseCt:
    """A CT as `align` takes it; a hundredth of the memory of the CT itself."""
    factors = [max(1, int(VOXEL_MM / mm)) for mm in ct.grid.spacing_mm]
    small = sitk.Cast(sitk.BinShrink(ct.image, factors), sitk.sitkFloat32)
    low, high = ct.grid.corner_span_mm()
    size = [max(2, int(round(mm / VOXEL_MM))) for mm in high - low]
    image = sitk.Resample(
        small,
        size,
        sitk.Transform(),
        sitk.sitkLinear,
        [float(mm) + VOXEL_MM / 2 for mm in low],
        [VOXEL_MM] * 3,
        [1, 0, 0, 0, 1, 0, 0, 0, 1],
        AIR_HU,
    )
    hu = sitk.GetArrayFromImage(image)
    body = _body(hu)
    z, y, x = (slice(max(0, b.start - AROUND), b.stop + AROUND) for b in ndimage.find_objects(body.astype(np.uint8))[0])
    cleaned = sitk.GetImageFromArray(np.where(body, np.clip(hu, LOW_HU, HIGH_HU), LOW_HU).astype(np.float32))
    cleaned.CopyInformation(image)
    return CoarseCt(cleaned[x, y, z], body[z, y, x])


def _body(hu: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The body with its lungs: the largest part above -500 HU once thin parts (the table) are gone, holes filled."""
    thick = ndimage.binary_opening(hu > BODY_HU, iterations=2)
    labels, count = ndimage.label(thick)
    if not count:
        return np.ones(hu.shape, bool)
    body = labels == np.bincount(labels.ravel())[1:].argmax() + 1
    return np.stack([ndimage.binary_fill_holes(plane) for plane in ndimage.binary_dilation(body)])
