"""A case of images in memory."""

from pathlib import Path

import SimpleITK as sitk

from model.study.reading import Case, check_overlap, volume_of


def case_of(pet: sitk.Image, ct: sitk.Image) -> Case:
    volumes = [volume_of(image, Path(name)) for name, image in (("pet.mha", pet), ("ct.mha", ct))]
    check_overlap(*volumes)
    return Case(name="ct", pet=volumes[0], ct=volumes[1], warnings=())
