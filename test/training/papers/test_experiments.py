import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from tiny_studies import lesion_study

from model.errors import ConfigError
from model.files import sha256_of
from training.__main__ import COMMANDS, main
from training.data.folds import Fold
from training.judging.scores import CaseScore, interval
from training.papers import experiments
from training.papers.experiment_data import ExperimentData, check_fold, divide
from training.papers.plan import read_plan
from training.papers.procedure import CONVENTION
from training.papers.published_tables import TABLE_2, TABLE_3, TableRow, markdown


def scored(case: str, site: str, dice: float) -> CaseScore:
    return CaseScore(
        case=case,
        patient=case,
        diagnosis="lymphoma",
        tracer="FDG",
        site=site,
        dice=dice,
        fpv_ml=2.0,
        fnv_ml=1.0,
        lesions_true=1,
        lesions_found=1,
        seconds=1.0,
        convention=CONVENTION,
    )


@pytest.fixture
def data(tmp_path) -> ExperimentData:
    studies = {study.case: study for study in (lesion_study(tmp_path, seed) for seed in range(4))}
    fold = Fold(name="0", train=("case0",), validate=("case2",), test=("case1", "case3"))
    return ExperimentData(studies=studies, cache=tmp_path, fold=fold, text="four studies")


def test_the_papers_figures_are_those_of_its_tables() -> None:
    """Tables 2 and 3 of the paper, typed from it."""
    assert {name: dice for name, (_, dice) in TABLE_2.items()} == {
        "SwinUNETR": 0.6817,
        "early": 0.6723,
        "middle": 0.6934,
        "late": 0.6844,
        "early, matched": 0.6691,
        "late, matched": 0.6853,
    }
    assert list(TABLE_3.items()) == [
        ("vanilla", (0.6948, 8.5077, 13.4579)),
        ("WA best", (0.7097, 9.7973, 10.8431)),
        ("EoA uniform", (0.7160, 9.9053, 11.3314)),
        ("DiWA uniform", (0.6597, 9.9179, 13.9808)),
        ("EoA greedy", (0.7242, 8.8002, 11.3881)),
        ("DiWA greedy", (0.7200, 8.6254, 11.5744)),
    ]


def test_a_table_stands_beside_the_papers_with_its_interval(data) -> None:
    healthy = replace(scored("case5", "F", 0.0), diagnosis="negative", lesions_true=0, lesions_found=0)
    rows = [scored("case1", "A", 0.5), scored("case3", "F", 0.7), healthy]
    text = markdown("table3", [TableRow(name="vanilla", paper=TABLE_3["vanilla"], parameters=1.5, scores=rows)], data)
    mean, low, high = interval([0.5, 0.7])
    head, _, row = text.splitlines()[:3]
    assert [cell.strip() for cell in head.split("|")][1:-1] == [
        "",
        "M parameters",
        "Dice",
        "FPV ml",
        "FNV ml",
        "Dice, site A",
        "Dice, site F",
        "Dice, all cases",
        "paper: Dice",
        "paper: FPV",
        "paper: FNV",
    ]
    assert f"| {mean:.4f} ({low:.4f} to {high:.4f}), n 2 |" in row and "| 0.5000 | 0.7000, n 1 | 0.4000 (" in row
    assert row.endswith("| 0.6948 | 8.5077 | 13.4579 |")
    assert "2 test cases, 1 to train, 1 to validate" in text and CONVENTION in text


