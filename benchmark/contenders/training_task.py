"""What benchmark.training asks of a contender, and what it prints: samples a second of its own training loop."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model.files import peak_memory_bytes
from training.settings import Training, settings_from

CASES = ("one", "two")
End = tuple[float, float]  # at an epoch's end: seconds on the clock, seconds of waiting for data so far


@dataclass(frozen=True, kw_only=True)
class TrainingTask:
    """Studies and settings that all contenders share, as JSON on the command line."""

    cache: str  # folder of the prepared studies CASES
    folder: str  # the contender's own
    widths: Sequence[int]
    crop: int  # edge in voxels
    batch: int
    steps: int  # of an epoch
    epochs: int  # that are counted, after one that is not
    device: str
    workers: int  # processes that augment, of the loops that have some
    fused_norm: bool = True  # of ours, as compile
    compile: bool = False


def settings_of(task: TrainingTask) -> Training:
    """Our settings: crops on the device, channels-last, AdamW, the fastest convolutions."""
    return settings_from(
        {
            "network": {"fusion": "middle", "widths": list(task.widths)},
            "crops": {"size": [task.crop] * 3},
            "window": {"size": [task.crop] * 3},
            "optimizer": {"name": "adamw"},
            "batch": task.batch,
            "accumulate": 1,
            "schedule": {"epochs": task.epochs + 1, "steps_per_epoch": task.steps, "warmup_epochs": 0},
            "workers": 0,
            "crops_on": "device",
            "channels_last": True,
            "deterministic": False,
            "fused_norm": task.fused_norm,
            "compile": task.compile,
        }
    )


def run(loop: Callable[[TrainingTask], tuple[list[End], str]]) -> None:
    """Run the command line's task by `loop`, which returns its epochs' ends and in what it computed; print figures."""
    task = TrainingTask(**json.loads(sys.argv[1]))
    Path(task.folder).mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    ends, computed_in = loop(task)
    print(json.dumps(figures_of(ends, task) | {"computed_in": computed_in}), flush=True)


def figures_of(ends: Sequence[End], task: TrainingTask) -> dict[str, Any]:
    """Samples a second and the share of waiting for data, of every counted epoch, and memory."""
    spent = [(b[0] - a[0], b[1] - a[1]) for a, b in zip(ends, ends[1:], strict=False)]
    return {
        "samples_per_s": [task.batch * task.steps / seconds for seconds, _ in spent],
        "data_share": [data / seconds for seconds, data in spent],
        "host_gb": peak_memory_bytes() / 1e9,
        "gpu_gb": torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else None,
    }
