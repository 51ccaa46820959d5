"""Take a tumour out of one study and put it into another one's body: the images, without any files.

The tumour comes with what lies around it: its weight is 1 in the contour and falls to 0 over MARGIN_MM outside of it,
as half a wave of a cosine. PET and CT are resampled by cubic splines, cut to the range that they had, so that they keep
their texture; the contour linearly, above the level that keeps its volume. Noise of the CT is damped to the body's,
where it is more: else a network could find tumours by it.
"""

from dataclasses import dataclass
from math import ceil, floor

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from model.errors import CaseError
from model.study.geometry import grid_of

MARGIN_MM = 10.0  # outside the contour the patient's image fades out over this length
JOIN_MM = 2 * MARGIN_MM  # parts of a contour that are closer than this are moved together
AIR_HU, BONE_HU = -200.0, 300.0  # soft tissue lies between
LEVELS = (0.3, 0.7)  # lowest and highest share of a voxel above which it belongs to a resampled contour
NOISE_MM = 4.0  # details of a CT smaller than this deviation of a Gaussian are taken for noise
EDGE = 3.0  # times the noise's deviation: what stands out more is no noise

Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Tumour:
    """One study's largest group of lesions: PET (SUV), CT (HU), contour (0 or 1); middle and half size of its box."""

    pet: sitk.Image
    ct: sitk.Image
    contour: sitk.Image
    middle_mm: NDArray[np.float64]
    half_mm: NDArray[np.float64]  # of its box, with the margin
    volume_ml: float

    def on(self, image: sitk.Image, at_mm: NDArray[np.float64]) -> tuple[Box, sitk.Image]:
        """The box of `image` that the tumour takes when its middle lies at `at_mm`, and the empty grid of that box."""
        index = np.array(image.TransformPhysicalPointToContinuousIndex(at_mm.tolist()))
        steps = np.abs(np.array(image.GetDirection()).reshape(3, 3)).T @ self.half_mm / image.GetSpacing() + 1
        low = [max(floor(value), 0) for value in index - steps]
        high = [min(ceil(value) + 1, size) for value, size in zip(index + steps, image.GetSize(), strict=True)]
        size = [b - a for a, b in zip(low, high, strict=True)]
        if min(size) < 1:
            raise CaseError("the tumour's place lies outside the image; choose another place")
        grid = sitk.Image(size, sitk.sitkFloat32)
        grid.SetSpacing(image.GetSpacing())
        grid.SetDirection(image.GetDirection())
        grid.SetOrigin(image.TransformIndexToPhysicalPoint(low))
        x, y, z = (slice(a, b) for a, b in zip(low, high, strict=True))
        return (z, y, x), grid

    def mask_on(self, grid: sitk.Image, at_mm: NDArray[np.float64], mirrored: bool) -> NDArray[np.bool_]:
        """The contour (z, y, x) on a grid, with the tumour's middle at `at_mm`: as many voxels as its volume has."""
        share = self.resampled(self.contour, grid, at_mm, mirrored, sitk.sitkLinear)
        voxels = round(1000 * self.volume_ml / float(np.prod(grid.GetSpacing())))
        place = max(0, share.size - max(1, voxels))
        level = float(np.clip(np.partition(share, place, axis=None)[place], *LEVELS))
        return share >= level

    def resampled(
        self, what: sitk.Image, grid: sitk.Image, at_mm: NDArray[np.float64], mirrored: bool, kind: int
    ) -> NDArray[np.float32]:
        """One of the images (z, y, x) on a grid, with the tumour's middle at `at_mm`.

        Beyond the patient's image its last voxels go on, but the contour ends.
        """
        move = sitk.AffineTransform(3)
        move.SetMatrix((-1.0 if mirrored else 1.0, 0, 0, 0, 1, 0, 0, 0, 1))
        move.SetCenter(at_mm.tolist())
        move.SetTranslation((self.middle_mm - at_mm).tolist())
        resample = sitk.ResampleImageFilter()
        resample.SetReferenceImage(grid)
        resample.SetTransform(move)
        resample.SetInterpolator(kind)
        resample.SetOutputPixelType(sitk.sitkFloat32)
        resample.SetUseNearestNeighborExtrapolator(kind != sitk.sitkLinear)
        resample.SetNumberOfThreads(1)
        found: NDArray[np.float32] = sitk.GetArrayFromImage(resample.Execute(what))
        return found


