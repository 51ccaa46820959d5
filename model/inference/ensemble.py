"""EoA: the weighted mean of the networks' margins over one study."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from model.background import prefetched
from model.bundle.network import OF_NNUNET
from model.bundle.settings import Part
from model.inference.device import Device, computing, give_back_freed_memory
from model.inference.ladder import Rung, finish_on_ladder, ladder_of, run_on_ladder
from model.inference.mean import MeanMargin, PartMean, Spread
from model.inference.member import run_member
from model.inference.options import SegmentOptions
from model.inference.organs import OrganMean
from model.inference.pace import Pace
from model.inference.sliding import Size
from model.inference.view import BACKGROUND, StudyView
from model.inference.windows import bright_windows, count_windows, windows_at_a_time
from model.networks import for_device, slabs
from model.networks.weights import Voter
from model.stopwatch import Stopwatch


@dataclass(frozen=True, kw_only=True)
class Vote:
    """What the ensemble found: `margin` (X, Y, Z) float32 where it was summed, above 0 = lesion; the rung that ran; how
    many windows were run, and how many were skipped because nothing in them is bright.
    """

    margin: Tensor
    rung: Rung
    windows: int
    skipped: int
    warnings: tuple[str, ...]
    organs: Tensor | None = None  # the class of every voxel, uint8 (X, Y, Z) on the host, if asked for
    disagreement: Tensor | None = None  # standard deviation of the networks' lesion probabilities, if asked for


def vote(view: StudyView, voters: list[Voter], options: SegmentOptions, watch: Stopwatch | None = None) -> Vote:
    """Run every network over the study and average (Ahn and Park, algorithm 1).

    A network of weight 2 is run once. The next network's weights are read while one runs. Where combine is `parts`, or
    networks have voxels of their own, those that differ in nothing but their weights are averaged first, and then
    brought back to the study's voxels. Raises CaseError if memory runs out on the last rung, WeightsError if a margin
    is not finite.
    """
    manifest, device = options.bundle.manifest, options.device
    if manifest.combine == "parts" or any(voter.part.preprocessing for voter in voters):
        order = [voter.part for voter in voters]
        voters = sorted(voters, key=lambda voter: order.index(voter.part))  # networks of one part follow each other
    parts = [voter.part for voter in voters]
    shape = max((view.shape, *(view.size(part) for part in parts)), key=math.prod)
    starts = None if manifest.skip_suv is None else bright_windows(view.image(parts[0]), parts[0], manifest.skip_suv)

    def windows_of(part: Part) -> int:
        return 0 if view.sees_nothing(part) else count_windows(view.size(part), part)

    all_windows = [windows_of(part) for part in parts]
    windows = all_windows if starts is None else [len(starts)] * len(parts)
    pace = Pace(
        options.bundle,
        lambda part: windows_of(part) if starts is None else len(starts),
        options.on_estimate,
        torch.cuda.synchronize if device.torch_device.type == "cuda" else lambda: None,
    )
    at_a_time = options.windows_at_a_time or windows_at_a_time(device, parts, shape, options.with_organs)
    ladder = ladder_of(device, at_a_time, shape)
    run = _Run(
        view=view,
        starts=starts,
        watch=watch or Stopwatch(),
        warnings=ladder.warnings,
        on_windows=lambda done: options.on_windows(done, sum(windows)),
        pace=pace,
    )
    spread = Spread(view.shape) if options.with_disagreement else None
    mean = MeanMargin(manifest.combine, manifest.kind == "mixed")
    together, organs = PartMean(), OrganMean()
    total_weight = sum(voter.weight for voter in voters)
    networks = prefetched(voters, lambda voter: voter.load())
    for number, voter in enumerate(voters):
        with run.watch.stage("weights"):
            network = next(networks)
        if view.sees_nothing(voter.part):
            margin = torch.full(view.shape, BACKGROUND)
            if spread is not None:
                spread.add_margin(margin, voter.weight, mixed=True)
            mean.add(margin, voter.weight / total_weight)
            continue
        turn = _Turn(
            network=network,
            part=voter.part,
            windows_before=sum(windows[:number]),
            organs=options.with_organs and voter.part.network.organs > 0,
        )
        name = f"network {number + 1} of '{manifest.name}'"
        values = run_on_ladder(partial(_values, run, turn), ladder, device, name, run.free)
        with run.watch.stage("sums"):
            values = organs.add(voter.part, values, voter.weight)
            back = partial(view.margin, voter.part)
            own: Tensor | None = None
            if spread is not None:
                own = finish_on_ladder(back, values, ladder, run.free)
                spread.add_margin(own, voter.weight, manifest.kind == "mixed")
            together.add(values, voter.weight)
            if not (manifest.combine == "parts" or voter.part.preprocessing) or voter.part not in parts[number + 1 :]:
                averaged, weight = together.take()
                if own is None or averaged is not values:
                    own = finish_on_ladder(back, averaged, ladder, run.free)
                mean.add(own, weight / total_weight)
                del averaged
            del values, own
    run.free()
    labels = None
    if options.with_organs:
        with run.watch.stage("organs"):
            labels = organs.labels(view, ladder, device)
    return Vote(
        margin=mean.mean(),
        rung=ladder.rung,
        windows=sum(windows),
        skipped=sum(all_windows) - sum(windows),
        warnings=tuple(dict.fromkeys(ladder.warnings)),
        organs=labels,
        disagreement=spread.deviation() if spread is not None else None,
    )


@dataclass(kw_only=True)
class _Run:
    """What the networks of one study share.

    starts: the windows to run, None: all. on_windows: called with how many windows all networks have done.
    """

    view: StudyView
    starts: list[Size] | None
    watch: Stopwatch
    warnings: list[str]
    on_windows: Callable[[int], None]
    pace: Pace
    buffers: slabs.Buffers = field(
        default_factory=dict
    )  # for the next window; a GPU needs none: torch keeps its memory
    kept: tuple[tuple[object, ...], Tensor] | None = None  # what an image depends on, and the image

    def image(self, part: Part, device: torch.device) -> Tensor:
        """The image that a network takes, on the device; moved and resampled once for all networks that take it."""
        network = part.network
        key = network.kind, network.channels, network.norm, network.body, part.intensity, part.preprocessing, device
        if self.kept is None or self.kept[0] != key:
            self.kept = None  # before the next one takes memory
            self.kept = key, self.view.resampled(part, self.view.image(part).to(device))
        return self.kept[1]

    def free(self) -> None:
        """Drop the buffers and the image."""
        self.buffers.clear()
        self.kept = None


@dataclass(frozen=True, kw_only=True)
class _Turn:
    """One network's turn over the study; windows_before: how many the networks before it ran. organs: whether its organ
    head is asked for, too.
    """

    network: nn.Module
    part: Part
    windows_before: int
    organs: bool


def _values(run: _Run, turn: _Turn, rung: Rung, device: Device) -> Tensor:
    """What one network puts out on a rung of the ladder, (K, X, Y, Z) float32 where it was summed."""
    with run.watch.stage("weights"):
        network = for_device.prepared(turn.network, rung.device, device.precision)
        if rung.device.type == "cpu" and turn.part.network.fusion in OF_NNUNET:
            give_back_freed_memory()  # as much as a large network's weights, from reading them
        if why := for_device.why_not_fused(turn.network, rung.device, device.precision):
            run.warnings.append(
                f"the project's own kernels do not run on this GPU ({why}): torch's operations, which are slower, "
                "run in their place, and voxels at the border of a lesion may differ"
            )
    buffers = run.buffers if rung.device.type == "cpu" else None
    done = turn.windows_before

    def predict(patches: Tensor) -> Tensor:
        with run.watch.stage("network"):
            logits = slabs.forward(network, patches, buffers, turn.organs)
        run.pace.passed(turn.part, len(patches), rung.device.type == "cuda")
        return logits

    def on_windows(more: int) -> None:
        nonlocal done
        done += more
        run.on_windows(done)

    with run.watch.stage("to device"):  # not in half precision
        image = run.image(turn.part, rung.device if turn.part.network.kind == "volumes" else torch.device("cpu"))
    with computing(device), run.watch.stage("sums"):
        values, warnings = run_member(image, turn.part, predict, rung, run.starts, on_windows)
    run.warnings.extend(warnings)
    return values
