"""EoA: the weighted mean of the members' predictions over one study, and what to do when memory runs out."""

import gc
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from model.background import prefetched
from model.bundle.format import Manifest
from model.bundle.settings import Part
from model.errors import CaseError, WeightsError
from model.inference.device import Device, computing, free_bytes, is_out_of_memory
from model.inference.preprocess import scale_suv
from model.inference.slices import slice_starts, slide_slices
from model.inference.sliding import OUTSIDE, Size, occupied, slide, window_starts
from model.networks import slabs
from model.networks.unet import skeleton
from model.networks.weights import Voter
from model.stopwatch import Stopwatch

SLICES_A_WINDOW = 4  # slices of 256^2 that are run in place of one window
MOST_WINDOWS = 16  # at a time
OTHERS = 2  # windows at a time of networks other than the U-Nets
STUDY_VALUES = 8  # float32 of every voxel of a study on the GPU: image, weights, sums, margins, and what makes them
LEAST_SHARE = 1e-9  # of voters, in place of none
LEFT_FREE = 0.2  # of the GPU's free memory, for what convolutions take themselves


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
    """What the ensemble says: `margin` (X, Y, Z) float32 where it was summed, above 0 = lesion; the rung that ran; how
    many windows were run, and how many were not because nothing in them is bright.
    """

    margin: Tensor
    rung: Rung
    windows: int
    skipped: int
    warnings: tuple[str, ...]
    disagreement: Tensor | None = None  # standard deviation of the voters' lesion probabilities, if asked for