def test_a_fold_that_would_fail_after_the_training_is_refused_before(data) -> None:
    check_fold(data.fold, data.studies)
    for changes, message in (
        ({"test": ()}, "no case with lesion to test"),
        ({"validate": ("case9",)}, "not in the index: case9"),
        ({"test": ("case0",)}, "patients both to train and to test: patient0"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_fold(replace(data.fold, **changes), data.studies)


def test_a_split_without_an_index_is_refused(tmp_path, capsys) -> None:
    words = ["table2", "--scale", "smoke", "--split", "split.json", "--run", str(tmp_path / "run")]
    assert main(["experiment", *words]) == ConfigError.exit_code and "give that, too" in capsys.readouterr().err


@pytest.mark.parametrize("table, message", [("table2", "--start is for table3"), ("table3", "run.json is not there")])
def test_a_start_without_a_run_is_refused(table, message, tmp_path, capsys) -> None:
    words = [table, "--scale", "smoke", "--start", str(tmp_path), "--run", str(tmp_path / "run")]
    assert main(["experiment", *words]) == ConfigError.exit_code and message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_start_takes_the_place_of_pre_training(data, tmp_path, monkeypatch) -> None:
    given = []
    monkeypatch.setattr(experiments, "pretrain_encoder", lambda *_: tmp_path / "ct_encoder.safetensors")
    monkeypatch.setattr(experiments, "train_members", lambda *_, **words: given.append(words) or [])
    monkeypatch.setattr(experiments, "carry_on", lambda *_: None)
    monkeypatch.setattr(experiments, "train_run", lambda *_, wanted, **words: given.append(words))
    monkeypatch.setattr(experiments, "select_members", lambda *_: {})
    monkeypatch.setattr(experiments, "choices_of", lambda _: {name: ("eoa", ("a",)) for name in TABLE_3})
    monkeypatch.setattr(experiments, "score_choices", lambda _, choices, *__, **___: dict.fromkeys(choices, []))
    plan = read_plan(ROOT / "training/configs/smoke.yaml")
    for start, encoder in ((None, tmp_path / "ct_encoder.safetensors"), (tmp_path / "start", None)):
        given.clear()
        experiments.table3(plan, replace(data, start=start), tmp_path, "cpu")
        assert given == [{"ct_encoder": encoder, "start": start}] * 2


def test_ones_own_studies_are_divided_by_patient(tmp_path) -> None:
    studies = {study.case: study for study in (lesion_study(tmp_path, seed) for seed in range(12))}
    fold = divide(studies)
    parts = [{studies[case].patient for case in part} for part in (fold.train, fold.validate, fold.test)]
    assert [len(part) for part in parts] == [8, 2, 2] and len(set().union(*parts)) == 12


def test_a_run_leaves_its_table_its_picture_and_what_was_run(data, tmp_path, monkeypatch, capsys) -> None:
    line = TableRow(name="middle", paper=TABLE_2["middle"], parameters=1.0, scores=[scored("case1", "A", 0.5)])
    monkeypatch.setattr(experiments, "data_of", lambda *_: data)
    monkeypatch.setattr(experiments, "table2", lambda *_: [line])
    for run, compute in (("early", 500.0), ("members/late", 1200.0)):
        (tmp_path / "run" / run).mkdir(parents=True)
        (tmp_path / "run" / run / "run.json").write_text(json.dumps({"seconds": {"data": 50.0, "compute": compute}}))
    assert main(["experiment", "table2", "--scale", "smoke", "--run", str(tmp_path / "run"), "--device", "cpu"]) == 0
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"table.md", "table.json", "table.png", "early", "members"}
    assert "| middle |" in capsys.readouterr().out
    written = json.loads((tmp_path / "run" / "table.json").read_text())
    assert written["lines"][0]["cases"][0]["dice"] == 0.5 and written["ran"]["cores"] >= 1
    assert written["ran"]["training_seconds"] == 1800 and written["ran"]["machine"].startswith("CPU")
    assert written["ran"]["command"][:5] == ["python", "-m", "training", "experiment", "table2"]
    assert "0.50 h of training" in (tmp_path / "run" / "table.md").read_text()
    plan = sha256_of(ROOT / "training/configs/smoke.yaml")
    assert written["ran"]["plan_sha256"] == plan and plan in (tmp_path / "run" / "table.md").read_text()


@pytest.mark.parametrize(
    ("table", "lacks", "message"),
    [
        ("table2", "networks", "networks lack SwinUNETR; early; middle"),
        ("table3", "members", "the plan has no members"),
        ("wholebody", "slices", "the plan has no slices"),
    ],
)
def test_a_plan_that_lacks_what_a_table_needs_is_refused_before_anything_is_made(
    table: str, lacks: str, message: str, tmp_path, capsys
) -> None:
    plan = yaml.safe_load((ROOT / "training/configs/smoke.yaml").read_text()) | {lacks: {}}
    if lacks == "slices":
        del plan[lacks]
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    words = [table, "--plan", str(tmp_path / "plan.yaml"), "--run", str(tmp_path / "runs" / "run")]
    assert main(["experiment", *words]) == ConfigError.exit_code and message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "runs").exists()


def test_nothing_is_written_into_a_folder_in_which_no_run_was_begun(tmp_path) -> None:
    assert (
        main(["experiment", "table2", "--plan", str(tmp_path / "gone.yaml"), "--run", str(tmp_path)])
        == ConfigError.exit_code
    )
    assert not list(tmp_path.iterdir())


def test_a_wrong_plan_is_an_error_in_the_last_line(tmp_path, capsys) -> None:
    (tmp_path / "plan.yaml").write_text("members: 3\n")
    words = ["table2", "--plan", str(tmp_path / "plan.yaml"), "--run", str(tmp_path / "run")]
    assert main(["experiment", *words]) == ConfigError.exit_code
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "run").exists()


def test_readme_names_only_commands_that_there_are() -> None:
    text = (ROOT / "training" / "README.md").read_text() + (ROOT / "training" / "chain.sh").read_text()
    names = set(re.findall(r"-m training (?:-- )?([a-z_]+)", text)) | set(re.findall(r"^step ([a-z_]+)", text, re.M))
    assert len(names) >= 9 and names <= set(COMMANDS)
    assert all(Path(ROOT / path).exists() for path in re.findall(r"training/configs/[a-z/]+(?:\.yaml)?", text))
