"""The road in one function: a study and a bundle in, a mask on the PET's own grid out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model.bundle.manifest import Bundle
from model.bundle.settings import Intensity, Part
from model.inference.device import Device
from model.inference.ensemble import vote
from model.inference.preprocess import OUTSIDE_HU, UPTAKE_SUV, Placed, place, put_back, scale_hu, scale_suv
from model.inference.slices import clipped_image
from model.networks.weights import Voter, voters
from model.stopwatch import Stopwatch
from model.study.reading import Case


@dataclass(frozen=True, kw_only=True)
class Result:
    """mask: bool (z, y, x) on case.pet.grid; probability and disagreement likewise, float32, if asked for."""

    mask: NDArray[np.bool_]
    probability: NDArray[np.float32] | None
    warnings: tuple[str, ...]
    rung: str
    windows: int
    skipped: int = 0  # windows that were not run
    disagreement: NDArray[np.float32] | None = None


def image_of(hu: NDArray[Any], suv: NDArray[Any], part: Part) -> torch.Tensor:
    """HU and SUV in LAS (z, y, x) as a bundle's network takes them, float32 (2, X, Y, Z), channel 0 = CT, 1 = PET."""
    if part.network.kind == "slices":
        return clipped_image(hu, suv, part.intensity)
    return network_image(hu, suv, part.intensity)


def network_image(hu: NDArray[Any], suv: NDArray[Any], settings: Intensity) -> torch.Tensor:
    """HU and SUV in LAS (z, y, x) as the network's float32 (2, X, Y, Z), channel 0 = CT, 1 = PET."""
    channels = np.empty((2, *suv.shape), dtype=np.float32)  # filled one by one: a copy less than np.stack
    channels[0] = scale_hu(hu, settings)
    channels[1] = scale_suv(suv, settings)
    return torch.from_numpy(channels).permute(0, 3, 2, 1)  # (C, z, y, x) -> (C, X, Y, Z)


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A study on its way to the networks: where it lies, and as the first of them needs it (None: no foreground)."""

    case: Case
    placed: Placed
    first: torch.Tensor | None


def segment(
    case: Case,
    bundle: Bundle,
    device: Device,
    watch: Stopwatch,
    progress: Callable[[int, int], None] = lambda done, total: None,
    with_probability: bool = False,
    those: list[Voter] | None = None,
    with_disagreement: bool = False,
) -> Result:
    """Segment one study, by the bundle's networks: loaded one at a time, or `those` of `model.networks.weights.keep`.

    with_disagreement: also the standard deviation of the networks' lesion probabilities, 0 outside the crop.
    No voxel of PET above the crop's threshold: an empty mask and a warning. Raises CaseError
    (PET and CT do not overlap, no memory), WeightsError.
    """
    ready = make_ready(case, bundle, watch)
    return segment_ready(ready, bundle, device, watch, progress, with_probability, those, with_disagreement)


def make_ready(case: Case, bundle: Bundle, watch: Stopwatch) -> Ready:
    """Everything before the networks. Raises CaseError."""
    placed = place(case, bundle.manifest.crop.suv_above, watch)
    if placed.box is None:
        return Ready(case=case, placed=placed, first=None)
    with watch.stage("intensity"):
        first = image_of(placed.hu, placed.suv, bundle.manifest.part(bundle.manifest.members[0]))
    return Ready(case=case, placed=placed, first=first)


def segment_ready(
    ready: Ready,
    bundle: Bundle,
    device: Device,
    watch: Stopwatch,
    progress: Callable[[int, int], None] = lambda done, total: None,
    with_probability: bool = False,
    those: list[Voter] | None = None,
    with_disagreement: bool = False,
) -> Result:
    """The networks over a study, and the mask on its grid; else as `segment`."""
    case, placed, first = ready.case, ready.placed, ready.first
    warnings = []
    limit = bundle.manifest.limits.ct_coverage_warn
    if placed.ct_share < limit:
        warnings.append(
            f"CT '{case.ct.path}' covers {100 * placed.ct_share:.1f} % of the PET's uptake (voxels of SUV "
            f"{UPTAKE_SUV:g} and above); air ({OUTSIDE_HU:g} HU) was assumed in the rest: look at the mask there"
        )
    if first is None:
        warnings.append(
            f"PET '{case.pet.path}' has no voxel above {bundle.manifest.crop.suv_above:g}: the mask is empty"
        )
        empty = np.zeros(case.pet.grid.shape, dtype=bool)
        probability = empty.astype(np.float32) if with_probability else None
        return Result(
            mask=empty,
            probability=probability,
            warnings=tuple(warnings),
            rung="none",
            windows=0,
            disagreement=empty.astype(np.float32) if with_disagreement else None,
        )
    those = those or voters(bundle)
    whole: torch.Tensor = first

    def view(part: Part) -> torch.Tensor:
        return whole if part == those[0][2] else image_of(placed.hu, placed.suv, part)

    said = vote(view, those, bundle.manifest, device, None, progress, watch, with_disagreement)
    with watch.stage("argmax"):
        lesion = (said.margin > 0).cpu().numpy()  # one byte a voxel leaves the GPU
    with watch.stage("paste"):
        mask = put_back(placed, lesion)
        probability = None
        if with_probability:
            share = said.margin + 0.5 if bundle.manifest.combine == "probabilities" else said.margin.sigmoid()
            probability = put_back(placed, share.cpu().numpy())
        disagreement = put_back(placed, said.disagreement.numpy()) if said.disagreement is not None else None
    return Result(
        mask=mask,
        probability=probability,
        warnings=(*warnings, *said.warnings),
        rung=str(said.rung),
        windows=said.windows,
        skipped=said.skipped,
        disagreement=disagreement,
    )
