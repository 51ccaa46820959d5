"""The loop on a network of one number, which every step moves by the same."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import warm
from device_reads import reads_of
from safetensors.torch import load_file
from tiny_settings import tiny_training
from torch import Tensor, nn

from model.errors import WeightsError
from model.inference.device import choose_device
from model.networks.unet import build
from training.batches.device_crops import DeviceCrops
from training.compute import torchrun
from training.compute.device import device_for
from training.compute.finite import TrainingError
from training.runs import loop, steps
from training.runs.loop import losses_in, train
from training.runs.losses import loss_function
from training.runs.run import Run, TrainingProgress
from training.stopping import StoppedInTime
from training.weights import checkpoint
from training.weights.averaging import WeightAverage

ONE_EPOCH = {"epochs": 1, "warmup_epochs": 0, "steps_per_epoch": 8}


def run_of(folder: Path, **changes: object) -> Run:
    """Four epochs of two steps, one crop each."""
    folder.mkdir(parents=True, exist_ok=True)
    crops = [(torch.ones(1), torch.ones(1))] * 8
    settings = tiny_training(**changes)
    return Run(
        folder=folder,
        settings=settings,
        network=nn.Linear(1, 1),
        data=crops,
        device=choose_device("cpu", "float32"),
        loss=lambda out, truth: out.mean(),
        average=WeightAverage() if settings.averaging else None,
    )


@pytest.fixture(params=["host", "device"])
def place(request, monkeypatch) -> str:
    """Where it is decided whether a step is taken: for "device" the loop does on this CPU what it does on a GPU."""
    if request.param == "device":
        monkeypatch.setattr(loop, "on_gpu", lambda run: True)
    return request.param


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / checkpoint.LOG).read_text().splitlines()]


def steps_taken(folder: Path) -> int:
    """How many steps the optimizer of the last checkpoint has counted."""
    return int(checkpoint.read_state(folder / checkpoint.STATE)["optimizer"]["state"][0]["step"])


def loss_that_is(values: dict[int, float]) -> object:
    """A loss times a factor at some of its calls, counted from 0."""
    calls = iter(range(10**6))
    return lambda out, truth: out.mean() * values.get(next(calls), 1.0)


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_a_step_that_is_not_finite_is_left_out_and_counted(factor: float, place: str, tmp_path) -> None:
    """1e30: the loss is finite, and the square of its gradient, as AdamW takes it, is not in float32."""
    run = run_of(tmp_path)
    run.loss = loss_that_is({2: factor, 3: factor, 5: factor})
    train(run, None)
    assert [line["left_out"] for line in log_of(tmp_path)] == [0, 2, 1, 0] and run.left_out.run == 3
    assert steps_taken(tmp_path) == 5
    assert log_of(tmp_path)[1]["loss"] is None  # of no step, and JSON has no NaN
    assert all(torch.isfinite(p).all() for p in run.network.parameters())


def test_a_step_left_out_leaves_weights_and_optimizer_as_they_were(place: str, tmp_path) -> None:
    class Watched(dict):
        def get(self, call: int, default: float) -> float:
            seen.append([p.detach().clone() for p in run.network.parameters()])
            return super().get(call, default)

    run, seen = run_of(tmp_path), []
    run.loss = loss_that_is(Watched({3: float("nan")}))
    train(run, None)
    same = [all(map(torch.equal, one, other)) for one, other in zip(seen, seen[1:], strict=False)]
    assert same == [False, False, False, True, False, False, False]


def test_batch_statistics_ignore_a_step_left_out(place: str, tmp_path) -> None:
    run = run_of(tmp_path, batch=2)
    run.network = nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 1))
    good, bad = (torch.ones(1), torch.ones(1)), (torch.full((1,), float("nan")), torch.ones(1))
    run.data = [good] * 4 + [bad] * 2 + [good] * 10
    train(run, None)
    norm = run.network[0]
    assert int(norm.num_batches_tracked) == 7 and float(norm.running_mean) == pytest.approx(1 - 0.9**7)
    assert run.left_out.run == 1


def test_a_gradient_that_is_not_finite_under_a_finite_loss_is_left_out(place: str, tmp_path) -> None:
    run = run_of(tmp_path)
    calls = iter(range(8))
    run.loss = lambda out, truth: (out * 0).abs().sqrt().mean() if next(calls) == 4 else out.mean()
    train(run, None)
    assert run.left_out.run == 1 and steps_taken(tmp_path) == 7


def test_a_scale_that_overflows_float16_is_a_step_left_out(place: str, tmp_path) -> None:
    """The first scale, 65536, is above float16's largest number, 65504; its half is not."""
    run = run_of(tmp_path)
    run.device = replace(run.device, precision=torch.float16)
    train(run, None)
    assert [line["left_out"] for line in log_of(tmp_path)] == [1, 0, 0, 0] and steps_taken(tmp_path) == 7
    assert checkpoint.read_state(tmp_path / checkpoint.STATE)["scaler"]["scale"] == 32768
    assert log_of(tmp_path)[0]["precision"] == "float16"


