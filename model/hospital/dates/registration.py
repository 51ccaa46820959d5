"""Lay the CT of one date onto the CT of another: position, then rigid, then deformable; each only if it is plausible.

The first guess is the shift along the body at which the profiles of body, lung and bone agree best. The rigid movement
maximises mutual information (Mattes et al., IEEE Trans Med Imaging 22:120, 2003) over voxels of the body that are drawn
with a fixed seed. The deformation follows the forces of demons (Thirion, Med Image Anal 2:243, 1998), smoothed in every
step, so parts without structure move with their surroundings. One thread does it all: the same two CTs give the same
transform, to the rounding of sums.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from model.hospital.dates.coarse_ct import LOW_HU, VOXEL_MM, CoarseCt

LUNG_HU, BONE_HU = -600.0, 200.0
LEAST_OVERLAP = 0.5  # of the shorter CT, along the body
BINS, SAMPLED, SEED = 32, 0.25, 1  # of the joint histogram; share of the voxels; of where they are drawn
THREADS = 1  # more threads add in an order of their own, and last bits differ
SHRINK = (4, 2)  # how many voxels become one, coarse to fine, for the rigid movement
LEVELS = ((4, 60), (2, 40))  # of the deformation: how many voxels become one, and how many steps are made
SMOOTH = 1.5  # voxels of a level: how smooth the deformation is
LARGEST_TURN_DEG = 30.0  # a patient who lies down again turns less
LEAST_CORRELATION = 0.5  # of the CTs in the body, below: they are not aligned
WORSE = 0.01  # of the correlation: a step that lowers it by more is given up
LARGEST_MOVE_MM = 45.0  # of 99 % of the body, beyond the rigid movement: no breath moves an organ further
VOLUME_RANGE = (0.35, 2.8)  # how much smaller or larger any part of 99.8 % of the body may become


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """How the CTs were aligned. transform: from points (mm) of the second date to points of the first.

    kind: deformable, rigid, or position (a shift alone). correlation: of the CTs in the body, in [-1, 1]. moved_mm: how
    far 99 % of the body was moved, at most, beyond the rigid movement; 0 unless deformable. warnings: what was given up
    and why.
    """

    transform: sitk.Transform
    kind: str
    correlation: float
    moved_mm: float
    warnings: tuple[str, ...]


def align(first: CoarseCt, second: CoarseCt) -> Alignment:
    """Lay the first date's CT onto the second's. Never raises for CTs that do not fit: it says so."""
    moving, fixed, body = first.image, second.image, second.body
    shift = _shift(fixed, moving)
    best: sitk.Transform = shift
    kind, score, moved_mm, warnings = "position", _correlation(fixed, moving, body, shift), 0.0, list[str]()
    rigid, why = _tried(lambda: _rigid(fixed, moving, body, shift))
    if rigid is not None:
        why = _why_not_rigid(rigid, score, _correlation(fixed, moving, body, rigid))
    if rigid is None or why:
        warnings.append(f"the CTs were aligned by their position alone: {why}")
    else:
        best, kind, score = rigid, "rigid", _correlation(fixed, moving, body, rigid)
        field, why = _tried(lambda: _deformable(fixed, moving, best))
        if field is not None:
            whole = sitk.CompositeTransform([best, field])
            after = _correlation(fixed, moving, body, whole)
            reach_mm, why = _movement(fixed, body, field)
            why = why or ("it made the CTs less alike" if after < score - WORSE else "")
            if not why:
                best, kind, score, moved_mm = whole, "deformable", after, reach_mm
        if kind == "rigid":
            warnings.append(f"the CTs were aligned rigidly, without deforming: {why}")
    if score < LEAST_CORRELATION:
        warnings.append(
            f"the CTs hardly agree (correlation {score:.2f} in the body, {LEAST_CORRELATION:g} and more is usual): are "
            "they of one patient and the same part of the body?"
        )
    return Alignment(transform=best, kind=kind, correlation=score, moved_mm=moved_mm, warnings=tuple(warnings))


def _tried(register: Callable[[], sitk.Transform]) -> tuple[sitk.Transform | None, str]:
    """The transform that a registration gives; None and the reason if it fails."""
    try:
        return register(), ""
    except RuntimeError as error:  # ITK's exceptions
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return None, f"the registration failed ({lines[-1][:120] if lines else 'no reason given'})"


def _shift(fixed: sitk.Image, moving: sitk.Image) -> sitk.TranslationTransform:
    """The translation that lays the profiles along the body onto each other, and then the bodies' centres."""
    volumes = [sitk.GetArrayViewFromImage(image) for image in (fixed, moving)]
    profiles = [_profiles(volume) for volume in volumes]
    lengths = [len(volume) for volume in volumes]
    least = max(2, int(LEAST_OVERLAP * min(lengths)))
    scores = {}
    for offset in range(least - lengths[1], lengths[0] - least + 1):  # slices of `fixed` before `moving` begins
        start, stop = max(0, offset), min(lengths[0], lengths[1] + offset)
        pairs = zip(profiles[0][:, start:stop], profiles[1][:, start - offset : stop - offset], strict=True)
        scores[offset] = float(np.mean([_correlated(one, other) for one, other in pairs]))
    offset = max(scores, key=lambda one: (scores[one], -abs(one)))
    start, stop = max(0, offset), min(lengths[0], lengths[1] + offset)
    parts = (volumes[0][start:stop], volumes[1][start - offset : stop - offset])
    centres = []
    for image, part, first in zip((fixed, moving), parts, (start, start - offset), strict=True):
        inside = np.argwhere(part > LOW_HU)
        middle = inside.mean(0) if len(inside) else np.array(part.shape) / 2
        middle[0] = (len(part) - 1) / 2 + first
        centres.append(image.TransformContinuousIndexToPhysicalPoint(middle[::-1].tolist()))
    return sitk.TranslationTransform(3, np.subtract(centres[1], centres[0]).tolist())


