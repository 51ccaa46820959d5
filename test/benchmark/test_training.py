"""The rows of benchmark.training, and that one contender's failure leaves the others."""

import json
import sys
import time

import pytest
import warm
from conftest import ROOT

from benchmark import training
from benchmark.contenders.training_loops import LOOPS, TrainingLoop, measured
from benchmark.contenders.training_task import TrainingTask, figures_of
from benchmark.record import read
from benchmark.training import table_rows

TASK = TrainingTask(cache="", folder="", widths=(2, 4), crop=16, batch=2, steps=10, epochs=2, device="cpu", workers=1)
FIGURES = {"samples_per_s": [4.0, 6.0, 5.0], "data_share": [0.5], "host_gb": 1.0, "gpu_gb": None, "computed_in": "x"}


def test_samples_a_second_are_those_of_the_counted_epochs() -> None:
    """Ten steps of two samples in 4 s and in 5 s, of which 1 s and 2 s were waited."""
    found = figures_of([(100.0, 7.0), (104.0, 8.0), (109.0, 10.0)], TASK)
    assert found["samples_per_s"] == [5.0, 4.0] and found["data_share"] == [0.25, 0.4]


def test_ours_stands_beside_each_of_the_others_and_the_roofline() -> None:
    """5 samples a second beside 2: 2.5 times as fast; the roofline allows 15: 3 times as long."""
    rows = table_rows({"ours": FIGURES, "other": FIGURES | {"samples_per_s": [2.0]}, "third": "no | disk"}, 15.0)
    assert [row[:4] for row in rows] == [
        ["ours", "x", "5.000", "1.00 times as fast"],
        ["other", "x", "2.000", "2.50 times as fast"],
        ["third", "not measured: no / disk", "n/a", "n/a"],
        ["roofline", "", "15.000", "takes 3.00 times as long"],
    ]
    assert table_rows({"ours": "it failed", "other": FIGURES}, 15.0)[1][3] == "n/a"


def stub(folder, text: str) -> str:
    """A Python that runs this text, whatever it is asked for."""
    path = folder / "python"
    path.write_text(f"#!{sys.executable}\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_a_contender_that_fails_or_takes_too_long_says_why(tmp_path) -> None:
    one, later = TrainingLoop(name="", module="x", changes={}), time.monotonic() + 60
    assert measured(one, TASK, stub(tmp_path, "print('{\"a\": 1}')"), later) == {"a": 1}
    assert measured(one, TASK, stub(tmp_path, "raise SystemExit('no memory')"), later) == "no memory"
    assert "No such file" in measured(one, TASK, str(tmp_path / "absent"), later)
    slow = stub(tmp_path, "import time; time.sleep(600)")
    assert measured(one, TASK, slow, time.monotonic() + 0.2) == "stopped: the time of --minutes was over"
    assert measured(one, TASK, slow, time.monotonic()) == "not begun: the time of --minutes was over"


def test_every_loop_is_a_module_that_is_there() -> None:
    for one in LOOPS.values():
        assert (ROOT / f"benchmark/contenders/{one.module}.py").is_file()


@pytest.mark.slow
def test_the_others_are_measured_though_one_is_absent(tmp_path) -> None:
    words = "--size 24 20 22 --widths 2 4 --crop 16 --steps 1 --epochs 1 --device cpu --only ours nnunet".split()
    more = ("--nnunet", tmp_path / "absent", "--json", tmp_path / "r.json")
    done = warm.run("-m", "benchmark.training", *words, *more)
    assert done.returncode == 1 and "not every contender was measured" in done.stderr
    found = read(tmp_path / "r.json")
    assert "ours at 16^3: samples a second" in found["figures"] and "No such file" in json.dumps(found["printed"])


@pytest.mark.slow
def test_memory_is_told_without_training(capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["training", "--memory", "--widths", "4", "8", "--crop", "16"])
    training.main()
    assert "By arithmetic, not measured." in capsys.readouterr().out
