"""A study before the networks, and the mask after them: LAS order, resampling, crop, scaling. No torch.

CT comes onto the PET's LAS grid. The crop is that of Ahn and Park, section 3.1 (background cropping based on the PET
image), the scaling that of their section 2.2.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from model.bundle.settings import Intensity
from model.errors import CaseError
from model.stopwatch import Stopwatch
from model.study.geometry import Grid, LasView, las_view
from model.study.reading import Case, Volume

Box = tuple[slice, slice, slice]

OUTSIDE_HU = -1024.0  # air, as in autoPET's CTres
UPTAKE_SUV = 0.5  # tissue has this and more; the noise in the air around a patient has less


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A study in LAS order, cropped: suv and hu (z, y, x), the crop's box, and the share of uptake that CT covers, 1
    without CT. hu: None without CT.
    """

    view: LasView
    box: Box | None  # None: no voxel of PET is above the threshold
    suv: NDArray[Any]
    hu: NDArray[Any] | None
    ct_share: float

    @property
    def ct_hu(self) -> NDArray[Any]:
        """The CT, for what cannot do without."""
        assert self.hu is not None  # a bundle that needs CT is not given a study without
        return self.hu


def place(case: Case, suv_above: float | None, watch: Stopwatch, keep_nonzero: bool = False) -> Placed:
    """LAS order, CT, if there is one, resampled onto the PET, crop: everything before intensity. Raises CaseError.

    The crop is the box around PET above `suv_above`, if that is given, and with keep_nonzero around all voxels that are
    not zero in PET or CT.
    """
    with watch.stage("resample"):
        view = las_view(case.pet.grid)
        suv = view.to_las(case.pet.array)
        hu, share = (None, 1.0) if case.ct is None else resample_ct(case.ct, view.grid, suv)
    with watch.stage("crop"):
        kept: NDArray[np.bool_] = np.zeros(suv.shape, bool) if suv_above is None else np.greater(suv, suv_above)
        box = bounding_box(kept | nonzero(hu, suv) if keep_nonzero else kept)
    inside: Any = np.s_[:0] if box is None else box
    cropped = None if hu is None else hu[inside]
    return Placed(view=view, box=box, suv=suv[inside], hu=cropped, ct_share=share)


def resample_ct(ct: Volume, las: Grid, suv: NDArray[Any]) -> tuple[NDArray[Any], float]:
    """CT in HU on the LAS grid, (z, y, x), and the share of the PET's uptake that it covers, in [0, 1].

    suv: the PET on that grid. Only uptake counts, voxels of SUV 0.5 and above, since a CT's field of view is often
    smaller than the PET's and what it leaves out is mostly air. Without uptake the share is 1.
    A CT that is on the grid already is not interpolated: its own values come back, as a view.
    Raises CaseError if CT covers no voxel of the grid.
    """
    view = las_view(ct.grid)
    if view.grid.equals(las):
        return view.to_las(ct.array), 1.0
    image = ct.image
    if view.order != (0, 1, 2) or any(view.flips):  # one order for all, so that how CT is stored changes nothing
        image = sitk.DICOMOrient(image, "LAS")
        image.SetDirection(view.grid.direction)
        image.SetOrigin(view.grid.origin_mm)
    resampled = sitk.Resample(
        image,
        las.size,
        sitk.Transform(),
        sitk.sitkLinear,
        las.origin_mm,
        las.spacing_mm,
        las.direction,
        float("nan"),
        sitk.sitkFloat32,
    )
    hu = sitk.GetArrayFromImage(resampled)
    del resampled, image  # frees two volumes before the next ones are made
    outside = np.isnan(hu)  # the CT's own values are finite, so NaN is outside
    if outside.all():
        raise CaseError(f"CT '{ct.path}' covers no voxel of the PET. Are they of the same study?")
    hu[outside] = OUTSIDE_HU
    uptake = suv >= UPTAKE_SUV
    count = np.count_nonzero(uptake)
    return hu, 1.0 - float(np.count_nonzero(uptake & outside)) / count if count else 1.0


def nonzero(hu: NDArray[Any] | None, suv: NDArray[Any]) -> NDArray[np.bool_]:
    """Where PET or CT, if there is one, is not zero."""
    found: NDArray[np.bool_] = suv != 0 if hu is None else (hu != 0) | (suv != 0)
    return found


def foreground_box(suv: NDArray[Any], above: float) -> Box | None:
    """The bounding box of suv > above, without a margin, as slices (z, y, x); None if there is no such voxel."""
    return bounding_box(suv > above)


def bounding_box(inside: NDArray[np.bool_]) -> Box | None:
    """The bounding box of the voxels that are True, as slices of the array's axes; None if there is none."""
    box = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        hits = np.flatnonzero(inside.any(axis=others))
        if hits.size == 0:
            return None
        box.append(slice(int(hits[0]), int(hits[-1]) + 1))
    return box[0], box[1], box[2]


def scale_suv(suv: NDArray[Any], settings: Intensity) -> NDArray[np.float32]:
    """Divide SUV by `suv_top`; values above 1 stay unless `suv_clip`.

    suv: any real type, any shape, finite. Returns float32 of the same shape.
    """
    scaled: NDArray[np.float32] = np.divide(suv, np.float32(settings.suv_top), dtype=np.float32)
    if settings.suv_clip:
        np.clip(scaled, 0, 1, out=scaled)
    return scaled


def scale_hu(hu: NDArray[Any], settings: Intensity) -> NDArray[np.float32]:
    """Map [ct_low_hu, ct_high_hu] to [0, 1]; values outside stay outside unless `ct_clip`.

    hu: any real type, any shape, finite. Returns float32 of the same shape.
    """
    scaled: NDArray[np.float32] = np.subtract(hu, np.float32(settings.ct_low_hu), dtype=np.float32)
    scaled /= np.float32(settings.ct_high_hu - settings.ct_low_hu)
    if settings.ct_clip:
        np.clip(scaled, 0, 1, out=scaled)
    return scaled


def put_back(placed: Placed, cropped: NDArray[Any]) -> NDArray[Any]:
    """(X, Y, Z) of the crop back to (z, y, x) on the PET's stored grid; zero outside the crop."""
    assert placed.box is not None  # without a box no network runs
    las = paste(cropped.transpose(2, 1, 0), placed.box, placed.view.grid.shape)
    return np.ascontiguousarray(placed.view.from_las(las))


def paste(part: NDArray[Any], box: Box, shape: tuple[int, int, int]) -> NDArray[Any]:
    """`part` put back into zeros of `shape` (z, y, x) at `box`."""
    whole = np.zeros(shape, dtype=part.dtype)
    whole[box] = part
    return whole
