"""The shape of a lesion: sphericity, as the Image Biomarker Standardisation Initiative defines it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.measure import marching_cubes


def sphericity(inside: NDArray[np.bool_], spacing_mm: tuple[float, float, float]) -> float:
    """The surface of a ball of the lesion's volume over the lesion's surface, 1 for a ball and less for all else.

    inside: (z, y, x), at least one voxel; spacing (x, y, z). Volume and surface are those of the mesh of marching cubes
    at one half (arXiv:1612.07003, feature QCFX).
    """
    area, volume = mesh_measures(inside, spacing_mm)
    return float((36 * np.pi * volume**2) ** (1 / 3) / area)


def mesh_measures(inside: NDArray[np.bool_], spacing_mm: tuple[float, float, float]) -> tuple[float, float]:
    """Area in mm2 and volume in mm3 of a lesion's mesh (features C0JK and RNU0); arguments as for `sphericity`."""
    padded = np.pad(inside, 1).astype(np.float32)
    made: Any = marching_cubes(padded, 0.5, spacing=spacing_mm[::-1])  # type: ignore[no-untyped-call]
    corners = np.asarray(made[0], np.float64)[made[1]]  # (triangles, 3, 3)
    crossed = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = float(np.linalg.norm(crossed, axis=1).sum()) / 2
    volume = float(np.einsum("ij,ij->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2]))) / 6
    return area, abs(volume)
