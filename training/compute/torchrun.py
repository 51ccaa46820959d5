"""A run in several processes under torchrun: which process this is, their group, and means over processes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn

from model.inference.device import Device
from training.stopping import is_limited, time_is_over

WAIT = timedelta(hours=6)


def rank() -> int:
    """This process's number under torchrun, 0 without."""
    return int(os.environ.get("RANK", 0))


def processes() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", 1))


@contextmanager
def process_group(device: Device) -> Iterator[None]:
    """torchrun's processes as one group, from when all of them are here until all are done."""
    gpu = device.torch_device.type == "cuda"
    if gpu:
        torch.cuda.set_device(device.torch_device)  # NCCL uses the current one; by default every process has the first
    backend = "nccl" if gpu else "gloo"
    distributed.init_process_group(backend, timeout=WAIT)  # a process may validate longer than others
    try:
        distributed.barrier()
        yield
        distributed.barrier()  # a process whose peer has left already may abort when its own connections close
    finally:
        distributed.destroy_process_group()


def in_any_process(happened: Tensor) -> Tensor:
    """Whether something, one bool on the device, happened in one of the processes: the same answer in all, there."""
    if processes() == 1:
        return happened
    count = happened.float()
    distributed.all_reduce(count)
    return count > 0


def time_is_over_in_any_process(device: Device) -> bool:
    """Whether one of the processes should stop at its next checkpoint: the same answer in all. Several processes ask
    each other only where their minutes are limited.
    """
    if processes() == 1:
        return time_is_over()
    return is_limited() and mean_over_processes(float(time_is_over()), device) > 0


def mean_over_processes(value: float, device: Device) -> float:
    """The mean of what every process gives."""
    if processes() == 1:
        return value
    total = torch.tensor(value, dtype=torch.float64, device=device.torch_device)
    distributed.all_reduce(total)
    return float(total) / processes()


def gathered(value: Any) -> list[Any]:
    """What every process gives, in the order of their numbers, in every process."""
    if processes() == 1:
        return [value]
    values: list[Any] = [None] * processes()
    distributed.all_gather_object(values, value)
    return values


def average_gradients(loss: nn.Module) -> None:
    """Average the gradients of the loss's own weights over all processes; torch does so for the network alone."""
    if processes() > 1:
        for parameter in loss.parameters():
            if parameter.grad is not None:
                distributed.all_reduce(parameter.grad)
                parameter.grad /= processes()
