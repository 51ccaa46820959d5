"""The one training loop: steps, gradient accumulation, mixed precision, checkpoints, resuming, several processes.

Under torchrun it runs on several GPUs or machines: every process takes its share of each step's crops, gradients are
averaged, and the first process writes. A step whose loss or gradients are not finite is left out and counted.
"""

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from model.errors import WeightsError
from model.inference.device import Device
from training.batches.device_crops import DeviceCrops
from training.batches.schedule import rate_at, steps_of
from training.runs.averaging import WeightAverage
from training.runs.checkpoint import LOG, STATE, cut_log, open_run, write_state
from training.runs.finite import LeftOut, NotFinite, check_left_out, check_weights, gradient_norm, why_not
from training.runs.optimizers import optimizer_for
from training.runs.predict import layout_of
from training.settings import Training

WAIT = timedelta(hours=6)
STATE_KEYS = {"network", "optimizer", "scaler", "loss", "average", "step", "losses", "seconds"}  # of a checkpoint
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(kw_only=True)
class Run:
    """What the loop works on.

    `at_epoch(epoch, figures)` is told loss, rate and seconds, and may return more for the log, as validation does.
    """

    folder: Path
    settings: Training
    network: nn.Module
    data: Dataset[tuple[Tensor, Tensor]]
    loss: Loss
    device: Device
    average: WeightAverage | None = None
    first_epoch: int = 0  # a member begins at t0
    at_epoch: Callable[[int, dict[str, Any]], dict[str, Any]] = lambda epoch, figures: {}
    seconds: dict[str, float] = field(default_factory=lambda: {"data": 0.0, "compute": 0.0})  # waited, computed
    left_out: LeftOut = field(default_factory=LeftOut)


def rank() -> int:
    """This process's number under torchrun, 0 without."""
    return int(os.environ.get("RANK", 0))


def processes() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", 1))


@contextlib.contextmanager
def opened(folder: Path, config: dict[str, Any], device: Device) -> Iterator[dict[str, Any] | None]:
    """The run's folder, begun or gone on with, in the process group of torchrun if there is one; its last state.

    The first process opens the folder before the others do. Raises ConfigError as `open_run` does.
    """
    if processes() == 1:
        yield open_run(folder, config)
        return
    state = open_run(folder, config) if rank() == 0 else None
    gpu = device.torch_device.type == "cuda"
    if gpu:
        torch.cuda.set_device(device.torch_device)  # NCCL takes the current one, else all processes the first
    backend = "nccl" if gpu else "gloo"
    distributed.init_process_group(backend, timeout=WAIT)  # the others wait while the first validates
    try:
        distributed.barrier()
        yield state if rank() == 0 else open_run(folder, config, hold=False)
    finally:
        distributed.destroy_process_group()


