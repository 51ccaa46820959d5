"""What readers compare lesions by: SUL, the liver, the blood, PERCIST, sphericity, the organ; only where it is defined.

- SUL = SUV x lean body mass / weight; `sul_*` by Janmahasatian, `*_james` by James (`model.results.body_size`)
- PERCIST 1.0 (Wahl et al., J Nucl Med 2009): a lesion is measurable if its SULpeak is at least 1.5 x mean + 2 standard
  deviations of the liver's SUL; without a liver, 2 x mean + 2 standard deviations of the blood's. Both sides have one
  factor in common, so it is decided in SUV, and no height is needed.
- SUVpeak over the mean SUV of the liver (qPET: Hasenclever et al., Eur J Nucl Med Mol Imaging 2014) and of the blood in
  the mediastinum: what the five points of Deauville compare by eye
- Dmax over body surface area (Cottereau et al., J Nucl Med 2021), in m / m2
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from model.results.body_size import (
    BodySize,
    body_surface_m2,
    james_lean_body_kg,
    lean_body_kg,
    why_no_james,
    why_unknown,
)
from model.results.lesion_rules import RuledMask, Surroundings, organ_of
from model.results.lesions import Lesion, Totals
from model.results.reference_uptake import ReferenceUptake
from model.results.refine import PERCIST_LIVER
from model.results.shape import sphericity

PERCIST_BLOOD = (2.0, 2.0)  # x the blood's mean, x its standard deviation
OF_LESIONS = ("sul_peak", "sul_peak_james", "percist_measurable", "suv_peak_to_liver", "suv_peak_to_blood")


@dataclass(frozen=True, kw_only=True)
class LesionNumbers:
    """More of one lesion, beside `Lesion`; None where it is not defined, and `StudyNumbers.why` says why.

    found_volume_ml: of the lesion in the networks' own mask, before rules. organ: where more than half of it lies.
    """

    found_volume_ml: float
    organ: str | None
    sphericity: float
    sul_max: float | None
    sul_mean: float | None
    sul_peak: float | None
    sul_peak_james: float | None
    percist_measurable: str | None  # yes or no
    suv_peak_to_liver: float | None
    suv_peak_to_blood: float | None


ROW_NUMBERS = (
    "sul_peak",
    "sul_peak_james",
    "percist_measurable",
    "suv_peak_to_liver",
    "suv_peak_to_blood",
    "dmax_over_bsa_per_m",
    "liver_suv_mean",
    "blood_suv_mean",
)  # of StudyNumbers, what a study's row in tables and pages shows


@dataclass(frozen=True, kw_only=True)
class StudyNumbers:
    """More of a study's lesions together, beside `Totals`. why: for each number that is not defined, why not.

    The peaks, and what is compared with them, are of the lesion with the highest SUVpeak.
    """

    sul_peak: float | None
    sul_peak_james: float | None
    percist_threshold_suv: float | None
    percist_measurable: str | None
    suv_peak_to_liver: float | None
    suv_peak_to_blood: float | None
    dmax_over_bsa_per_m: float | None
    lean_body_kg: float | None
    lean_body_james_kg: float | None
    body_surface_m2: float | None
    liver_suv_mean: float | None
    liver_suv_sd: float | None
    blood_suv_mean: float | None
    blood_suv_sd: float | None
    why: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Yardsticks:
    """What lesions are compared with. why: for what is None, by its name (liver, blood), why."""

    size: BodySize
    liver: ReferenceUptake | None
    blood: ReferenceUptake | None
    why: dict[str, str]

    @property
    def percist_suv(self) -> float | None:
        """The SUVpeak from which on a lesion is measurable; None without liver and blood."""
        reference, factors = (self.liver, PERCIST_LIVER) if self.liver else (self.blood, PERCIST_BLOOD)
        return factors[0] * reference.suv_mean + factors[1] * reference.suv_sd if reference else None


def lesion_numbers(
    lesions: Sequence[Lesion],
    numbers: NDArray[np.int32],
    around: Surroundings,
    yardsticks: Yardsticks,
    ruled: RuledMask | None,
) -> tuple[LesionNumbers, ...]:
    """More of every lesion, in their order. numbers: (z, y, x), of `measure`."""
    boxes = ndimage.find_objects(numbers)
    return tuple(_numbers(lesion, numbers, boxes[lesion.number - 1], around, yardsticks, ruled) for lesion in lesions)


def study_numbers(lesions: Sequence[Lesion], totals: Totals, yardsticks: Yardsticks) -> StudyNumbers:
    """More of all lesions together."""
    size, why = yardsticks.size, dict[str, str]()
    liver, blood, peak = yardsticks.liver, yardsticks.blood, totals.suv_peak
    surface_m2 = body_surface_m2(size)
    if reason := why_unknown(size):
        why |= dict.fromkeys(("sul_peak", "sul_peak_james"), reason)
    elif reason := why_no_james(size):
        why["sul_peak_james"] = reason
    if not liver:
        why["suv_peak_to_liver"] = yardsticks.why["liver"]
    if not blood:
        why["suv_peak_to_blood"] = yardsticks.why["blood"]
    if not liver and not blood:
        why["percist_measurable"] = "neither liver nor blood is known"
    if surface_m2 is None:
        why["dmax_over_bsa_per_m"] = why_unknown(size, with_sex=False)
    elif totals.dmax_mm is None:
        why["dmax_over_bsa_per_m"] = "there are fewer than two lesions"
    if not lesions:
        why |= dict.fromkeys(OF_LESIONS, "there is no lesion")
    return StudyNumbers(
        sul_peak=_sul(peak, lean_body_kg(size), size),
        sul_peak_james=_sul(peak, james_lean_body_kg(size), size),
        percist_threshold_suv=yardsticks.percist_suv,
        percist_measurable=_measurable(peak, yardsticks.percist_suv),
        suv_peak_to_liver=_ratio(peak, liver),
        suv_peak_to_blood=_ratio(peak, blood),
        dmax_over_bsa_per_m=totals.dmax_mm / 1000 / surface_m2 if totals.dmax_mm is not None and surface_m2 else None,
        lean_body_kg=lean_body_kg(size),
        lean_body_james_kg=james_lean_body_kg(size),
        body_surface_m2=surface_m2,
        liver_suv_mean=liver.suv_mean if liver else None,
        liver_suv_sd=liver.suv_sd if liver else None,
        blood_suv_mean=blood.suv_mean if blood else None,
        blood_suv_sd=blood.suv_sd if blood else None,
        why=why,
    )


def _numbers(
    lesion: Lesion,
    numbers: NDArray[np.int32],
    box: tuple[slice, ...],
    around: Surroundings,
    yardsticks: Yardsticks,
    ruled: RuledMask | None,
) -> LesionNumbers:
    inside = numbers[box] == lesion.number
    organs = around.organs[box] if around.organs is not None else None
    size: Any = yardsticks.size
    lean_kg = lean_body_kg(size)
    return LesionNumbers(
        found_volume_ml=ruled.found_ml[lesion.number] if ruled else lesion.volume_ml,
        organ=organ_of(inside, organs, around.organ_names) or None,
        sphericity=sphericity(inside, around.grid.spacing_mm),
        sul_max=_sul(lesion.suv_max, lean_kg, size),
        sul_mean=_sul(lesion.suv_mean, lean_kg, size),
        sul_peak=_sul(lesion.suv_peak, lean_kg, size),
        sul_peak_james=_sul(lesion.suv_peak, james_lean_body_kg(size), size),
        percist_measurable=_measurable(lesion.suv_peak, yardsticks.percist_suv),
        suv_peak_to_liver=_ratio(lesion.suv_peak, yardsticks.liver),
        suv_peak_to_blood=_ratio(lesion.suv_peak, yardsticks.blood),
    )


def _sul(suv: float | None, lean_kg: float | None, size: BodySize) -> float | None:
    return suv * lean_kg / size.weight_kg if suv is not None and lean_kg and size.weight_kg else None


def _ratio(suv: float | None, reference: ReferenceUptake | None) -> float | None:
    return suv / reference.suv_mean if suv is not None and reference else None


def _measurable(suv_peak: float | None, threshold_suv: float | None) -> str | None:
    if suv_peak is None or threshold_suv is None:
        return None
    return "yes" if suv_peak >= threshold_suv else "no"
