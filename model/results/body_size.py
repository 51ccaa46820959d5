"""Lean body mass and body surface area of a patient, for SUL and for the spread of lesions.

Both formulas of lean body mass were fitted to adults: W in kg, H in m, BMI = W / H^2.

- Janmahasatian et al., Clin Pharmacokinet 2005: men 9270 W / (6680 + 216 BMI), women 9270 W / (8780 + 244 BMI)
- James, Research on Obesity, 1976, with H in cm: men 1.10 W - 128 (W / H)^2, women 1.07 W - 148 (W / H)^2

Body surface area, in m2: Du Bois and Du Bois, Arch Intern Med 1916, 0.007184 W^0.425 H^0.725, with H in cm.
"""

from dataclasses import dataclass

JANMAHASATIAN = {"M": (6680.0, 216.0), "F": (8780.0, 244.0)}
JAMES = {"M": (1.10, 128.0), "F": (1.07, 148.0)}
BMI = (8.0, 100.0)  # kg/m2; outside, weight or height is in another unit, or another patient's
WEIGHT_KG = (2.5, 400.0)
HEIGHT_M = (0.2, 3.0)
SEXES = {"M": "male", "F": "female"}


@dataclass(frozen=True, kw_only=True)
class BodySize:
    """What is known of a patient's body. sex: M, F, or "".

    sources: by the names of the fields, where each is from, or why what a header says is not used.
    """

    weight_kg: float | None = None
    height_m: float | None = None
    sex: str = ""
    sources: tuple[tuple[str, str], ...] = ()

    @property
    def bmi(self) -> float | None:
        """Body mass index in kg/m2; None without weight or height."""
        return self.weight_kg / self.height_m**2 if self.weight_kg and self.height_m else None


def why_unknown(size: BodySize, with_sex: bool = True) -> str:
    """Why lean body mass, or without sex the body surface area, is not defined; "" if it is."""
    wanted = {"weight_kg": size.weight_kg, "height_m": size.height_m} | ({"sex": size.sex} if with_sex else {})
    missing = [name for name, value in wanted.items() if not value]
    if missing:
        words = " and ".join(name.split("_")[0] for name in missing)
        notes = [source for name, source in size.sources if name in missing]
        noted = f" ({'; '.join(notes)})" if notes else ""
        return f"the patient's {words} {'are' if missing[1:] else 'is'} not known{noted}: give {' and '.join(missing)}"
    assert size.bmi is not None
    if not BMI[0] <= size.bmi <= BMI[1]:
        return f"a weight of {size.weight_kg:g} kg and a height of {size.height_m:g} m are no patient's: correct them"
    return ""


def lean_body_kg(size: BodySize) -> float | None:
    """Lean body mass by Janmahasatian; None where `why_unknown` gives a reason."""
    if why_unknown(size) or size.weight_kg is None or size.bmi is None:
        return None
    constant, slope = JANMAHASATIAN[size.sex]
    return 9270.0 * size.weight_kg / (constant + slope * size.bmi)


def james_lean_body_kg(size: BodySize) -> float | None:
    """Lean body mass by James; None where `why_unknown` or `why_no_james` gives a reason."""
    if why_unknown(size) or why_no_james(size) or size.weight_kg is None or size.bmi is None:
        return None
    share, fat = JAMES[size.sex]
    return share * size.weight_kg - fat * size.weight_kg * size.bmi / 1e4  # (W / H)^2 with H in cm


def why_no_james(size: BodySize) -> str:
    """Why James' formula does not hold for a size that is known; "" if it does.

    It is a parabola: above a BMI of 43 (men) or 36 (women) it falls with the weight.
    """
    if size.bmi is None or size.sex not in JAMES:
        return ""
    share, fat = JAMES[size.sex]
    highest = share / (2 * fat) * 1e4
    return (
        f"James' formula holds up to a BMI of {highest:.0f}, and this is {size.bmi:.0f}" if size.bmi > highest else ""
    )


def body_surface_m2(size: BodySize) -> float | None:
    """Body surface area by Du Bois and Du Bois; None where `why_unknown(with_sex=False)` gives a reason."""
    if why_unknown(size, with_sex=False) or size.weight_kg is None or size.height_m is None:
        return None
    return float(0.007184 * size.weight_kg**0.425 * (100 * size.height_m) ** 0.725)
