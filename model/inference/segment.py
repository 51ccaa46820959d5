"""A study and a bundle in, a mask on the PET's own grid out."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from model.bundle.format import Manifest
from model.bundle.manifest import Bundle
from model.errors import CaseError
from model.inference.ensemble import Vote, vote
from model.inference.options import SegmentOptions
from model.inference.preprocess import OUTSIDE_HU, UPTAKE_SUV, Placed, place, put_back
from model.inference.view import StudyView, view_of
from model.networks.weights import voters
from model.stopwatch import Stopwatch
from model.study.listing import TO_DO_WITHOUT_CT
from model.study.reading import Case


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A study on its way to the networks: where it lies, and the image that the first network takes (None: no voxel of
    PET is above the crop's threshold).
    """

    case: Case
    placed: Placed
    view: StudyView | None
    first_image: torch.Tensor | None


@dataclass(frozen=True, kw_only=True)
class Result:
    """mask: bool (z, y, x) on case.pet.grid; probability and disagreement likewise, float32, and organs, uint8, the
    labels of `bundle.organs.organ_names`, 0 elsewhere, if asked for.
    """

    mask: NDArray[np.bool_]
    probability: NDArray[np.float32] | None
    warnings: tuple[str, ...]
    rung: str
    windows: int
    skipped: int = 0  # windows that were not run
    disagreement: NDArray[np.float32] | None = None
    organs: NDArray[np.uint8] | None = None


def segment(case: Case, options: SegmentOptions, watch: Stopwatch | None = None) -> Result:
    """Segment one study.

    No voxel of PET above the crop's threshold: an empty mask and a warning. Raises CaseError (PET and CT do not
    overlap, no memory), WeightsError.
    """
    watch = watch or Stopwatch()
    return segment_ready(make_ready(case, options.bundle, watch), options, watch)


def make_ready(case: Case, bundle: Bundle, watch: Stopwatch) -> Ready:
    """Everything before the networks. Raises CaseError, also for a study without the CT that the bundle needs."""
    manifest = bundle.manifest
    check_channels(case, manifest)
    parts = [manifest.part(member) for member in manifest.members]
    of_nnunet = [part.preprocessing is not None for part in parts]
    suv_above = None if all(of_nnunet) else manifest.crop.suv_above
    seen = replace(case, ct=None) if manifest.pet_alone else case
    placed = place(seen, suv_above, watch, keep_nonzero=any(of_nnunet))
    if placed.box is None:
        return Ready(case=case, placed=placed, view=None, first_image=None)
    with watch.stage("intensity"):
        view = view_for(placed, manifest)
        first_image = None if parts[0].preprocessing else view.image(parts[0])
        return Ready(case=case, placed=placed, view=view, first_image=first_image)


def check_channels(case: Case, manifest: Manifest) -> None:
    """Raise CaseError for a study without CT and a bundle that needs one."""
    if case.ct is None and not manifest.pet_alone:
        raise CaseError(
            f"PET '{case.pet.path}' has no CT, and the networks of '{manifest.name}' see PET and CT; give the CT, or "
            f"{TO_DO_WITHOUT_CT}"
        )


def view_for(placed: Placed, manifest: Manifest) -> StudyView:
    """The view of a placed study for the networks of a bundle."""
    of_nnunet = [manifest.part(member).preprocessing is not None for member in manifest.members]
    return view_of(placed, manifest.crop, mixed=any(of_nnunet) and not all(of_nnunet))


def segment_ready(ready: Ready, options: SegmentOptions, watch: Stopwatch | None = None) -> Result:
    """The networks over a study, and the mask on its grid. Raises as `segment`."""
    if ready.view is None:
        return _empty_result(ready, options)
    watch, placed, manifest = watch or Stopwatch(), ready.placed, options.bundle.manifest
    networks, first_image, make_image = options.voters or voters(options.bundle), ready.first_image, ready.view.image
    first = manifest.part(manifest.members[0])
    view = ready.view
    if first_image is not None:
        view = replace(view, image=lambda part: first_image if part == first else make_image(part))
    found = vote(view, networks, options, watch)
    with watch.stage("argmax"):
        lesion = (found.margin > 0).cpu().numpy()  # one byte a voxel leaves the GPU
    with watch.stage("paste"):
        mask = put_back(placed, lesion)
        probability = None
        if options.with_probability:
            share = found.margin.sigmoid() if manifest.combine == "logits" else found.margin + 0.5
            probability = put_back(placed, share.cpu().numpy())
        disagreement = put_back(placed, found.disagreement.numpy()) if found.disagreement is not None else None
        organs = put_back(placed, found.organs.numpy()) if found.organs is not None else None
    return Result(
        mask=mask,
        probability=probability,
        warnings=(*_warnings(ready, options.bundle), *found.warnings, *_organ_warnings(options, found)),
        rung=str(found.rung),
        windows=found.windows,
        skipped=found.skipped,
        disagreement=disagreement,
        organs=organs,
    )


def _empty_result(ready: Ready, options: SegmentOptions) -> Result:
    empty = np.zeros(ready.case.pet.grid.shape, dtype=bool)
    return Result(
        mask=empty,
        probability=empty.astype(np.float32) if options.with_probability else None,
        warnings=_warnings(ready, options.bundle),
        rung="none",
        windows=0,
        disagreement=empty.astype(np.float32) if options.with_disagreement else None,
        organs=empty.astype(np.uint8) if options.with_organs else None,
    )


def _warnings(ready: Ready, bundle: Bundle) -> tuple[str, ...]:
    """What a user should know of the study before looking at the mask."""
    case, manifest = ready.case, bundle.manifest
    warnings = []
    if case.ct is not None and ready.placed.ct_share < manifest.limits.ct_coverage_warn:
        warnings.append(
            f"CT '{case.ct.path}' covers {100 * ready.placed.ct_share:.1f} % of the PET's uptake (voxels of SUV "
            f"{UPTAKE_SUV:g} and above); air ({OUTSIDE_HU:g} HU) was assumed in the rest: look at the mask there"
        )
    if ready.view is None:
        warnings.append(f"PET '{case.pet.path}' has no voxel above {manifest.crop.suv_above:g}: the mask is empty")
    return tuple(warnings)


def _organ_warnings(options: SegmentOptions, found: Vote) -> tuple[str, ...]:
    """What a user should know before looking at the organs."""
    if not (options.with_organs and found.skipped):
        return ()
    return (
        f"organs were not looked for in {found.skipped} of {found.windows + found.skipped} windows, whose PET holds "
        f"nothing above SUV {options.bundle.manifest.skip_suv:g}: those that lie there are missing",
    )
