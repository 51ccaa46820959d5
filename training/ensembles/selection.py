"""Which members to take: algorithms 1 and 2 of Ahn and Park, over any score. No network and no file here.

The two algorithms are one loop; they differ in what a set of members scores: the mean of predictions (EoA) or
the network of mean weights (DiWA). `value` says it, from names; a name may stand in a set several times.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model.errors import ConfigError

Value = Callable[[tuple[str, ...]], float]
OF_NOTHING = -math.inf  # score of the empty set
MOST_OF_A_MEMBER = 2  # with replacement a set has at most this times as many members as there are candidates


@dataclass(frozen=True, kw_only=True)
class Step:
    """One question: does the set score `with_it` at least what it scores `without`? turn: which pass, from 1."""

    member: str
    turn: int
    without: float  # minus infinity for the empty set
    with_it: float
    kept: bool


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The chosen members in the order they were taken, a repeated one several times; every step that led there."""

    members: tuple[str, ...]
    score: float
    steps: tuple[Step, ...] = ()

    @property
    def weights(self) -> dict[str, int]:
        """How many times each member stands in the set."""
        return dict(Counter(self.members))


def rank(scores: Mapping[str, float]) -> list[str]:
    """Names by score, the highest first, ties by name (line 8 of both algorithms). Raises ConfigError for NaN."""
    for name, score in scores.items():
        _finite(score, (name,))
    return sorted(scores, key=lambda name: (-scores[name], name))


def greedy(names_ranked: Sequence[str], value: Value, replacement: bool = False) -> Choice:
    """Take each member in turn if the set scores at least as much with it as without (lines 9 to 17).

    replacement: after that pass come others, in which a member that is in the set is taken again only if the set
    scores more with it; they end with a pass that takes nobody, or at 2 H members (the authors' submission has one
    member twice). Raises ConfigError without names, for a name that stands twice, and for a score that is not finite.
    """
    _check(names_ranked)
    chosen: tuple[str, ...] = ()
    score, steps, turn = OF_NOTHING, [], 0
    while True:
        turn += 1
        before = chosen
        for name in names_ranked:
            if len(chosen) == MOST_OF_A_MEMBER * len(names_ranked):
                break
            with_it = _finite(value((*chosen, name)), (*chosen, name))
            kept = with_it > score if name in chosen else with_it >= score
            steps.append(Step(member=name, turn=turn, without=score, with_it=with_it, kept=kept))
            if kept:
                chosen, score = (*chosen, name), with_it
        if not replacement or chosen == before:
            return Choice(members=chosen, score=score, steps=tuple(steps))


def uniform(names_ranked: Sequence[str], value: Value) -> Choice:
    """Take all. Raises ConfigError as `greedy` does."""
    _check(names_ranked)
    chosen = tuple(names_ranked)
    return Choice(members=chosen, score=_finite(value(chosen), chosen))


def steps_to(choice: Choice) -> list[dict[str, Any]]:
    """The steps ready for JSON, which has no infinity: the empty set's score is null."""
    return [
        {
            "member": step.member,
            "pass": step.turn,
            "without": None if step.without == OF_NOTHING else step.without,
            "with": step.with_it,
            "kept": step.kept,
        }
        for step in choice.steps
    ]


def _check(names: Sequence[str]) -> None:
    if not names:
        raise ConfigError("there is no member to choose from; name at least one run")
    if twice := sorted(name for name, count in Counter(names).items() if count > 1):
        raise ConfigError(f"members must have names of their own, these stand twice: {', '.join(twice)}")


def _finite(score: float, members: tuple[str, ...]) -> float:
    if not math.isfinite(score):
        raise ConfigError(f"the score of {', '.join(members)} is {score}: members can be chosen by finite scores only")
    return score
