"""EoA: the weighted mean of the members' predictions over one study, and what to do when memory runs out."""

import gc
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from model.config import Manifest, Part
from model.device import Device, computing, is_out_of_memory
from model.errors import CaseError, WeightsError
from model.slices import slice_starts, slide_slices
from model.sliding import slide, window_starts
from model.weights import Voter

SLICES_A_WINDOW = 4  # slices of 256^2 that are run in place of one window


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
    disagreement: Tensor | None = None  # standard deviation of the voters' lesion probabilities, if asked for


class Spread:
    """Weighted standard deviation of probabilities, told one voter at a time (West 1979, doi:10.1145/359146.359153)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._weight, self._mean, self._squares = 0.0, torch.zeros(shape), torch.zeros(shape)

    def add(self, probability: Tensor, weight: float) -> None:
        self._weight += weight
        off = probability - self._mean
        self._mean += off * (weight / self._weight)
        self._squares += off.mul_(probability.sub_(self._mean)).mul_(weight)

    def deviation(self) -> Tensor:
        return (self._squares / self._weight).clamp_(min=0).sqrt_()


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
    view: Callable[[Part], Tensor],
    voters: list[Voter],
    manifest: Manifest,
    device: Device,
    batch: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
    with_disagreement: bool = False,
) -> Vote:
    """Run every voter over the study and average (Ahn and Park, algorithm 1).

    view: the study as a network needs it, (2, X, Y, Z) float32 on the host. `combine` logits: the mean of logit
    differences, lesion minus background, whose sign is the argmax; probabilities: the mean of softmax
    probabilities, minus 1/2. A voter of weight 2 is run once. with_disagreement: also how far the voters' probabilities
    lie apart, for two more volumes of memory. Raises CaseError if memory runs out on the last rung.
    """
    rungs, warnings = ladder(device, batch), []
    weights = sum(weight for weight, _, _ in voters)
    image, shown = view(voters[0][2]), voters[0][2]
    windows = [windows_of(tuple(image.shape[1:]), part) for _, _, part in voters]
    margin = torch.zeros(tuple(image.shape[1:]))
    spread = Spread(tuple(margin.shape)) if with_disagreement else None
    for number, (weight, load, part) in enumerate(voters):
        if (part.network.kind, part.intensity) != (shown.network.kind, shown.intensity):
            image, shown = view(part), part
        starts, wide = slice_starts(image[0].numpy(), part.window.size) if part.network.kind == "slices" else ([], 0)
        if wide:
            edges = f"{part.window.size[0]} x {part.window.size[1]}"
            warnings.append(
                f"in {wide} of {image.shape[3]} slices the body is wider than the {edges} pixels that the network for "
                "slices sees; it finds nothing beyond them"
            )
        difference, precision = None, device.precision
        while difference is None:
            try:
                told = _counter(progress, sum(windows[:number]), sum(windows))
                difference = _one(image, load(), part, starts, replace(device, precision=precision), rungs[0], told)
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
        if spread is not None:
            spread.add(difference.sigmoid(), weight)
        if manifest.combine == "probabilities":
            difference = difference.sigmoid_().sub_(0.5)
        margin += difference.mul_(weight / weights)
    return Vote(
        margin=margin, rung=rungs[0], windows=sum(windows), warnings=tuple(dict.fromkeys(warnings)),
        disagreement=spread.deviation() if spread is not None else None,
    )  # fmt: skip


def windows_of(shape: tuple[int, ...], part: Part) -> int:
    """How many windows, or slices, a network runs for a study of (X, Y, Z) voxels."""
    if part.network.kind == "slices":
        return shape[2]
    window = part.window_for(shape)
    x, y, z = (max(n, w) for n, w in zip(shape, window, strict=True))
    return len(window_starts((x, y, z), window, part.window.overlap))


def difference_of(logits: Tensor) -> Tensor:
    """Logit of lesion less that of background, (B, 1, ...) float32, of logits (B, 2, ...), or (B, 1, ...) of lesion."""
    logits = logits.float()
    return logits if logits.shape[1] == 1 else logits[:, 1:] - logits[:, :1]


def _one(
    image: Tensor, network: nn.Module, part: Part, starts: list[tuple[int, int]], device: Device, rung: Rung,
    told: Callable[[int], None],
) -> Tensor:  # fmt: skip
    """One network's logit difference over the study, (X, Y, Z) float32 on the host."""
    network = network.to(rung.device)
    on = device if rung.device == device.torch_device else Device(
        torch_device=rung.device, precision=torch.float32, name=str(rung.device)
    )  # fmt: skip

    def difference(patches: Tensor) -> Tensor:
        return difference_of(network(patches))

    with computing(on):
        if part.network.kind == "slices":
            at_a_time = 1 if rung.batch == 1 else SLICES_A_WINDOW * rung.batch
            return slide_slices(
                image, difference, starts=starts, window=part.window.size, air_hu=part.intensity.ct_low_hu,
                device=rung.device, batch=at_a_time, on_windows=told,
            )  # fmt: skip
        out = slide(
            image.to(rung.device), difference,
            window=part.window_for(tuple(image.shape[1:])), overlap=part.window.overlap,
            weighting=part.window.weighting,
            batch=rung.batch, sums_on=rung.sums_on, on_windows=told,
        )  # fmt: skip
        return out[0].to("cpu").clone()


def _counter(progress: Callable[[int, int], None], done: int, total: int) -> Callable[[int], None]:
    def told(more: int) -> None:
        nonlocal done
        done += more
        progress(done, total)

    return told


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
