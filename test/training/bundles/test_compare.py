"""Paired differences of two tables of scores."""

import csv
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from model.errors import ConfigError
from training.__main__ import main
from training.bundles.compare import differences, read_scores

HEAD = ["case", "patient", "convention", "dice", "fpv_ml", "fnv_ml"]


def scores(path: Path, dice: list[float], patients: str = "abcd", convention: str = "autopet_3") -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEAD)
        for number, value in enumerate(dice):
            writer.writerow([f"c{number}", patients[number], convention, value, number, 0.0])
    return path


def test_a_difference_is_the_seconds_less_the_firsts(tmp_path) -> None:
    first = read_scores(scores(tmp_path / "a.csv", [0.5, 0.6, 0.7, float("nan")]))
    second = read_scores(scores(tmp_path / "b.csv", [0.6, 0.8, 0.6, float("nan")]))
    found = differences(first, second)["dice"]
    assert found.mean == pytest.approx(0.2 / 3) and (found.cases, found.left_out) == (3, 1)
    assert found.low == pytest.approx(-0.1) and found.high == pytest.approx(0.2)  # three patients: the ends come up


def test_the_interval_is_scipys_over_patients(tmp_path) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random(12), rng.random(12)
    found = differences(
        read_scores(scores(tmp_path / "a.csv", list(a), "abcdefghijkl")),
        read_scores(scores(tmp_path / "b.csv", list(b), "abcdefghijkl")),
    )["dice"]
    wanted = stats.bootstrap((b - a,), np.mean, n_resamples=9999, method="percentile", rng=1).confidence_interval
    assert found.low == pytest.approx(wanted.low, abs=0.02) and found.high == pytest.approx(wanted.high, abs=0.02)


def test_the_command_prints_and_writes_them(tmp_path, capsys) -> None:
    paths = [str(scores(tmp_path / f"{name}.csv", dice)) for name, dice in (("a", [0.5, 0.7]), ("b", [0.6, 0.9]))]
    assert main(["compare", *paths, "--output", str(tmp_path / "d.csv")]) == 0
    assert "| dice | 2 | 0.1500 (0.1000 to 0.2000) | 2 |" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "d.csv").open()))
    assert [float(row["dice"]) for row in rows] == pytest.approx([0.1, 0.2])


def test_other_cases_conventions_and_files_are_refused(tmp_path) -> None:
    first = read_scores(scores(tmp_path / "a.csv", [0.5, 0.6]))
    with pytest.raises(ConfigError, match="1 cases are in one table alone: c1"):
        differences(first, read_scores(scores(tmp_path / "b.csv", [0.5])))
    with pytest.raises(ConfigError, match="score empty masks differently"):
        differences(first, read_scores(scores(tmp_path / "c.csv", [0.5, 0.6], convention="autopet_5")))
    (tmp_path / "other.csv").write_text("name\nx\n")
    for path in (tmp_path / "other.csv", tmp_path / "none.csv"):
        with pytest.raises(ConfigError, match="training evaluate"):
            read_scores(path)
    (tmp_path / "words.csv").write_text(",".join(HEAD) + "\nc0,a,autopet_3,good,0,0\n")
    with pytest.raises(ConfigError, match="line 2: dice is 'good', no number"):
        differences(read_scores(tmp_path / "words.csv"), read_scores(tmp_path / "words.csv"))
