"""A NIfTI-1 header (.nii, .nii.gz, of either byte order), read strictly.

Source: nifti1.h (https://nifti.nimh.nih.gov). The reader library replaces fields that it cannot use by 0 or 1, and uses
one of the two positions that a header may give (qform, sform). Here both must be valid and agree.
"""

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.opening import open_regular
from model.study.geometry import Grid, grid_from
from model.study.stored import GZIP, Refused, Stored, inflated

LAYOUT = {
    "magic": (344, "4s"),
    "dim": (40, "8h"),
    "type": (70, "2h"),
    "pixdim": (76, "8f"),
    "offset": (108, "f"),
    "scaling": (112, "2f"),
    "units": (123, "B"),
    "codes": (252, "2h"),
    "quaternion": (256, "3f"),
    "quaternion offset": (268, "3f"),
    "rows": (280, "12f"),
}  # where each field is, and how it is packed
MAGIC = b"n+1\0"
HEAD_BYTES, SECOND_HEAD_BYTES = 348, 540  # sizeof_hdr of NIfTI-1 and NIfTI-2
LEAST_OFFSET = 352  # bytes before the voxels: the header and the flag for extensions
KINDS = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
MM_OR_UNKNOWN, LENGTH_UNITS = (0, 2), {0: "unknown", 1: "metres", 2: "mm", 3: "micrometres"}
ORTHOGONAL = 1e-4  # largest |D'D - I| of the directions of the axes that ITK takes from NIfTI
AGREE_VOXEL = 0.25  # largest distance of a corner by qform from the same by sform, in voxel edges (float32)
AGREE_SPACING = 1e-3  # largest relative difference of pixdim and sform's steps
ROUNDED = 1e-6  # by how much b^2 + c^2 + d^2 of a quaternion in float32 may exceed 1
TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # NIfTI's coordinates grow to the right and to anterior


@dataclass(frozen=True, kw_only=True)
class _Place:
    """One of the two ways to say where voxels lie: a matrix from voxels to mm (4, 4), and its name."""

    name: str
    affine: NDArray[np.float64]

    @property
    def steps(self) -> NDArray[np.float64]:
        """mm from voxel to voxel along each axis."""
        return np.asarray(np.linalg.norm(self.affine[:3, :3], axis=0))


def nifti_header(path: Path) -> Stored:
    """What the header says. Raises ValueError for one that is damaged, Refused for what is not supported."""
    compressed = path.name.lower().endswith(".gz")
    head = _head(path, compressed)
    fields = _fields(head)
    dim = fields["dim"]
    if not 1 <= dim[0] <= 7 or min(dim[1 : dim[0] + 1]) < 1:
        raise ValueError(f"its header says dim = {list(dim)}, {dim[0]} dimensions")
    size = list(dim[1 : dim[0] + 1])
    while len(size) > 3 and size[-1] == 1:
        size.pop()
    kind, bits = fields["type"]
    if kind not in KINDS:
        raise Refused(f"its header says datatype = {kind}, which is not supported; convert it to whole or real numbers")
    if bits != int(KINDS[kind][1]) * 8:
        raise ValueError(f"its header says datatype = {kind} with bitpix = {bits}")
    slope, intercept = _scaling(*fields["scaling"])
    return Stored(
        size=tuple(size),
        kind=np.dtype(fields["order"] + KINDS[kind]),
        data=path,
        offset=_offset(fields),
        compression="gzip" if compressed else "",
        slope=slope,
        intercept=intercept,
        grids=_grids(fields, size) if len(size) == 3 else (),
    )


def _head(path: Path, compressed: bool) -> bytes:
    """The bytes of the header, inflated."""
    with open_regular(path) as file:
        if not compressed:
            return file.read(HEAD_BYTES)
        if file.read(len(GZIP)) != GZIP:
            raise ValueError("it ends in .gz and does not begin as gzip does")
        file.seek(0)
        head = b""
        for part in inflated(file):
            head += part
            if len(head) >= HEAD_BYTES:
                break
        return head[:HEAD_BYTES]


def _fields(head: bytes) -> dict[str, Any]:
    """The fields of LAYOUT, and the byte order."""
    for order in "<>":
        size = struct.unpack_from(f"{order}i", head)[0] if len(head) >= 4 else 0
        if size == SECOND_HEAD_BYTES:
            raise Refused("it is NIfTI-2, which is not supported; convert it to NIfTI-1")
        if size != HEAD_BYTES:
            continue
        if len(head) < size:
            raise EOFError(f"it has {len(head)} bytes, and its header alone has {size}")
        fields = {name: struct.unpack_from(order + kind, head, at) for name, (at, kind) in LAYOUT.items()}
        if fields["magic"][0] != MAGIC:
            raise Refused(
                f"its header has the mark {fields['magic'][0]!r}: it is no NIfTI in one file, but Analyze, or made to "
                "lie beside an .img; convert it to .nii.gz"
            )
        return fields | {"order": order}
    raise ValueError("it does not begin as a NIfTI does, with 348")


def _offset(fields: dict[str, Any]) -> int:
    (offset,) = fields["offset"]
    if not math.isfinite(offset) or offset != int(offset) or offset < LEAST_OFFSET:
        raise ValueError(f"its header says vox_offset = {offset:g}, not {LEAST_OFFSET} or more")
    return int(offset)


