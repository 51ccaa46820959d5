from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import tiny_training

from model.errors import ConfigError
from model.lesions import score
from model.networks import build
from training import checkpoint
from training.predict import device_for, margin
from training.prepare import load
from training.procedure import CONVENTION, Judge, read_plan, voters_of, write_fold
from training.settings import settings_to
from training.split import Fold, read_fold

CONFIGS = Path(__file__).resolve().parent.parent / "training" / "configs"


def plan_file(folder: Path, **changes: object) -> Path:
    settings = settings_to(tiny_training(schedule={"epochs": 6, "stop": 4, "warmup_epochs": 1}))
    content = {
        "settings": settings, "averaging": {"length_epochs": 1},
        "members": {"calm": {"augmentation": "weak"}, "b": None}, "networks": {},
        "phantoms": {"train": {}, "validate": {}, "test": {}},
    } | changes  # fmt: skip
    (folder / "plan.yaml").write_text(yaml.safe_dump(content))
    return folder / "plan.yaml"


def states(count: int) -> list[dict[str, torch.Tensor]]:
    found = []
    for seed in range(count):
        torch.manual_seed(seed)
        found.append(build(tiny_training().network).state_dict())
    return found


def test_members_are_the_base_run_averaged_from_t0_with_their_changes(tmp_path) -> None:
    plan = read_plan(plan_file(tmp_path))
    members = plan.member_settings()
    assert set(members) == {"calm", "b"} and members["calm"].augmentation == "weak"
    assert all(m.averaging.start == 4 and m.schedule.stop is None and m.schedule.epochs == 6 for m in members.values())
    assert members["b"].augmentation == plan.base.augmentation == "paper" and plan.base.averaging is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {}}, "schedule.stop must say the epoch t0"),
        ({"phantoms": {"train": {}}}, "must have train, validate, test"),
        ({"members": {"a": {"batsch": 1}}}, "members: a has unknown keys: batsch"),
        ({"extra": 1}, "unknown keys: extra"),
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
    """The rule of training/README.md: below 100,000 train, below 200,000 validate, above test; F is never seen."""
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


def test_a_fold_is_written_as_a_split_that_reads_back(tmp_path) -> None:
    fold = Fold(name="x", train=("a", "b", "b"), validate=("c",), test=("d",))
    assert read_fold(write_fold(fold, tmp_path / "split.json"), "x") == fold


def fabricated(folder: Path) -> dict:
    """A selection over two runs, one of which counts twice."""
    for name, state in zip("mn", states(2), strict=True):
        checkpoint.write_weights(folder / name / "mean.safetensors", state)
        checkpoint.write_json(folder / name / checkpoint.RESULT, {"result": "mean.safetensors"})
    return {
        "members": [{"name": name, "run": str(folder / name)} for name in "mn"],
        "choices": {
            "eoa_greedy": {"method": "eoa", "weights": {"m": 2, "n": 1}},
            "diwa_greedy": {"method": "diwa", "weights": {"m": 2, "n": 1}},
        },
    }


def test_eoa_votes_by_share_and_diwa_is_one_mean_of_weights(tmp_path) -> None:
    voters, (m, n) = voters_of(fabricated(tmp_path)), states(2)
    assert [share for share, _ in voters["EoA greedy"]] == [2 / 3, 1 / 3]
    assert all(torch.equal(voters["EoA greedy"][0][1][key], m[key]) for key in m)
    [(share, mean)] = voters["DiWA greedy"]
    assert share == 1
    for key in m:
        torch.testing.assert_close(mean[key], (2 * m[key] + n[key]) / 3)


def test_the_judge_scores_the_mean_of_margins_and_runs_each_network_once(
    tiny_cache, tiny_studies, tmp_path, monkeypatch
) -> None:
    settings, cpu, found = tiny_training(), device_for("float32", "cpu"), states(2)
    margins = []
    for state in found:
        network = build(settings.network)
        network.load_state_dict(state)
        margins.append(margin(network, load(tiny_cache, "case0"), settings, cpu).astype(np.float32))
    judge = Judge(settings, {study.case: study for study in tiny_studies}, tiny_cache, tmp_path, "cpu")
    voters = [(0.25, found[0]), (0.75, found[1])]
    [row] = judge.scores(voters, ["case0"])
    expected = score(0.25 * margins[0] + 0.75 * margins[1] > 0, load(tiny_cache, "case0").truth, 0.064)
    assert row.dice == expected.dice and row.fpv_ml == expected.fpv_ml and row.convention == CONVENTION
    assert (row.patient, row.diagnosis, row.site) == ("patient0", "lymphoma", "A")
    monkeypatch.setattr("training.predict.margin", lambda *_: pytest.fail("ran again"))
    assert judge.scores(voters, ["case0"]) == [row]
