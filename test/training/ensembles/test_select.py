import json
from itertools import combinations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import FOLD, dice_of, logits, make_run, make_runs, random_state, small_cache

from model.errors import ConfigError
from model.files import sha256_of
from training.__main__ import main
from training.data.folds import Fold
from training.ensembles.select import TITLES, finished, select_runs, text_of

ILL = FOLD.validate[:2]  # case3 has no lesion
NAMES = ("m1", "m2", "m3")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return small_cache(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list:
    return make_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def keep(tmp_path_factory):
    return tmp_path_factory.mktemp("keep")


@pytest.fixture(scope="module")
def report(runs, cache, keep) -> dict:
    return select_runs(runs, cache, FOLD, keep, device="cpu")


@pytest.fixture(scope="module")
def tables(runs, cache) -> dict[str, dict[tuple[str, ...], float]]:
    """Dice of every set of members, by MONAI's sliding window and NumPy's and torch's means."""
    states = {run.name: load_file(run / "mean.safetensors") for run in runs}
    margins = {(name, case): logits(states[name], cache, case) for name in NAMES for case in ILL}
    sets = [chosen for n in (1, 2, 3) for chosen in combinations(NAMES, n)]
    found: dict[str, dict] = {"eoa": {}, "diwa": {}}
    for chosen in sets:
        mean = {n: torch.stack([states[m][n].double() for m in chosen]).mean(0).float() for n in states["m1"]}
        eoa = [dice_of(np.mean([margins[m, case] for m in chosen], axis=0), cache, case) for case in ILL]
        diwa = [dice_of(logits(mean, cache, case), cache, case) for case in ILL]
        found["eoa"][chosen], found["diwa"][chosen] = float(np.mean(eoa)), float(np.mean(diwa))
    return found


def by_hand(table: dict, ranked: list[str]) -> list[tuple[str, bool]]:
    """Algorithms 1 and 2, line by line, over a table of every set."""
    chosen, steps = [], []
    for name in ranked:
        kept = not chosen or table[tuple(sorted([*chosen, name]))] >= table[tuple(sorted(chosen))]
        steps.append((name, kept))
        chosen += [name] if kept else []
    return steps


@pytest.mark.slow
def test_members_are_ranked_by_validation_dice(report, tables) -> None:
    ranked = sorted(NAMES, key=lambda name: -tables["eoa"][(name,)])
    assert [(one["rank"], one["name"]) for one in report["members"]] == list(enumerate(ranked, start=1))
    for one in report["members"]:
        assert one["dice"] == pytest.approx(tables["eoa"][(one["name"],)], abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["eoa", "diwa"])
def test_the_greedy_choice_is_the_algorithm_over_an_independent_table(report, tables, method) -> None:
    ranked = [one["name"] for one in report["members"]]
    expected = by_hand(tables[method], ranked)
    choice = report["choices"][f"{method}_greedy"]
    assert [(step["member"], step["kept"]) for step in choice["steps"]] == expected
    assert choice["weights"] == {name: 1 for name, kept in expected if kept}
    assert choice["dice"] == pytest.approx(tables[method][tuple(sorted(choice["weights"]))], abs=1e-3)


@pytest.mark.slow
def test_the_tables_can_tell_the_two_methods_apart(tables) -> None:
    """Else the test above would show little: something is accepted and something rejected, differently."""
    ranked = sorted(NAMES, key=lambda name: -tables["eoa"][(name,)])
    eoa, diwa = by_hand(tables["eoa"], ranked), by_hand(tables["diwa"], ranked)
    assert eoa != diwa and {kept for _, kept in eoa[1:] + diwa[1:]} == {True, False}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["eoa", "diwa"])
def test_the_uniform_choice_takes_all(report, tables, method) -> None:
    choice = report["choices"][f"{method}_uniform"]
    assert choice["weights"] == dict.fromkeys([one["name"] for one in report["members"]], 1)
    assert choice["dice"] == pytest.approx(tables[method][NAMES], abs=1e-3)


@pytest.mark.slow
def test_wa_best_is_the_first_alone(report) -> None:
    best, first = report["choices"]["wa_best"], report["members"][0]
    assert best["weights"] == {first["name"]: 1} and best["dice"] == first["dice"]


@pytest.mark.slow
def test_the_report_says_what_was_used(report, runs, cache) -> None:
    assert list(report["choices"]) == list(TITLES)
    assert report["cases"] == list(FOLD.validate) and report["cases_with_lesion"] == list(ILL)
    assert report["trained_on"] == list(FOLD.train) and report["crop"] == {"suv_above": 0.0}
    base = runs[0].parent / "base"
    assert report["start_sha256"] == sha256_of(base / "last.safetensors")
    for one in report["members"]:
        assert one["sha256"] == sha256_of(runs[0].parent / one["name"] / "mean.safetensors")
        assert one["base"] == str(base.resolve())


@pytest.mark.slow
def test_scores_of_every_case_are_there_and_nan_is_null(report) -> None:
    cases = report["choices"]["eoa_uniform"]["cases"]
    assert list(cases) == list(FOLD.validate)
    assert report["choices"]["eoa_uniform"]["dice"] == pytest.approx(np.mean([cases[case]["dice"] for case in ILL]))
    json.dumps(report, allow_nan=False)


@pytest.mark.slow
def test_seconds_of_eoa_are_the_sum_over_its_members(report) -> None:
    total = sum(one["seconds_per_case"] for one in report["members"])
    assert report["choices"]["eoa_uniform"]["seconds_per_case"] == pytest.approx(total, abs=0.003)


