"""The one training loop: steps, gradient accumulation, mixed precision, checkpoints, resuming, several processes.

`torchrun --nproc_per_node N -m training.train ...` runs it on several GPUs or machines: every process takes its
share of each step's crops, gradients are averaged, and the first process writes.
"""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from model.device import Device
from model.errors import LesionError, WeightsError
from training.averaging import WeightAverage
from training.checkpoint import LOG, STATE, cut_log, open_run, write_state
from training.device_crops import DeviceCrops
from training.optimizers import optimizer_for
from training.predict import layout_of
from training.schedule import rate_at, steps_of
from training.settings import Training

WAIT = timedelta(hours=6)
STATE_KEYS = {"network", "optimizer", "scaler", "loss", "average", "step", "losses", "seconds"}  # of a checkpoint
Loss = Callable[[Tensor, Tensor], Tensor]


class TrainingError(LesionError):
    """The run cannot go on: the loss or the weights are not finite."""

    exit_code = 6


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
    at the first loss that is not finite, with the batch saved; and for weights that are not, before they are
    averaged or written. Raises WeightsError for a state that is no checkpoint of this version.
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
        scaler.load_state_dict(state["scaler"])
        learned.load_state_dict(state["loss"])
        step, run.seconds = state["step"], dict(state["seconds"])
        if run.average is not None:
            run.average.load_state_dict(state["average"])
    if rank() == 0:
        cut_log(run.folder / LOG, step)
    wrapped: nn.Module = DistributedDataParallel(network) if processes() > 1 else network
    stop = settings.schedule.last * steps

    def checkpoint() -> None:
        if rank() == 0:
            write_state(run.folder / STATE, {
                "network": network.state_dict(), "optimizer": optimizer.state_dict(), "scaler": scaler.state_dict(),
                "loss": learned.state_dict(),
                "average": run.average.state_dict() if run.average else None, "step": step, "losses": losses,
                "seconds": run.seconds,
            })  # fmt: skip

    saved = time.monotonic()
    bar = tqdm(initial=step, total=stop, unit="step", desc=run.folder.name, disable=rank() != 0)
    batches = iter(loader(run, step, stop))
    while step < stop:
        rate = rate_at(settings, step / steps)
        optimizer.param_groups[0]["lr"] = rate  # the loss's own weights keep theirs
        loss = one_step(run, wrapped, optimizer, scaler, batches, step)
        losses = [losses[0] + loss, losses[1] + 1]
        step += 1
        bar.update()
        bar.set_postfix(loss=f"{loss:.3f}", **{f"{k}_s": f"{v:.0f}" for k, v in run.seconds.items()})
        ends = step % steps == 0
        due = ends or time.monotonic() - saved >= 60 * settings.checkpoint_minutes
        averaged = settings.averaging is not None and (settings.averaging.per_step or ends)
        if due or averaged:
            check_finite(run, network.state_dict(), step)
        if run.average is not None and averaged:
            run.average.update(network.state_dict())
        if ends:
            figures = {"epoch": step // steps, "step": step, "loss": mean_loss(losses, device), "rate": rate}
            losses = [0.0, 0]
            figures |= {f"{name}_s": round(value, 3) for name, value in run.seconds.items()}
            if rank() == 0:
                write_log(run.folder / LOG, figures | run.at_epoch(step // steps, figures))
        if due:
            checkpoint()
            saved = time.monotonic()
    bar.close()


def one_step(
    run: Run, wrapped: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler,
    batches: Iterator[tuple[Tensor, Tensor]], step: int,
) -> float:  # fmt: skip
    """One step of the optimizer over `accumulate` batches; the mean loss."""
    settings, device = run.settings, run.device
    layout = layout_of(settings)
    total = 0.0
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
            if not abs(value) < float("inf"):
                raise _not_finite(run, value, step, image, truth)
            scaler.scale(loss / settings.accumulate).backward()
        total += value
        run.seconds["data"] += loaded - begun
        run.seconds["compute"] += time.perf_counter() - loaded
    if isinstance(run.loss, nn.Module):
        average_gradients(run.loss)
    if settings.optimizer.clip_norm:
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(wrapped.parameters(), settings.optimizer.clip_norm)
    scaler.step(optimizer)
    scaler.update()
    return total / settings.accumulate


def fix_statistics(network: nn.Module) -> None:
    """Let batch normalisation use, and keep, the statistics it has, while the rest of the network trains."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eval()


def losses_in(state: dict[str, Any] | None) -> list[float]:
    """Sum and number of the losses of the epoch begun: a checkpoint's, which are the first process's; else none."""
    return list(state["losses"]) if state is not None and rank() == 0 else [0.0, 0]


def check_state(state: Any, path: Path) -> None:
    """Raise WeightsError if a checkpoint, read from `path`, does not hold what a run goes on from; None: there is none.
    """
    if state is None:
        return
    lacking = sorted(STATE_KEYS - (state.keys() if isinstance(state, dict) else set()))
    if lacking:
        raise WeightsError(
            f"checkpoint '{path}' lacks {', '.join(lacking)}: it is of another version, or of something else; delete "
            "it to start the run anew"
        )


def check_finite(run: Run, state: Mapping[str, Tensor], step: int) -> None:
    """Raise TrainingError if weights to be kept hold NaN or infinity; what was kept before stays."""
    bad = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise TrainingError(
            f"the weights are not finite after step {step} of '{run.folder}' ({len(bad)} of {len(state)} tensors, the "
            f"first is {bad[0]}): they are not kept, {STATE} stays as it was; lower optimizer.rate "
            f"({run.settings.optimizer.rate:g}) or set optimizer.clip_norm, and train in another folder"
        )


def mean_loss(losses: list[float], device: Device) -> float:
    """The mean over all steps of all processes, of which one that was resumed may know more than another."""
    total, count = (mean_over_processes(value, device) for value in losses)
    return total / count


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
        run.data, batch_size=settings.batch, sampler=numbers, num_workers=settings.workers,
        pin_memory=run.device.torch_device.type == "cuda", persistent_workers=False,
        multiprocessing_context="spawn" if settings.workers else None,
        collate_fn=getattr(run.data, "together", None),  # crops may differ in size
    )  # fmt: skip


def write_log(path: Path, figures: dict[str, Any]) -> None:
    """Add a line to log.jsonl."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(figures) + "\n")


def _not_finite(run: Run, value: float, step: int, image: Tensor, truth: Tensor) -> TrainingError:
    path = run.folder / f"bad-batch-{step}-{rank()}.safetensors"
    save_file({"image": image.cpu().contiguous(), "truth": truth.cpu().contiguous()}, path)
    return TrainingError(
        f"the loss is {value} at step {step} of '{run.folder}': the batch is saved in '{path}'; look at it, or lower "
        f"optimizer.rate ({run.settings.optimizer.rate:g}) or set optimizer.clip_norm"
    )
