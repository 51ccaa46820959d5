from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_writer import write_ct, write_pet

from model.bundle.settings import Limits
from model.dicom.headers import find_series
from model.dicom.reading import read_study
from model.dicom.series import order_slices
from model.hospital.body_and_references import body_size_of, references_of, unused_size
from model.hospital.find.entry import Entry
from model.results.body_size import BodySize, why_unknown
from model.study.geometry import Grid


def entry(**changes) -> Entry:
    fields = {"identity": "a", "source": Path("a"), "kind": "dicom", "pet": (Path("p"),), "ct": (Path("c"),)}
    return Entry(**fields | changes)


def size(folder: Path, given: Entry, **fields) -> BodySize:
    """Of a PET of a patient of 70 kg, with other fields in its header."""
    write_pet(folder / "pet", fields=fields)
    write_ct(folder / "ct")
    ct, pet = find_series(folder)
    conversion = read_study(pet, ct, Limits(), weight_kg=given.weight_kg).conversion
    return body_size_of(given, order_slices(pet, "PT")[0], conversion)


def test_height_and_sex_are_the_headers_and_what_is_given_goes_before(tmp_path) -> None:
    stated = size(tmp_path / "a", entry(), PatientSize="1.8", PatientSex="F")
    assert (stated.weight_kg, stated.height_m, stated.sex) == (70, 1.8, "F")
    assert dict(stated.sources)["height_m"].startswith("PatientSize (0010,1020)")
    given = size(tmp_path / "b", entry(weight_kg=80.0, height_m=1.7, sex="M"), PatientSize="1.8", PatientSex="F")
    assert (given.weight_kg, given.height_m, given.sex) == (80, 1.7, "M")
    assert set(dict(given.sources).values()) == {"given"}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"PatientSize": "175", "PatientSex": "F"},
            "height is not known (PatientSize (0010,1020) is '175', not 0.2 to 3 m)",
        ),
        ({"PatientSize": "1.75", "PatientSex": "O"}, "sex is not known (PatientSex (0010,0040) is 'O', not M or F)"),
        ({"PatientSex": "M"}, "the patient's height is not known: give height_m"),
    ],
)
def test_what_cannot_be_right_is_not_used_and_the_reason_says_so(fields, words, tmp_path) -> None:
    assert words in why_unknown(size(tmp_path, entry(), **{"PatientSize": None, "PatientSex": None} | fields))


def test_images_know_only_what_is_given() -> None:
    images = entry(kind="images", weight_kg=70.0, height_m=1.8)
    found = body_size_of(images, (), None)
    assert (found.weight_kg, found.height_m, found.sex) == (70, 1.8, "")
    (warning,) = unused_size(images, found)
    assert "no SUL" in warning and "the patient's sex is not known: give sex" in warning
    assert unused_size(entry(kind="images"), BodySize()) == []


def test_a_segmentation_on_another_grid_is_a_warning_and_no_reference(tmp_path) -> None:
    grid = Grid(size=(4, 4, 4), spacing_mm=(1, 1, 1), origin_mm=(0, 0, 0), direction=(1, 0, 0, 0, 1, 0, 0, 0, 1))
    liver = np.zeros((4, 4, 4), np.uint8)
    liver[1] = 1
    sitk.WriteImage(sitk.GetImageFromArray(liver), str(tmp_path / "l.mha"))
    sitk.WriteImage(sitk.GetImageFromArray(liver[:3]), str(tmp_path / "b.mha"))
    spheres, masks, warnings = references_of(entry(liver_mask=tmp_path / "l.mha", blood_mask=tmp_path / "b.mha"), grid)
    assert not spheres and set(masks) == {"liver"} and masks["liver"].sum() == 16
    assert len(warnings) == 1 and "the blood's segmentation is not used" in warnings[0]
    assert references_of(entry(liver_sphere="1,2,3"), grid)[0]["liver"].centre_mm == (1, 2, 3)