def train(run: Run, state: dict[str, Any] | None) -> None:
    """Train until the end of epoch `schedule.stop`, from the checkpoint `state` if there is one.

    A run that was killed and goes on ends with the same weights as one that was not. Raises TrainingError
    when too many steps in a row are left out because loss or gradients are not finite, with the batch saved; and for
    weights that are not, before they are averaged or written. Raises WeightsError for a state that is no checkpoint
    of this version.
    """
    settings, device = run.settings, run.device
    check_state(state, run.folder / STATE)
    viewed = settings.optimizer.name == "adamp"  # AdamP looks at weights as views, so they stay contiguous
    weights_layout = torch.contiguous_format if viewed else layout_of(settings)
    network = run.network.to(device.torch_device, memory_format=weights_layout).train()
    if settings.fixed_statistics:
        fix_statistics(network)
    optimizer = optimizer_for(network.parameters(), settings.optimizer)
    learned = run.loss.to(device.torch_device) if isinstance(run.loss, nn.Module) else nn.Module()
    if any(True for _ in learned.parameters()):
        group = {"params": list(learned.parameters()), "lr": settings.loss.weights_rate, "weight_decay": 0.0}
        optimizer.add_param_group(group)
    scaler = torch.amp.GradScaler(device.torch_device.type, enabled=device.precision == torch.float16)
    steps = steps_per_epoch(run)
    step, losses = run.first_epoch * steps, losses_in(state)
    if run.average is not None and state is None:
        run.average.update(network.state_dict())  # equation 2's first term is theta at t0
    if state is not None:
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        if scaler.is_enabled() and state["scaler"]:  # empty where another precision needed none
            scaler.load_state_dict(state["scaler"])
        learned.load_state_dict(state["loss"])
        step, run.seconds = state["step"], dict(state["seconds"])
        run.left_out = LeftOut(**state.get("left_out", {}))  # earlier versions left none out
        if run.average is not None:
            run.average.load_state_dict(state["average"])
    if rank() == 0:
        cut_log(run.folder / LOG, step)
    wrapped: nn.Module = DistributedDataParallel(network) if processes() > 1 else network
    stop = settings.schedule.last * steps

    def checkpoint() -> None:
        if rank() == 0:
            write_state(
                run.folder / STATE,
                {
                    "network": network.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "scaler": scaler.state_dict(),
                    "loss": learned.state_dict(),
                    "average": run.average.state_dict() if run.average else None,
                    "step": step,
                    "losses": losses,
                    "seconds": run.seconds,
                    "left_out": {"epoch": run.left_out.epoch, "run": run.left_out.run},
                },
            )

    saved = time.monotonic()
    batches = iter(loader(run, step, stop))
    with tqdm(initial=step, total=stop, unit="step", desc=run.folder.name, disable=rank() != 0) as bar:
        while step < stop:
            rate = rate_at(settings, step / steps)
            optimizer.param_groups[0]["lr"] = rate  # the loss's own weights keep theirs
            loss = one_step(run, wrapped, optimizer, scaler, batches, step)
            if isinstance(loss, NotFinite):
                run.left_out.add()
                check_left_out(run.folder, settings, loss, run.left_out, step, rank())
            else:
                losses, run.left_out.in_a_row = [losses[0] + loss, losses[1] + 1], 0
                bar.set_postfix(loss=f"{loss:.3f}", **{f"{k}_s": f"{v:.0f}" for k, v in run.seconds.items()})
            step += 1
            bar.update()
            ends = step % steps == 0
            due = ends or time.monotonic() - saved >= 60 * settings.checkpoint_minutes
            averaged = settings.averaging is not None and (settings.averaging.per_step or ends)
            if due or averaged:
                check_weights(run.folder, settings, network.state_dict(), step)
            if run.average is not None and averaged:
                run.average.update(network.state_dict())
            if ends:
                end_of_epoch(run, step, rate, losses)
                losses = [0.0, 0]
            if due:
                checkpoint()
                saved = time.monotonic()


def end_of_epoch(run: Run, step: int, rate: float, losses: list[float]) -> None:
    """Tell `run.at_epoch`, and write the epoch's line of log.jsonl."""
    epoch = step // steps_per_epoch(run)
    figures = {"epoch": epoch, "step": step, "loss": mean_loss(losses, run.device), "rate": rate}
    figures |= {f"{name}_s": round(value, 3) for name, value in run.seconds.items()}
    figures |= {"left_out": run.left_out.epoch, "precision": str(run.device.precision).removeprefix("torch.")}
    run.left_out.epoch = 0
    if rank() == 0:
        write_log(run.folder / LOG, figures | run.at_epoch(epoch, figures))


