import json
from dataclasses import replace

import pytest
from tiny_runs import make_run, random_state

from model.errors import ConfigError
from training.data.folds import Fold
from training.data.prepared import load
from training.judging.leakage import check_apart, check_not_seen, seen_by, seen_with


def test_a_run_has_seen_what_it_and_its_start_were_trained_on(tiny_cache, tmp_path) -> None:
    base = make_run(tmp_path / "base", random_state(0), train=("case0",))
    seen = seen_with([load(tiny_cache, "case2"), load(tiny_cache, "case1")], base)
    assert seen == {"cases": ["case0", "case1", "case2"], "patients": ["patient0", "patient1", "patient2"]}


def test_a_folder_that_is_no_run_has_seen_nothing(tmp_path) -> None:
    assert seen_by(tmp_path).cases == seen_by(tmp_path).patients == frozenset()


def test_a_run_that_does_not_say_what_it_has_seen_is_refused(tmp_path) -> None:
    (tmp_path / "config.yaml").write_text("settings: {}")
    with pytest.raises(ConfigError, match="does not say what the run was trained on"):
        seen_by(tmp_path)


def test_cases_that_trained_a_run_may_not_judge_it(tiny_cache, tmp_path) -> None:
    run = make_run(tmp_path / "m", random_state(0), make_run(tmp_path / "base", random_state(0), train=("case3",)))
    check_not_seen(run, seen_by(run), ["case1", "case2"], tiny_cache, "select by")
    with pytest.raises(ConfigError, match=r"trained on 2 of the 3 cases to select by.*\(case0, case3\)"):
        check_not_seen(run, seen_by(run), ["case0", "case1", "case3"], tiny_cache, "select by")


def test_another_study_of_a_patient_who_trained_is_refused(tiny_cache, tmp_path) -> None:
    """case1 trained; case1-r0 is a copy of it, cut at random: another case of the same patient."""
    run = make_run(tmp_path / "run", random_state(0), train=("case1",))
    copy = tmp_path / "cache" / "case1-r0"
    copy.mkdir(parents=True)
    facts = json.loads((tiny_cache / "case1" / "study.json").read_text()) | {"case": "case1-r0"}
    (copy / "study.json").write_text(json.dumps(facts))
    with pytest.raises(ConfigError, match=r"or on their patients \(case1-r0\)"):
        check_not_seen(run, seen_by(run), ["case1-r0"], tmp_path / "cache", "test with")


def test_a_fold_with_a_patient_on_both_sides_is_refused(tiny_cache) -> None:
    """case1 and case2 are the same patient here, whatever the split calls them."""
    studies = [load(tiny_cache, "case0"), replace(load(tiny_cache, "case1"), patient="patient2")]
    apart = Fold(name="0", train=("case0", "case1"), validate=("case3",), test=())
    check_apart(studies, apart, tiny_cache)
    with pytest.raises(ConfigError, match=r"fold 0 trains on the patients of 1 cases .*\(case2\)"):
        check_apart(studies, replace(apart, test=("case2",)), tiny_cache)
