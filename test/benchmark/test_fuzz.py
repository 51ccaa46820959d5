"""Mutated image files: none is read wrongly, and none ends in a traceback, a crash or a hang."""

from collections import Counter

import pytest

from benchmark.fuzz import GOOD, fuzz

pytestmark = pytest.mark.slow


def test_three_hundred_mutated_files_are_refused_or_read_as_others_read_them() -> None:
    found = fuzz(300, seed=1)
    assert [case for case in found if case[1][0] not in GOOD] == []
    assert Counter(kind for _, (kind, _, _) in found)["equal"] >= 30


def test_a_case_is_the_same_whenever_it_is_made() -> None:
    assert [(number, kind, done) for number, (kind, done, _) in fuzz(20, seed=3)] == [
        (number, kind, done) for number, (kind, done, _) in fuzz(20, seed=3)
    ]
