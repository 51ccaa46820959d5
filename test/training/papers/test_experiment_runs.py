import pytest
from conftest import ROOT
from tiny_studies import lesion_study

from model.errors import ConfigError, LesionError
from training.data.folds import Fold
from training.papers import experiment_runs
from training.papers.experiment_data import ExperimentData
from training.papers.experiment_runs import run_folders, runs_of, settings_of_rows, train_only
from training.papers.plan import read_plan
from training.papers.published_tables import TABLE_2, VOLUMES, WHOLE_BODY

PLAN = read_plan(ROOT / "training/configs/smoke.yaml")


@pytest.fixture
def data(tmp_path) -> ExperimentData:
    studies = {study.case: study for study in (lesion_study(tmp_path, seed) for seed in range(3))}
    fold = Fold(name="0", train=("case0",), validate=("case1",), test=("case2",))
    return ExperimentData(studies=studies, cache=tmp_path, fold=fold, text="three studies")


def test_every_row_is_a_run_of_its_own_to_the_last_epoch() -> None:
    table2, wholebody = settings_of_rows("table2", PLAN), settings_of_rows("wholebody", PLAN)
    assert list(table2) == list(TABLE_2) and list(wholebody) == [VOLUMES, *WHOLE_BODY]
    assert {s.schedule.stop for s in (*table2.values(), *wholebody.values())} == {None}
    assert {s.network.kind for name, s in wholebody.items() if name != VOLUMES} == {"slices"}


def test_members_leave_the_base_run_and_vanilla_carries_it_on(data, tmp_path) -> None:
    begin = {"ct_encoder": tmp_path / "e", "start": None}
    vanilla, *members = runs_of("table3", PLAN, data, tmp_path, begin)
    assert vanilla.ct_encoder == tmp_path / "e" and vanilla.settings.schedule.stop is None
    assert [run.start for run in members] == [tmp_path / "base"] * len(PLAN.members)
    assert [run.folder for run in (vanilla, *members)] == run_folders("table3", PLAN, tmp_path)


def test_a_job_trains_its_own_run_alone(data, tmp_path, monkeypatch) -> None:
    trained: list[str] = []
    monkeypatch.setattr(experiment_runs, "train_run", lambda folder, *_, **__: trained.append(folder.name))
    monkeypatch.setattr(experiment_runs, "pretrain_encoder", lambda *_: None)
    monkeypatch.setattr(experiment_runs, "carry_on", lambda *_: None)
    train_only("early-matched", "table2", PLAN, data, tmp_path, "cpu")
    assert trained == ["early-matched"]
    trained.clear()
    train_only("first", "table3", PLAN, data, tmp_path, "cpu")
    assert trained == ["base"]
    member = next(iter(PLAN.members))
    train_only(member, "table3", PLAN, data, tmp_path, "cpu")  # a base run that is finished is not done again
    assert trained == ["base", "base", member]
    with pytest.raises(ConfigError, match="--only must be first, summary or one of SwinUNETR, early, middle"):
        train_only("none", "table2", PLAN, data, tmp_path, "cpu")


def test_a_summary_names_the_runs_that_it_lacks(data, tmp_path) -> None:
    with pytest.raises(LesionError, match="6 of 6 runs in .* are not finished: SwinUNETR, early, middle"):
        train_only("summary", "table2", PLAN, data, tmp_path, "cpu")
