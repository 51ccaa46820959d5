"""Members of one base run; all tests but one with a stand-in for training train, which is slow to start."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from msgspec import structs
from tiny_settings import tiny_training

from model.errors import ConfigError
from model.files import sha256_of
from model.networks.unet import build
from training.__main__ import main
from training.data.folds import Fold
from training.data.prepared import digest_of, load
from training.ensembles.processes import Engine
from training.ensembles.sweep import Sweep, sweep
from training.settings import changed, settings_to
from training.stopping import StoppedInTime
from training.weights.checkpoint import write_json, write_weights

STAND_IN = """
import hashlib, json, os, sys, yaml
o = dict(word[2:].split("=") for word in map("=".join, zip(sys.argv[1::2], sys.argv[2::2])))
with open(os.environ["CALLS"], "a") as file:
    print(os.path.basename(o["run"]), file=file)
settings = yaml.safe_load(open(o["settings"]))
if settings["seed"] == 13 and not os.path.exists(os.environ["CALLS"] + ".repaired"):
    sys.exit("error: the loss is nan at step 5")
fold = {fold["name"]: fold for fold in json.load(open(o["split"]))["folds"]}[o["fold"]]
weights = open(o["start"] + "/last.safetensors", "rb").read()
start = {"run": os.path.realpath(o["start"]), "sha256": hashlib.sha256(weights).hexdigest()}
os.makedirs(o["run"])
if settings["seed"] != 99:
    config = {"settings": settings, "data": os.environ["DATA"], "start": start} | fold
    yaml.safe_dump(config, open(o["run"] + "/config.yaml", "w"))
    open(o["run"] + "/mean.safetensors", "wb").write(weights)
    done = {"start": start, "result": "mean.safetensors", "sha256": start["sha256"], "epoch": 3}
    json.dump(done, open(o["run"] + "/run.json", "w"))