def _scaling(slope: float, intercept: float) -> tuple[float, float]:
    """value = stored x slope + intercept; a slope of 0 or NaN says that values are not scaled (nifti1.h; nibabel)."""
    if (slope == 0 or math.isnan(slope)) and (intercept == 0 or math.isnan(intercept)):
        return 1.0, 0.0
    if not slope or not (math.isfinite(slope) and math.isfinite(intercept)):
        raise ValueError(f"its header says scl_slope = {slope:g} and scl_inter = {intercept:g}")
    return slope, intercept


def _grids(fields: dict[str, Any], size: list[int]) -> tuple[Grid, ...]:
    """Where the voxels lie by sform and by qform, each with the spacing of pixdim and with its own."""
    units = fields["units"][0] & 7
    if units not in MM_OR_UNKNOWN:
        name = LENGTH_UNITS.get(units, f"unit {units}")
        raise Refused(f"its header gives lengths in {name} (xyzt_units), which is not supported; write them in mm")
    spacing = fields["pixdim"][1:4]
    if not all(math.isfinite(edge) and edge > 0 for edge in spacing):
        raise ValueError(f"its header says pixdim = {_shown(spacing)}, not three numbers above 0")
    places = _places(fields, np.array(spacing))
    if not places:
        raise Refused(
            "its header does not say where the patient is (qform_code and sform_code are 0); convert it again from "
            "DICOM, or set its sform"
        )
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in size])).reshape(3, -1)
    grids = []
    for place in places:
        _check_steps(place, np.array(spacing))
        for steps in (np.array(spacing), place.steps):
            grids.append(_grid(place, steps, size))
    if len(places) == 2:
        points = [place.affine[:3, :3] @ corners + place.affine[:3, 3:] for place in places]
        apart = float(np.linalg.norm(points[0] - points[1], axis=0).max())
        if apart > AGREE_VOXEL * min(spacing):
            both = ", ".join(f"{p.name} {_shown(p.steps)} and {_shown(p.affine[:3, 3])}" for p in places)
            raise Refused(
                f"its qform and its sform disagree, by {apart:.3g} mm at a corner (voxel and origin in mm: {both}), "
                "and which is right is not known; set the code of the wrong one to 0, or convert it again from DICOM"
            )
    return tuple(grids)


def _places(fields: dict[str, Any], spacing: NDArray[np.float64]) -> list[_Place]:
    """sform and qform; each only if its code is above 0."""
    by_quaternion, by_rows = fields["codes"]
    if not (0 <= by_quaternion <= 5 and 0 <= by_rows <= 5):
        raise ValueError(f"its header says qform_code = {by_quaternion} and sform_code = {by_rows}, not 0 to 5")
    places = []
    quaternion = (*fields["quaternion"], *fields["quaternion offset"])
    for name, code, values in (("sform", by_rows, fields["rows"]), ("qform", by_quaternion, quaternion)):
        if code and not all(map(math.isfinite, values)):
            raise ValueError(f"its header's {name} holds NaN or infinite numbers")
    if by_rows:
        places.append(_Place(name="sform", affine=np.vstack([np.reshape(fields["rows"], (3, 4)), [0, 0, 0, 1]])))
    if by_quaternion:
        places.append(_Place(name="qform", affine=_quaternion_affine(fields, spacing)))
    return places


def _quaternion_affine(fields: dict[str, Any], spacing: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rotation of a unit quaternion, times spacing (nifti1.h, method 2); pixdim[0] -1 turns the third axis."""
    b, c, d = (float(number) for number in fields["quaternion"])
    squares = b * b + c * c + d * d
    turn = fields["pixdim"][0]
    if squares > 1 + ROUNDED:
        raise ValueError(f"its header's qform holds no rotation: the squares of {_shown((b, c, d))} are more than 1")
    if turn not in (-1, 0, 1):
        raise ValueError(f"its header says pixdim[0] = {turn:g}, not 1 or -1")
    if squares > 1 - 1e-7:  # as in nifti1_io: a is 0, and the rest is made a unit
        a, (b, c, d) = 0.0, (number / math.sqrt(squares) for number in (b, c, d))
    else:
        a = math.sqrt(1 - squares)
    affine = np.eye(4)
    affine[:3, :3] = [
        [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
        [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
        [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
    ]
    affine[:3, :3] *= spacing * [1, 1, -1 if turn == -1 else 1]
    affine[:3, 3] = fields["quaternion offset"]
    return affine


def _check_steps(place: _Place, spacing: NDArray[np.float64]) -> None:
    """Raise Refused if the axes are not at right angles, or if the steps along them differ from pixdim."""
    steps = place.steps
    if not steps.all():
        raise ValueError(f"its header's {place.name} has an axis of length 0")
    axes = place.affine[:3, :3] / steps
    off = float(np.abs(axes.T @ axes - np.eye(3)).max())
    if off > ORTHOGONAL:
        raise Refused(
            f"its axes are not at right angles (off by {off:.3g}, limit {ORTHOGONAL:g}): a sheared or tilted volume; "
            "resample it to an orthogonal grid"
        )
    if np.abs(steps / spacing - 1).max() > AGREE_SPACING:
        raise Refused(
            f"its header says two sizes of a voxel: pixdim {_shown(spacing)} mm and {place.name} {_shown(steps)} mm, "
            "and which is right is not known; convert it again from DICOM"
        )


def _grid(place: _Place, spacing: NDArray[np.float64], size: list[int]) -> Grid:
    affine = TO_LPS @ place.affine
    return grid_from(size, spacing, affine[:3, 3], affine[:3, :3] / place.steps)


def _shown(values: Any) -> str:
    return "(" + ", ".join(f"{value + 0.0:.6g}" for value in values) + ")"
