"""How much masks depend on the field of view, by the road of the container.

Every study is scored whole, with a margin cut off every side of its PET, cut at random, and with air around what the
container crops to: past any crop, so that the networks' windows hold it. The best fixed threshold on the same studies
and views stands beside the masks.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from model.bundle.manifest import Bundle
from model.bundle.settings import Limits
from model.inference.device import Device
from model.inference.ensemble import vote
from model.inference.options import SegmentOptions
from model.inference.preprocess import put_back
from model.inference.segment import make_ready, segment, view_for
from model.networks.weights import load_now, voters
from model.results.metrics import score
from model.stopwatch import Stopwatch
from model.study.reading import Case
from training.bundles.study_views import FieldView, read_study, views_of
from training.data.table import Study
from training.ensembles.field_of_view import AIR_HU, agreement
from training.phantom.facts import threshold_dice

THRESHOLDS = tuple(round(0.1 * tenths, 1) for tenths in range(10, 151))  # SUV


@dataclass(frozen=True, kw_only=True)
class ViewScore:
    """One study in one view. dice: with the truth in view, NaN without any; agreement: Dice with the whole image's mask
    where both look, 1 where neither marks anything; thresholds: Dice of SUV at and above each of THRESHOLDS.
    """

    case: str
    patient: str
    view: str
    dice: float
    fpv_ml: float
    fnv_ml: float
    lesions_true: int
    lesions_found: int
    agreement: float
    marked_ml: float
    thresholds: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Masking:
    """A way to mark lesions. mask: of a study, bool (z, y, x) on its PET's grid; in_air: the same mask, made with so
    many voxels of air around the image; limits: of the studies that it takes.
    """

    mask: Callable[[Case], NDArray[np.bool_]]
    in_air: Callable[[Case, int], NDArray[np.bool_]]
    limits: Limits = dataclasses.field(default_factory=Limits)


def masking_of(bundle: Bundle, device: Device) -> Masking:
    """A bundle's masks, as the container makes them. Its networks stay loaded."""
    options = SegmentOptions(bundle=bundle, device=device)
    options = replace(options, voters=load_now(voters(bundle), device.torch_device))
    return Masking(
        mask=lambda case: segment(case, options).mask,
        in_air=lambda case, voxels: mask_in_air(case, voxels, options),
        limits=bundle.manifest.limits,
    )


def view_scores(
    masking: Masking,
    studies: Sequence[Study],
    *,
    copies: int = 0,
    seed: int = 0,
    on_row: Callable[[ViewScore], None] = lambda row: None,
) -> list[ViewScore]:
    """Score masks on every view of every study, in order; copies, seed: of random cuts. Raises CaseError or
    WeightsError as process.py does.
    """
    rows: list[ViewScore] = []
    for study in studies:
        case, truth = read_study(study, masking.limits)
        whole = masking.mask(case)
        for view in views_of(study, case, truth, copies=copies, seed=seed):
            if view.air:
                mask = masking.in_air(case, view.air)
            else:
                mask = whole if view.case is case else masking.mask(view.case)
            rows.append(_scored(view, study.patient, mask, whole))
            on_row(rows[-1])
    return rows


def mask_in_air(case: Case, voxels: int, options: SegmentOptions) -> NDArray[np.bool_]:
    """The mask (z, y, x) of a study around whose crop `voxels` of air were added on every side. In a mixed bundle each
    kind of network crops again.
    """
    bundle = options.bundle
    ready = make_ready(case, bundle, Stopwatch())
    placed = ready.placed
    if placed.box is None:
        return np.zeros(case.pet.grid.shape, bool)
    hu = None if placed.hu is None else np.pad(placed.hu, voxels, constant_values=AIR_HU)
    view = view_for(replace(placed, hu=hu, suv=np.pad(placed.suv, voxels)), bundle.manifest)
    lesion = (vote(view, options.voters or voters(bundle), options).margin > 0).cpu().numpy()  # (X, Y, Z)
    inner = tuple(slice(voxels, edge - voxels) for edge in lesion.shape)
    mask: NDArray[np.bool_] = put_back(placed, lesion[inner])
    return mask


def _scored(view: FieldView, patient: str, mask: NDArray[np.bool_], whole: NDArray[np.bool_]) -> ViewScore:
    ill, pet = bool(view.truth.any()), view.case.pet
    scores = score(mask, view.truth, pet.grid.voxel_ml)
    return ViewScore(
        case=view.name,
        patient=patient,
        view=view.view,
        dice=scores.dice if ill else math.nan,
        fpv_ml=scores.fpv_ml,
        fnv_ml=scores.fnv_ml,
        lesions_true=scores.lesions_true,
        lesions_found=scores.lesions_found,
        agreement=agreement(mask, whole[view.box]),
        marked_ml=np.count_nonzero(mask) * pet.grid.voxel_ml,
        thresholds=tuple(threshold_dice(pet.array, view.truth, np.array(THRESHOLDS)).tolist()),
    )
