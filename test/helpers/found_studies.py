"""A study with a truth, as a layout finds it."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from training.data.layouts import StudyFiles


def image(array: np.ndarray, spacing=(4.0, 4.0, 3.0), origin=(-20.0, -16.0, 100.0)) -> sitk.Image:
    made = sitk.GetImageFromArray(array)
    made.SetSpacing(spacing)
    made.SetOrigin(origin)
    return made


def pet() -> np.ndarray:
    return np.random.default_rng(0).gamma(2.0, 1.0, (9, 10, 12)).astype(np.float32)


def ct() -> np.ndarray:
    return np.random.default_rng(1).integers(-1000, 500, (9, 10, 12)).astype(np.int16)


def mask(voxels: int = 5) -> np.ndarray:
    made = np.zeros((9, 10, 12), np.uint8)
    made.flat[:voxels] = 1
    return made


def write(folder: Path, diagnosis: str = "", **images: sitk.Image | None) -> StudyFiles:
    """A study of 12 x 10 x 9 voxels, with some of its images replaced, or not written (None)."""
    images = {"pet": image(pet()), "ct": image(ct()), "truth": image(mask())} | images
    paths = {what: folder / f"{what}.nii.gz" for what in images}
    for what, made in images.items():
        if made is not None:
            sitk.WriteImage(made, str(paths[what]), True)
    return StudyFiles(case="a", patient="p", diagnosis=diagnosis, **paths)
