"""What happens when memory runs out: the study steps down a ladder, on which every rung needs less than the one above.

On a GPU: several windows at a time; one window at a time; the sums in the host's memory; everything on the CPU.
On a CPU: several windows (or slices) at a time; one at a time. A step down is a warning; below the last rung the study
is refused.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from model.errors import CaseError, WeightsError
from model.inference.device import Device, give_back_memory, is_out_of_memory
from model.networks.weights import all_finite

SLICES_A_WINDOW = 4  # slices of 256^2 pixels take about as much memory as one window
SLICES = 2 * SLICES_A_WINDOW  # at a time, on the rung that runs more than one window at a time


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One way to run: on which device, how many windows or slices at a time, and where the sums lie."""

    device: torch.device
    windows: int
    slices: int
    sums_on: torch.device

    def __str__(self) -> str:
        count = f"{self.windows} window{'s' * (self.windows > 1)}"
        return f"{self.device.type}, {count} at a time, sums on {self.sums_on.type}"


@dataclass(kw_only=True)
class Ladder:
    """The rungs of a study from the present one down, and the warnings that the steps gave. shape: of the image."""

    rungs: list[Rung]
    shape: tuple[int, ...]
    warnings: list[str] = field(default_factory=list)

    @property
    def rung(self) -> Rung:
        """The present rung."""
        return self.rungs[0]

    def step_down(self, reason: str) -> None:
        """Go to the next rung. Raises CaseError if there is none."""
        if len(self.rungs) == 1:
            raise CaseError(
                f"the study of {self.shape} voxels does not fit into memory even at {self.rung} ({reason}); use a "
                "machine with more memory or a bundle with a smaller window"
            )
        self.warnings.append(f"memory ran out at {self.rungs[0]}; went on at {self.rungs[1]}")
        self.rungs = self.rungs[1:]


def ladder_of(device: Device, windows: int, shape: tuple[int, ...]) -> Ladder:
    """The ladder of a device for a study of (X, Y, Z) voxels, from `windows` at a time down."""
    here, host = device.torch_device, torch.device("cpu")
    rungs = [
        Rung(device=here, windows=windows, slices=1 if windows == 1 else SLICES, sums_on=here),
        Rung(device=here, windows=1, slices=1, sums_on=here),
        Rung(device=here, windows=1, slices=1, sums_on=host),
        Rung(device=host, windows=1, slices=1, sums_on=host),
    ]
    return Ladder(rungs=list(dict.fromkeys(rungs)), shape=shape)  # on a CPU several are the same


def run_on_ladder(
    compute: Callable[[Rung, Device], Tensor],
    ladder: Ladder,
    device: Device,
    network_name: str,
    free: Callable[[], None],
) -> Tensor:
    """A network's margin on the first rung that memory suffices for, in the first precision that it does not overflow.

    compute(rung, device): the margin on a rung; `device` is the rung's, in the precision to try. free: drops everything
    that is kept between windows. network_name: for messages.
    Raises CaseError if memory runs out on the last rung, WeightsError if the margin is not finite in float32 either.
    """
    precisions = [device.precision, *device.wider]
    while True:
        margin, rung = None, ladder.rung
        try:
            margin = compute(rung, _device_on(rung, replace(device, precision=precisions[0])))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = _reason(error)
        if margin is None:  # not within `except`: there the error's traceback still holds the tensors
            _give_back(free)
            ladder.step_down(reason)
        elif all_finite(margin):
            return margin
        elif precisions[0] == torch.float32 or rung.device != device.torch_device:
            raise WeightsError(
                f"{network_name} gives NaN or infinite logits for this study; the weights are damaged or were trained "
                "on other intensities"
            )
        else:
            precisions = precisions[1:]
            wider = str(precisions[0]).removeprefix("torch.")
            ladder.warnings.append(f"{network_name} overflowed in half precision; it was run again in {wider}")


def finish_on_ladder(
    finish: Callable[[Tensor], Tensor], values: Tensor, ladder: Ladder, free: Callable[[], None]
) -> Tensor:
    """What `finish` makes of a network's values where they lie; if memory runs out there, on the host and a rung down.

    free: as in `run_on_ladder`. Raises CaseError if memory runs out on the last rung.
    """
    while True:
        try:
            return finish(values)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = _reason(error)
        _give_back(free)
        ladder.step_down(reason)
        values = values.cpu()


def _reason(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _give_back(free: Callable[[], None]) -> None:
    """Free what is kept between windows, and what torch keeps of the GPU."""
    free()
    give_back_memory()


def _device_on(rung: Rung, device: Device) -> Device:
    """The device to compute on: the one chosen, or the CPU in float32 on a rung that has left the GPU."""
    if rung.device == device.torch_device:
        return device
    return Device(torch_device=rung.device, precision=torch.float32, name=str(rung.device))
