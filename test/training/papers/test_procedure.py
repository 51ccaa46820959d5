import csv
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import ROOT
from safetensors.torch import load_file
from tiny_runs import make_runs
from tiny_settings import tiny_training
from tiny_studies import lesion_study

from model.errors import ConfigError
from model.inference.device import choose_device
from model.networks.unet import build
from model.results.metrics import score
from training.data.folds import Fold, read_fold
from training.data.prepared import digest_of, load
from training.data.table import read_table
from training.judging.predict import margin
from training.papers import plan_phantoms
from training.papers.plan import read_plan
from training.papers.plan_phantoms import make_phantoms
from training.papers.procedure import CONVENTION, choices_of, need_no_base, score_choices, write_fold
from training.phantom.table import COLUMNS
from training.settings import read_yaml, settings_to

CONFIGS = ROOT / "training" / "configs"


def plan_file(folder: Path, **changes: object) -> Path:
    settings = settings_to(tiny_training(schedule={"epochs": 6, "stop": 4, "warmup_epochs": 1}))
    content = {
        "settings": settings,
        "averaging": {"length_epochs": 1},
        "members": {"calm": {"augmentation": "weak"}, "b": None},
        "networks": {},
        "phantoms": {"train": {}, "validate": {}, "test": {}},
    } | changes
    (folder / "plan.yaml").write_text(yaml.safe_dump(content))
    return folder / "plan.yaml"


def seeds(**parts: object) -> dict:
    return {"phantoms": {"train": {}, "validate": {}, "test": {}} | parts}


def test_members_are_the_base_run_averaged_from_t0_with_their_changes(tmp_path) -> None:
    plan = read_plan(plan_file(tmp_path))
    members = plan.member_settings()
    assert set(members) == {"calm", "b"} and members["calm"].augmentation == "weak"
    assert all(m.averaging.start == 4 and m.schedule.stop is None and m.schedule.epochs == 6 for m in members.values())
    assert members["b"].augmentation == plan.base.augmentation == "paper" and plan.base.averaging is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {}}, "schedule.stop must be the epoch t0"),
        ({"phantoms": {"train": {}}}, "must have train, validate, test"),
        ({"members": {"a": {"batsch": 1}}}, "members: a has unknown keys: batsch"),
        ({"extra": 1}, "unknown keys: extra"),
        ({"members": ["a"]}, "members must be a mapping"),
        ({"members": {"a/b": {}}}, "members: a member cannot be called 'a/b'"),
        ({"pretrain": {"batsch": 1}}, "pretrain has unknown keys: batsch"),
        ({"networks": {"wide": {"fusion": "middel"}}}, "networks: wide"),
        (
            seeds(train={"A": [99_990, 20]}),
            r"phantoms.train.A is seeds 99990 to 100009; the seeds to train are 0 to 99999",
        ),
        (seeds(validate={"A": [5, 2]}), "phantoms.validate.A is seeds 5 to 6"),
        (seeds(train={"F": [0, 2]}), "site F is for tests alone"),
        (seeds(test={"Z": [200_000, 2]}), "there is no site Z"),
        (seeds(test={"A": 200_000}), r"must be \[first seed, how many\]"),
        (seeds(test={"A": [200_000, 0]}), "phantoms.test.A"),
        (seeds(test=[1]), "phantoms.test must be a mapping"),
    ],
)
def test_a_wrong_plan_is_refused_by_its_key(changes: dict, message: str, tmp_path) -> None:
    with pytest.raises(ConfigError, match=message):
        read_plan(plan_file(tmp_path, **changes))


@pytest.mark.parametrize("scale", ["paper", "small", "smoke"])
def test_the_plans_of_the_three_scales_are_plans_with_six_networks(scale: str) -> None:
    plan = read_plan(CONFIGS / f"{scale}.yaml")
    assert len(plan.networks) == 6 and len(plan.members) >= 2


@pytest.mark.parametrize("scale", ["paper", "small", "smoke"])
def test_seeds_of_the_plans_keep_to_their_ranges_and_site_f_to_tests(scale: str) -> None:
    """The rule of training/README.md: below 100,000 train, below 200,000 validate, above test; F only tests."""
    phantoms = read_plan(CONFIGS / f"{scale}.yaml").phantoms
    for part, (low, high) in {"train": (0, 1e5), "validate": (1e5, 2e5), "test": (2e5, 1e9)}.items():
        assert all(low <= first and first + count <= high for first, count in phantoms[part].values())
    assert "F" in phantoms["test"] and "F" not in phantoms["train"] and "F" not in phantoms["validate"]


def test_the_paper_scale_is_the_papers() -> None:
    plan = read_plan(CONFIGS / "paper.yaml")
    assert plan.base.crops.size == (160, 160, 160) and plan.base.batch * plan.base.accumulate == 8
    assert plan.base.schedule.epochs == 1000 and plan.base.optimizer.rate == 1e-4
    assert {m.optimizer.name for m in plan.member_settings().values()} == {"adamp", "adamw", "adabelief"}
    assert {m.augmentation for m in plan.member_settings().values()} == {"weak", "paper", "strong"}


