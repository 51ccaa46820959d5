import argparse

import pytest
from conftest import ROOT

from benchmark import training_hours
from benchmark.training_hours import CARDS, bytes_read_and_written, hours, least_seconds, measured, work_of
from model.bundle.network import Network
from training.papers.plan import read_plan

PLAN = read_plan(ROOT / "training/configs/paper.yaml")
WORK = work_of(PLAN, None)


def result(benchmark: str, figures: dict[str, float], words: str = "", gpu: str | None = "NVIDIA H200") -> dict:
    found = {name: {"values": [value]} for name, value in figures.items()}
    return {"benchmark": benchmark, "command": f"python -m x {words}", "machine": {"gpu": gpu}, "figures": found}


def test_the_papers_plan_takes_its_steps() -> None:
    """800 phantoms by 8 are 100 steps an epoch: 600 epochs of the base run, 9 members of 400; 811 studies take 102."""
    assert (WORK.base_steps, WORK.member_steps, WORK.samples) == (60_000, 9 * 40_000, 8)
    assert work_of(PLAN, 811).base_steps == 61_200


def test_every_layer_reads_its_input_and_writes_its_output() -> None:
    """Early fusion of widths 2 and 3 at 4^3, two bytes a value, counted by hand: a stage is convolution, norm and SELU,
    twice; then pooling, a transposed convolution, the decoder's stage of 4 channels in, and 1x1x1 to two classes.
    """
    fine, coarse = 4**3, 2**3

    def stage(first: int, channels: int, voxels: int) -> int:
        return voxels * (first + channels + 2 * channels + 2 * channels + 2 * channels + 2 * (2 * channels))

    encoder = stage(2, 2, fine) + 2 * fine + 2 * coarse + stage(2, 3, coarse)
    decoder = 3 * coarse + 2 * fine + stage(4, 2, fine) + (2 + 2) * fine
    assert bytes_read_and_written(Network(fusion="early", widths=(2, 3)), (4, 4, 4)) == 2 * (encoder + decoder)


def test_a_card_is_bound_by_products_or_by_memory() -> None:
    a100 = next(card for card in CARDS if "A100" in card.name)
    assert least_seconds(a100, 312e12, 1e9) == pytest.approx(1)
    assert least_seconds(a100, 1e12, 2 * 2039e9) == pytest.approx(2)


def test_a_measured_step_comes_before_forward_passes_and_other_networks_do_not_count() -> None:
    """4 samples a second are 2 s for the 8 of a step; 0.1 s for two windows of 160^3 are 3 x 8 x 0.05 s."""
    step = result("training", {"ours at 160^3: samples a second": 4.0, "ours at 96^3: samples a second": 40.0})
    windows = result("window", {"plain at 160^3": 0.1, "ours at 160^3": 0.01}, "--batch 2")
    other = result("training", {"ours: samples a second": 9.0}, "--widths 4 16 32 48 64 --crop 160")
    cpu = result("training", {"ours: samples a second": 0.1}, gpu=None)
    [found] = measured(PLAN.base, WORK, [windows, other, cpu])
    assert found.seconds == pytest.approx(1.2) and found.how == "measured forward passes of 160^3, times 3"
    [found] = measured(PLAN.base, WORK, [step, windows])
    assert (found.seconds, found.how) == (2.0, "measured")


def test_other_cards_take_the_same_share_above_their_least_time(monkeypatch) -> None:
    """A step measured at 10 times its least on an H200 makes an A100's 10 times its own; 60,000 steps in all."""
    monkeypatch.setattr(training_hours, "bytes_read_and_written", lambda *_: 0.0)
    monkeypatch.setattr(training_hours, "operations", lambda *_: 989.5e12 / 24)
    found = hours(PLAN, argparse.Namespace(cases=None, plan=ROOT / "paper.yaml"), [
        result("training", {"ours at 160^3: samples a second": 0.8})])  # fmt: skip
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in found["printed"] if line.startswith("| NVIDIA")
    ]
    by_card = {(row[0], row[1].split(":")[0], "times" in row[1]): row[2:4] for row in rows}
    assert by_card["NVIDIA H200", "measured", False] == ["10.000", "166.7"]
    assert by_card["NVIDIA H200", "arithmetic", False] == ["1.000", "16.7"]
    assert by_card["NVIDIA A100 80GB", "arithmetic", True] == [f"{9895 / 312:.3f}", f"{60_000 * 9895 / 312 / 3600:.1f}"]