def take(pet: sitk.Image, ct: sitk.Image, truth: sitk.Image) -> Tumour:
    """The tumour of a study: of its truth the largest group of lesions that lie closer than JOIN_MM to each other.

    Raises CaseError if the truth is empty.
    """
    mask = sitk.GetArrayViewFromImage(truth) != 0
    if not mask.any():
        raise CaseError("the truth is empty: there is no tumour to put into a body")
    near = ndimage.distance_transform_edt(~mask, sampling=truth.GetSpacing()[::-1]) <= JOIN_MM / 2
    groups = np.where(mask, ndimage.label(near, np.ones((3, 3, 3)))[0], 0)
    mask = groups == 1 + int(np.bincount(groups[mask])[1:].argmax())
    contour = sitk.GetImageFromArray(mask.astype(np.float32))
    contour.CopyInformation(truth)
    ends = np.argwhere(mask)[:, ::-1]
    corners = np.array(np.meshgrid(*np.stack([ends.min(axis=0), ends.max(axis=0)], 1))).reshape(3, -1).T
    points = np.array([truth.TransformContinuousIndexToPhysicalPoint(corner.tolist()) for corner in corners * 1.0])
    low, high = points.min(axis=0), points.max(axis=0)
    return Tumour(
        pet=sitk.Cast(pet, sitk.sitkFloat32),
        ct=sitk.Cast(ct, sitk.sitkFloat32),
        contour=contour,
        middle_mm=(low + high) / 2,
        half_mm=(high - low) / 2 + MARGIN_MM + max(truth.GetSpacing()),
        volume_ml=float(mask.sum()) * grid_of(truth).voxel_ml,
    )


def weights(mask: NDArray[np.bool_], spacing_mm: tuple[float, ...]) -> NDArray[np.float32]:
    """1 in a mask (z, y, x), falling to 0 at MARGIN_MM from its nearest voxel. spacing_mm: (x, y, z)."""
    if not mask.any():
        return np.zeros(mask.shape, np.float32)
    away = ndimage.distance_transform_edt(~mask, sampling=spacing_mm[::-1])
    fallen: NDArray[np.float32] = (0.5 + 0.5 * np.cos(np.pi * np.clip(away / MARGIN_MM, 0, 1))).astype(np.float32)
    fallen[away >= MARGIN_MM] = 0
    return fallen


def put(
    tumour: Tumour, body: tuple[sitk.Image, sitk.Image, sitk.Image], at_mm: NDArray[np.float64], mirrored: bool
) -> tuple[sitk.Image, sitk.Image, sitk.Image]:
    """PET, CT and truth of a body with the tumour's middle at `at_mm`, each on its own grid as before.

    Around the tumour the CT keeps the body's tissue where the patient has air.
    """
    pet, ct, truth = body
    blended = []
    for image, source in ((pet, tumour.pet), (ct, tumour.ct)):
        box, grid = tumour.on(image, at_mm)
        mask = tumour.mask_on(grid, at_mm, mirrored)
        weight = weights(mask, image.GetSpacing())
        new = tumour.resampled(source, grid, at_mm, mirrored, sitk.sitkBSpline3)
        of = sitk.GetArrayViewFromImage(source)
        new = np.clip(new, of.min(), of.max())
        array = sitk.GetArrayFromImage(image)
        old = array[box].astype(np.float32)
        if source is tumour.ct:
            weight[(new < AIR_HU) & ~mask] = 0
            new = quieted(new, old, weight > 0, image.GetSpacing())
        mixed = old + weight * (new - old)
        mixed = np.where(mask, new, mixed)  # to the bit, without the rounding of the sum
        if np.issubdtype(array.dtype, np.integer):
            mixed = np.rint(mixed)
        array[box] = np.where(weight > 0, mixed.astype(array.dtype), array[box])
        blended.append(_like(array, image))
    box, grid = tumour.on(truth, at_mm)
    own = sitk.GetArrayFromImage(truth)
    own[box][tumour.mask_on(grid, at_mm, mirrored)] = 1
    return blended[0], blended[1], _like(own, truth)


def quieted(
    hu: NDArray[np.float32], body: NDArray[np.float32], where: NDArray[np.bool_], spacing_mm: tuple[float, ...]
) -> NDArray[np.float32]:
    """A CT (z, y, x) with the noise of its soft tissue in `where` damped to that of the body's; as it is if less."""
    sigma = NOISE_MM / np.array(spacing_mm[::-1])
    fine, of_body = (image - ndimage.gaussian_filter(image, sigma) for image in (hu, body))
    has = _noise(fine[where & (hu > AIR_HU) & (hu < BONE_HU)])
    wanted = _noise(of_body[(body > AIR_HU) & (body < BONE_HU)])
    if has is None or wanted is None or wanted >= has:
        return hu
    damped: NDArray[np.float32] = hu - (1 - wanted / has) * np.clip(fine, -EDGE * has, EDGE * has)
    return damped


def on_grid_of(ct: sitk.Image, pet: sitk.Image) -> sitk.Image:
    """The CT on the PET's grid, linearly, air outside it; as it is where it lies there already."""
    if grid_of(ct).equals(grid_of(pet)):
        return ct
    return sitk.Resample(ct, pet, sitk.Transform(), sitk.sitkLinear, -1024.0, sitk.sitkFloat32)


def _like(array: NDArray[np.generic], image: sitk.Image) -> sitk.Image:
    """An array as an image on the grid of another one, with its texts."""
    made = sitk.GetImageFromArray(array)
    made.CopyInformation(image)
    for key in image.GetMetaDataKeys():
        made.SetMetaData(key, image.GetMetaData(key))
    return made


def _noise(details: NDArray[np.float32]) -> float | None:
    """Standard deviation of details by their median size, as if they were normal; None for none."""
    return 1.4826 * float(np.median(np.abs(details))) if details.size else None
