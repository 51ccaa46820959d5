"""The patient's weight, the injected dose and its half-life, from a PET's header.

A dose in kBq or a weight in grams gives SUV 1,000 times too high, and a plausible image. So a weight that no patient
has, or a dose that no PET is made with, is refused, and the message names the element, its value and its probable unit.
"""

from pathlib import Path

from pydicom.dataset import Dataset, FileDataset

from model.dicom.elements import misplaced_note, number, path_of, tag_and_value, tag_name
from model.dicom.isotopes import HALF_LIFE_S, HALF_LIFE_SHARE, isotope_of
from model.errors import CaseError

DOSE_MIN_BQ = 10_000.0  # below: the dose was entered in MBq
PET_DOSE_BQ = (1e6, 1e10)  # what a PET is made with; below and above it the number is in another unit
USUAL_DOSE_BQ = (15e6, 2.5e9)  # a guess at the unit must give a dose between these
DOSE_UNITS = (("kBq", 1e3), ("MBq", 1e6), ("GBq", 1e9), ("uCi", 37e3), ("mCi", 37e6), ("mBq", 1e-3), ("uBq", 1e-6))
WEIGHT_KG = (2.5, 400.0)  # a newborn; the heaviest patient that scanners carry, and more
HEIGHT_M = (1.0, 2.3)
TIME_UNITS = (("minutes", 60.0), ("hours", 3600.0), ("days", 86400.0), ("ms", 1e-3))


def weight_of(header: FileDataset, given_kg: float | None) -> tuple[float, str]:
    """The patient's weight in kg, and where it is from: "given", or the element.

    given_kg: a weight that replaces the header's. Raises CaseError for one that no patient has.
    """
    path = path_of(header)
    if given_kg is not None:
        low, high = WEIGHT_KG
        if not low <= given_kg <= high:
            raise CaseError(f"the weight given for PET '{path}' is {given_kg:g}; it must be {low:g} to {high:g}, in kg")
        return given_kg, "given"
    weight_kg = number(header, "PatientWeight")
    if not weight_kg or weight_kg < 0:
        raise CaseError(
            f"PET '{path}' has {tag_name('PatientWeight')} {'absent' if weight_kg is None else weight_kg}: "
            "without it there is no body-weight SUV; give the patient's weight in kg (weight_kg in overrides.csv), or "
            "enter it into the header"
        )
    _check_weight(weight_kg, path)
    return weight_kg, tag_name("PatientWeight")


def dose_of(item: Dataset, header: FileDataset, warnings: list[str]) -> float:
    """The injected dose in Bq of a radiopharmaceutical's item. Raises CaseError where none is stated."""
    path = path_of(header)
    dose = number(item, "RadionuclideTotalDose", path)
    if not dose or dose < 0:
        raise CaseError(
            f"PET '{path}' has {tag_name('RadionuclideTotalDose')} {'absent' if dose is None else dose}"
            f"{misplaced_note(header, 'RadionuclideTotalDose')}: without the injected dose there is no SUV; give it in "
            "MBq (dose_MBq in overrides.csv), enter it in Bq into the header, or export the series with it"
        )
    return _dose_in_bq(dose, path, warnings)


def half_life_of(item: Dataset, header: FileDataset, warnings: list[str]) -> tuple[float, str]:
    """The half-life in s, and where it is from: the element, or else the isotope. Raises CaseError without either."""
    path = path_of(header)
    stated, isotope = number(item, "RadionuclideHalfLife", path), isotope_of(item)
    known = HALF_LIFE_S.get(isotope or "")
    if stated and stated > 0:
        _check_half_life(stated, isotope, path)
        if known and abs(stated / known - 1) > HALF_LIFE_SHARE:
            warnings.append(
                f"PET '{path}' has a half-life of {stated:g} s, and its isotope {isotope} {known:g} s: "
                "the header's half-life is used"
            )
        return stated, tag_name("RadionuclideHalfLife")
    if not known:
        raise CaseError(
            f"PET '{path}' has no {tag_name('RadionuclideHalfLife')}, and its {tag_name('RadionuclideCodeSequence')} "
            f"names no isotope of {', '.join(HALF_LIFE_S)}; enter the half-life in s into the header"
        )
    warnings.append(f"PET '{path}' states no half-life: {known:g} s of its isotope {isotope} is used")
    return known, f"isotope {isotope}, {tag_name('RadionuclideCodeSequence')}"


def _dose_in_bq(stated: float, path: Path, warnings: list[str]) -> float:
    """A stated dose in Bq. Below 10,000 it is taken as MBq, with a warning; below 15 MBq a warning says it may be mCi.

    Raises CaseError for a dose that no PET is made with.
    """
    dose_bq = stated * 1e6 if stated < DOSE_MIN_BQ else stated
    low, high = PET_DOSE_BQ
    if not low <= dose_bq <= high:
        probable = [
            f"{unit} ({stated * bq / 1e6:g} MBq)"
            for unit, bq in DOSE_UNITS
            if USUAL_DOSE_BQ[0] <= stated * bq <= USUAL_DOSE_BQ[1]
        ]
        guess = f": probably in {' or '.join(probable)}" if probable else ""
        raise CaseError(
            f"PET '{path}' has {tag_and_value('RadionuclideTotalDose', f'{stated:.10g}')}, which is "
            f"{dose_bq / 1e6:g} MBq, not {low / 1e6:g} to {high / 1e6:g} MBq{guess}; correct the header, in Bq, or "
            "give the dose in MBq (dose_MBq in overrides.csv)"
        )
    is_small = dose_bq < USUAL_DOSE_BQ[0]
    if stated < DOSE_MIN_BQ or is_small:
        as_mbq = f", below {DOSE_MIN_BQ:g} Bq: taken as MBq" if stated < DOSE_MIN_BQ else " Bq"
        mci = f", and if these {dose_bq / 1e6:g} MBq are in mCi, SUV is 37 times too high" if is_small else ""
        warnings.append(f"PET '{path}' has {tag_name('RadionuclideTotalDose')} {stated:g}{as_mbq}{mci}")
    return dose_bq


def _check_weight(weight_kg: float, path: Path) -> None:
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
        f"PET '{path}' has {tag_and_value('PatientWeight', f'{weight_kg:.10g}')}, not {low:g} to {high:g} kg{guess}; "
        "correct the header, or give the patient's weight in kg (weight_kg in overrides.csv)"
    )


def _check_half_life(stated_s: float, isotope: str | None, path: Path) -> None:
    """Raise CaseError for a half-life that is the isotope's in another unit; without an isotope, any isotope's."""
    isotopes = {isotope} if isotope in HALF_LIFE_S else set(HALF_LIFE_S)
    if any(_is_near(stated_s, HALF_LIFE_S[name]) for name in isotopes if name):
        return
    for unit, seconds in TIME_UNITS:
        for name in sorted(name for name in isotopes if name):
            if _is_near(stated_s * seconds, HALF_LIFE_S[name]):
                raise CaseError(
                    f"PET '{path}' has {tag_and_value('RadionuclideHalfLife', f'{stated_s:.10g}')}, and {name} has "
                    f"{HALF_LIFE_S[name]:g} s: probably in {unit}; correct the header: the half-life must be in s"
                )


def _is_near(one_s: float, other_s: float) -> bool:
    return abs(one_s / other_s - 1) <= HALF_LIFE_SHARE
