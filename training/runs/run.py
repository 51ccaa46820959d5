"""What the training loop works on, and what changes from step to step."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from model.inference.device import Device
from training.compute.finite import LeftOut
from training.settings import Training
from training.weights.averaging import WeightAverage

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(kw_only=True)
class Run:
    """What the loop works on.

    `at_epoch(epoch, figures)` gets loss, rate and seconds, in every process, and may return more for the log, as
    validation does.
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
    restarts: list[dict[str, Any]] = field(default_factory=list)  # as config.yaml has them


@dataclass(kw_only=True)
class TrainingProgress:
    """What changes from step to step, besides the network and its average."""

    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    loss: nn.Module  # the loss's own weights; an empty module for a loss without
    step: int  # of the run, as many as are done
    losses: list[float] = field(default_factory=lambda: [0.0, 0])  # sum and number in the epoch begun
    unread: list[Tensor] = field(default_factory=list)  # what `one_step` left of the steps since the last reading


def on_gpu(run: Run) -> bool:
    """Whether the run trains on a GPU."""
    return run.device.torch_device.type != "cpu"
