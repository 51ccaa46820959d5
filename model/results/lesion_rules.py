"""Rules that say what is no lesion and how lesions are drawn: all off by default, and nothing is dropped in silence.

A mask's lesions are its 18-connected components, numbered from the largest. They keep these numbers, whatever rules
make of them. In this order:

1. lesions that the user drops by hand, that lie wholly in air or outside the body, or mostly in an organ, are dropped;
2. the others are drawn anew (`refine`), and a lesion of which nothing is left is dropped;
3. what is then too small or too faint is dropped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from model.errors import ConfigError
from model.results.body_mask import MARGIN_MM, body_of
from model.results.lesions import Lesion, measure
from model.results.refine import refined, threshold_of, widened
from model.results.rule_options import LIVER, NO_REFINEMENT, organs_meant
from model.results.rule_options import LesionRules as LesionRules
from model.study.geometry import Grid

AIR_HU = -700.0  # lung with breath in it is about -700 to -900 HU, air -1000 HU
AIR_SUV = 1.0  # below normal blood and liver, so no reader would call it uptake; normal lung is about 0.5
MOSTLY = 0.5  # a lesion is in an organ that holds more than this share of its voxels


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What rules look at beside a mask, all (z, y, x) on `grid`: SUV; HU, NaN where the CT does not reach, or None;
    labels 1, 2, ... of `organ_names`, or None. liver_suv: mean and standard deviation of the liver's SUV, or None.
    """

    suv: NDArray[Any]
    grid: Grid
    hu: NDArray[Any] | None = None
    organs: NDArray[Any] | None = None
    organ_names: tuple[str, ...] = ()
    liver_suv: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class DroppedLesion:
    """A lesion that was left out: its number, volume and SUVmax as it was found, and why."""

    number: int
    volume_ml: float
    suv_max: float
    reason: str


@dataclass(frozen=True, kw_only=True)
class RuledMask:
    """A mask to which rules were applied.

    mask: bool (z, y, x). labels: int32 likewise, the number of each lesion that stayed, which may be in several parts
    now. found_ml: the volume of each found lesion, by its number, as it was found. notes: what could not be
    applied, and why.
    """

    mask: NDArray[np.bool_]
    labels: NDArray[np.int32]
    found_ml: Mapping[int, float]
    dropped: tuple[DroppedLesion, ...] = ()
    notes: tuple[str, ...] = ()


def apply_rules(mask: NDArray[Any], around: Surroundings, rules: LesionRules) -> RuledMask:
    """The mask (z, y, x), 0 outside lesions, by the rules; without lesions or rules it stays as it is.

    Raises ConfigError if a lesion to drop by hand is not there.
    """
    lesions, _, found = measure(around.suv, mask, around.grid)
    _check_numbers(rules.drop, [lesion.number for lesion in lesions])
    boxes = ndimage.find_objects(found)
    body = body_of(around.hu, around.grid) if rules.outside_body and around.hu is not None and lesions else None
    labels = found.copy()
    dropped: list[DroppedLesion] = []
    for lesion, box in zip(lesions, boxes, strict=True):
        reason = _why_no_lesion(lesion, box, found[box] == lesion.number, around, body, rules)
        wide = widened(box, found.shape, rules.refine_within_mm, around.grid.spacing_mm)
        drawn = found[wide] == lesion.number
        if not reason and rules.refine != NO_REFINEMENT:
            drawn, reason = _drawn(found[wide], lesion, around.suv[wide], around, rules)
        reason = reason or _why_too_little(drawn, around.suv[wide], around.grid, rules)
        own = labels[wide]
        own[own == lesion.number] = 0
        own[drawn] = 0 if reason else lesion.number
        if reason:
            dropped.append(_dropped(lesion, reason))
    return RuledMask(
        mask=labels > 0,
        labels=labels,
        found_ml={lesion.number: lesion.volume_ml for lesion in lesions},
        dropped=tuple(dropped),
        notes=_notes(around, rules),
    )


def organ_of(inside: NDArray[np.bool_], organs: NDArray[Any] | None, names: Sequence[str]) -> str:
    """The organ that holds more than half of a lesion's voxels; "" if none does. Both arrays: of one box (z, y, x)."""
    if organs is None:
        return ""
    counts = np.bincount(organs[inside], minlength=len(names) + 1)
    counts[0] = 0
    label = int(counts.argmax())
    return names[label - 1] if counts[label] > MOSTLY * np.count_nonzero(inside) else ""