"""
FOLD = Fold(name="0", train=("case0", "case1"), validate=("case2",))
OVER = {"schedule": {"epochs": 3}, "averaging": {"start": 2, "length_epochs": 1}}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sweep") / "base"
    write_weights(folder / "last.safetensors", build(tiny_training().network).state_dict())
    sha256 = sha256_of(folder / "last.safetensors")
    write_json(folder / "run.json", {"result": "last.safetensors", "sha256": sha256, "epoch": 2, "start": None})
    return folder


@pytest.fixture
def plan(base, tiny_cache, tmp_path, monkeypatch):
    """plan(name=seed, ...): a sweep of these members, with the stand-in; its calls are in tmp_path/calls."""
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    split = {"folds": [{"name": "0", "train": FOLD.train, "validate": FOLD.validate, "test": ()}]}
    (tmp_path / "split.json").write_text(json.dumps(split))
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("DATA", digest_of(load(tiny_cache, case) for case in (*FOLD.train, *FOLD.validate)))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def make(**seeds: int) -> Sweep:
        return Sweep(
            members={name: changed(tiny_training(seed=seed), OVER) for name, seed in seeds.items()},
            base=base,
            cache=tiny_cache,
            split=tmp_path / "split.json",
            fold="0",
            runs=tmp_path / "runs",
            device="cpu",
            command=(sys.executable, str(tmp_path / "stand_in.py")),
        )

    return make


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().split()


def test_a_failed_member_does_not_stop_the_others(plan, tmp_path) -> None:
    report = sweep(plan(a=1, b=13, c=3))
    assert report["members"] == {
        "a": {"state": "finished"},
        "b": {"state": "failed", "error": "the loss is nan at step 5"},
        "c": {"state": "finished"},
    }
    assert json.loads((tmp_path / "runs" / "sweep.json").read_text()) == report
    assert "nan at step 5" in (tmp_path / "runs" / "sweep" / "b.log").read_text()


def test_a_sweep_that_stops_in_time_leaves_the_rest_pending_and_goes_on(plan, tmp_path, monkeypatch) -> None:
    """The time is over once the first member has ended; one that stopped before its end has not failed."""
    with monkeypatch.context() as stopped:
        for name in ("processes", "sweep"):
            stopped.setattr(f"training.ensembles.{name}.time_is_over", lambda: (tmp_path / "calls").exists())
        with pytest.raises(StoppedInTime, match="c are not finished"):
            sweep(plan(a=1, c=3))
        with pytest.raises(StoppedInTime, match="b are not finished"):
            (tmp_path / "calls").unlink()
            sweep(plan(b=99))
    states = json.loads((tmp_path / "runs" / "sweep.json").read_text())["members"]
    assert states == {"b": {"state": "pending"}}
    assert [entry["state"] for entry in sweep(plan(a=1, c=3))["members"].values()] == ["finished", "finished"]


def test_the_same_sweep_again_does_only_what_is_not_finished(plan, tmp_path) -> None:
    sweep(plan(a=1, b=13))
    (tmp_path / "calls.repaired").touch()
    report = sweep(plan(a=1, b=13))
    assert [entry["state"] for entry in report["members"].values()] == ["finished", "finished"]
    assert calls(tmp_path) == ["a", "b", "b"]


def test_a_finished_member_of_other_settings_is_not_taken_for_this_one(plan, tmp_path) -> None:
    sweep(plan(a=1))
    sweep(plan(a=2))
    assert calls(tmp_path) == ["a", "a"]


def test_a_finished_member_is_not_trained_again_when_the_base_run_moved(plan, base, tmp_path) -> None:
    sweep(plan(a=1))
    shutil.copytree(base, tmp_path / "moved")
    sweep(Sweep(**vars(plan(a=1)) | {"base": tmp_path / "moved"}))
    assert calls(tmp_path) == ["a"]


def test_a_member_that_ends_without_a_result_has_failed(plan) -> None:
    report = sweep(plan(a=99))
    reason = "it ended without run.json and the weights that this file names"
    assert report["members"]["a"] == {"state": "failed", "error": reason}


def test_several_at_a_time_end_as_one_after_the_other_does(plan, tmp_path) -> None:
    report = sweep(plan(a=1, b=13, c=3), Engine(parallel=2))
    assert [entry["state"] for entry in report["members"].values()] == ["finished", "failed", "finished"]
    assert sorted(calls(tmp_path)) == ["a", "b", "c"]


def test_every_member_starts_from_the_base_runs_weights(plan, base) -> None:
    report = sweep(plan(a=1))
    assert report["base"] == {"run": str(base.resolve()), "sha256": sha256_of(base / "last.safetensors")}


def test_members_of_another_t0_are_refused_before_anything_runs(plan, tmp_path) -> None:
    wrong = plan(a=1)
    wrong.members["b"] = changed(wrong.members["a"], {"averaging": {"start": 1}})
    with pytest.raises(ConfigError, match="ended at epoch 2, averaging.start is 1"):
        sweep(wrong)
    assert not (tmp_path / "runs").exists()


def test_a_base_run_that_is_not_finished_is_refused(plan, tmp_path) -> None:
    with pytest.raises(ConfigError, match="no finished run"):
        sweep(Sweep(**vars(plan(a=1)) | {"base": tmp_path}))


@pytest.mark.slow
def test_the_command_trains_members_and_fails_if_one_did(plan, base, tiny_cache, tmp_path, capsys) -> None:
    """With training train itself: one member is trained, another finds its folder in use."""
    runs = tmp_path / "runs"
    (runs / "taken").mkdir(parents=True)
    (runs / "taken" / "notes.txt").touch()
    one = settings_to(changed(tiny_training(), OVER))
    members = {"taken": {}, "good": {"seed": 5}}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump({"settings": one, "members": members}))
    options = {"cache": tiny_cache, "split": plan().split, "base": base, "runs": runs, "device": "cpu"}
    words = [str(word) for key, value in options.items() for word in (f"--{key}", value)]
    assert main(["sweep", str(tmp_path / "sweep.yaml"), *words]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: 1 of 2 members failed: taken; see")
    states = json.loads((runs / "sweep.json").read_text())["members"]
    assert states["good"] == {"state": "finished"} and "is not empty" in states["taken"]["error"]
    result = json.loads((runs / "good" / "run.json").read_text())
    assert result["start"]["sha256"] == sha256_of(base / "last.safetensors") and result["epoch"] == 3
    assert (runs / "good" / "mean.safetensors").is_file()


def test_the_command_says_what_is_wrong_with_the_yaml(tmp_path, capsys) -> None:
    words = [word for key in ("cache", "split", "base", "runs") for word in (f"--{key}", str(tmp_path / key))]
    assert main(["sweep", str(tmp_path / "no.yaml"), *words]) == ConfigError.exit_code
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: cannot read")


def test_a_member_that_is_not_averaged_is_refused(plan) -> None:
    there = plan(one=1)
    with pytest.raises(ConfigError, match="member one has no averaging"):
        sweep(replace(there, members={"one": structs.replace(there.members["one"], averaging=None)}))
