"""Folds say which studies train, validate and test. They are made of patients, or read from a file."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from model.errors import ConfigError, shown
from training.data.metadata import safe_name
from training.data.table import Study, some_of

PARTS = ("train", "validate", "test")


@dataclass(frozen=True, kw_only=True)
class Fold:
    """One way to divide the studies: sorted case names. No patient is in two of the three parts."""

    name: str
    train: tuple[str, ...]
    validate: tuple[str, ...]
    test: tuple[str, ...] = ()


def read_fold(path: Path, name: str) -> Fold:
    """A fold of a split file. Raises ConfigError if the file cannot be read or has no such fold."""
    try:
        folds = json.loads(path.read_text(encoding="utf-8"))["folds"]
        known = {fold["name"]: Fold(name=fold["name"], **{p: _names(fold[p]) for p in PARTS}) for fold in folds}
    except OSError as error:
        raise ConfigError(f"cannot read the split '{path}': {error.strerror}; make it with training split") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(f"'{path}' is not a split file; make it with training split") from None
    if name not in known:
        raise ConfigError(f"split '{path}' has no fold {name!r}; it has {', '.join(known)}")
    parts = [set(getattr(known[name], part)) for part in PARTS]
    if twice := parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]:
        raise ConfigError(f"split '{path}', fold {name}: in two of {', '.join(PARTS)}: {some_of(twice)}; make it again")
    return known[name]


def from_nnunet(path: Path, studies: dict[str, Study], fixed: dict[str, set[str]]) -> list[Fold]:
    """The folds of nnU-Net's splits_final.json, with the patients of the lists in their places.

    Warns on stderr about cases that only one of file and index names, and leaves them out. Raises ConfigError if the
    file cannot be read, has no case of the index, or divides a patient.
    """
    try:
        listed = [(set(map(safe_name, fold["train"])), set(map(safe_name, fold["val"]))) for fold in _json(path)]
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"'{path}' is not nnU-Net's list of folds with train and val") from None
    everything = set().union(*(part for fold in listed for part in fold))
    if not everything & studies.keys():
        raise ConfigError(f"'{path}' names {some_of(everything)} and no case of the index, as {some_of(studies)}")
    for what, cases in (
        (f"named in '{path}' and not in the index", everything - studies.keys()),
        (f"in the index and not named in '{path}'", studies.keys() - everything),
    ):
        if cases:
            print(shown(f"warning: {len(cases)} cases {what}: {some_of(cases)}"), file=sys.stderr)
    on_lists = set().union(*fixed.values())
    folds = []
    for number, (train, validate) in enumerate(listed):
        parts = [{studies[c].patient for c in part & studies.keys()} - on_lists for part in (train, validate)]
        if both := parts[0] & parts[1]:
            raise ConfigError(f"'{path}', fold {number}, trains and validates on the same patients: {some_of(both)}")
        folds.append(
            make_fold(str(number), parts[0] | fixed["train"], parts[1] | fixed["validate"], fixed["test"], studies)
        )
    return folds


def make_fold(name: str, train: set[str], validate: set[str], test: set[str], studies: dict[str, Study]) -> Fold:
    """The fold of these patients. Raises ConfigError if none is left to train on or to validate with.

    A tumour in another's body (Study.body) trains alone, and only if the body's patient has no study elsewhere.
    """
    if not (train and validate):
        raise ConfigError(f"fold {name} has {len(train)} patients to train and {len(validate)} to validate: give more")
    parts = {part: cases_of(p, studies) for part, p in zip(PARTS, (train, validate, test), strict=True)}
    elsewhere = {study.patient for study in studies.values()} - train
    kept = {part: tuple(case for case in cases if not studies[case].body) for part, cases in parts.items()}
    blended = [case for case in parts["train"] if studies[case].body and studies[case].body not in elsewhere]
    return Fold(name=name, **kept | {"train": tuple(sorted((*kept["train"], *blended)))})


def cases_of(patients: set[str], studies: dict[str, Study]) -> list[str]:
    """All cases of these patients, sorted."""
    return sorted(case for case, study in studies.items() if study.patient in patients)


def _names(part: object) -> tuple[str, ...]:
    if not isinstance(part, list) or not all(isinstance(name, str) for name in part):
        raise TypeError
    return tuple(part)


def _json(path: Path) -> list[dict[str, list[str]]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read '{path}': {error.strerror}; give nnU-Net's splits_final.json") from None
    if not isinstance(content, list) or not content:
        raise ValueError("not a list of folds")
    return content
