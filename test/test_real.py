"""Five real sarcoma studies through process.py, and one by a network for slices.

They show that it runs on real PET/CT. They say nothing about quality: the shipped weights were trained on these
patients, those for slices are random.
"""

import numpy as np
import pytest
import SimpleITK as sitk
from program import run_process

from model.study.geometry import grid_of

pytestmark = pytest.mark.slow


PATIENTS = ["STS_001", "STS_019", "STS_026", "STS_035", "STS_041"]


@pytest.mark.parametrize(("patient", "kind"), [*((patient, "volumes") for patient in PATIENTS), ("STS_019", "slices")])
def test_a_real_study_gives_a_mask_on_the_pet_grid(
    patient: str, kind: str, real_data, tiny_slices_bundle, tmp_path
) -> None:
    weights = tiny_slices_bundle if kind == "slices" else "eoa"
    for what, name in (("pet", "SUV"), ("ct", "CT")):
        (tmp_path / "in/images" / what).mkdir(parents=True)
        image = sitk.ReadImage(str(real_data / "sts" / patient / f"{name}.nii.gz"))
        for key in image.GetMetaDataKeys():
            image.EraseMetaData(key)
        sitk.WriteImage(image, str(tmp_path / "in/images" / what / f"{patient}-{what}.mha"))
    done = run_process("--input", tmp_path / "in", "--output", tmp_path / "out", "--weights", weights)
    assert done.returncode == 0, done.stderr
    path = tmp_path / "out/images/automated-petct-lesion-segmentation" / f"{patient}-ct.mha"
    mask, pet = sitk.ReadImage(str(path)), sitk.ReadImage(str(tmp_path / f"in/images/pet/{patient}-pet.mha"))
    assert grid_of(mask) == grid_of(pet)
    assert set(np.unique(sitk.GetArrayFromImage(mask))) == {0, 1}  # every one of them has a tumour