class Spread:
    """Weighted standard deviation of probabilities, told one voter at a time (West 1979, doi:10.1145/359146.359153)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._weight: Any = 0.0  # of every voxel, once a voter did not see all of them
        self._mean, self._squares = torch.zeros(shape), torch.zeros(shape)

    def add(self, probability: Tensor, weight: float, unseen: Tensor | None = None) -> None:
        """unseen: voxels that the voter does not count for."""
        share: Any = weight if unseen is None else weight * ~unseen
        self._weight = self._weight + share
        off = probability - self._mean
        self._mean += off * (share / torch.as_tensor(self._weight).clamp(min=LEAST_SHARE))
        self._squares += off.mul_(probability.sub_(self._mean)).mul_(share)

    def deviation(self) -> Tensor:
        return (self._squares / torch.as_tensor(self._weight).clamp(min=LEAST_SHARE)).clamp_(min=0).sqrt_()


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
    batch: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    watch: Stopwatch | None = None,
    with_disagreement: bool = False,
) -> Vote:
    """Run every voter over the study and average (Ahn and Park, algorithm 1).

    view: the study as a network needs it, (2, X, Y, Z) float32 on the host. batch: windows at a time, None: as many as
    memory allows. `combine` logits: the mean of logit differences, lesion minus background, whose sign is the argmax;
    probabilities: the mean of softmax probabilities, minus 1/2; in a mixed bundle, of the voters whose windows reach a
    voxel. A voter of weight 2 is run once; the next voter's weights are read while one runs. with_disagreement: also
    how far the voters' probabilities lie apart, for two more volumes of memory. Raises CaseError if memory runs out on
    the last rung.
    """
    watch = watch or Stopwatch()
    weights = sum(weight for weight, _, _ in voters)
    image, shown = view(voters[0][2]), voters[0][2]
    shape = tuple(image.shape[1:])
    starts = bright_windows(image, shown, manifest.skip_suv)
    windows = [windows_of(shape, part) if starts is None else len(starts) for _, _, part in voters]
    at_a_time = batch or most_windows(device, [part for _, _, part in voters], shape)
    going = _Going(rungs=ladder(device, at_a_time), watch=watch)
    margin: Tensor | None = None
    unseen: Tensor | None = None  # weight of the voters that did not look, where some did not
    spread = Spread(shape) if with_disagreement else None
    networks = prefetched(voters, lambda voter: voter[1]())
    for number, (weight, _, part) in enumerate(voters):
        with watch.stage("weights"):
            network = next(networks)
        if (part.network.kind, part.intensity) != (shown.network.kind, shown.intensity):
            image, shown = view(part), part
        told = [progress, sum(windows[:number]), sum(windows)]
        job = _Job(image=image, network=network, part=part, starts=starts, name=f"network {number + 1}", told=told)
        difference = _whatever_it_takes(job, device, going, manifest.name)
        with watch.stage("sums"):
            blind = difference == OUTSIDE if manifest.kind == "mixed" else None
            if spread is not None:
                spread.add(difference.sigmoid().cpu(), weight, blind.cpu() if blind is not None else None)
            if manifest.combine == "probabilities":
                difference = difference.sigmoid_().sub_(0.5)
            if blind is not None and blind.any():
                difference[blind] = 0
                blind = blind.float().mul_(weight / weights).cpu()
                unseen = blind if unseen is None else unseen.add_(blind)
            difference = difference.mul_(weight / weights)
            margin = difference if margin is None else margin.to(difference.device).add_(difference)
    assert margin is not None  # a manifest has members
    if unseen is not None:
        margin = torch.where(unseen < 1 - 1e-6, margin.cpu() / (1 - unseen), -0.5)
    return Vote(
        margin=margin,
        rung=going.rungs[0],
        windows=sum(windows),
        skipped=sum(windows_of(shape, part) for _, _, part in voters) - sum(windows),
        warnings=tuple(dict.fromkeys(going.warnings)),
        disagreement=spread.deviation() if spread is not None else None,
    )


def windows_of(shape: tuple[int, ...], part: Part) -> int:
    """How many windows, or slices, a network runs for a study of (X, Y, Z) voxels."""
    if part.network.kind == "slices":
        return shape[2]
    window = part.window_for(shape)
    x, y, z = (max(n, w) for n, w in zip(shape, window, strict=True))
    return len(window_starts((x, y, z), window, part.window.overlap))


def bright_windows(image: Tensor, part: Part, skip_suv: float | None) -> list[Size] | None:
    """The windows that hold PET above `skip_suv`, for an image as a network needs it; None: no window is left out."""
    if skip_suv is None:
        return None
    above = scale_suv(torch.tensor([skip_suv]).numpy(), part.intensity)
    return occupied(image[1], part.window_for(tuple(image.shape[1:])), part.window.overlap, float(above[0]))


def most_windows(device: Device, parts: list[Part], shape: tuple[int, ...]) -> int:
    """How many windows at a time: of U-Nets on a CPU one, on a GPU a power of two that its free memory holds and that
    is still computed whole, whatever networks for slices vote beside them; of other networks, whose memory is not
    known, OTHERS.
    """
    parts = [part for part in parts if part.network.kind == "volumes"]
    if not parts or any(part.network.fusion == "swin_unetr" for part in parts):
        return OTHERS
    if device.torch_device.type == "cpu":
        return 1
    sizes = [
        (
            part.network.widths[0] * (2 if part.network.fusion == "middle" else 1),
            math.prod(part.window_for(shape)),
            device.precision.itemsize,
        )
        for part in parts
    ]
    room = free_bytes() * (1 - LEFT_FREE) - 4 * STUDY_VALUES * math.prod(shape)
    fitting = max(int(room // max(slabs.peak_bytes(*size) for size in sizes)), 1)
    fitting = min(fitting, MOST_WINDOWS, *(slabs.windows_of_one_slab(*size) for size in sizes))
    return 1 << (fitting.bit_length() - 1)


def rehearse(manifest: Manifest, device: Device) -> None:
    """On a GPU, windows of nothing through the first network without its weights, as many at a time as memory allows:
    then the libraries hold what the study's windows will need. Elsewhere, and where memory is short, nothing happens.
    """
    part = manifest.part(manifest.members[0])
    if device.torch_device.type != "cuda" or part.network.kind != "volumes" or part.network.fusion == "swin_unetr":
        return
    try:
        network = skeleton(part.network).eval()
        shapes = {name: one.shape for name, one in network.state_dict().items()}  # to_empty would load torch's compiler
        nothing = {name: torch.zeros(shape, device=device.torch_device) for name, shape in shapes.items()}
        network.load_state_dict(nothing, assign=True)
        count = most_windows(device, [part], part.window.size)
        image = torch.zeros(count, 2, *part.window.size, device=device.torch_device)
        with computing(device):
            slabs.forward(slabs.prepared(network, device.torch_device, device.precision), image)
        torch.cuda.synchronize()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        torch.cuda.empty_cache()


def difference_of(logits: Tensor) -> Tensor:
    """Logit of lesion less that of background, (B, 1, ...) float32, of logits (B, 2, ...), or (B, 1, ...) of lesion."""
    logits = logits.float()
    return logits if logits.shape[1] == 1 else logits[:, 1:] - logits[:, :1]


@dataclass(kw_only=True)
class _Going:
    """How a vote goes: the rungs that are left, what was to be warned about, the time."""

    rungs: list[Rung]
    watch: Stopwatch
    kept: slabs.Kept = field(default_factory=dict)  # on a CPU: torch keeps freed memory of a GPU itself
    moved: tuple[Tensor, Tensor] | None = None  # an image and its copy on the device
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One network over one study. starts: windows to run, None: all. told: progress, windows done before, all."""

    image: Tensor
    network: nn.Module
    part: Part
    starts: list[Size] | None
    name: str
    told: list[Any]