@pytest.mark.slow
def test_with_replacement_every_taking_of_a_member_again_raises_the_score(runs, cache, keep) -> None:
    again = select_runs(runs, cache, FOLD, keep, methods=("eoa",), replacement=True, device="cpu")
    steps = again["choices"]["eoa_greedy"]["steps"]
    assert max(step["pass"] for step in steps) > 1
    for step in steps:
        assert step["kept"] == (step["without"] is None or step["with"] > step["without"])


@pytest.mark.slow
def test_diwa_refuses_members_of_several_starts_and_eoa_takes_them(runs, cache, keep, tmp_path) -> None:
    stranger = make_run(tmp_path / "stranger", random_state(9), make_run(tmp_path / "base2", random_state(8)))
    with pytest.raises(ConfigError, match="several: m1 from .*stranger from .*--method eoa"):
        select_runs([runs[0], stranger], cache, FOLD, keep, device="cpu")
    report = select_runs([runs[0], stranger], cache, FOLD, keep, methods=("eoa",), device="cpu")
    assert report["start_sha256"] is None and set(report["choices"]) == {"wa_best", "eoa_uniform", "eoa_greedy"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("validate", "message"),
    [
        (("case0", "case1"), "was trained on 1 of the 2 cases"),
        (("case3",), "none of the 1 validation cases has a lesion"),
        ((), "has no validation case"),
        (("case7",), "case7.*run training prepare"),
    ],
)
def test_cases_that_cannot_select_are_refused(runs, cache, keep, validate, message) -> None:
    with pytest.raises(ConfigError, match=message):
        select_runs(runs, cache, Fold(name="0", train=(), validate=validate), keep, device="cpu")


def test_the_log_tells_every_decision_in_words() -> None:
    scores = {"dice": 0.7, "fpv_ml": 1.25, "fnv_ml": 0.5, "seconds_per_case": 2.0}
    steps = [
        {"member": "a", "pass": 1, "without": None, "with": 0.7, "kept": True},
        {"member": "b", "pass": 1, "without": 0.7, "with": 0.65, "kept": False},
        {"member": "a", "pass": 2, "without": 0.7, "with": 0.71, "kept": True},
    ]
    text = text_of(
        {
            "fold": "0",
            "cases": ["x", "y"],
            "cases_with_lesion": ["x"],
            "device": "CPU",
            "precision": "float32",
            "replacement": True,
            "members": [{"rank": 1, "name": "a"} | scores, {"rank": 2, "name": "b"} | scores],
            "choices": {"eoa_greedy": {"weights": {"a": 2}, "steps": steps} | scores},
        }
    )
    assert "2 cases, 1 with lesion" in text and "EoA greedy, with replacement" in text
    assert [" ".join(line.split()) for line in text.splitlines() if "->" in line] == [
        "accept nothing -> 0.700000 a",
        "reject 0.700000 -> 0.650000 b",
        "accept 0.700000 -> 0.710000 a (pass 2)",
    ]
    assert text.splitlines()[-1].split() == ["EoA", "greedy", "0.7000", "1.250", "0.500", "2.00", "a", "x", "2"]


def written_split(folder) -> str:
    fold = {"name": "0", "train": FOLD.train, "validate": FOLD.validate, "test": ()}
    (folder / "split.json").write_text(json.dumps({"folds": [fold]}))
    return str(folder / "split.json")


@pytest.mark.slow
def test_the_command_writes_json_and_log(runs, cache, keep, report, tmp_path, capsys) -> None:
    output = tmp_path / "out" / "selection.json"
    words = ["--cache", cache, "--split", written_split(tmp_path), "--output", output, "--keep", keep]
    assert main(["select", *map(str, [*runs, *words, "--device", "cpu"])]) == 0
    assert json.loads(output.read_text()) == json.loads(json.dumps(report))
    assert output.with_suffix(".txt").read_text() == text_of(report)
    assert sorted(path.name for path in output.parent.iterdir()) == ["selection.json", "selection.txt"]


@pytest.mark.slow
def test_the_command_says_what_is_wrong_and_writes_nothing(runs, cache, tmp_path, capsys) -> None:
    output = tmp_path / "selection.json"
    words = ["--cache", cache, "--split", written_split(tmp_path), "--output", output]
    assert main(["select", *map(str, [runs[0], tmp_path, *words])]) == ConfigError.exit_code
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ") and not output.exists()


@pytest.mark.slow
def test_the_split_is_not_written_over(runs, cache, tmp_path, capsys) -> None:
    split = written_split(tmp_path)
    before = (tmp_path / "split.json").read_bytes()
    assert main(["select", *map(str, [*runs, "--cache", cache, "--split", split, "--output", split])]) != 0
    assert "is an input" in capsys.readouterr().err and (tmp_path / "split.json").read_bytes() == before


def test_what_a_sweep_keeps_and_runs_that_have_not_ended_are_left_out(tmp_path, capsys) -> None:
    """As `runs/members/*` names them: two members, one of which was killed, the sweep's folder and its list."""
    done = make_run(tmp_path / "done", random_state(0))
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / "config.yaml").write_text("settings: {}")
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep.json").write_text("{}")
    assert finished(sorted(tmp_path.iterdir())) == [done]
    assert "killed' has not ended" in capsys.readouterr().err
    assert finished([tmp_path / "nothing"]) == [tmp_path / "nothing"]  # reading it is an error
