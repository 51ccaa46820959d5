"""Choose members by algorithms 1 and 2 of Ahn and Park, over any score. No network and no file here.

The two algorithms are one loop. They differ in how a set of members is scored: by the mean of predictions (EoA), or by
the network of mean weights (DiWA). `value` scores a set of names, in which a name may be several times.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model.errors import ConfigError

Value = Callable[[tuple[str, ...]], float]
EMPTY_SCORE = -math.inf  # score of the empty set
MOST_TIMES = 2  # with replacement a set has at most this times as many members as there are candidates


@dataclass(frozen=True, kw_only=True)
class Step:
    """One member was tried: the set's score `without` it and `with_it`, and whether it was kept. Passes start at 1."""

    member: str
    pass_number: int
    without: float  # minus infinity for the empty set
    with_it: float
    kept: bool


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The chosen members in the order they were taken, one taken twice is there twice; and every step."""

    members: tuple[str, ...]
    score: float
    steps: tuple[Step, ...] = ()

    @property
    def weights(self) -> dict[str, int]:
        """How many times each member is in the set."""
        return dict(Counter(self.members))


def rank(scores: Mapping[str, float]) -> list[str]:
    """Names by score, the highest first, ties by name (line 8 of both algorithms). Raises ConfigError for NaN."""
    for name, score in scores.items():
        _check_finite(score, (name,))
    return sorted(scores, key=lambda name: (-scores[name], name))


def greedy(names_ranked: Sequence[str], value: Value, replacement: bool = False) -> Choice:
    """Take each member in turn if the set scores at least as much with it as without (lines 9 to 17).

    replacement: more passes follow, in which a member of the set is taken again only if the set scores more with it.
    They end with a pass that takes no member, or at 2 H members (the authors' submission has one member twice). Raises
    ConfigError without names, for a name given twice, and for a score that is not finite.
    """
    _check_names(names_ranked)
    chosen: tuple[str, ...] = ()
    score, steps, pass_number = EMPTY_SCORE, [], 0
    while True:
        pass_number += 1
        before = chosen
        for name in names_ranked:
            if len(chosen) == MOST_TIMES * len(names_ranked):
                break
            with_it = _check_finite(value((*chosen, name)), (*chosen, name))
            kept = with_it > score if name in chosen else with_it >= score
            steps.append(Step(member=name, pass_number=pass_number, without=score, with_it=with_it, kept=kept))
            if kept:
                chosen, score = (*chosen, name), with_it
        if not replacement or chosen == before:
            return Choice(members=chosen, score=score, steps=tuple(steps))


def uniform(names_ranked: Sequence[str], value: Value) -> Choice:
    """Take all members. Raises ConfigError as `greedy` does."""
    _check_names(names_ranked)
    chosen = tuple(names_ranked)
    return Choice(members=chosen, score=_check_finite(value(chosen), chosen))


def steps_to(choice: Choice) -> list[dict[str, Any]]:
    """The steps ready for JSON, which has no infinity: the score of the empty set is null."""
    return [
        {
            "member": step.member,
            "pass": step.pass_number,
            "without": None if step.without == EMPTY_SCORE else step.without,
            "with": step.with_it,
            "kept": step.kept,
        }
        for step in choice.steps
    ]


def _check_names(names: Sequence[str]) -> None:
    if not names:
        raise ConfigError("there is no member to choose from; name at least one run")
    if twice := sorted(name for name, count in Counter(names).items() if count > 1):
        raise ConfigError(
            f"members must have names of their own, these are given twice: {', '.join(twice)}; rename one"
        )


def _check_finite(score: float, members: tuple[str, ...]) -> float:
    """The score. Raises ConfigError if it is NaN or infinite."""
    if not math.isfinite(score):
        raise ConfigError(f"the score of {', '.join(members)} is {score}: members can be chosen by finite scores only")
    return score
