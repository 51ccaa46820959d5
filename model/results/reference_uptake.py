"""SUV of the liver and of blood, with which lesions are compared: of a sphere, a segmentation, or an organ map.

PERCIST (Wahl et al., J Nucl Med 2009) takes a sphere of 3 cm in the right lobe of a healthy liver, and a cylinder 1 cm
wide in the descending aorta. With an organ map the sphere is put where it is farthest from the organ's surface and
from lesions. The public models' organ maps have a heart, and no aorta: a heart's wall takes up FDG, so it is no blood.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from model.results.lesion_rules import Surroundings
from model.results.reference_options import RADIUS_MM, Sphere

ORGAN_NAMES = {
    "liver": ("liver",),
    "blood": ("descending aorta", "thoracic aorta", "aorta", "blood pool", "mediastinal blood pool"),
}


@dataclass(frozen=True, kw_only=True)
class ReferenceUptake:
    """SUV in a reference volume: mean and standard deviation of its voxels. source: how the volume was found."""

    suv_mean: float
    suv_sd: float
    volume_ml: float
    source: str
    lesion_ml: float = 0.0  # of the volume, what is lesion in the mask


def uptake_in_sphere(
    around: Surroundings, mask: NDArray[Any], sphere: Sphere, source: str
) -> tuple[ReferenceUptake | None, str]:
    """The uptake in a sphere in patient coordinates; or None, and why."""
    matrix = np.array(around.grid.direction).reshape(3, 3) * around.grid.spacing_mm
    place = np.subtract(sphere.centre_mm, around.grid.origin_mm)
    centre = np.linalg.solve(matrix, place)[::-1]  # z, y, x in voxels
    steps_mm = np.array(around.grid.spacing_mm[::-1])
    low, high = centre - sphere.radius_mm / steps_mm, centre + sphere.radius_mm / steps_mm
    if (low < -0.5).any() or (high > np.array(around.grid.shape) - 0.5).any():
        return None, f"the {sphere} does not lie within the PET: give patient coordinates in mm (LPS)"
    box = tuple(slice(int(np.ceil(a)), int(np.floor(b)) + 1) for a, b in zip(low, high, strict=True))
    z, y, x = ((np.arange(part.start, part.stop) - c) * mm for part, c, mm in zip(box, centre, steps_mm, strict=True))
    inside = z[:, None, None] ** 2 + y[None, :, None] ** 2 + x[None, None, :] ** 2 <= sphere.radius_mm**2 + 1e-6
    return (
        _uptake_in(around, mask, inside, box, source)
        if inside.any()
        else (None, f"the {sphere} holds no voxel's centre")
    )


def uptake_in_mask(
    around: Surroundings, mask: NDArray[Any], reference: NDArray[np.bool_], source: str
) -> tuple[ReferenceUptake | None, str]:
    """The uptake in a segmentation (z, y, x) on the PET's grid; or None, and why."""
    if not reference.any():
        return None, f"the {source} is empty"
    return _uptake_in(around, mask, reference, (slice(None),) * 3, source)


def uptake_in_organ(around: Surroundings, mask: NDArray[Any], what: str) -> tuple[ReferenceUptake | None, str]:
    """The uptake in a sphere inside the liver or the aorta of an organ map; or None, and why. what: liver or blood."""
    if around.organs is None:
        return None, f"there are no organs: give --{what}-sphere or {what}_mask" + (
            ", or ask for --organs" if what == "liver" else ""
        )
    label = _label_of(around.organ_names, ORGAN_NAMES[what])
    if not label:
        return None, f"the organ map knows no {ORGAN_NAMES[what][0]}: give --{what}-sphere or {what}_mask"
    box = ndimage.find_objects(around.organs, max_label=label)[label - 1]
    if box is None:
        return None, f"the {around.organ_names[label - 1]} was not found: give --{what}-sphere or {what}_mask"
    free = np.pad((around.organs[box] == label) & ~(mask[box] > 0), 1)  # the edge of the PET is surface, too
    depth_mm = ndimage.distance_transform_edt(free, sampling=around.grid.spacing_mm[::-1])
    deepest = np.unravel_index(int(depth_mm.argmax()), depth_mm.shape)
    if depth_mm[deepest] <= RADIUS_MM[what]:  # a voxel outside would lie in the sphere
        return None, (
            f"the {around.organ_names[label - 1]} has no place without lesions for a sphere {2 * RADIUS_MM[what]:g} mm "
            f"wide: give --{what}-sphere or {what}_mask"
        )
    index = [at - 1 + part.start for at, part in zip(deepest, box, strict=True)]
    matrix = np.array(around.grid.direction).reshape(3, 3) * around.grid.spacing_mm
    x, y, z = (float(v) for v in matrix @ np.array(index[::-1], np.float64) + np.array(around.grid.origin_mm))
    sphere = Sphere(centre_mm=(x, y, z), radius_mm=RADIUS_MM[what])
    return uptake_in_sphere(around, mask, sphere, f"{sphere}, in the {around.organ_names[label - 1]} of the organ map")


def _uptake_in(
    around: Surroundings, mask: NDArray[Any], inside: NDArray[np.bool_], box: tuple[slice, ...], source: str
) -> tuple[ReferenceUptake | None, str]:
    """The uptake of the voxels of a box that are `inside`; or None, and why."""
    values = np.asarray(around.suv[box][inside], np.float64)
    lesion = float(np.count_nonzero(mask[box][inside]))
    if not values.mean() > 0:
        return None, f"SUV is {values.mean():.3g} in the {source}: is it in the right place?"
    return ReferenceUptake(
        suv_mean=float(values.mean()),
        suv_sd=float(values.std()),
        volume_ml=len(values) * around.grid.voxel_ml,
        source=source,
        lesion_ml=lesion * around.grid.voxel_ml,
    ), ""


def _label_of(names: Sequence[str], wanted: Sequence[str]) -> int:
    """The label of the first of the wanted organs that there is; 0 if there is none."""
    lowered = [name.lower() for name in names]
    return next((lowered.index(name) + 1 for name in wanted if name in lowered), 0)
