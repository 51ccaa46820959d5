import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from model.errors import ConfigError
from training.data.stratify import draw_share, shuffled, strata, stratified_parts, without_diagnosis
from training.data.table import Study


def study(case: str, patient: str, diagnosis: str) -> Study:
    rest = dict.fromkeys(("pet", "ct", "truth"), Path("x")) | {"tracer": "FDG", "site": "A", "sha256": "0"}
    return Study(case=case, patient=patient, diagnosis=diagnosis, lesion_ml=1, **rest)


def patients(**counts: int) -> dict[str, str]:
    """patients(a=2): {"a0": "a", "a1": "a"}."""
    return {f"{stratum}{number}": stratum for stratum, count in counts.items() for number in range(count)}


def test_a_patient_of_several_diagnoses_belongs_to_the_one_that_fewest_patients_have() -> None:
    """negative has 3 patients (p, q, r), melanoma 2 (p, s): p is melanoma, though two of its three studies are not."""
    rows = [
        ("1", "p", "negative"),
        ("2", "p", "negative"),
        ("3", "p", "melanoma"),
        ("4", "q", "negative"),
        ("5", "r", "negative"),
        ("6", "s", "melanoma"),
    ]
    found = strata([study(*row) for row in rows], "diagnosis")
    assert found == {"p": "melanoma", "q": "negative", "r": "negative", "s": "melanoma"}


def test_by_volume_a_stratum_is_a_third_of_the_patients_with_lesion_by_their_largest_study() -> None:
    volumes = {
        ("1", "p"): 5.0,
        ("2", "p"): 40.0,
        ("3", "q"): 1.0,
        ("4", "r"): 0.0,
        ("5", "s"): 30.0,
        ("6", "t"): 2.0,
        ("7", "u"): 3.0,
        ("8", "v"): 90.0,
    }
    rows = [replace(study(case, patient, "unknown"), lesion_ml=ml) for (case, patient), ml in volumes.items()]
    expected = {"q": "small", "t": "small", "u": "middle", "s": "middle", "p": "large", "v": "large", "r": "negative"}
    assert strata(rows, "volume") == strata(rows[::-1], "volume") == expected


def test_a_patient_has_a_diagnosis_if_one_of_its_studies_with_lesion_has() -> None:
    rows = [
        study("1", "p", "unknown"),
        study("2", "p", "melanoma"),
        study("3", "q", "unknown"),
        replace(study("4", "r", "unknown"), lesion_ml=0.0),
    ]
    assert without_diagnosis(rows) == (1, 2)


def test_a_tie_goes_to_the_first_name() -> None:
    rows = [("1", "p", "b"), ("2", "p", "a")]
    assert strata([study(*row) for row in rows], "diagnosis") == {"p": "a"}


def test_the_order_is_the_seeds_and_not_that_of_the_rows() -> None:
    whole = patients(a=9, b=7)
    mixed = list(whole.items())
    random.Random(3).shuffle(mixed)
    assert shuffled(dict(mixed), "0") == shuffled(whole, "0")
    assert shuffled(whole, "1") != shuffled(whole, "0")


def test_the_order_is_stratum_after_stratum_and_holds_everyone_once() -> None:
    order = shuffled(patients(b=3, a=2), "0")
    assert [name[0] for name in order] == ["a", "a", "b", "b", "b"] and len(set(order)) == 5


def test_the_next_stratum_begins_with_the_next_part() -> None:
    """The row a a a a b b b in three parts: places 0, 3, 6 are a a b; 1, 4 are a b; 2, 5 are a b."""
    folds = stratified_parts(patients(a=4, b=3), 3, "0")
    assert [Counter(name[0] for name in fold) for fold in folds] == [
        Counter(a=2, b=1),
        Counter(a=1, b=1),
        Counter(a=1, b=1),
    ]
    assert sum(map(len, folds)) == len(set().union(*folds)) == 7


@pytest.mark.parametrize("seed", ["0", "1", "2"])
def test_every_fold_has_its_share_of_every_stratum_to_within_one(seed: str) -> None:
    counts = {"a": 13, "b": 4, "c": 29, "d": 1}
    for fold in stratified_parts(patients(**counts), 5, seed):
        for stratum, count in counts.items():
            assert abs(sum(name[0] == stratum for name in fold) - count / 5) < 1
        assert len(fold) in (9, 10)  # 47 / 5


def test_a_share_is_taken_from_every_five_at_a_fifth() -> None:
    """Places 2, 7, 12, ... of the row: with 5 of a and 10 of b one a and two b."""
    whole = patients(a=5, b=10)
    order = shuffled(whole, "0")
    assert draw_share(whole, 0.2, "0") == {order[2], order[7], order[12]}


@pytest.mark.parametrize(("count", "share", "drawn"), [(36, 0.2, 7), (29, 0.1, 3), (100, 0.29, 29), (3, 0.5, 2)])
def test_a_share_of_all_patients_is_rounded_once(count: int, share: float, drawn: int) -> None:
    assert len(draw_share(patients(a=count), share, "0")) == drawn


def test_too_few_patients_are_refused() -> None:
    with pytest.raises(ConfigError, match="3 folds of 2 patients"):
        stratified_parts(patients(a=2), 3, "0")
    with pytest.raises(ConfigError, match="1 folds of 2 patients"):
        stratified_parts(patients(a=2), 1, "0")
    with pytest.raises(ConfigError, match="0.2 of 2 patients are 0"):
        draw_share(patients(a=2), 0.2, "0")
