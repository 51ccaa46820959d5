"""What ImageType, SeriesType, description and orientation say of an image."""

import numpy as np
import pytest

from model.dicom.kinds import (
    DERIVED,
    ORIGINAL,
    PICTURE,
    REFORMAT,
    is_axial,
    plane,
    projection,
    rank,
    says_not_corrected,
)

AXIAL, CORONAL, SAGITTAL = ([1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, -1], [0, 1, 0, 0, 0, -1])


@pytest.mark.parametrize(
    "image_type, series_type, description, axial, expected",
    [
        ("ORIGINAL\\PRIMARY", "WHOLE BODY\\IMAGE", "PET AC", True, ORIGINAL),
        ("ORIGINAL\\PRIMARY\\AXIAL\\CT_SOM5 SPI", "", "CT fusion", True, ORIGINAL),
        ("", "", "", True, ORIGINAL),
        ("ORIGINAL\\PRIMARY\\AXIAL", "", "Chimpanzee, emipet", True, ORIGINAL),
        ("DERIVED\\PRIMARY", "", "", True, DERIVED),
        ("PRIMARY\\DERIVED", "", "", True, DERIVED),
        ("derived\\secondary", "", "", True, DERIVED),
        ("ORIGINAL\\PRIMARY", "GATED\\IMAGE", "", True, DERIVED),
        ("ORIGINAL\\PRIMARY", "", "", False, REFORMAT),
        ("DERIVED\\SECONDARY\\REFORMATTED\\AVERAGE", "", "", True, REFORMAT),
        ("DERIVED\\SECONDARY\\OTHER\\CSA MPR", "", "", True, REFORMAT),
        ("DERIVED\\SECONDARY\\MIP", "", "", False, PICTURE),
        ("DERIVED\\SECONDARY\\REFORMATTED\\MIN_IP", "", "", True, PICTURE),
        ("DERIVED\\SECONDARY\\AXIAL\\CT_SOM5 MIP", "", "", True, PICTURE),
        ("MIP\\DERIVED", "", "", True, PICTURE),
        ("DERIVED\\SECONDARY\\\\\\\\\\MAX_IP", "", "", True, PICTURE),
        ("DERIVED\\SECONDARY\\PROJECTION IMAGE", "", "", True, PICTURE),
        ("ORIGINAL\\PRIMARY", "WHOLE BODY\\REPROJECTION", "", True, PICTURE),
        ("ORIGINAL\\PRIMARY", "", "WB_MIP", True, PICTURE),
        ("DERIVED\\SECONDARY", "", "3D rotating MIPs", False, PICTURE),
        ("DERIVED\\SECONDARY\\SCREEN SAVE", "", "", True, PICTURE),
        ("DERIVED\\SECONDARY", "", "PET/CT Fused", True, PICTURE),
        ("DERIVED\\SECONDARY\\VOLREN\\VRT", "", "", True, PICTURE),
    ],
)
def test_a_header_says_how_far_it_is_from_the_scanners_own_slices(
    image_type, series_type, description, axial, expected
) -> None:
    assert rank(image_type, series_type, description, axial) == expected


@pytest.mark.parametrize(
    "orientation, expected",
    [
        (AXIAL, "axial"),
        (CORONAL, "coronal"),
        (SAGITTAL, "sagittal"),
        ([-1, 0, 0, 0, -1, 0], "axial"),
        ([1, 0, 0, 0, np.cos(0.35), np.sin(0.35)], "axial"),
        ([1, 0, 0, 0, np.cos(1.2), np.sin(1.2)], "coronal"),
        (None, ""),
    ],
)
def test_the_plane_is_the_one_that_slices_are_nearest_to(orientation, expected: str) -> None:
    axes = None if orientation is None else np.array(orientation, float)
    assert plane(axes) == expected and is_axial(axes) == (expected in ("axial", ""))


@pytest.mark.parametrize(
    "description, expected",
    [
        ("PET NAC", True),
        ("WB_NAC_3D", True),
        ("PET (no AC)", True),
        ("uncorrected", True),
        ("PET UNCORR", True),
        ("non-corrected", True),
        ("Ohne AC", True),
        ("non AC", True),
        ("PET AC", False),
        ("Pinnacle", False),
        ("CT non contrast", False),
        ("no contrast", False),
        ("not acquired", False),
        ("monaco", False),
    ],
)
def test_descriptions_that_say_nac(description: str, expected: bool) -> None:
    assert says_not_corrected(description) == expected


def test_a_projection_is_named_by_the_field_that_says_so() -> None:
    assert projection("DERIVED\\SECONDARY\\MIP", "", "") == "ImageType DERIVED\\SECONDARY\\MIP"
    assert projection("", "WHOLE BODY\\REPROJECTION", "") == "SeriesType WHOLE BODY\\REPROJECTION"
    assert projection("", "", "Smith MIP") == "SeriesDescription" and projection("ORIGINAL\\PRIMARY", "", "PET") == ""
