"""EoA: the weighted mean of the members' predictions over one study, and what to do when memory runs out."""

import gc
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from model.config import Manifest
from model.device import Device, computing, is_out_of_memory
from model.errors import CaseError, WeightsError
from model.sliding import slide, window_starts

Voter = tuple[float, Callable[[], nn.Module]]


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One way to run; the ladder goes down a rung each time memory runs out."""

    device: torch.device
    batch: int
    sums_on: torch.device

    def __str__(self) -> str:
        return f"{self.device.type}, {self.batch} window{'s' * (self.batch > 1)} at a time, sums on {self.sums_on.type}"


@dataclass(frozen=True, kw_only=True)
class Vote:
    """What the ensemble says: `margin` (X, Y, Z) float32 on the host, above 0 = lesion; the rung that ran."""

    margin: Tensor
    rung: Rung
    windows: int
    warnings: tuple[str, ...]


def ladder(device: Device, batch: int) -> list[Rung]:
    """The rungs of a device: full batch, single windows, sums on the host, everything on the CPU."""
    here, host = device.torch_device, torch.device("cpu")
    rungs = [
        Rung(device=here, batch=batch, sums_on=here),
        Rung(device=here, batch=1, sums_on=here),
        Rung(device=here, batch=1, sums_on=host),
        Rung(device=host, batch=1, sums_on=host),
    ]
    return list(dict.fromkeys(rungs))


def vote(
    image: Tensor,
    voters: list[Voter],
    manifest: Manifest,
    device: Device,
    batch: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Vote:
    """Run every voter over the study and average (Ahn and Park, algorithm 1).

    image: (2, X, Y, Z) float32 on the host. `combine` logits: the mean of logit differences, lesion
    minus background, whose sign is the argmax; probabilities: the mean of softmax probabilities,
    minus 1/2. A voter of weight 2 is run once. Raises CaseError if memory runs out on the last rung.
    """
    x, y, z = (max(n, w) for n, w in zip(image.shape[1:], manifest.window.size, strict=True))
    windows = len(window_starts((x, y, z), manifest.window.size, manifest.window.overlap))
    rungs, warnings = ladder(device, batch), []
    weights = sum(weight for weight, _ in voters)
    margin = torch.zeros(tuple(image.shape[1:]))
    for number, (weight, load) in enumerate(voters):
        difference, precision = None, device.precision
        while difference is None:
            try:
                told = _counter(progress, number, windows, len(voters))
                difference = _one(image, load(), manifest, replace(device, precision=precision), rungs[0], told)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                said = (str(error).splitlines() or [type(error).__name__])[0]
            if difference is None:
                _free()
                if len(rungs) == 1:
                    raise CaseError(
                        f"the study of {tuple(image.shape[1:])} voxels does not fit into memory even at {rungs[0]} "
                        f"({said}); use a machine with more memory or a bundle with a smaller window"
                    )
                warnings.append(f"memory ran out at {rungs[0]}; went on at {rungs[1]}")
                rungs = rungs[1:]
            elif not all(math.isfinite(end) for end in difference.aminmax()):
                if precision == torch.float32 or rungs[0].device != device.torch_device:
                    raise WeightsError(f"network {number + 1} of '{manifest.name}' gives NaN or infinite logits for "
                                       "this study; the weights are damaged or were trained on other intensities")
                warnings.append(f"network {number + 1} overflowed in half precision; it was run again in float32")
                difference, precision = None, torch.float32
        if manifest.combine == "probabilities":
            difference = difference.sigmoid_().sub_(0.5)
        margin += difference.mul_(weight / weights)
    return Vote(margin=margin, rung=rungs[0], windows=windows * len(voters), warnings=tuple(warnings))


def _one(
    image: Tensor, network: nn.Module, manifest: Manifest, device: Device, rung: Rung, told: Callable[[int], None]
) -> Tensor:
    """One network's logit difference over the study, (X, Y, Z) float32 on the host."""
    network = network.to(rung.device)
    on = device if rung.device == device.torch_device else Device(
        torch_device=rung.device, precision=torch.float32, name=str(rung.device)
    )  # fmt: skip

    def difference(patches: Tensor) -> Tensor:
        logits: Tensor = network(patches)
        return logits[:, 1:].float() - logits[:, :1].float()

    with computing(on):
        out = slide(
            image.to(rung.device), difference,
            window=manifest.window.size, overlap=manifest.window.overlap, weighting=manifest.window.weighting,
            batch=rung.batch, sums_on=rung.sums_on, on_windows=told,
        )  # fmt: skip
        return out[0].to("cpu").clone()


def _counter(progress: Callable[[int, int], None], voter: int, windows: int, voters: int) -> Callable[[int], None]:
    done = 0

    def told(more: int) -> None:
        nonlocal done
        done += more
        progress(voter * windows + done, voters * windows)

    return told


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
