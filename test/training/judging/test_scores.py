"""training/judging/scores.py: means, intervals, groups, and how they are written."""

import csv
import json
import math

import numpy as np
import pytest

from model.errors import ConfigError
from training.judging.scores import CaseScore, interval, summary, table, without_empty, write

NAN = math.nan


def row(case: str, dice: float, diagnosis: str = "melanoma", site: str = "A", **changes: object) -> CaseScore:
    settings: dict = dict(
        case=case,
        patient=f"patient-{case}",
        diagnosis=diagnosis,
        tracer="FDG",
        site=site,
        dice=dice,
        fpv_ml=1.0,
        fnv_ml=2.0,
        lesions_true=3,
        lesions_found=2,
        seconds=NAN,
        convention="autopet_1_2",
    )
    return CaseScore(**settings | changes)


ROWS = [
    row("a", 0.5),
    row("b", 0.7, "lymphoma", "B"),
    row("c", 0.9, site="B"),
    row("d", NAN, "negative", lesions_true=0, lesions_found=0),
]


def test_equal_values_have_an_interval_of_no_width() -> None:
    assert interval([0.25] * 7) == (0.25, 0.25, 0.25)


def test_the_interval_of_two_values_is_the_two() -> None:
    """A resample of {0, 1} has mean 0 or 1 once in four each, more than the 2.5 % left out on a side."""
    assert interval([0.0, 1.0]) == (0.5, 0.0, 1.0)


def test_the_interval_of_many_values_is_that_of_the_normal_distribution() -> None:
    values = np.random.default_rng(0).random(400)
    mean, low, high = interval(values)
    half = 1.96 * values.std() / math.sqrt(400)
    assert mean == pytest.approx(values.mean())
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.05 * half)


def test_the_interval_is_the_same_every_time() -> None:
    assert interval([0.1, 0.4, 0.2, 0.9]) == interval([0.1, 0.4, 0.2, 0.9])


def test_studies_of_one_patient_are_drawn_together() -> None:
    """Of two patients, one with 0, 0, 0 and one with 1: means 0, 1/4 or 1, each extreme once in four draws."""
    assert interval([0.0, 0.0, 0.0, 1.0], ["a", "a", "a", "b"]) == (0.25, 0.0, 1.0)
    np.testing.assert_equal(interval([0.0, 1.0], ["a", "a"]), (0.5, NAN, NAN))


def test_copies_of_every_patient_do_not_narrow_the_interval() -> None:
    values = list(np.random.default_rng(1).random(30))
    assert interval(values * 4, [*range(30)] * 4) == pytest.approx(interval(values))


def test_nan_is_left_out_of_the_interval() -> None:
    assert interval([NAN, 0.0, NAN, 1.0]) == (0.5, 0.0, 1.0)


def test_one_value_has_no_interval_and_no_value_has_no_mean() -> None:
    np.testing.assert_equal(interval([0.3]), (0.3, NAN, NAN))
    np.testing.assert_equal(interval([NAN]), (NAN, NAN, NAN))
    np.testing.assert_equal(interval([]), (NAN, NAN, NAN))


def test_groups_are_all_cases_then_every_diagnosis_then_every_site() -> None:
    groups = [(g.by, g.value, g.cases) for g in summary(ROWS).groups]
    assert groups == [
        ("all", "all", 4),
        ("diagnosis", "lymphoma", 1),
        ("diagnosis", "melanoma", 2),
        ("diagnosis", "negative", 1),
        ("site", "A", 2),
        ("site", "B", 2),
    ]


def test_groups_are_of_the_columns_asked_for() -> None:
    assert [g.by for g in summary(ROWS, by=[]).groups] == ["all"]
    assert {g.value for g in summary(ROWS, by=["tracer"]).groups} == {"all", "FDG"}


def test_means_are_over_the_cases_that_have_a_value_and_the_others_are_counted() -> None:
    everything = summary(ROWS).groups[0]
    assert everything.dice.mean == pytest.approx(0.7)
    assert (everything.dice.cases, everything.dice.left_out) == (3, 1)
    assert (everything.fpv_ml.mean, everything.fpv_ml.cases, everything.fpv_ml.left_out) == (1.0, 4, 0)


def test_lesions_of_a_group_are_added() -> None:
    everything = summary(ROWS).groups[0]
    assert (everything.lesions_found, everything.lesions_true) == (6, 9)


def test_no_case_and_two_conventions_are_refused() -> None:
    with pytest.raises(ConfigError, match="no case"):
        summary([])
    with pytest.raises(ConfigError, match="autopet_1_2.*autopet_5"):
        summary([ROWS[0], row("b", 0.5, convention="autopet_5")])


def test_the_table_says_convention_number_of_cases_and_intervals() -> None:
    lines = table(summary([row("a", 0.0), row("b", 1.0), row("c", NAN)], by=[])).splitlines()
    assert "autopet_1_2" in lines[0] and "95 %" in lines[0]
    assert lines[-1] == (
        "| all | 3 | 0.5000 (0.0000 to 1.0000), n 2 | 1.00 (1.00 to 1.00) | 2.00 (2.00 to 2.00) | 6 of 9 | - |"
    )


def test_the_table_has_a_dash_where_no_case_has_a_value() -> None:
    assert table(summary([row("a", NAN, seconds=2.5)], by=[])).splitlines()[-1] == (
        "| all | 1 | - | 1.00 | 2.00 | 2 of 3 | 2.5 |"
    )


def test_the_csv_holds_every_case_with_units_in_its_names(tmp_path) -> None:
    write(ROWS, summary(ROWS), tmp_path / "scores.csv", {})
    with (tmp_path / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [r["case"] for r in rows] == ["a", "b", "c", "d"]
    assert (rows[1]["dice"], rows[1]["fpv_ml"], rows[1]["fnv_ml"], rows[1]["site"]) == ("0.7", "1.0", "2.0", "B")
    assert math.isnan(float(rows[3]["dice"])) and rows[3]["convention"] == "autopet_1_2"


def test_the_json_has_null_for_nan_and_names_what_was_done(tmp_path) -> None:
    write(ROWS, summary(ROWS), tmp_path / "scores.csv", {"ran": {"index": "x"}})

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    found = json.loads((tmp_path / "scores.json").read_text(), parse_constant=refuse)
    assert found["convention"] == "autopet_1_2" and found["connectivity"] == 18 and found["ran"] == {"index": "x"}
    negative = next(g for g in found["groups"] if g["value"] == "negative")
    assert negative["dice"] == {"mean": None, "low": None, "high": None, "cases": 0, "left_out": 1}


def test_nothing_but_the_two_files_is_left(tmp_path) -> None:
    write(ROWS, summary(ROWS), tmp_path / "scores.csv", {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scores.csv", "scores.json"]


def test_without_empty_the_means_are_over_the_cases_with_lesion() -> None:
    """A prediction on a negative case counts 0 by autopet_1_2; its FPV stays."""
    rows = [row("a", 0.5), row("b", 0.0, "negative", lesions_true=0, lesions_found=0, fpv_ml=5.0, fnv_ml=0.0)]
    before, after = summary(rows, by=()).groups[0], summary(without_empty(rows), by=()).groups[0]
    assert (before.dice.mean, after.dice.mean, after.dice.left_out) == (0.25, 0.5, 1)
    assert before.fpv_ml.mean == after.fpv_ml.mean == 3.0 and (before.fnv_ml.mean, after.fnv_ml.mean) == (1.0, 2.0)