def _profiles(hu: NDArray[np.float32]) -> NDArray[np.float64]:
    """How much body, lung and bone each slice has, (3, z)."""
    inside = hu > LOW_HU
    return np.array(
        [part.sum(axis=(1, 2)) for part in (inside, inside & (hu < LUNG_HU), hu > BONE_HU)], dtype=np.float64
    )


def _correlated(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Pearson's correlation; 0 where one of both does not vary."""
    one, other = one - one.mean(), other - other.mean()
    scale = np.sqrt((one**2).sum() * (other**2).sum())
    return float((one * other).sum() / scale) if scale > 0 else 0.0


def _rigid(
    fixed: sitk.Image, moving: sitk.Image, body: NDArray[np.bool_], shift: sitk.TranslationTransform
) -> sitk.Euler3DTransform:
    """The rotation and translation, from a first guess. Raises RuntimeError."""
    start = sitk.Euler3DTransform()
    centre = np.argwhere(body).mean(0)[::-1]
    start.SetCenter(fixed.TransformContinuousIndexToPhysicalPoint(centre.tolist()))
    start.SetTranslation(shift.GetOffset())
    around = sitk.GetImageFromArray(ndimage.binary_dilation(body, iterations=2).astype(np.uint8))
    around.CopyInformation(fixed)
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(SAMPLED, SEED)
    method.SetMetricFixedMask(around)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetNumberOfThreads(THREADS)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=4.0, minStep=0.01, numberOfIterations=150, gradientMagnitudeTolerance=1e-7
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel(SHRINK)
    method.SetSmoothingSigmasPerLevel([shrink * VOXEL_MM / 2 for shrink in SHRINK])
    method.SetInitialTransform(start, inPlace=True)
    method.Execute(fixed, moving)
    return start


def _deformable(fixed: sitk.Image, moving: sitk.Image, rigid: sitk.Transform) -> sitk.DisplacementFieldTransform:
    """What each part of the body moves beyond the rigid movement, from coarse to fine. Raises RuntimeError."""
    moved = sitk.Resample(moving, fixed, rigid, sitk.sitkLinear, float("nan"))
    other, own = sitk.GetArrayFromImage(moved), sitk.GetArrayViewFromImage(fixed)
    other = sitk.GetImageFromArray(np.where(np.isnan(other), own, other))  # what only one CT shows pulls at nothing
    other.CopyInformation(fixed)
    demons = sitk.FastSymmetricForcesDemonsRegistrationFilter()
    demons.SetSmoothDisplacementField(True)
    demons.SetStandardDeviations(SMOOTH)
    demons.SetNumberOfThreads(THREADS)
    field = sitk.Image(fixed.GetSize(), sitk.sitkVectorFloat64)
    field.CopyInformation(fixed)
    for shrink, steps in LEVELS:
        small, small_other = (sitk.BinShrink(image, [shrink] * 3) for image in (fixed, other))
        demons.SetNumberOfIterations(steps)
        field = demons.Execute(small, small_other, sitk.Resample(field, small))
    return sitk.DisplacementFieldTransform(sitk.Resample(field, fixed))


def _why_not_rigid(rigid: sitk.Euler3DTransform, before: float, after: float) -> str:
    """Why a rigid movement is not plausible; "" if it is."""
    matrix = np.array(rigid.GetMatrix()).reshape(3, 3)
    turn_deg = float(np.degrees(np.arccos(np.clip((np.trace(matrix) - 1) / 2, -1, 1))))
    if turn_deg > LARGEST_TURN_DEG:
        return f"the rigid registration turned the body by {turn_deg:.0f} degrees, more than {LARGEST_TURN_DEG:g}"
    if after < before - WORSE:
        return f"the rigid registration made the CTs less alike (correlation {after:.2f} after {before:.2f})"
    return ""


def _movement(fixed: sitk.Image, body: NDArray[np.bool_], transform: sitk.Transform) -> tuple[float, str]:
    """How far the deformation moves 99 % of the body, mm; and why that is not plausible, or ""."""
    field = sitk.TransformToDisplacementField(
        transform, sitk.sitkVectorFloat64, fixed.GetSize(), fixed.GetOrigin(), fixed.GetSpacing(), fixed.GetDirection()
    )
    length = np.linalg.norm(sitk.GetArrayViewFromImage(field), axis=-1)[body]
    reach_mm = float(np.percentile(length, 99))
    volume = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(field))[body]
    least, most = (float(np.percentile(volume, share)) for share in (0.1, 99.9))
    if reach_mm > LARGEST_MOVE_MM:
        return reach_mm, f"deforming moved parts of the body by {reach_mm:.0f} mm, more than {LARGEST_MOVE_MM:g}"
    if least < VOLUME_RANGE[0] or most > VOLUME_RANGE[1]:
        return reach_mm, (
            f"deforming made parts of the body {least:.2g} to {most:.2g} times as large, beyond {VOLUME_RANGE[0]:g} to "
            f"{VOLUME_RANGE[1]:g}"
        )
    return reach_mm, ""


def _correlation(fixed: sitk.Image, moving: sitk.Image, body: NDArray[np.bool_], transform: sitk.Transform) -> float:
    """Correlation of the two CTs in the part of the body that both show; 0 where they share none."""
    other = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, transform, sitk.sitkLinear, float("nan")))
    both = body & ~np.isnan(other)
    if not both.any():
        return 0.0
    return _correlated(sitk.GetArrayViewFromImage(fixed)[both].astype(np.float64), other[both].astype(np.float64))
