"""Patients in parts, stratified, seeded, the same whatever order they come in.

The patients of a stratum are sorted and shuffled, and the strata follow each other in one row, which is dealt like
cards: so every part gets its share of each stratum to within one patient, and its share of all patients too.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable
from fractions import Fraction
from math import floor

from model.errors import ConfigError
from training.table import Study


def strata(studies: Iterable[Study], by: str) -> dict[str, str]:
    """Each patient's stratum: the value of the column; of several, the one that fewest patients have, ties by name."""
    values = defaultdict(set)
    for study in studies:
        values[study.patient].add(getattr(study, by))
    patients_with = Counter(value for found in values.values() for value in found)
    return {patient: min(found, key=lambda value: (patients_with[value], value)) for patient, found in values.items()}


def shuffled(stratum_of: dict[str, str], seed: str) -> list[str]:
    """The patients, stratum after stratum by name, in each stratum in an order that the seed and its name decide."""
    order = []
    for stratum in sorted(set(stratum_of.values())):
        patients = sorted(patient for patient, own in stratum_of.items() if own == stratum)
        random.Random(f"{seed}/{stratum}").shuffle(patients)  # the same on every machine and version
        order += patients
    return order


def deal(stratum_of: dict[str, str], count: int, seed: str) -> list[set[str]]:
    """The patients in `count` parts, dealt like cards. Raises ConfigError if there are fewer patients than parts."""
    order = shuffled(stratum_of, seed)
    if not 2 <= count <= len(order):
        raise ConfigError(f"{count} folds of {len(order)} patients: there must be from 2 to as many as patients")
    return [set(order[number::count]) for number in range(count)]


def draw_share(stratum_of: dict[str, str], share: float, seed: str) -> set[str]:
    """The patients of a share in (0, 1), taken at even intervals of the shuffled order: round(share x patients).

    Raises ConfigError if that leaves one side empty.
    """
    order = shuffled(stratum_of, seed)
    exact, half = Fraction(repr(share)), Fraction(1, 2)  # exact: 15 x 0.2 is 3
    drawn = {
        patient for i, patient in enumerate(order) if floor((i + 1) * exact + half) > floor(i * exact + half)
    }  # fmt: skip
    if not 0 < len(drawn) < len(order):
        raise ConfigError(
            f"--validation {share:g} of {len(order)} patients are {len(drawn)}: both training and validation need one"
        )
    return drawn