def test_too_many_steps_left_out_in_a_row_end_the_run_with_the_batch_and_a_remedy(place: str, tmp_path) -> None:
    run = run_of(tmp_path, most_left_out=2)
    run.loss = loss_that_is({call: float("nan") for call in (1, 2, 4, 5, 6)})
    with pytest.raises(TrainingError, match=r"the loss is nan at step 6 of .*last of 3 steps in a row.*precision") as e:
        train(run, None)
    assert "optimizer.rate (0.001)" in str(e.value) and "optimizer.clip_norm" in str(e.value)
    assert load_file(tmp_path / "bad-batch-6-0.safetensors").keys() == {"image", "truth"}
    assert checkpoint.read_state(tmp_path / checkpoint.STATE)["left_out"] == {"epoch": 0, "run": 4}


@pytest.mark.parametrize("every", [1, 3, 8])
def test_the_batch_saved_is_that_of_the_step_however_late_the_host_looks(every: int, place: str, tmp_path) -> None:
    """Of step 6 and its second part, as far as losses tell: crop 13. Later steps were taken, and are not kept."""
    run = run_of(tmp_path, most_left_out=1, accumulate=2, log_every=every, schedule=ONE_EPOCH)
    run.data = [(torch.full((1,), float(n)), torch.ones(1)) for n in range(16)]
    run.loss = loss_that_is({call: float("nan") for call in (6, 11, 13)})  # steps 3, 5 and 6
    with pytest.raises(TrainingError, match=r"the loss is nan at step 6 of .*last of 2 steps in a row"):
        train(run, None)
    assert load_file(tmp_path / "bad-batch-6-0.safetensors")["image"].item() == 13
    assert not (tmp_path / checkpoint.STATE).exists() and run.left_out.run == 3


@pytest.mark.parametrize("every", [1, 3, 8, 100])
def test_how_often_the_host_looks_changes_nothing(every: int, place: str, tmp_path) -> None:
    states = []
    for name, often in (("one", every), ("other", 1)):
        run = run_of(tmp_path / name, log_every=often, schedule=ONE_EPOCH | {"epochs": 2})
        run.data = [(torch.full((1,), 1.0 + n), torch.ones(1)) for n in range(16)]
        run.network.load_state_dict({"weight": torch.ones(1, 1), "bias": torch.ones(1)})
        run.loss = loss_that_is({2: float("nan"), 9: float("inf")})
        train(run, None)
        states.append(checkpoint.read_state(tmp_path / name / checkpoint.STATE))
        assert [line["left_out"] for line in log_of(tmp_path / name)] == [1, 1]
    for key in ("network", "optimizer", "losses", "left_out"):
        torch.testing.assert_close(states[0][key], states[1][key], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["adamw", "adamp", "adabelief"])
def test_steps_wait_for_no_value_of_the_device(name: str, tmp_path, monkeypatch) -> None:
    """With clipping, batch statistics and two batches a step; the look at ten steps is the first and only wait."""
    monkeypatch.setattr(loop, "on_gpu", lambda run: True)
    run = run_of(tmp_path, accumulate=2, batch=2, optimizer={"name": name, "clip_norm": 1.0}, schedule=ONE_EPOCH)
    run.network, run.data = nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 1)), [(torch.ones(1), torch.ones(1))] * 64
    progress = loop.begin(run)
    batches = [(torch.rand(2, 1), torch.ones(2, 1))] * 22

    def step() -> None:
        progress.unread.append(steps.one_step(run, run.network, progress, iter(batches)))

    step()
    assert reads_of(lambda: [step() for _ in range(1, 10)]) == []
    progress.step = 10
    assert reads_of(lambda: steps.read_steps(run, progress)) == ["tolist"] and progress.losses[1] == 10


