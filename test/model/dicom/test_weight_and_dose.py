"""Weight, dose and half-life in the wrong unit: refused, and the unit named."""

import pytest
from suv_headers import code, convert, factor

from model.errors import CaseError


@pytest.mark.parametrize(
    "weight, probably",
    [
        (75000, r"probably in g \(75 kg\)"),
        (3500, r"probably in g \(3.5 kg\)"),
        (755, r"probably without its decimal point \(75.5 kg\)"),
        (1.75, "probably the height in m"),
        (0.075, r"probably in tonnes \(75 kg\)"),
        (1e9, ""),
    ],
)
def test_a_weight_that_no_patient_has_is_refused_with_its_probable_unit(weight: float, probably: str, tmp_path) -> None:
    with pytest.raises(CaseError, match=rf"PatientWeight \(0010,1030\) '.*', not 2.5 to 400 kg(: )?{probably}; corr"):
        convert(tmp_path, fields={"PatientWeight": weight})
    assert convert(tmp_path, weight_kg=75.0, fields={"PatientWeight": weight}).factor == factor(3600, weight_kg=75)


@pytest.mark.parametrize(
    "dose, probably",
    [
        (300e3, r"probably in kBq \(300 MBq\)"),
        (10000, r"probably in uCi \(370 MBq\)"),
        (50e3, r"probably in kBq \(50 MBq\) or uCi \(1850 MBq\)"),
        (0.35, r"probably in GBq \(350 MBq\)"),
        (350e12, r"probably in uBq \(350 MBq\)"),
        (3e11, r"probably in mBq \(300 MBq\)"),
    ],
)
def test_a_dose_that_no_pet_is_made_with_is_refused_with_its_unit(dose: float, probably: str, tmp_path) -> None:
    with pytest.raises(CaseError, match=rf"RadionuclideTotalDose \(0018,1074\) '.*', which is .* MBq: {probably}; cor"):
        convert(tmp_path, item={"RadionuclideTotalDose": dose})


def test_a_dose_of_ten_is_mbq_and_may_be_mci(tmp_path) -> None:
    for dose in (10, 10e6):  # as it was entered, and after a program took it for MBq
        found = convert(tmp_path, item={"RadionuclideTotalDose": dose})
        assert found.factor == factor(3600, dose_bq=10e6)
        assert "if these 10 MBq are in mCi, SUV is 37 times too high" in found.warnings[0]
    assert not convert(tmp_path, item={"RadionuclideTotalDose": 15e6}).warnings


@pytest.mark.parametrize("given_kg", [0.0, 1.75, 705.0, 70500.0, float("nan")])
def test_a_given_weight_that_no_patient_has_is_refused_as_the_headers_is(given_kg: float, tmp_path) -> None:
    with pytest.raises(CaseError, match="the weight given for PET .* it must be 2.5 to 400, in kg"):
        convert(tmp_path, weight_kg=given_kg)


@pytest.mark.parametrize(
    "stated, item, unit",
    [
        (109.77, {}, "minutes"),
        (1.83, {}, "hours"),
        (6586200, {}, "ms"),
        (109.77, {"RadionuclideCodeSequence": None}, "minutes"),
        (67.71, {"RadionuclideCodeSequence": code("C-131A3")}, "minutes"),
        (3.267, {"RadionuclideCodeSequence": code("C-168A4")}, "days"),
    ],
)
def test_a_half_life_in_another_unit_is_refused_with_its_probable_unit(stated, item, unit, tmp_path) -> None:
    with pytest.raises(CaseError, match=rf"RadionuclideHalfLife .0018,1075. '{stated}', and .*: probably in {unit};"):
        convert(tmp_path, item={"RadionuclideHalfLife": stated} | item)


@pytest.mark.parametrize("half_life_s", [122.24, 75.45, 597.9, 34164.0, 6588.0])
def test_half_lives_of_any_radionuclide_pass_where_none_is_named(half_life_s: float, tmp_path) -> None:
    item = {"RadionuclideHalfLife": half_life_s, "RadionuclideCodeSequence": None}
    assert convert(tmp_path, item=item | {"RadiopharmaceuticalStartTime": "1058"}).half_life_s == half_life_s