def test_phantoms_that_were_made_anew_are_indexed_anew(tmp_path, monkeypatch) -> None:
    """The generator is a stand-in: small studies lie where it would have left phantoms."""
    monkeypatch.setattr(plan_phantoms.phantoms_command, "run", lambda _: None)
    plan = read_plan(plan_file(tmp_path, **seeds(train={"A": [7, 1]})))

    def phantoms(lesions: int) -> str:
        study = lesion_study(tmp_path / "phantoms", 7, lesions)
        values = ("A000007", "phantom-000007", "lymphoma", "FDG", "A", study.pet.name, study.ct.name, study.truth.name)
        with (tmp_path / "phantoms" / "studies.csv").open("w", newline="") as file:
            csv.writer(file).writerows((COLUMNS, values))
        return study.sha256

    first = phantoms(1)
    index, fold = make_phantoms(plan, tmp_path, workers=1)
    assert fold.train == ("A000007",) and read_table(index)["A000007"].sha256 == first
    written = index.stat().st_mtime_ns
    make_phantoms(plan, tmp_path, workers=1)
    assert index.stat().st_mtime_ns == written  # nothing changed
    second = phantoms(2)
    os.utime(tmp_path / "phantoms" / "case7-truth.mha", ns=(written + 1, written + 1))
    make_phantoms(plan, tmp_path, workers=1)
    assert read_table(index)["A000007"].sha256 == second != first


def test_a_fold_is_written_as_a_split_that_reads_back(tmp_path) -> None:
    fold = Fold(name="x", train=("a", "b", "b"), validate=("c",), test=("d",))
    assert read_fold(write_fold(fold, tmp_path), "x") == fold


def test_choices_are_the_members_each_as_often_as_it_counts() -> None:
    report = {
        "choices": {
            "eoa_greedy": {"method": "eoa", "weights": {"m": 2, "n": 1}},
            "diwa_greedy": {"method": "diwa", "weights": {"n": 1}},
        }
    }
    assert choices_of(report) == {"EoA greedy": ("eoa", ("m", "m", "n")), "DiWA greedy": ("diwa", ("n",))}


def test_members_that_are_all_there_need_no_base_run(tiny_cache, tmp_path) -> None:
    fold, settings = Fold(name="0", train=("case0", "case1", "case3"), validate=("case2",)), tiny_training()
    for run in make_runs(tmp_path, 2):
        config = read_yaml(run / "config.yaml")
        data = digest_of(load(tiny_cache, case) for case in (*fold.train, *fold.validate))
        config |= {"train": list(fold.train), "validate": list(fold.validate), "data": data}
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        (tmp_path / "members").mkdir(exist_ok=True)
        run.rename(tmp_path / "members" / run.name)
    members = {"m1": settings, "m2": settings}
    assert not need_no_base(members, tmp_path, tiny_cache, fold)  # the base run is there
    (tmp_path / "base/last.safetensors").unlink()
    assert need_no_base(members, tmp_path, tiny_cache, fold)
    assert not need_no_base({**members, "m3": settings}, tmp_path, tiny_cache, fold)  # not trained yet
    assert not need_no_base({"m1": tiny_training(seed=9), "m2": settings}, tmp_path, tiny_cache, fold)
    assert not need_no_base(members, tmp_path, tiny_cache, replace(fold, validate=()))


@pytest.mark.slow
def test_choices_are_scored_by_mean_margins_and_mean_weights(tiny_cache, tiny_studies, tmp_path) -> None:
    """EoA counts m1 twice; the network of DiWA is the mean of both members' weights."""
    runs, settings, cpu = make_runs(tmp_path, 2), tiny_training(), choose_device("cpu", "float32")
    states = [load_file(run / "mean.safetensors") for run in runs]
    states.append({name: (states[0][name].double() + states[1][name]).float() / 2 for name in states[0]})
    study, margins = load(tiny_cache, "case1"), []
    for state in states:
        network = build(settings.network)
        network.load_state_dict(state)
        margins.append(margin(network, study, settings, cpu).astype(np.float32))
    choices = {"e": ("eoa", ("m1", "m2", "m1")), "d": ("diwa", ("m1", "m2"))}
    index = {study.case: study for study in tiny_studies}
    found = score_choices(runs, choices, index, ["case1"], cache=tiny_cache, keep=tmp_path / "keep", device="cpu")
    for name, expected in {"e": (2 * margins[0] + margins[1]) / 3, "d": margins[2]}.items():
        [row] = found[name]
        wanted = score(expected > 0, study.truth, 0.064)
        assert row.dice == pytest.approx(wanted.dice, abs=1e-3) and row.convention == CONVENTION
        assert (row.case, row.patient, row.diagnosis, row.site) == ("case1", "patient1", "lymphoma", "B")


def test_a_choice_is_not_scored_on_what_trained_its_members(tiny_cache, tiny_studies, tmp_path) -> None:
    runs, index = make_runs(tmp_path, 1), {study.case: study for study in tiny_studies}
    with pytest.raises(ConfigError, match="trained on 1 of the 1 cases to score on"):
        score_choices(
            runs, {"a": ("eoa", ("m1",))}, index, ["case0"], cache=tiny_cache, keep=tmp_path / "keep", device="cpu"
        )


@pytest.mark.parametrize("scale", ["paper", "small", "smoke"])
def test_every_scale_of_the_experiments_is_a_plan(scale) -> None:
    plan = read_plan(ROOT / "training" / "configs" / f"{scale}.yaml")
    assert plan.networks and plan.member_settings() and plan.slices
