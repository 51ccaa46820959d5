"""The loop on a network of one number, which every step moves by the same."""

from pathlib import Path

import pytest
import torch
from conftest import tiny_training
from torch import Tensor, nn

from model.device import choose_device
from model.errors import WeightsError
from training import checkpoint, loop
from training.averaging import WeightAverage
from training.loop import Run, TrainingError, losses_in, train


def run_of(folder: Path, **changes: object) -> Run:
    """Four epochs of two steps, one crop each."""
    folder.mkdir(parents=True, exist_ok=True)
    crops = [(torch.ones(1), torch.ones(1))] * 8
    settings = tiny_training(**changes)
    return Run(
        folder=folder, settings=settings, network=nn.Linear(1, 1), data=crops, device=choose_device("cpu"),
        loss=lambda out, truth: out.mean(), average=WeightAverage() if settings.averaging else None,
    )  # fmt: skip


def poison(monkeypatch, step: int) -> None:
    """A step of the optimizer that gives a finite loss and leaves NaN in the weights."""
    one_step = loop.one_step

    def poisoned(run: Run, wrapped: nn.Module, *rest: object) -> float:
        loss = one_step(run, wrapped, *rest)
        if rest[-1] == step:
            next(wrapped.parameters()).data.fill_(float("nan"))
        return loss

    monkeypatch.setattr(loop, "one_step", poisoned)


def test_weights_that_are_not_finite_stop_the_run_and_leave_the_checkpoint(tmp_path, monkeypatch) -> None:
    poison(monkeypatch, 5)  # counted from 0: the last of the third epoch, so that no later loss tells
    with pytest.raises(TrainingError, match=r"not finite after step 6 of .*first is weight.*lower optimizer.rate"):
        train(run_of(tmp_path), None)
    state = checkpoint.read_state(tmp_path / checkpoint.STATE)
    assert state["step"] == 4 and all(torch.isfinite(tensor).all() for tensor in state["network"].values())
    assert len((tmp_path / checkpoint.LOG).read_text().splitlines()) == 2


def test_weights_that_are_not_finite_do_not_enter_the_average(tmp_path, monkeypatch) -> None:
    poison(monkeypatch, 2)
    run = run_of(tmp_path, averaging={"length_epochs": 1, "per_step": True})
    with pytest.raises(TrainingError, match="after step 3"):
        train(run, None)
    assert run.average.terms == 3  # theta at t0 and two steps


def test_weights_are_checked_before_a_checkpoint_within_an_epoch(tmp_path, monkeypatch) -> None:
    poison(monkeypatch, 2)
    with pytest.raises(TrainingError, match="after step 3"):
        train(run_of(tmp_path, checkpoint_minutes=0), None)
    assert checkpoint.read_state(tmp_path / checkpoint.STATE)["step"] == 2


@pytest.mark.parametrize("state", [{"step": 3}, [1]])
def test_a_checkpoint_of_something_else_is_refused_by_what_it_lacks(state: object, tmp_path) -> None:
    with pytest.raises(WeightsError, match=r"checkpoint.pt' lacks average, loss, losses, .*delete it to start"):
        train(run_of(tmp_path), state)


def test_the_losses_of_a_checkpoint_are_the_first_processs(monkeypatch) -> None:
    state = {"losses": [1.5, 3]}
    assert losses_in(None) == [0.0, 0] and losses_in(state) == [1.5, 3]
    monkeypatch.setenv("RANK", "1")
    assert losses_in(state) == [0.0, 0]


def test_an_epochs_loss_counts_every_step_alike(monkeypatch) -> None:
    """After a resumed epoch one process has three losses that sum to 6, another one loss of 4: 10 / 4."""
    others = iter([4.0, 1.0])
    monkeypatch.setattr(loop, "processes", lambda: 2)

    def add(total: Tensor) -> None:
        total += next(others)

    monkeypatch.setattr(loop.distributed, "all_reduce", add)
    assert loop.mean_loss([6.0, 3], choose_device("cpu")) == pytest.approx(2.5)
