"""Numbered lesions and the PET headers of a series, for SEG and RTSTRUCT."""

import numpy as np
import SimpleITK as sitk
from dicom_writer import write_pet

from model.dicom.headers import find_series
from model.dicom.series import order_slices

TURNS = {
    "axial": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
    "flipped": (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
    "oblique": tuple(
        np.array(sitk.Euler3DTransform((0, 0, 0), 0.3, -0.2, 0.5).GetMatrix()).reshape(3, 3)[:, :2].T.ravel()
    ),
}


def pet_headers(folder, orientation, **changes):
    stored = np.arange(8 * 7 * 6, dtype=np.int16).reshape(8, 7, 6)
    write_pet(folder, stored, orientation=orientation, origin_mm=(-31.5, 12.25, -700.0), **changes)
    (series,) = find_series(folder)
    return order_slices(series, "PT")


def random_lesions(seed: int = 0) -> np.ndarray:
    """Lesions 1 to 3, wherever their voxels lie, 0 outside."""
    numbers = np.random.default_rng(seed).choice(4, (8, 7, 6), p=(0.6, 0.2, 0.1, 0.1))
    numbers[2] = 0  # a slice without lesion
    return numbers