def _whatever_it_takes(job: _Job, device: Device, going: _Going, bundle: str) -> Tensor:
    """The logit difference of a job, on the first rung and in the first precision that it works with."""
    precisions = [device.precision, *device.wider]
    while True:
        difference, rung = None, going.rungs[0]
        try:
            difference = _one(job, replace(device, precision=precisions[0]), going)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            said = (str(error).splitlines() or [type(error).__name__])[0]
        if difference is None:
            going.kept.clear()
            going.moved = None
            _free()
            if len(going.rungs) == 1:
                raise CaseError(
                    f"the study of {tuple(job.image.shape[1:])} voxels does not fit into memory even at {rung} "
                    f"({said}); use a machine with more memory or a bundle with a smaller window"
                )
            going.warnings.append(f"memory ran out at {rung}; went on at {going.rungs[1]}")
            going.rungs = going.rungs[1:]
        elif all(math.isfinite(end) for end in difference.aminmax()):
            return difference
        elif precisions[0] == torch.float32 or rung.device != device.torch_device:
            raise WeightsError(
                f"{job.name} of '{bundle}' gives NaN or infinite logits for this study; the weights are damaged or "
                "were trained on other intensities"
            )
        else:
            precisions = precisions[1:]
            again = str(precisions[0]).removeprefix("torch.")
            going.warnings.append(f"{job.name} overflowed in half precision; it was run again in {again}")


def _one(job: _Job, device: Device, going: _Going) -> Tensor:
    """One network's logit difference over the study, (X, Y, Z) float32 where it was summed."""
    rung, part, watch = going.rungs[0], job.part, going.watch
    on = (
        device
        if rung.device == device.torch_device
        else Device(torch_device=rung.device, precision=torch.float32, name=str(rung.device))
    )
    with watch.stage("weights"):
        network = slabs.prepared(job.network, rung.device, on.precision)
        if why := slabs.missed(job.network, rung.device, on.precision):
            going.warnings.append(
                f"the project's own kernels cannot be had on this GPU ({why}): torch's operations, which are slower, "
                "run in their place, and voxels at the border of a lesion may differ"
            )

    def difference(patches: Tensor) -> Tensor:
        with watch.stage("network"):
            return difference_of(slabs.forward(network, patches, going.kept if rung.device.type == "cpu" else None))

    told = _counter(*job.told)
    with computing(on), watch.stage("sums"):
        if part.network.kind == "slices":
            starts, wide = slice_starts(job.image[0].numpy(), part.window.size)
            if wide:
                going.warnings.append(_too_wide(wide, job.image.shape[3], part.window.size))
            return slide_slices(
                job.image,
                difference,
                starts=starts,
                window=part.window.size,
                air_hu=part.intensity.ct_low_hu,
                device=rung.device,
                batch=1 if rung.batch == 1 else SLICES_A_WINDOW * OTHERS,
                on_windows=told,
            )
        with watch.stage("to device"):
            if going.moved is None or going.moved[0] is not job.image:
                going.moved = job.image, job.image.to(rung.device)
            image = going.moved[1]
        return slide(
            image,
            difference,
            window=part.window_for(tuple(image.shape[1:])),
            overlap=part.window.overlap,
            weighting=part.window.weighting,
            batch=rung.batch,
            sums_on=rung.sums_on,
            starts=job.starts,
            on_windows=told,
        )[0]


def _too_wide(wide: int, slices: int, size: Size) -> str:
    return (
        f"in {wide} of {slices} slices the body is wider than the {size[0]} x {size[1]} pixels that the network for "
        "slices sees; it finds nothing beyond them"
    )


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