def test_a_run_stops_in_time_between_two_looks_at_the_device(tmp_path, monkeypatch) -> None:
    """Twenty steps may take longer than what is kept back of the minutes."""
    over = iter([False, False, True])
    monkeypatch.setattr(torchrun, "time_is_over", lambda: next(over))
    run = run_of(tmp_path, log_every=20, schedule=ONE_EPOCH)
    with pytest.raises(StoppedInTime, match="is at step 3 of"):
        train(run, None)
    assert checkpoint.read_state(tmp_path / checkpoint.STATE)["step"] == 3


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["adamw", "adamp", "adabelief"])
def test_steps_on_a_gpu_wait_for_nothing(name: str, tiny_cache, tmp_path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU here")
    settings = tiny_training(
        optimizer={"name": name, "clip_norm": 1.0}, channels_last=True, crops_on="device", batch=2, accumulate=2
    )
    device = device_for("auto", "cuda")
    run = run_of(tmp_path)
    run.settings, run.device, run.loss = settings, device, loss_function(settings.loss)
    run.network = build(settings.network)
    run.data = DeviceCrops(tiny_cache, ("case0", "case1", "case2", "case3"), settings, device.torch_device)
    progress, batches = loop.begin(run), iter(steps.loader(run, 0, 12))
    rest = run.network, progress, batches
    steps.one_step(run, *rest)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        progress.unread = [steps.one_step(run, *rest) for _ in range(1, 10)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    progress.step = 10
    assert steps.read_steps(run, progress) is not None and run.left_out.run == 0


def test_a_run_that_ended_so_resumes_in_another_precision(tmp_path) -> None:
    run = run_of(tmp_path, most_left_out=1)
    run.device = replace(run.device, precision=torch.float16)
    run.loss = loss_that_is({call: float("nan") for call in (5, 6)})
    with pytest.raises(TrainingError):
        train(run, None)
    again = run_of(tmp_path)
    train(again, checkpoint.read_state(tmp_path / checkpoint.STATE))
    assert again.left_out.run == 2 and [line["epoch"] for line in log_of(tmp_path)] == [1, 2, 3, 4]
    assert [line["precision"] for line in log_of(tmp_path)] == ["float16", "float16", "float16", "float32"]


TWO = """
import sys; sys.path[:0] = [".", "test/training/runs", "test", "test/helpers"]
from pathlib import Path
from test_loop import *
from training.runs.folder import opened
from training.compute.torchrun import rank
class Crops:
    def __len__(self): return 16
    def __getitem__(self, number): return torch.full((1,), float(number)), torch.ones(1)
run = run_of(Path(sys.argv[1]), log_every=5)
loop.on_gpu = lambda run: sys.argv[2] == "device"
run.data = Crops()
torch.manual_seed(0)
run.network = nn.Linear(1, 1)
run.loss = lambda out, truth: out.mean() * torch.distributed.get_rank() + 1 / (out.mean() * 0 + left.pop(0))
left = [0.0 if rank() == 1 and step == 3 else 1.0 for step in range(8)]  # 1 / 0: one process alone is not finite
with opened(Path(sys.argv[1]), {}, run.device) as state:
    train(run, state)
    print("weight", float(run.network.weight), "left out", run.left_out.run, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("decided", ["host", "device"])
def test_a_step_that_is_not_finite_in_one_process_is_left_out_in_all(decided: str, tmp_path) -> None:
    (tmp_path / "two.py").write_text(TWO)
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    done = warm.run(*torchrun, tmp_path / "two.py", tmp_path / "run", decided)
    assert done.returncode == 0, done.stderr[-2000:]
    one, other = (line for line in done.stdout.splitlines() if line.startswith("weight"))
    assert one == other and one.endswith("left out 1")


def poison(monkeypatch, step: int) -> None:
    """A step of the optimizer that gives a finite loss and leaves NaN in the weights."""
    one_step = loop.one_step

    def poisoned(run: Run, wrapped: nn.Module, progress: TrainingProgress, *rest: object) -> Tensor:
        loss = one_step(run, wrapped, progress, *rest)
        if progress.step == step:
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
    message = r"after step 3.*a lower averaging.peak \(0.0001\) and averaging.constant \(5e-05\)"  # which give the rate
    with pytest.raises(TrainingError, match=message):
        train(run, None)
    assert run.average.terms == 3  # theta at t0 and two steps


def test_an_average_of_weights_that_are_not_finite_is_never_written(tmp_path, monkeypatch) -> None:
    """The host looks at every fourth step. By then the average has taken the weights, and the run ends."""
    poison(monkeypatch, 1)
    averaging = {"start": 0, "length_epochs": 1, "per_step": True}
    run = run_of(tmp_path, averaging=averaging, log_every=4, checkpoint_minutes=0, schedule=ONE_EPOCH)
    with pytest.raises(TrainingError, match="weights are not finite after step 4"):
        train(run, None)
    assert not (tmp_path / checkpoint.STATE).exists()


def test_weights_are_checked_before_a_checkpoint_within_an_epoch(tmp_path, monkeypatch) -> None:
    poison(monkeypatch, 2)
    with pytest.raises(TrainingError, match="after step 3"):
        train(run_of(tmp_path, checkpoint_minutes=0), None)
    assert checkpoint.read_state(tmp_path / checkpoint.STATE)["step"] == 2


@pytest.mark.parametrize("state", [{"step": 3}, [1]])
def test_a_checkpoint_of_something_else_is_refused_and_the_message_says_what_is_missing(
    state: object, tmp_path
) -> None:
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
    monkeypatch.setattr(torchrun, "processes", lambda: 2)

    def add(total: Tensor) -> None:
        total += next(others)

    monkeypatch.setattr(torchrun.distributed, "all_reduce", add)
    assert loop.mean_loss([6.0, 3], choose_device("cpu", "float32")) == pytest.approx(2.5)
