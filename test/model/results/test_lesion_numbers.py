"""Volumes made by hand, and numbers computed by hand from the definitions."""

import numpy as np
import pytest

from model.results.body_size import BodySize
from model.results.reference_options import Sphere
from model.results.rule_options import LesionRules
from model.results.study_measures import Asked, measure_study
from model.study.geometry import Grid, image_on
from model.study.reading import Case, volume_of

GRID = Grid(
    size=(40, 16, 16), spacing_mm=(10.0, 10.0, 10.0), origin_mm=(0, 0, 0), direction=(1, 0, 0, 0, 1, 0, 0, 0, 1)
)
MAN = BodySize(weight_kg=80, height_m=2, sex="M")  # lean by Janmahasatian 67.418 kg, by James 67.52 kg
LIVER = Sphere(centre_mm=(350, 80, 80), radius_mm=10)
BLOOD = Sphere(centre_mm=(350, 80, 30), radius_mm=5)


def case(tmp_path) -> tuple[Case, np.ndarray]:
    """Voxels of 1 ml, so that the sphere of 1 ml is one voxel. Two lesions, 2 voxels of SUV 6 and 4 and one of 8, with
    centroids 300 mm apart; liver: SUV 1 to 3, mean 13/7, in the sphere's 7 voxels; blood 1.5.
    """
    suv = np.full(GRID.shape, 0.5, np.float32)
    suv[8, 8, 34:37] = (1, 2, 3)
    suv[7, 8, 35] = suv[9, 8, 35] = suv[8, 7, 35] = 2
    suv[8, 9, 35] = 1
    suv[3, 8, 35] = 1.5
    suv[8, 8, 2:4], suv[8, 8, 32] = (6, 4), 8
    mask = suv >= 4
    hu = np.full(GRID.shape, 40, np.float32)
    pet, ct = (volume_of(image_on(array, GRID), tmp_path / name) for array, name in ((suv, "pet.mha"), (hu, "ct.mha")))
    return Case(name="a", pet=pet, ct=ct, warnings=()), mask


def test_numbers_by_hand(tmp_path) -> None:
    study, mask = case(tmp_path)
    found = measure_study(study, mask, Asked(size=MAN, spheres={"liver": LIVER, "blood": BLOOD}))
    one, two = found.more
    lean, james = 9270 * 80 / 11000 / 80, (1.10 * 80 - 128 * 0.16) / 80
    values = [1, 2, 3, 2, 2, 2, 1]
    mean, sd = np.mean(values), np.std(values)
    assert (one.found_volume_ml, one.organ) == (2, None)
    assert (one.sul_max, one.sul_mean, one.sul_peak) == pytest.approx((6 * lean, 5 * lean, 6 * lean))
    assert two.sul_peak_james == pytest.approx(8 * james)
    assert two.suv_peak_to_liver == pytest.approx(8 / mean) and two.suv_peak_to_blood == pytest.approx(8 / 1.5)
    assert found.study.percist_threshold_suv == pytest.approx(1.5 * mean + 2 * sd)  # 4.1
    assert (one.percist_measurable, two.percist_measurable) == ("yes", "yes")
    assert found.study.sul_peak == pytest.approx(8 * lean) and found.study.percist_measurable == "yes"
    surface = 0.007184 * 80**0.425 * 200**0.725
    assert found.study.dmax_over_bsa_per_m == pytest.approx(0.295 / surface)  # 25 mm and 320 mm
    assert found.study.why == {} and not found.warnings
    assert one.sphericity < two.sphericity < 1


def test_measurable_is_decided_by_blood_where_there_is_no_liver(tmp_path) -> None:
    """2 x 1.5 + 2 x 0 = 3."""
    study, mask = case(tmp_path)
    found = measure_study(study, mask, Asked(spheres={"blood": BLOOD}))
    assert found.study.percist_threshold_suv == 3 and found.more[0].percist_measurable == "yes"
    assert found.more[0].suv_peak_to_liver is None and "there are no organs" in found.study.why["suv_peak_to_liver"]


def test_what_is_not_defined_is_none_with_a_reason(tmp_path) -> None:
    study, mask = case(tmp_path)
    bare = measure_study(study, mask, Asked()).study
    empty = measure_study(study, mask & False, Asked(size=MAN, spheres={"liver": LIVER, "blood": BLOOD})).study
    for found in (bare, empty):
        numbers = ("sul_peak", "sul_peak_james", "percist_measurable", "suv_peak_to_liver", "dmax_over_bsa_per_m")
        assert all(getattr(found, name) is None and found.why[name] for name in numbers)
    assert empty.lean_body_kg == pytest.approx(9270 * 80 / 11000) and empty.liver_suv_mean is not None


def test_a_sphere_that_cannot_be_used_or_holds_lesion_is_a_warning(tmp_path) -> None:
    study, mask = case(tmp_path)
    away = Sphere(centre_mm=(-50, 0, 0), radius_mm=15)
    (warning,) = measure_study(study, mask, Asked(spheres={"liver": away})).warnings
    assert "the liver's SUV is not known" in warning and "does not lie within the PET" in warning
    on_lesion = Sphere(centre_mm=(20, 80, 80), radius_mm=10)  # SUV 6, 4 and five times 0.5: mean 1.79
    (warning,) = measure_study(study, mask, Asked(spheres={"liver": on_lesion})).warnings
    assert "2.00 of 7.00 ml are lesion in the mask" in warning
    in_fat = Sphere(centre_mm=(200, 80, 80), radius_mm=10)
    (warning,) = measure_study(study, mask, Asked(spheres={"liver": in_fat})).warnings
    assert "the liver's mean SUV is 0.50, where most patients have 1 to 4" in warning


def test_rules_leave_their_lesion_out_of_every_number_and_both_volumes_stay(tmp_path) -> None:
    study, mask = case(tmp_path)
    found = measure_study(study, mask, Asked(rules=LesionRules(min_volume_ml=1, refine="suv4", drop=(2,))))
    assert [one.number for one in found.dropped] == [2]
    assert (found.totals.lesions, found.totals.suv_max, found.totals.dmax_mm) == (1, 6, None)
    refined = measure_study(study, mask, Asked(rules=LesionRules(refine="50%")))
    assert [(one.volume_ml, more.found_volume_ml) for one, more in zip(refined.lesions, refined.more, strict=True)] == [
        (2, 2),
        (1, 1),
    ]
    narrow = measure_study(study, mask, Asked(rules=LesionRules(refine="liver"), spheres={"liver": LIVER}))
    assert [more.found_volume_ml for more in narrow.more] == [2, 1]  # 4 is below 4.1
    assert narrow.numbers[8, 8, 32] == 2 and narrow.numbers[8, 8, 2] == 1 and narrow.numbers[8, 8, 3] == 0
    second = measure_study(study, mask, Asked(rules=LesionRules(drop=(1,))))
    assert [one.number for one in second.lesions] == [2] and second.more[0].found_volume_ml == 1  # it keeps its number


def test_a_lesion_in_two_parts_after_refining_is_one_lesion(tmp_path) -> None:
    study, mask = case(tmp_path)
    suv = study.pet.array.copy()
    suv[8, 8, 2:7], mask[8, 8, 2:7] = (6, 5, 1, 5, 6), True
    pet = volume_of(image_on(suv, GRID), tmp_path / "pet.mha")
    found = measure_study(
        Case(name="a", pet=pet, ct=study.ct, warnings=()), mask, Asked(rules=LesionRules(refine="50%"))
    )
    assert found.totals.lesions == 2 and found.lesions[0].volume_ml == 4 and found.more[0].found_volume_ml == 5
