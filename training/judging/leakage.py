"""No patient may both train and judge a network: what a run and the runs before it were trained on, and the check."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import ConfigError
from training.data.folds import Fold
from training.data.prepared import Prepared, patients_of
from training.settings import read_yaml
from training.weights.checkpoint import CONFIG


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Cases and patients that trained a network, or one that it started from."""

    cases: frozenset[str]
    patients: frozenset[str]


def seen_by(run: Path) -> Seen:
    """What the run in this folder was trained on, as its config.yaml says; nothing for a folder without one.

    Raises ConfigError if the file does not say.
    """
    path = run / CONFIG
    return seen_in(read_yaml(path), path) if path.exists() else Seen(cases=frozenset(), patients=frozenset())


def seen_in(config: Any, path: Path) -> Seen:
    """What a run was trained on, as the config read from `path` says. Raises ConfigError if it does not."""
    try:
        return Seen(cases=frozenset(config["seen"]["cases"]), patients=frozenset(config["seen"]["patients"]))
    except (KeyError, TypeError):
        raise ConfigError(f"'{path}' does not say what the run was trained on; train it again") from None


def seen_with(studies: Sequence[Prepared], before: Path | None) -> dict[str, list[str]]:
    """For a config.yaml: what a run has seen that trains on these studies and starts from the run `before`."""
    past = seen_by(before) if before else Seen(cases=frozenset(), patients=frozenset())
    return {
        "cases": sorted(past.cases | {study.case for study in studies}),
        "patients": sorted(past.patients | _patients(studies)),
    }


def check_apart(studies: Iterable[Prepared], fold: Fold, cache: Path) -> None:
    """Refuse a fold that trains on a patient it validates or tests with. Raises ConfigError."""
    trained = _patients(studies)
    if both := sorted(case for case in (*fold.validate, *fold.test) if patients_of(cache, case) & trained):
        raise ConfigError(
            f"fold {fold.name} trains on the patients of {len(both)} cases that it validates or tests with "
            f"({', '.join(both[:5])}): divide by patient, as training split does"
        )


def check_not_seen(run: Path, seen: Seen, cases: Iterable[str], cache: Path, what: str) -> None:
    """Refuse to judge by cases that trained the run, or whose patients did. Raises ConfigError.

    what: "validate with" and the like. A case that is not in the cache is compared by its name alone.
    """
    cases = sorted(set(cases))
    if known := [case for case in cases if case in seen.cases or patients_of(cache, case) & seen.patients]:
        raise ConfigError(
            f"'{run}', or a run it started from, was trained on {len(known)} of the {len(cases)} cases to {what}, or "
            f"on their patients ({', '.join(known[:5])}): name the fold that it was trained with"
        )


def _patients(studies: Iterable[Prepared]) -> set[str]:
    """Whose tumours and whose bodies the studies show."""
    return {name for study in studies for name in (study.patient, study.body) if name}
