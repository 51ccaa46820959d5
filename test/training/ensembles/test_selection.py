import math

import pytest

from model.errors import ConfigError
from training.ensembles.selection import greedy, rank, steps_to, uniform


def table(scores: dict[str, float]):
    """A score function that knows sets by their sorted letters: {"a": 0.5, "ab": 0.6}."""
    return lambda members: scores["".join(sorted(members))]


def test_members_rank_by_score_and_ties_by_name() -> None:
    assert rank({"b": 0.5, "a": 0.5, "c": 0.7, "d": 0.1}) == ["c", "a", "b", "d"]


def test_the_first_is_always_kept_even_at_zero() -> None:
    assert greedy(["a"], table({"a": 0.0})).members == ("a",)


def test_a_member_that_lowers_the_score_is_passed_over_and_the_next_joins_without_it() -> None:
    choice = greedy(["a", "b", "c"], table({"a": 0.70, "ab": 0.69, "ac": 0.72}))
    assert (choice.members, choice.score) == (("a", "c"), 0.72)


def test_a_tie_is_kept() -> None:
    assert greedy(["a", "b"], table({"a": 0.7, "ab": 0.7})).members == ("a", "b")


def test_every_step_is_recorded_with_both_scores() -> None:
    choice = greedy(["a", "b", "c"], table({"a": 0.70, "ab": 0.69, "ac": 0.72}))
    assert [(s.member, s.without, s.with_it, s.kept) for s in choice.steps] == [
        ("a", -math.inf, 0.70, True),
        ("b", 0.70, 0.69, False),
        ("c", 0.70, 0.72, True),
    ]


def test_without_replacement_there_is_one_pass() -> None:
    asked = []
    greedy(["a", "b"], lambda members: asked.append(members) or 0.5)
    assert asked == [("a",), ("a", "b")]


# With replacement, a worked table. Pass 1: a 0.70, ab 0.68 no, ac 0.71 yes. Pass 2: aac 0.73 yes, aabc 0.73: b is new,
# a tie is enough; aabcc 0.73: c is there, a tie is not enough. Pass 3: aaabc 0.72, aabbc 0.70, aabcc 0.73: all no.
WORKED = {
    "a": 0.70,
    "ab": 0.68,
    "ac": 0.71,
    "aac": 0.73,
    "aabc": 0.73,
    "aabcc": 0.73,
    "aaabc": 0.72,
    "aabbc": 0.70,
}


def test_replacement_takes_a_member_again_only_for_a_higher_score() -> None:
    choice = greedy(["a", "b", "c"], table(WORKED), replacement=True)
    assert choice.weights == {"a": 2, "c": 1, "b": 1}
    assert [(s.pass_number, s.member, s.kept) for s in choice.steps] == [
        (1, "a", True),
        (1, "b", False),
        (1, "c", True),
        (2, "a", True),
        (2, "b", True),
        (2, "c", False),
        (3, "a", False),
        (3, "b", False),
        (3, "c", False),
    ]


def test_replacement_stops_at_twice_as_many_members_as_there_are_candidates() -> None:
    choice = greedy(["a", "b", "c"], lambda members: len(members) / 100, replacement=True)
    assert (choice.members, choice.score) == (("a", "b", "c") * 2, 0.06)


def test_replacement_ends_after_a_pass_that_takes_nobody() -> None:
    choice = greedy(["a", "b"], lambda members: 0.5, replacement=True)
    assert (choice.members, len(choice.steps)) == (("a", "b"), 4)


def test_the_first_pass_is_the_same_with_and_without_replacement() -> None:
    plain, again = (greedy(["a", "b", "c"], table(WORKED), replacement) for replacement in (False, True))
    assert again.steps[:3] == plain.steps


def test_uniform_takes_all() -> None:
    choice = uniform(["a", "b", "c"], table({"abc": 0.4}))
    assert (choice.weights, choice.score, choice.steps) == ({"a": 1, "b": 1, "c": 1}, 0.4, ())


@pytest.mark.parametrize("choose", [greedy, uniform])
def test_no_member_and_a_member_named_twice_are_refused(choose) -> None:
    with pytest.raises(ConfigError, match="no member"):
        choose([], lambda members: 0.5)
    with pytest.raises(ConfigError, match="given twice: b"):
        choose(["b", "a", "b"], lambda members: 0.5)


def test_a_score_that_is_nan_is_refused_by_the_set_it_belongs_to() -> None:
    with pytest.raises(ConfigError, match="score of a, b is nan"):
        greedy(["a", "b"], lambda members: math.nan if len(members) == 2 else 0.5)
    with pytest.raises(ConfigError, match="score of b is nan"):
        rank({"a": 0.5, "b": math.nan})


def test_json_has_null_for_the_score_of_the_empty_set() -> None:
    steps = steps_to(greedy(["a", "b"], table({"a": 0.7, "ab": 0.6})))
    assert steps[0] == {"member": "a", "pass": 1, "without": None, "with": 0.7, "kept": True}
    assert steps[1] == {"member": "b", "pass": 1, "without": 0.7, "with": 0.6, "kept": False}
