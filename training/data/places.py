"""Find a place for a tumour in a body: inside it, most of it in soft tissue, and clear of the body's own lesions."""

from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from training.data.tumours import AIR_HU, BONE_HU, Tumour, weights

INTENSE_SUV = 4.0  # brain, bladder and the like, which a tumour would cut in two
LEAST_SOFT = 0.7  # of the place that a tumour takes is soft tissue without intense uptake
TRIES = 2000  # places drawn in one body
FIRST_POINTS, LEAST_SOFT_OF_FIRST = 200, 0.6  # of a tumour, looked at before all of it


def find_place(
    rng: np.random.Generator,
    tumour: Tumour,
    body: tuple[sitk.Image, sitk.Image, sitk.Image],
    mirrored: bool,
) -> NDArray[np.float64] | None:
    """A place in mm for the tumour's middle in a body (PET, CT on the PET's grid, truth); None if none was found.

    The tumour lies inside the body, lung and gut gas too, but LEAST_SOFT of it in soft tissue without intense uptake.
    With its margin it lies inside the image and meets none of the body's own lesions.
    """
    pet, ct, truth = body
    hu, suv = sitk.GetArrayViewFromImage(ct), sitk.GetArrayViewFromImage(pet)
    inside = inside_body(hu)
    soft = inside & (hu > AIR_HU) & (hu < BONE_HU) & (suv < INTENSE_SUV)
    own = sitk.GetArrayViewFromImage(truth) != 0
    shape = np.array(hu.shape)
    solid, around = shape_on(tumour, pet, mirrored)
    if not len(solid):
        return None
    first = solid[rng.permutation(len(solid))[:FIRST_POINTS]]
    margin_low, margin_high = around.min(axis=0), around.max(axis=0)
    starts = np.argwhere(soft)
    starts = starts[((starts + margin_low >= 0) & (starts + margin_high < shape)).all(axis=1)]
    if not len(starts):
        return None

    def at(mask: NDArray[np.bool_], points: NDArray[np.intp]) -> NDArray[np.bool_]:
        z, y, x = points.T
        found: NDArray[np.bool_] = mask[z, y, x]
        return found

    for start in starts[rng.integers(len(starts), size=TRIES)]:
        if not at(inside, start + first).all() or at(soft, start + first).mean() < LEAST_SOFT_OF_FIRST:
            continue
        if not at(inside, start + solid).all() or at(soft, start + solid).mean() < LEAST_SOFT:
            continue
        if not at(own, start + around).any():
            return np.array(pet.TransformIndexToPhysicalPoint(start[::-1].tolist()))
    return None


def inside_body(hu: NDArray[Any]) -> NDArray[np.bool_]:
    """The largest thing denser than AIR_HU in a CT (z, y, x), with what it encloses in each slice: lungs, gut gas."""
    labels, count = ndimage.label(np.greater(hu, AIR_HU))
    if not count:
        return np.zeros(hu.shape, bool)
    largest = labels == 1 + int(np.bincount(labels.ravel())[1:].argmax())
    return np.stack([ndimage.binary_fill_holes(part) for part in largest])


def shape_on(tumour: Tumour, image: sitk.Image, mirrored: bool) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The tumour's voxels, and those of tumour and margin, (n, 3) as steps (z, y, x) from the voxel of its middle.

    They are those of the image's spacing; the tumour may be larger than the image.
    """
    spacing = np.array(image.GetSpacing())
    reach = np.ceil(np.abs(np.array(image.GetDirection()).reshape(3, 3)).T @ tumour.half_mm / spacing).astype(int) + 1
    grid = sitk.Image((2 * reach + 1).tolist(), sitk.sitkFloat32)
    grid.SetSpacing(image.GetSpacing())
    grid.SetDirection(image.GetDirection())
    back = np.array(image.GetDirection()).reshape(3, 3) @ (reach * spacing)
    grid.SetOrigin((tumour.middle_mm - back).tolist())
    mask = tumour.mask_on(grid, tumour.middle_mm, mirrored)
    weight = weights(mask, image.GetSpacing())
    return np.argwhere(mask) - reach[::-1], np.argwhere(weight > 0) - reach[::-1]
