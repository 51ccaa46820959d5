import re

import numpy as np
import pytest
import SimpleITK as sitk
from found_studies import ct, image, mask, pet, write

from model.bundle.settings import Limits
from model.files import sha256_of
from model.study.reading import read_volume
from training.data.check import Defaults, check_grid, check_study
from training.data.layouts import StudyFiles
from training.data.table import study_sha256


def look(found: StudyFiles, **defaults: str):
    return check_study(found, Defaults(**defaults), Limits())


def test_a_good_study_has_its_volume_and_the_hash_of_its_files(tmp_path) -> None:
    found = write(tmp_path)
    study, problems, warnings = look(found, diagnosis="sarcoma", site="here", tracer="PSMA")
    assert problems == [] and warnings == []
    assert study.lesion_ml == pytest.approx(5 * 4 * 4 * 3 / 1000)
    assert (study.diagnosis, study.site, study.tracer) == ("sarcoma", "here", "PSMA")
    assert study.sha256 == study_sha256(found.pet, found.ct, found.truth) and len(sha256_of(found.pet)) == 64


def test_an_empty_truth_is_negative_unless_a_table_says_otherwise(tmp_path) -> None:
    assert look(write(tmp_path, truth=image(mask(0))), diagnosis="sarcoma")[0].diagnosis == "negative"
    study, _, warnings = look(write(tmp_path, "lymphoma", truth=image(mask(0))))
    assert study.diagnosis == "lymphoma" and "lymphoma by its names or tables, but its truth" in warnings[0]


def test_a_table_goes_before_the_default(tmp_path) -> None:
    assert look(write(tmp_path, "lymphoma"), diagnosis="sarcoma")[0].diagnosis == "lymphoma"


def test_a_negative_study_with_lesion_is_unknown_with_a_warning(tmp_path) -> None:
    study, _, warnings = look(write(tmp_path, "negative"))
    assert study.diagnosis == "unknown" and "its truth holds 0.24 ml" in warnings[0]


BAD = {
    "no PET": ({"pet": None}, "pet", "is not there"),
    "no truth": ({"truth": None}, "truth", "is not there"),
    "PET in Bq/ml": ({"pet": image(pet() * 5000)}, "pet", "looks like Bq/ml"),
    "PET is empty": ({"pet": image(pet() * 0)}, "pet", "no value above 0"),
    "PET in m": ({"pet": image(pet(), (0.004, 0.004, 0.003))}, "pet", "voxels of 0.004"),
    "CT is no CT": ({"ct": image(pet())}, "ct", "not in HU"),
    "CT elsewhere": ({"ct": image(ct(), origin=(-20, -16, 900))}, "ct", "do not overlap"),
    "truth of labels": ({"truth": image(mask() * 3)}, "truth", r"5 voxels that are neither 0 nor 1 \(3\)"),
    "truth of shares": ({"truth": image(mask() * np.float32(0.5))}, "truth", r"neither 0 nor 1 \(0.5\)"),
    "truth is smaller": ({"truth": image(mask()[:-1])}, "truth", r"size \(12, 10, 8\), PET .* has \(12, 10, 9\)"),
    "truth is moved": ({"truth": image(mask(), origin=(-19, -16, 100))}, "truth", "origin -19 x -16 x 100"),
    "truth is flat": ({"truth": image(mask()[:1])}, "truth", "at least 2 voxels"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_named_with_the_reason(tmp_path, name: str) -> None:
    changes, file, reason = BAD[name]
    study, problems, _ = look(write(tmp_path, **changes))
    assert study is None and (problems[0].case, problems[0].file.name) == ("a", f"{file}.nii.gz")
    assert re.search(reason, problems[0].reason)


def test_a_truncated_file_is_a_problem(tmp_path) -> None:
    found = write(tmp_path)
    found.ct.write_bytes(found.ct.read_bytes()[:-50])
    study, (problem,), _ = look(found)
    assert study is None and problem.file == found.ct and "cut off or damaged" in problem.reason


def test_every_bad_file_of_a_study_is_named_at_once(tmp_path) -> None:
    _, problems, _ = look(write(tmp_path, pet=image(pet() * 5000), ct=image(pet()), truth=image(mask() * 2)))
    assert [p.file.name for p in problems] == ["pet.nii.gz", "ct.nii.gz", "truth.nii.gz"]


def test_a_header_that_differs_in_its_last_digits_is_the_same_grid(tmp_path) -> None:
    """300 slices of 3.27002 mm end 0.006 mm after 300 of 3.27 mm: 0.002 voxels; at 3.272 mm it is 0.6 mm."""
    paths = [tmp_path / f"{n}.mha" for n in range(3)]
    for path, z in zip(paths, (3.27, 3.27002, 3.272), strict=True):
        sitk.WriteImage(image(np.zeros((300, 2, 2), np.uint8), (4, 4, z)), str(path), True)
    same, near, far = (read_volume(path, "truth") for path in paths)
    check_grid(near, same)
    with pytest.raises(Exception, match="does not lie on the grid"):
        check_grid(far, same)
