"""Weight, dose and half-life in the wrong unit: what cannot be, and what it probably is.

A dose in kBq or a weight in grams gives SUV 1,000 times too high, and a plausible image. So what no patient weighs and
no PET is made with is refused with the element, its value and its probable unit.
"""

from model.dicom.clock import named
from model.dicom.headers import tag_name
from model.errors import CaseError

DOSE_MIN_BQ = 10_000.0  # below: the dose was entered in MBq
PET_DOSE_BQ = (1e6, 1e10)  # what a PET is made with; below and above it the number is in another unit
USUAL_DOSE_BQ = (15e6, 2.5e9)  # what a guess at the unit must come to
DOSE_UNITS = (("kBq", 1e3), ("MBq", 1e6), ("GBq", 1e9), ("uCi", 37e3), ("mCi", 37e6), ("mBq", 1e-3), ("uBq", 1e-6))
WEIGHT_KG = (2.5, 400.0)  # a newborn; the heaviest patient that scanners carry, and more
HEIGHT_M = (1.0, 2.3)
TIME_UNITS = (("minutes", 60.0), ("hours", 3600.0), ("days", 86400.0), ("ms", 1e-3))
HALF_LIFE_SHARE = 0.05  # a stated half-life this far from the isotope's is another
HALF_LIFE_S = {
    "F-18": 6586.2,
    "C-11": 1221.8,
    "N-13": 597.9,
    "O-15": 122.24,
    "Ga-68": 4062.6,
    "Cu-64": 45723.6,
    "Rb-82": 75.45,
    "Y-86": 53064.0,
    "Zr-89": 282276.0,
    "I-124": 360806.0,
}  # of positron emitters; NNDC, NuDat 3


def check_weight(weight_kg: float, path: object) -> None:
    """Raise CaseError for a header's weight that no patient has."""
    low, high = WEIGHT_KG
    if low <= weight_kg <= high:
        return
    guess = ""
    if low <= weight_kg / 1000 <= high:
        guess = f": probably in g ({weight_kg / 1000:g} kg)"
    elif low <= weight_kg / 10 <= high:
        guess = f": probably without its decimal point ({weight_kg / 10:g} kg)"
    elif HEIGHT_M[0] <= weight_kg <= HEIGHT_M[1]:
        guess = ": probably the height in m"
    elif low <= weight_kg * 1000 <= high:
        guess = f": probably in tonnes ({weight_kg * 1000:g} kg)"
    raise CaseError(
        f"PET '{path}' has {named('PatientWeight', f'{weight_kg:.10g}')}, not {low:g} to {high:g} kg{guess}; correct "
        "the header, or give the patient's weight in kg (weight_kg in overrides.csv)"
    )


def dose_in_bq(stated: float, path: object, warnings: list[str]) -> float:
    """A stated dose in Bq; below 10,000 it is taken as MBq, with a warning. Below 15 MBq it may be mCi: a warning, too.

    Raises CaseError for what no PET is made with.
    """
    taken = stated * 1e6 if stated < DOSE_MIN_BQ else stated
    low, high = PET_DOSE_BQ
    if not low <= taken <= high:
        probably = [
            f"{unit} ({stated * bq / 1e6:g} MBq)"
            for unit, bq in DOSE_UNITS
            if USUAL_DOSE_BQ[0] <= stated * bq <= USUAL_DOSE_BQ[1]
        ]
        guess = f": probably in {' or '.join(probably)}" if probably else ""
        raise CaseError(
            f"PET '{path}' has {named('RadionuclideTotalDose', f'{stated:.10g}')}, which is {taken / 1e6:g} MBq, not "
            f"{low / 1e6:g} to {high / 1e6:g} MBq{guess}; correct the header, in Bq, or give the dose in MBq "
            "(dose_MBq in overrides.csv)"
        )
    few = taken < USUAL_DOSE_BQ[0]
    if stated < DOSE_MIN_BQ or few:
        as_mbq = f", below {DOSE_MIN_BQ:g} Bq: taken as MBq" if stated < DOSE_MIN_BQ else " Bq"
        mci = f", and if these {taken / 1e6:g} MBq are in mCi, SUV is 37 times too high" if few else ""
        warnings.append(f"PET '{path}' has {tag_name('RadionuclideTotalDose')} {stated:g}{as_mbq}{mci}")
    return taken


def check_half_life(stated_s: float, isotope: str | None, path: object) -> None:
    """Raise CaseError for a half-life that is the isotope's in another unit; of any isotope where none is named."""
    isotopes = {isotope} if isotope in HALF_LIFE_S else set(HALF_LIFE_S)
    if any(_near(stated_s, HALF_LIFE_S[name]) for name in isotopes if name):
        return
    for unit, seconds in TIME_UNITS:
        for name in sorted(name for name in isotopes if name):
            if _near(stated_s * seconds, HALF_LIFE_S[name]):
                raise CaseError(
                    f"PET '{path}' has {named('RadionuclideHalfLife', f'{stated_s:.10g}')}, and {name} has "
                    f"{HALF_LIFE_S[name]:g} s: probably in {unit}; correct the header: the half-life must be in s"
                )


def _near(one: float, other: float) -> bool:
    return abs(one / other - 1) <= HALF_LIFE_SHARE
