import pytest
from benchmark_results import result

from benchmark.compare import change, main, spread
from benchmark.record import figure


@pytest.mark.parametrize(
    ("before", "now", "better", "verdict"),
    [
        ([1.0], [1.11], "less", "worse"),
        ([1.0], [1.09], "less", "same"),  # below 10 %
        ([1.0], [0.8], "less", "better"),
        ([1.0], [0.8], "more", "worse"),
        ([0.9, 1.0, 1.2], [1.25, 1.25, 1.25], "less", "same"),  # 25 % more, but the runs before spread over 30 %
        ([0.9, 1.0, 1.2], [1.31, 1.31, 1.31], "less", "worse"),
        ([0.0], [0.0], "less", "same"),
        ([0.0], [1.0], "less", "worse"),
    ],
)
def test_a_change_counts_above_the_noise_and_a_tenth(before, now, better, verdict) -> None:
    assert change("f", figure(before, "s", better), figure(now, "s", better))["verdict"] == verdict


@pytest.mark.parametrize(("now", "verdict"), [(0.9996, "same"), (0.9994, "worse")])
def test_a_figure_may_set_a_smaller_limit(now: float, verdict: str) -> None:
    dice = [figure([value], "", "more", least=0.0005) for value in (1.0, now)]
    assert change("Dice", *dice)["verdict"] == verdict


def test_noise_is_the_spread_of_the_runs_over_their_median() -> None:
    assert spread([2.0, 3.0, 4.0]) == pytest.approx(2 / 3) and spread([5.0]) == 0


def test_the_command_ends_with_1_where_something_got_worse(tmp_path, monkeypatch, capsys) -> None:
    old = result(tmp_path, "old", total=figure([1.0], "s"), gone=figure([1.0], "s"))
    for now, code in ((1.5, 1), (1.0, 0)):
        new = result(tmp_path, "new", total=figure([now], "s"))
        monkeypatch.setattr("sys.argv", ["compare", old, new])
        assert main() == code
        printed = capsys.readouterr().out
        assert ("+50.0 %" in printed) == bool(code) and "no longer measured: gone" in printed


def test_results_that_cannot_be_compared_are_refused(tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "empty.json").write_text("{}")
    one, other = result(tmp_path, "one"), result(tmp_path, "other", benchmark="training")
    for path, message in (
        (str(tmp_path / "empty.json"), "not a result of this version"),
        (other, "compare two of one"),
        (str(tmp_path / "none.json"), "cannot read"),
    ):
        monkeypatch.setattr("sys.argv", ["compare", one, path])
        assert main() == 2 and message in capsys.readouterr().err