def one_step(
    run: Run,
    wrapped: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    batches: Iterator[tuple[Tensor, Tensor]],
    step: int,
) -> float | NotFinite:
    """One step of the optimizer over `accumulate` batches; the mean loss.

    If the loss or a gradient of any process is not finite, weights and batch statistics stay as they were in all.
    """
    settings, device = run.settings, run.device
    layout = layout_of(settings)
    buffers = [buffer.clone() for buffer in run.network.buffers()]  # batch statistics take up what they see
    total, bad = 0.0, None
    optimizer.zero_grad(set_to_none=True)
    for part in range(settings.accumulate):
        begun = time.perf_counter()
        image, truth = next(batches)
        image = image.to(device.torch_device, memory_format=layout, non_blocking=True)
        truth = truth.to(device.torch_device, non_blocking=True)
        loaded = time.perf_counter()
        last = part == settings.accumulate - 1
        waiting = contextlib.nullcontext() if last or processes() == 1 else wrapped.no_sync()  # type: ignore[operator]
        with waiting:
            with torch.autocast(device.torch_device.type, device.precision, device.precision != torch.float32):
                out = wrapped(image)
            loss = run.loss(out.float(), truth)
            value = float(loss.detach())
            if bad is None and not math.isfinite(value):
                bad = image, truth
            scaler.scale(loss / settings.accumulate).backward()
        total += value
        run.seconds["data"] += loaded - begun
        run.seconds["compute"] += time.perf_counter() - loaded
    if isinstance(run.loss, nn.Module):
        average_gradients(run.loss)
    scaler.unscale_(optimizer)
    why = why_not(total, gradient_norm(p for group in optimizer.param_groups for p in group["params"]))
    if taken := not in_any_process(bool(why), device):
        if settings.optimizer.clip_norm:
            nn.utils.clip_grad_norm_(wrapped.parameters(), settings.optimizer.clip_norm)
        scaler.step(optimizer)
    else:
        for buffer, before in zip(run.network.buffers(), buffers, strict=True):
            buffer.copy_(before)
    scaler.update()
    if taken:
        return total / settings.accumulate
    return NotFinite(why or "the loss or a gradient of another process is not finite", *(bad or (image, truth)))


def fix_statistics(network: nn.Module) -> None:
    """Let batch normalisation use, and keep, the statistics it has, while the rest of the network trains."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eval()


def losses_in(state: dict[str, Any] | None) -> list[float]:
    """Sum and number of the losses of the epoch begun: a checkpoint's, which are the first process's; else none."""
    return list(state["losses"]) if state is not None and rank() == 0 else [0.0, 0]


def check_state(state: Any, path: Path) -> None:
    """Raise WeightsError if a checkpoint read from `path` lacks what a run resumes from. None is no checkpoint."""
    if state is None:
        return
    lacking = sorted(STATE_KEYS - (state.keys() if isinstance(state, dict) else set()))
    if lacking:
        raise WeightsError(
            f"checkpoint '{path}' lacks {', '.join(lacking)}: it is of another version, or of something else; delete "
            "it to start the run anew"
        )


def mean_loss(losses: list[float], device: Device) -> float | None:
    """The mean over all steps of all processes, of which one that was resumed may know more than another; None if
    every step was left out.
    """
    total, count = (mean_over_processes(value, device) for value in losses)
    return total / count if count else None


def in_any_process(happened: bool, device: Device) -> bool:
    """Whether something happened in one of the processes: the same answer in all."""
    return mean_over_processes(float(happened), device) > 0


def mean_over_processes(value: float, device: Device) -> float:
    """The mean of what every process gives."""
    if processes() == 1:
        return value
    total = torch.tensor(value, dtype=torch.float64, device=device.torch_device)
    distributed.all_reduce(total)
    return float(total) / processes()


def average_gradients(loss: nn.Module) -> None:
    """The same gradients of the loss's own weights in every process, as the network's are."""
    if processes() > 1:
        for parameter in loss.parameters():
            if parameter.grad is not None:
                distributed.all_reduce(parameter.grad)
                parameter.grad /= processes()


def steps_per_epoch(run: Run) -> int:
    """Optimizer steps of an epoch: as set, or as many as show every study, or slice, once."""
    return steps_of(run.settings, len(run.data), processes())  # type: ignore[arg-type]


def loader(run: Run, first_step: int, stop: int) -> Iterable[tuple[Tensor, Tensor]]:
    """Batches of this process from a step on. Crops are numbered through the run, whoever draws them."""
    settings = run.settings
    crops = settings.batch * settings.accumulate
    numbers = [
        (step * processes() + rank()) * crops + number for step in range(first_step, stop) for number in range(crops)
    ]
    if isinstance(run.data, DeviceCrops):
        return run.data.batches(numbers)
    return DataLoader(
        run.data,
        batch_size=settings.batch,
        sampler=numbers,
        num_workers=settings.workers,
        pin_memory=run.device.torch_device.type == "cuda",
        persistent_workers=False,
        multiprocessing_context="spawn" if settings.workers else None,
        collate_fn=getattr(run.data, "together", None),  # crops may differ in size
    )


def write_log(path: Path, figures: dict[str, Any]) -> None:
    """Add a line to log.jsonl."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(figures) + "\n")
