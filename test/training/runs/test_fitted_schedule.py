import json

import pytest
from tiny_settings import tiny_slices, tiny_training

from model.errors import ConfigError
from training.data.folds import Fold
from training.runs import fitted_schedule
from training.runs.start import starting_network
from training.runs.train import carry_on, train_run
from training.settings import changed, read_yaml, settings_from, settings_to
from training.stopping import StoppedInTime

FOLD = Fold(name="0", train=("case0", "case1", "case3"), validate=("case2",))
MINUTES = {"schedule": {"epochs": 4, "stop": 2, "steps_per_epoch": None, "minutes": 0.1}}


@pytest.mark.slow
def test_the_cosine_ends_where_the_minutes_end(tiny_cache, tmp_path, monkeypatch) -> None:
    """6 s for 4 epochs of steps that take 0.25 s each: 24 steps, 6 an epoch; a run to epoch 2 takes 12 of them."""
    monkeypatch.setattr(fitted_schedule, "seconds_a_step", lambda *_: 0.25)
    settings = changed(tiny_training(), MINUTES)
    result = train_run(tmp_path / "run", settings, tiny_cache, FOLD, wanted="cpu")
    config = read_yaml(tmp_path / "run" / "config.yaml")
    assert config["settings"]["schedule"]["steps_per_epoch"] == 6 and "minutes" not in config["settings"]["schedule"]
    assert result["fitted"] == config["fitted"]
    assert {"minutes": 0.1, "steps_per_epoch": 6, "seconds_a_step": 0.25}.items() <= result["fitted"].items()
    steps = [json.loads(line)["step"] for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert steps == [6, 12]


@pytest.mark.slow
def test_a_fitted_run_goes_on_and_is_done_again_from_what_it_wrote(tiny_cache, tmp_path, monkeypatch) -> None:
    """The settings in its config.yaml alone give the same weights; on a slower machine the same run is finished."""
    monkeypatch.setattr(fitted_schedule, "seconds_a_step", lambda *_: 0.5)
    settings = changed(tiny_training(), MINUTES)
    first = train_run(tmp_path / "run", settings, tiny_cache, FOLD, wanted="cpu")
    monkeypatch.setattr(fitted_schedule, "seconds_a_step", lambda *_: pytest.fail("it was measured again"))
    assert train_run(tmp_path / "run", settings, tiny_cache, FOLD, wanted="cpu") == first
    written = settings_from(read_yaml(tmp_path / "run" / "config.yaml")["settings"])
    assert train_run(tmp_path / "again", written, tiny_cache, FOLD, wanted="cpu")["sha256"] == first["sha256"]
    longer = changed(settings, {"schedule": {"stop": None}})
    carry_on(tmp_path / "run", tmp_path / "longer", longer)  # from epoch 2 to 4 with the steps that were chosen
    assert train_run(tmp_path / "longer", longer, tiny_cache, FOLD, wanted="cpu")["epoch"] == 4
    other = changed(settings, {"schedule": {"minutes": 0.2}})
    with pytest.raises(ConfigError, match=r"other settings \(schedule.minutes is 0.2 now\)"):
        train_run(tmp_path / "run", other, tiny_cache, FOLD, wanted="cpu")


def test_a_step_is_timed_by_the_loop_itself(tiny_cache, tmp_path, monkeypatch, cpu) -> None:
    """A clock by which a step takes 0.75 s: 2 steps take 1.5, too short for the least of 3; 5 take 3.75, enough."""
    settings = changed(tiny_training(), MINUTES)
    steps, ends = [], []

    def train(run, state):
        assert state is None and run.settings.averaging is None
        steps.append(run.settings.schedule.steps_per_epoch)
        for epoch in range(1, run.settings.schedule.last + 1):
            ends.append(0.75 * steps[-1])
            run.at_epoch(epoch, {})

    monkeypatch.setattr(fitted_schedule, "LEAST_S", 3.0)
    monkeypatch.setattr(fitted_schedule, "train", train)
    monkeypatch.setattr(fitted_schedule.time, "perf_counter", lambda: sum(ends))
    network = starting_network(settings, None, None)
    assert fitted_schedule.seconds_a_step(settings, network, [], cpu) == 0.75 and steps == [2, 5]


@pytest.mark.slow
@pytest.mark.parametrize("settings", [tiny_training(), tiny_slices()], ids=["volumes", "slices"])
def test_timing_leaves_no_trace_in_the_run(settings, tiny_cache, tmp_path, monkeypatch) -> None:
    """A run that timed its steps for real ends with the weights of one that was given as many."""
    monkeypatch.setattr(fitted_schedule, "LEAST_S", 0.0)
    few = {"schedule": {"epochs": 2, "stop": None, "steps_per_epoch": None, "minutes": 1e-4}}  # 6 ms: one step an epoch
    fitted = train_run(tmp_path / "a", changed(settings, few), tiny_cache, FOLD, wanted="cpu")
    assert fitted["fitted"]["steps_per_epoch"] == 1 and fitted["fitted"]["seconds_a_step"] > 0
    given = changed(settings, {"schedule": {"epochs": 2, "steps_per_epoch": 1}})
    assert train_run(tmp_path / "b", given, tiny_cache, FOLD, wanted="cpu")["sha256"] == fitted["sha256"]


def test_minutes_and_steps_exclude_each_other_and_torchrun(tiny_cache, tmp_path, monkeypatch) -> None:
    with pytest.raises(ConfigError, match="minutes chooses steps_per_epoch; leave one of them out"):
        changed(tiny_training(), {"schedule": {"minutes": 5, "steps_per_epoch": 3}})
    with pytest.raises(ConfigError, match="schedule.minutes must be a number above 0"):
        changed(tiny_training(), {"schedule": {"minutes": 0, "steps_per_epoch": None}})
    monkeypatch.setattr(fitted_schedule, "processes", lambda: 2)
    with pytest.raises(ConfigError, match="with torchrun give schedule.steps_per_epoch"):
        train_run(tmp_path / "run", changed(tiny_training(), MINUTES), tiny_cache, FOLD, wanted="cpu")
    assert "minutes" not in settings_to(tiny_training())["schedule"] and not (tmp_path / "run").exists()


def test_a_run_that_stops_while_its_steps_are_timed_says_so(tiny_cache, tmp_path, monkeypatch) -> None:
    """By its own folder, not by the one that the timing writes into."""
    monkeypatch.setattr("training.compute.torchrun.time_is_over", lambda: True)
    with pytest.raises(StoppedInTime, match=f"the steps of '{tmp_path / 'run'}' were being timed; the same command"):
        train_run(tmp_path / "run", changed(tiny_training(), MINUTES), tiny_cache, FOLD, wanted="cpu")
