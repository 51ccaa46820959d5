"""Several commands at a time, with a stand-in for python -m training, which is slow to start."""

import sys
from pathlib import Path

import pytest
from tiny_settings import tiny_training

from model.errors import LesionError
from training.ensembles import side_by_side
from training.ensembles.processes import Engine
from training.ensembles.side_by_side import OneRun, run_side_by_side, train_words
from training.settings import read_settings
from training.stopping import StoppedInTime

STAND_IN = """
import os, sys, time
name, what = sys.argv[1:3]
open(f"{name}.began", "w").close()
begun = time.monotonic()
while what == "wait" and not os.path.exists(sys.argv[3]) and time.monotonic() - begun < 30:
    time.sleep(0.02)
if what == "fail":
    sys.exit("error: no space left")
print(os.environ["OMP_NUM_THREADS"], os.environ.get("CUDA_VISIBLE_DEVICES"))
open(name, "w").close()
"""


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """run(engine, **{name: words}): run commands of the stand-in, each of which makes the file of its name."""
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    monkeypatch.setattr(side_by_side, "TRAINING", (sys.executable, str(tmp_path / "stand_in.py")))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("training.ensembles.sweep.cores", lambda: 8)

    def run(parallel: int, **words: list[str]) -> None:
        made = {name: [str(tmp_path / name), *rest] for name, rest in words.items()}
        run_side_by_side(made, tmp_path / "logs", Engine(parallel=parallel), lambda name: (tmp_path / name).exists())

    return run


@pytest.mark.slow
def test_commands_run_at_the_same_time_and_share_cores_and_gpus(commands, tmp_path, monkeypatch) -> None:
    """Each of two waits for the other to begin, so they end only side by side; 8 cores are 4 each, 2 GPUs one each."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,6")
    commands(2, a=["wait", str(tmp_path / "b.began")], b=["wait", str(tmp_path / "a.began")])
    found = [(tmp_path / "logs" / f"{name}.log").read_text().split() for name in "ab"]
    assert [cores for cores, _ in found] == ["4", "4"] and sorted(gpu for _, gpu in found) == ["5", "6"]


@pytest.mark.slow
def test_one_that_fails_does_not_lose_the_others_and_is_named_at_the_end(commands, tmp_path) -> None:
    with pytest.raises(LesionError, match=r"1 of 3 failed \(b: no space left\); see .*logs/NAME.log'; the same"):
        commands(2, a=["pass"], b=["fail"], c=["pass"])
    assert (tmp_path / "a").exists() and (tmp_path / "c").exists()
    (tmp_path / "a.began").unlink()
    commands(2, a=["pass"], b=["pass"], c=["pass"])
    assert not (tmp_path / "a.began").exists()  # what was done is not done again


def test_when_the_time_is_over_the_rest_is_left_and_named(commands, tmp_path, monkeypatch) -> None:
    for name in ("processes", "side_by_side"):
        monkeypatch.setattr(f"training.ensembles.{name}.time_is_over", (tmp_path / "a").exists)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with pytest.raises(StoppedInTime, match="b, c not finished"):
        commands(1, a=["pass"], b=["pass"], c=["pass"])
    assert not (tmp_path / "b.began").exists()


def test_the_command_of_a_run_names_its_settings_and_what_it_begins_with(tmp_path) -> None:
    run = OneRun(folder=tmp_path / "runs/m", settings=tiny_training(seed=7), start=tmp_path / "base")
    words = train_words(run, tmp_path / "cache", Path("split.json"), "0", "cpu", tmp_path / "logs")
    options = dict(zip(words[1::2], words[2::2], strict=True))
    assert words[0] == "train" and read_settings(Path(options["--settings"])) == tiny_training(seed=7)
    assert options["--run"] == str(tmp_path / "runs/m") and options["--start"] == str(tmp_path / "base")
    assert options["--split"] == str(Path("split.json").resolve()) and "--ct-encoder" not in options
