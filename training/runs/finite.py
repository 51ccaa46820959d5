"""Numbers that are not finite: a step with such a loss or gradient is left out and counted; weights are never kept."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from model.errors import LesionError
from training.settings import Training


class TrainingError(LesionError):
    """The run cannot go on: the loss or the weights are not finite."""

    exit_code = 6


@dataclass
class LeftOut:
    """How many steps were left out: in a row until now, in this epoch, and in the run."""

    in_a_row: int = 0
    epoch: int = 0
    run: int = 0

    def add(self) -> None:
        """Count one more."""
        self.in_a_row, self.epoch, self.run = self.in_a_row + 1, self.epoch + 1, self.run + 1


@dataclass(frozen=True)
class NotFinite:
    """Why a step was left out, and the batch of this process."""

    reason: str
    image: Tensor
    truth: Tensor


def not_finite(state: Mapping[str, Tensor]) -> list[str]:
    """The names of the tensors that hold NaN or infinity."""
    return [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]


def gradient_norm(parameters: Iterable[nn.Parameter]) -> float:
    """The norm of all gradients; not finite if one is not, or if their squares overflow, as in an optimizer."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return float(nn.utils.get_total_norm(gradients)) if gradients else 0.0


def not_finite_reason(loss: float, norm: float) -> str:
    """What is not finite, in words; empty if both are."""
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    return "" if math.isfinite(norm) else f"the norm of the gradients is {norm}, the loss {loss:g}"


def remedy(settings: Training) -> str:
    """What may be changed in a run that resumes; while weights are averaged, other settings give the learning rate."""
    rates = {"optimizer.rate": settings.optimizer.rate}
    if averaging := settings.averaging:
        rates = {"averaging.peak": averaging.peak, "averaging.constant": averaging.constant}
        if averaging.rates != "paper":
            del rates["averaging.peak"]
    lower = " and ".join(f"{name} ({rate:g})" for name, rate in rates.items())
    return (
        f"the same command goes on from the last checkpoint with precision: float32 or bfloat16, a lower {lower}, or "
        f"an optimizer.clip_norm ({settings.optimizer.clip_norm:g}, 0: none): these may change within a run, and are "
        "recorded"
    )


def check_left_out(
    folder: Path, settings: Training, found: NotFinite, left_out: LeftOut, step: int, process: int
) -> None:
    """Raise TrainingError at the step after `settings.most_left_out` in a row, with the batch of this process saved."""
    if left_out.in_a_row <= settings.most_left_out:
        return
    path = folder / f"bad-batch-{step}-{process}.safetensors"
    save_file({"image": found.image.cpu().contiguous(), "truth": found.truth.cpu().contiguous()}, path)
    raise TrainingError(
        f"{found.reason} at step {step} of '{folder}', the last of {left_out.in_a_row} steps in a row that "
        f"were left out for that (at most {settings.most_left_out}, most_left_out): the batch is saved in '{path}'; "
        + remedy(settings)
    )


def check_weights(folder: Path, settings: Training, state: Mapping[str, Tensor], step: int) -> None:
    """Raise TrainingError if weights to be kept hold NaN or infinity; what was kept before stays."""
    if bad := not_finite(state):
        raise TrainingError(
            f"the weights are not finite after step {step} of '{folder}' ({len(bad)} of {len(state)} tensors, the "
            f"first is {bad[0]}): they are not kept, and what was kept before stays as it was; " + remedy(settings)
        )
