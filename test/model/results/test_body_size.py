"""Values by hand from the published formulas."""

import pytest

from model.results.body_size import (
    BodySize,
    body_surface_m2,
    james_lean_body_kg,
    lean_body_kg,
    why_no_james,
    why_unknown,
)


def test_lean_body_mass_and_surface_of_a_man_and_a_woman() -> None:
    """80 kg at 2 m is a BMI of 20; 64 kg at 1.6 m one of 25."""
    man, woman = BodySize(weight_kg=80, height_m=2, sex="M"), BodySize(weight_kg=64, height_m=1.6, sex="F")
    assert lean_body_kg(man) == pytest.approx(9270 * 80 / 11000)  # 6680 + 216 * 20
    assert lean_body_kg(woman) == pytest.approx(9270 * 64 / 14880)  # 8780 + 244 * 25
    assert james_lean_body_kg(man) == pytest.approx(1.10 * 80 - 128 * 0.16)  # (80 / 200)^2
    assert james_lean_body_kg(woman) == pytest.approx(1.07 * 64 - 148 * 0.16)  # (64 / 160)^2
    # Du Bois' own example, 70 kg and 170 cm: 1.81 m2
    assert body_surface_m2(BodySize(weight_kg=70, height_m=1.7)) == pytest.approx(1.81, abs=0.005)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (BodySize(weight_kg=70, sex="F"), "height is not known: give height_m"),
        (BodySize(), "weight and height and sex are not known"),
        (BodySize(weight_kg=70, height_m=1.7), "sex is not known: give sex"),
        (BodySize(weight_kg=70, height_m=0.7, sex="M"), "are no patient's"),
    ],
)
def test_without_what_a_formula_needs_there_is_a_reason_and_no_number(size, words) -> None:
    assert words in why_unknown(size)
    assert lean_body_kg(size) is None is james_lean_body_kg(size)


def test_james_is_not_used_where_it_falls_with_the_weight() -> None:
    """1.07 W - 148 (W / H)^2 is highest at W / H^2 = 1.07 / 296, a BMI of 36.1."""
    heavy = BodySize(weight_kg=37 * 1.6**2, height_m=1.6, sex="F")
    assert james_lean_body_kg(heavy) is None and "up to a BMI of 36, and this is 37" in why_no_james(heavy)
    assert lean_body_kg(heavy) is not None
    assert james_lean_body_kg(BodySize(weight_kg=36 * 1.6**2, height_m=1.6, sex="F")) is not None
