"""Tiny studies of generated images, for the container and for training."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from training.data.table import Study, study_sha256


def tiny_images() -> tuple[sitk.Image, sitk.Image]:
    """A PET of 40 x 36 x 50 voxels, zero in a border, and a CT on a finer grid of its own that covers it."""
    rng = np.random.default_rng(5)
    pet = np.zeros((50, 36, 40), np.float32)
    pet[4:46, 3:33, 5:36] = rng.gamma(2.0, 1.0, (42, 30, 31))
    ct = rng.normal(0, 300, (70, 80, 90)).astype(np.int16)
    ct[:, :4] = -1000
    pet_image, ct_image = sitk.GetImageFromArray(pet), sitk.GetImageFromArray(ct)
    pet_image.SetSpacing((4.07, 4.07, 3.0))
    pet_image.SetOrigin((-81.4, -73.26, -812.3))
    ct_image.SetSpacing((2.0, 2.0, 2.5))
    ct_image.SetOrigin((-88.1, -79.7, -820.6))
    return pet_image, ct_image


def write_study(folder: Path, pet: sitk.Image, ct: sitk.Image) -> Path:
    """Write the study as grand-challenge.org lays it out. Returns the folder."""
    for what, image in (("pet", pet), ("ct", ct)):
        path = folder / "images" / what / f"{what}-{folder.name}.mha"
        path.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(image, str(path), True)
    return folder


def lesion_study(folder: Path, seed: int, lesions: int = 1):
    """A row of an index: a generated study of 40 x 36 x 32 voxels of 4 mm with bright balls as lesions."""
    rng = np.random.default_rng(seed)
    z, y, x = np.mgrid[:32, :36, :40]
    truth = np.zeros(z.shape, np.uint8)
    for _ in range(lesions):
        centre = rng.integers(8, 24, 3)
        truth |= ((z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 < 12).astype(np.uint8)
    body = ((y - 18) / 15) ** 2 + ((x - 20) / 17) ** 2 < 1
    pet = np.where(body, rng.gamma(4.0, 0.3, z.shape), 0.0).astype(np.float32) + 6 * truth.astype(np.float32)
    ct = np.where(body, rng.normal(30, 20, z.shape), -1000).astype(np.int16)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, array in (("pet", pet), ("ct", ct), ("truth", truth)):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing((4.0, 4.0, 4.0))
        paths.append(folder / f"case{seed}-{name}.mha")
        sitk.WriteImage(image, str(paths[-1]))
    return Study(
        case=f"case{seed}",
        patient=f"patient{seed}",
        diagnosis="lymphoma" if lesions else "negative",
        tracer="FDG",
        site="AB"[seed % 2],
        pet=paths[0],
        ct=paths[1],
        truth=paths[2],
        lesion_ml=float(truth.sum()) * 0.064,
        sha256=study_sha256(*paths),
    )
