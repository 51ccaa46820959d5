"""The learning rate at points whose value is known by hand; the picture; the command's errors."""

from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from matplotlib.image import imread
from msgspec.structs import replace

from training.__main__ import main
from training.batches.schedule import rate_at
from training.settings import Averaging, Optimizer, Schedule, Training

RUN = Training(optimizer=Optimizer(rate=1e-4), schedule=Schedule(epochs=1000, warmup_epochs=100, floor=1e-7))


def averaged(rates: str, **changes: float) -> Training:
    """t0 = 550, where the base cosine is half way: a rate of (1e-4 + 1e-7) / 2."""
    averaging = Averaging(start=550, rates=rates, peak=2e-4, length_epochs=50, constant=3e-5)
    return replace(RUN, averaging=replace(averaging, **changes))


@pytest.mark.parametrize(
    ("epoch", "rate"),
    [
        (0, 1e-7),
        (50, (1e-4 + 1e-7) / 2),
        (100, 1e-4),
        (325, 1e-7 + (1e-4 - 1e-7) * (1 + 0.5**0.5) / 2),
        (550, (1e-4 + 1e-7) / 2),
        (1000, 1e-7),
        (1200, 1e-7),
    ],
)
def test_warm_up_is_linear_and_then_a_cosine_falls_to_the_floor(epoch: float, rate: float) -> None:
    assert rate_at(RUN, epoch) == pytest.approx(rate, rel=1e-9)


def test_without_warm_up_the_first_step_has_the_peak() -> None:
    assert rate_at(replace(RUN, schedule=Schedule(epochs=10, warmup_epochs=0)), 0) == 1e-4


@pytest.mark.parametrize("epoch", [0, 10.5, 100, 549.99])
def test_before_t0_averaging_changes_nothing(epoch: float) -> None:
    assert rate_at(averaged("paper"), epoch) == rate_at(RUN, epoch)


@pytest.mark.parametrize(
    ("epoch", "rate"),
    [
        (550, (1e-4 + 1e-7) / 2),
        (562.5, ((1e-4 + 1e-7) / 2 + 2e-4) / 2),
        (575, 2e-4),
        (587.5, (2e-4 + 3e-5) / 2),
        (600, 3e-5),
        (999, 3e-5),
    ],
)
def test_preset_paper_rises_to_the_peak_falls_to_the_constant_and_stays(epoch: float, rate: float) -> None:
    assert rate_at(averaged("paper"), epoch) == pytest.approx(rate, rel=1e-9)


@pytest.mark.parametrize(
    ("epoch", "rate"), [(550, (1e-4 + 1e-7) / 2), (575, ((1e-4 + 1e-7) / 2 + 3e-5) / 2), (600, 3e-5), (999, 3e-5)]
)
def test_preset_authors_is_one_cosine_to_the_constant(epoch: float, rate: float) -> None:
    assert rate_at(averaged("authors"), epoch) == pytest.approx(rate, rel=1e-9)


@pytest.mark.parametrize("rates", ["paper", "authors"])
def test_the_rate_has_no_jump(rates: str) -> None:
    settings = averaged(rates)
    steps = [rate_at(settings, epoch / 100) for epoch in range(100_001)]
    # the steepest piece is the fall of `paper`, a cosine of 1.7e-4 in 25 epochs: slope pi / 2 * 1.7e-4 / 25
    assert max(abs(b - a) for a, b in zip(steps, steps[1:], strict=False)) < 1.01 * 3.1416 / 2 * 1.7e-4 / 25 / 100


@pytest.mark.parametrize("rates", ["paper", "authors"])
def test_a_phase_of_no_length_starts_at_the_constant(rates: str) -> None:
    assert rate_at(averaged(rates, length_epochs=0), 550) == 3e-5


def test_the_picture_shows_yellow_before_t0_and_green_after(tmp_path: Path) -> None:
    assert main(["schedule", "--output", str(tmp_path / "rate.png")]) == 0
    red, green, blue = imread(tmp_path / "rate.png")[..., :3].transpose(2, 0, 1)
    yellow_at = ((red > 0.8) & (green > 0.6) & (blue < 0.3)).nonzero()[1]
    green_at = ((green > red + 0.2) & (green > blue + 0.2)).nonzero()[1]
    width = red.shape[1]
    assert yellow_at.min() < 0.1 * width < green_at.max()
    assert (yellow_at < 0.6 * width).mean() > 0.9 and (green_at > 0.6 * width).mean() > 0.9  # the rest: the legend
    assert [path.name for path in tmp_path.iterdir()] == ["rate.png"]


def test_the_picture_in_docs_is_what_the_command_draws(tmp_path: Path) -> None:
    assert main(["schedule", "--output", str(tmp_path / "rate.png")]) == 0
    kept, drawn = imread(ROOT / "docs/averaging_rate.png"), imread(tmp_path / "rate.png")
    assert kept.shape == drawn.shape and np.abs(kept - drawn).mean() < 1e-3


def test_the_command_draws_the_settings_it_is_given(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("schedule: {epochs: 20, warmup_epochs: 2}\naveraging: {start: 10}\n")
    pictures = [tmp_path / "a.png", tmp_path / "b.png"]
    assert main(["schedule", "--output", str(pictures[0]), "--settings", str(tmp_path / "run.yaml")]) == 0
    assert main(["schedule", "--output", str(pictures[1])]) == 0
    assert pictures[0].read_bytes() != pictures[1].read_bytes()


@pytest.mark.parametrize(
    ("yaml", "output", "says"),
    [
        ("schedule: {epochs: 20, warmup_epochs: 2}\naveraging: {start: 20}", "a.png", "inside the run of 20 epochs"),
        ("shedule: {}", "a.png", "shedule"),
        (None, "a.png", "cannot read"),
        ("{}", "a.jpg", "must end in .png"),
    ],
)
def test_the_command_says_what_is_wrong_and_writes_nothing(
    yaml: str | None, output: str, says: str, tmp_path: Path, capsys
) -> None:
    settings = tmp_path / "settings" / "run.yaml"
    settings.parent.mkdir()
    if yaml is not None:
        settings.write_text(yaml)
    assert main(["schedule", "--output", str(tmp_path / "out" / output), "--settings", str(settings)]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ") and says in last
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_cannot_be_made_is_an_output_error(tmp_path: Path, capsys) -> None:
    (tmp_path / "file").write_text("")
    assert main(["schedule", "--output", str(tmp_path / "file" / "rate.png")]) == 5
    assert "cannot write" in capsys.readouterr().err.splitlines()[-1]
