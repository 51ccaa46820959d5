"""One step of training, which waits for no GPU, the batches it takes, and the look at what steps left on the device."""

import contextlib
import itertools
import math
import time
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from training.batches.device_crops import DeviceCrops
from training.compute.device import layout_of
from training.compute.finite import (
    bring_back,
    gradient_norm,
    not_finite_reason,
    save_batch,
    statistics_of,
    too_many_left_out,
)
from training.compute.optimizers import step_unless
from training.compute.torchrun import average_gradients, in_any_process, processes, rank
from training.runs.run import Run, TrainingProgress, on_gpu


def one_step(
    run: Run, wrapped: nn.Module, progress: TrainingProgress, batches: Iterator[tuple[Tensor, Tensor]]
) -> Tensor:
    """One step of the optimizer over `accumulate` batches, which waits for no GPU.

    If the loss or a gradient of any process is not finite, weights and batch statistics stay as they were in every one.
    Returns, on the device, float64 (accumulate + 2,): this process's losses, the norm of the gradients, and 1 if the
    step was left out.
    """
    settings, device, optimizer, scaler = run.settings, run.device, progress.optimizer, progress.scaler
    statistics = statistics_of(run.network)
    before = [buffer.clone() for buffer in statistics]
    losses: list[Tensor] = []
    optimizer.zero_grad(set_to_none=True)
    for part in range(settings.accumulate):
        image, truth = next_batch(run, batches)
        begun = time.perf_counter()
        last = part == settings.accumulate - 1
        no_sync = contextlib.nullcontext() if last or processes() == 1 else wrapped.no_sync()  # type: ignore[operator]
        with no_sync:  # gradients of all processes are averaged once a step
            with torch.autocast(device.torch_device.type, device.precision, device.precision != torch.float32):
                out = wrapped(image)
            loss = run.loss(out.float(), truth)
            losses.append(loss.detach())
            scaler.scale(loss / settings.accumulate).backward()  # type: ignore[no-untyped-call]
        run.seconds["compute"] += time.perf_counter() - begun
    begun = time.perf_counter()
    if isinstance(run.loss, nn.Module):
        average_gradients(run.loss)
    scaler.unscale_(optimizer)
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    norm = gradient_norm(trained, device.torch_device)
    outcome = torch.stack([*losses, norm]).double()
    left_out = in_any_process(~torch.isfinite(outcome).all())
    if settings.optimizer.clip_norm:
        nn.utils.clip_grad_norm_(run.network.parameters(), settings.optimizer.clip_norm)
    step_unless(optimizer, left_out)
    bring_back(statistics, before, left_out)
    scaler.update()
    run.seconds["compute"] += time.perf_counter() - begun
    return torch.cat([outcome, left_out.double()[None]])


def read_steps(run: Run, progress: TrainingProgress) -> float | None:
    """Take in what the steps since the last reading left on the device; the mean loss of the last that was taken.

    None if none was. Raises TrainingError, with the batch saved, if too many in a row were left out.
    """
    begun, first = time.perf_counter(), progress.step - len(progress.unread)
    steps = torch.stack(progress.unread).tolist()  # here the host waits
    run.seconds["compute"] += time.perf_counter() - begun
    progress.unread, latest = [], None
    for step, (*losses, norm, left_out) in enumerate(steps, first):
        total = sum(losses)
        if not left_out:
            latest = total / run.settings.accumulate
            progress.losses, run.left_out.in_a_row = [progress.losses[0] + latest, progress.losses[1] + 1], 0
            continue
        run.left_out.add()
        if run.left_out.in_a_row > run.settings.most_left_out:
            bad = [part for part, loss in enumerate(losses) if not math.isfinite(loss)]
            path = run.folder / f"bad-batch-{step}-{rank()}.safetensors"
            save_batch(path, *batch_again(run, step, bad[0] if bad else run.settings.accumulate - 1))
            reason = not_finite_reason(total, norm) or "the loss or a gradient of another process is not finite"
            raise too_many_left_out(run.folder, run.settings, reason, run.left_out, step, path)
    return latest


def next_batch(run: Run, batches: Iterator[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Image and truth of the next batch, on the run's device; the wait counts as the data's seconds."""
    begun = time.perf_counter()
    image, truth = next(batches)
    image = image.to(run.device.torch_device, memory_format=layout_of(run.settings), non_blocking=True)
    truth = truth.to(run.device.torch_device, non_blocking=True)
    run.seconds["data"] += time.perf_counter() - begun
    return image, truth


def loader(run: Run, first_step: int, stop: int, workers: int | None = None) -> Iterable[tuple[Tensor, Tensor]]:
    """Batches of this process from a step on. Crops are numbered through the run, whichever process draws them.

    workers: in place of the settings'.
    """
    settings = run.settings
    workers = settings.workers if workers is None else workers
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
        num_workers=workers,
        pin_memory=on_gpu(run),
        persistent_workers=False,
        multiprocessing_context="spawn" if workers else None,
        collate_fn=getattr(run.data, "together", None),  # crops may differ in size
    )


def batch_again(run: Run, step: int, part: int) -> tuple[Tensor, Tensor]:
    """One of the `accumulate` batches of a step of this process, drawn again."""
    batches = iter(loader(run, step, step + 1, workers=0))
    return next(itertools.islice(batches, part, None))
