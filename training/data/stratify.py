"""Divide patients into parts that are alike: each has its share of every stratum, such as a diagnosis.

The patients of a stratum are sorted, then shuffled by the seed; the strata follow each other in one row, and part k of
n takes every n-th patient from the k-th on. So every part gets its share of each stratum, and of all patients, to
within one patient, whatever order the patients come in.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable
from fractions import Fraction
from math import floor

from model.errors import ConfigError
from training.data.table import NEGATIVE, UNKNOWN, Study

VOLUMES = ("small", "middle", "large")  # thirds of the patients with lesion, by VOLUME
VOLUME = "volume"  # stratify by the lesion volume of each patient's study that has most of it


def strata(studies: Iterable[Study], by: str) -> dict[str, str]:
    """Each patient's stratum: the value of column `by`; of several the one that fewest patients have, ties by name.

    by VOLUME: negative, or the third of the patients with lesion that the patient is in.
    """
    if by == VOLUME:
        return _thirds(studies)
    values = defaultdict(set)
    for study in studies:
        values[study.patient].add(getattr(study, by))
    patients_with = Counter(value for found in values.values() for value in found)
    return {patient: min(found, key=lambda value: (patients_with[value], value)) for patient, found in values.items()}


def without_diagnosis(studies: Iterable[Study]) -> tuple[int, int]:
    """How many patients with lesion have no diagnosis, and how many patients with lesion there are."""
    known: dict[str, bool] = defaultdict(bool)
    for study in studies:
        if study.lesion_ml > 0:
            known[study.patient] |= study.diagnosis != UNKNOWN
    return sum(not one for one in known.values()), len(known)


def shuffled(stratum_of: dict[str, str], seed: str) -> list[str]:
    """The patients, stratum after stratum by name, in each stratum in an order that the seed and its name decide."""
    order = []
    for stratum in sorted(set(stratum_of.values())):
        patients = sorted(patient for patient, own in stratum_of.items() if own == stratum)
        random.Random(f"{seed}/{stratum}").shuffle(patients)  # the same on every machine and version
        order += patients
    return order


def stratified_parts(stratum_of: dict[str, str], count: int, seed: str) -> list[set[str]]:
    """The patients in `count` parts. Raises ConfigError for fewer than 2 parts, or fewer patients than parts."""
    order = shuffled(stratum_of, seed)
    if not 2 <= count <= len(order):
        raise ConfigError(f"{count} folds of {len(order)} patients: give 2 folds or more, and at most one a patient")
    return [set(order[number::count]) for number in range(count)]


def draw_share(stratum_of: dict[str, str], share: float, seed: str) -> set[str]:
    """The patients of a share in (0, 1), taken at even intervals of the shuffled order: round(share x patients).

    Raises ConfigError if that leaves one side empty.
    """
    order = shuffled(stratum_of, seed)
    exact, half = Fraction(repr(share)), Fraction(1, 2)  # exact: 15 x 0.2 is 3
    drawn = {patient for i, patient in enumerate(order) if floor((i + 1) * exact + half) > floor(i * exact + half)}
    if not 0 < len(drawn) < len(order):
        raise ConfigError(
            f"--validation {share:g} of {len(order)} patients are {len(drawn)}: training and validation need "
            "one each; give another share"
        )
    return drawn


def _thirds(studies: Iterable[Study]) -> dict[str, str]:
    largest: dict[str, float] = defaultdict(float)
    for study in studies:
        largest[study.patient] = max(largest[study.patient], study.lesion_ml)
    ill = sorted((ml, patient) for patient, ml in largest.items() if ml > 0)
    thirds = {patient: VOLUMES[3 * number // len(ill)] for number, (_, patient) in enumerate(ill)}
    return {patient: thirds.get(patient, NEGATIVE) for patient in largest}
