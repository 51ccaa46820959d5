"""All that is measured of a study's mask, in one step: rules, lesions, totals, and what they are compared with."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.results.body_mask import hu_on
from model.results.body_size import BodySize
from model.results.lesion_numbers import LesionNumbers, StudyNumbers, Yardsticks, lesion_numbers, study_numbers
from model.results.lesion_rules import DroppedLesion, RuledMask, Surroundings, apply_rules
from model.results.lesions import Lesion, Totals, measure
from model.results.reference_options import Sphere
from model.results.reference_uptake import ReferenceUptake, uptake_in_mask, uptake_in_organ, uptake_in_sphere
from model.results.rule_options import LesionRules
from model.study.reading import Case

USUAL_SUV = {"liver": (1.0, 4.0), "blood": (0.8, 3.5)}  # wide limits: beyond, the place is probably wrong


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What to measure of a study, beside its mask.

    spheres: by liver and blood, where they were given. masks: segmentations of the same, bool (z, y, x) on the PET's
    grid.
    """

    rules: LesionRules = LesionRules()
    size: BodySize = BodySize()
    spheres: dict[str, Sphere] = field(default_factory=dict)
    masks: dict[str, NDArray[np.bool_]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StudyMeasures:
    """What was measured. mask: by the rules, bool (z, y, x); numbers: of the lesion at every voxel, int32 likewise.

    ruled: None without rules. warnings: what could not be done as it was asked for.
    """

    mask: NDArray[np.bool_]
    numbers: NDArray[np.int32]
    lesions: tuple[Lesion, ...]
    totals: Totals
    more: tuple[LesionNumbers, ...]
    study: StudyNumbers
    yardsticks: Yardsticks
    rules: LesionRules
    ruled: RuledMask | None
    warnings: tuple[str, ...]

    @property
    def dropped(self) -> tuple[DroppedLesion, ...]:
        return self.ruled.dropped if self.ruled else ()


def measure_study(
    case: Case,
    mask: NDArray[np.bool_],
    asked: Asked,
    organs: NDArray[Any] | None = None,
    organ_names: tuple[str, ...] = (),
) -> StudyMeasures:
    """Measure the networks' mask of a study, or one that was edited: bool (z, y, x) on the PET's grid.

    organs: labels 1, 2, ... of organ_names likewise. Raises ConfigError if a lesion to drop by hand is not there.
    """
    pet = case.pet
    around = Surroundings(
        suv=pet.array,
        grid=pet.grid,
        hu=hu_on(case.ct, pet.grid) if case.ct and asked.rules.need_hu and mask.any() else None,
        organs=organs,
        organ_names=organ_names,
    )
    liver, why_liver = _reference("liver", around, mask, asked)
    blood, why_blood = _reference("blood", around, mask, asked)
    yardsticks = Yardsticks(size=asked.size, liver=liver, blood=blood, why={"liver": why_liver, "blood": why_blood})
    ruled = None
    if asked.rules.plain:
        liver_suv = (liver.suv_mean, liver.suv_sd) if liver else None
        ruled = apply_rules(mask, dataclasses.replace(around, liver_suv=liver_suv), asked.rules)
    final = ruled.mask if ruled else mask
    lesions, totals, numbers = measure(pet.array, final, pet.grid, ruled.labels if ruled else None)
    return StudyMeasures(
        mask=final,
        numbers=numbers,
        lesions=lesions,
        totals=totals,
        more=lesion_numbers(lesions, numbers, around, yardsticks, ruled),
        study=study_numbers(lesions, totals, yardsticks),
        yardsticks=yardsticks,
        rules=asked.rules,
        ruled=ruled,
        warnings=(*_reference_warnings(yardsticks, asked), *(ruled.notes if ruled else ())),
    )


def _reference(what: str, around: Surroundings, mask: NDArray[Any], asked: Asked) -> tuple[ReferenceUptake | None, str]:
    """The liver's or the blood's uptake: by a segmentation, else a sphere that was given, else organs; or why not."""
    if what in asked.masks:
        return uptake_in_mask(around, mask, asked.masks[what], f"segmentation of the {what}")
    if what in asked.spheres:
        sphere = asked.spheres[what]
        return uptake_in_sphere(around, mask, sphere, f"{sphere}, as given")
    return uptake_in_organ(around, mask, what)


def _reference_warnings(yardsticks: Yardsticks, asked: Asked) -> list[str]:
    """A warning for each reference that was given and cannot be used, that holds lesion, or whose SUV is unusual."""
    warnings = []
    for what, found in (("liver", yardsticks.liver), ("blood", yardsticks.blood)):
        if found is None:
            if what in asked.masks or what in asked.spheres:
                warnings.append(f"the {what}'s SUV is not known: {yardsticks.why[what]}")
            continue
        low, high = USUAL_SUV[what]
        if not low <= found.suv_mean <= high:
            warnings.append(
                f"the {what}'s mean SUV is {found.suv_mean:.2f}, where most patients have {low:g} to {high:g}: look "
                f"whether this is {what} ({found.source})"
            )
        if found.lesion_ml > 0:
            warnings.append(
                f"of the {what}'s {found.source}, {found.lesion_ml:.2f} of {found.volume_ml:.2f} ml are lesion in the "
                "mask: its SUV may be too high"
            )
    return warnings