def found_numbers(shown: Sequence[int], table: Mapping[str, Any]) -> tuple[int, ...]:
    """The numbers of lesions that a user names, by a study's table, its lesions.json.

    Raises ConfigError if the table has no such lesion.
    """
    _check_numbers(shown, [int(row["number"]) for row in table["lesions"]])
    return tuple(shown)


def _check_numbers(wanted: Sequence[int], known: Sequence[int]) -> None:
    for number in wanted:
        if number not in known:
            there = ", ".join(map(str, known)) or "none"
            raise ConfigError(f"there is no lesion {number} to drop; there are {there}: look into lesions.csv")


def _why_no_lesion(
    lesion: Lesion,
    box: tuple[slice, ...],
    inside: NDArray[np.bool_],
    around: Surroundings,
    body: NDArray[np.bool_] | None,
    rules: LesionRules,
) -> str:
    """Why a found lesion is none, or ""."""
    if lesion.number in rules.drop:
        return "by hand"
    if rules.in_air and around.hu is not None and lesion.suv_max < AIR_SUV and (around.hu[box][inside] < AIR_HU).all():
        return f"in air: every voxel below {AIR_HU:g} HU, SUVmax below {AIR_SUV:g}"
    if body is not None and not body[box][inside].any():
        return f"outside the body: every voxel more than {MARGIN_MM:g} mm from it"
    organs = around.organs[box] if around.organs is not None else None
    organ = organ_of(inside, organs, around.organ_names)
    if organ in organs_meant(rules.not_in, around.organ_names)[0]:
        return f"in {organ}: more than half of its voxels"
    return ""


def _drawn(
    found: NDArray[np.int32], lesion: Lesion, suv: NDArray[Any], around: Surroundings, rules: LesionRules
) -> tuple[NDArray[np.bool_], str]:
    """A lesion drawn anew in its widened box, and why nothing is left of it, or ""."""
    threshold_suv = threshold_of(rules.refine, lesion.suv_max, around.liver_suv)
    if threshold_suv is None:
        return found == lesion.number, ""  # `_notes` says why
    drawn = refined(suv, found, lesion.number, threshold_suv, rules.refine_within_mm, around.grid.spacing_mm)
    return drawn, "" if drawn.any() else f"refine {rules.refine}: no voxel reaches SUV {threshold_suv:.3g}"


def _why_too_little(drawn: NDArray[np.bool_], suv: NDArray[Any], grid: Grid, rules: LesionRules) -> str:
    """Why a lesion, as it is drawn now, is too small or too faint, or ""."""
    volume_ml = float(np.count_nonzero(drawn)) * grid.voxel_ml
    if volume_ml < rules.min_volume_ml:
        refined_to = f": {volume_ml:.3g} ml by refine {rules.refine}" if rules.refine != NO_REFINEMENT else ""
        return f"smaller than {rules.min_volume_ml:g} ml{refined_to}"
    if float(suv[drawn].max()) < rules.min_suv_max:
        return f"SUVmax below {rules.min_suv_max:g}"
    return ""


def _dropped(lesion: Lesion, reason: str) -> DroppedLesion:
    return DroppedLesion(number=lesion.number, volume_ml=lesion.volume_ml, suv_max=lesion.suv_max, reason=reason)


def _notes(around: Surroundings, rules: LesionRules) -> tuple[str, ...]:
    """What the rules ask for and cannot be applied here."""
    notes = []
    if rules.not_in and around.organs is None:
        notes.append(f"without organs no lesion is dropped for lying in {', '.join(rules.not_in)}; ask for --organs")
    elif unknown := organs_meant(rules.not_in, around.organ_names)[1]:
        notes.append(f"the organ map knows no {', '.join(unknown)}; it has {', '.join(around.organ_names)}")
    if rules.refine == LIVER and around.liver_suv is None:
        notes.append("lesions are not refined: the liver's SUV is not known; give --liver-sphere or ask for --organs")
    if rules.need_hu and around.hu is None:
        notes.append("without CT no lesion is dropped for lying in air or outside the body")
    return tuple(notes)
