"""Numbers that are not finite: a step with such a loss or gradient is left out and counted; weights are never kept."""

import math
from collections.abc import Iterable, Mapping, Sequence
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


def not_finite(state: Mapping[str, Tensor]) -> list[str]:
    """The names of the tensors that hold NaN or infinity. Waits once for the device that they lie on."""
    floating = {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
    if not floating:
        return []
    there = next(iter(floating.values())).device
    finite = torch.stack([torch.isfinite(tensor).all().to(there) for tensor in floating.values()]).tolist()
    return [name for name, good in zip(floating, finite, strict=True) if not good]


def gradient_norm(parameters: Iterable[nn.Parameter], device: torch.device) -> Tensor:
    """The norm of all gradients; not finite if one is not, or if their squares overflow, as in an optimizer."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return nn.utils.get_total_norm(gradients) if gradients else torch.zeros((), device=device)


def statistics_of(network: nn.Module) -> list[Tensor]:
    """What a forward pass in training changes besides gradients: the buffers of all modules that train."""
    return [buffer for module in network.modules() if module.training for buffer in module.buffers(recurse=False)]


def bring_back(tensors: Sequence[Tensor], before: Sequence[Tensor], left_out: Tensor) -> None:
    """Give tensors their values of before if `left_out`, one bool on their device, is true; waits for no device."""
    for tensor, old in zip(tensors, before, strict=True):
        tensor.copy_(torch.where(left_out, old, tensor))


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


def too_many_left_out(
    folder: Path, settings: Training, reason: str, left_out: LeftOut, step: int, saved: Path
) -> TrainingError:
    """The error that ends a run at the step after `settings.most_left_out` in a row; saved: where its batch lies."""
    return TrainingError(
        f"{reason} at step {step} of '{folder}', the last of {left_out.in_a_row} steps in a row that "
        f"were left out for that (at most {settings.most_left_out}, most_left_out): the batch is saved in '{saved}'; "
        + remedy(settings)
    )


def save_batch(path: Path, image: Tensor, truth: Tensor) -> None:
    """Write a batch as safetensors."""
    save_file({"image": image.cpu().contiguous(), "truth": truth.cpu().contiguous()}, path)


def check_weights(folder: Path, settings: Training, state: Mapping[str, Tensor], step: int) -> None:
    """Raise TrainingError if weights to be kept hold NaN or infinity; what was kept before stays."""
    if bad := not_finite(state):
        raise TrainingError(
            f"the weights are not finite after step {step} of '{folder}' ({len(bad)} of {len(state)} tensors, the "
            f"first is {bad[0]}): they are not kept, and what was kept before stays as it was; " + remedy(settings)
        )
