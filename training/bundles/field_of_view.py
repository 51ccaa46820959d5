"""How much a bundle's masks depend on the field of view, by the road of the container.

Every study is scored whole, with a margin cut off every side of its PET, and with air around what the container crops
to: past any crop, so that the networks' windows hold it. The best fixed threshold on the same studies and views stands
beside the bundle.
"""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from model.bundle.manifest import Bundle
from model.inference.device import Device
from model.inference.ensemble import vote
from model.inference.options import SegmentOptions
from model.inference.preprocess import put_back
from model.inference.segment import make_ready, segment, view_for
from model.networks.weights import load_now, voters
from model.results.metrics import score
from model.results.writing import write_bytes, write_json
from model.stopwatch import Stopwatch
from model.study.geometry import Grid
from model.study.masks import check_grid, read_mask
from model.study.reading import Case, Volume, read_case
from model.whole import Staging
from training.data.table import Study
from training.ensembles.field_of_view import AIR_HU, AIR_VOXELS, CUTS_MM, agreement, voxels_of_cut
from training.phantom.facts import threshold_dice
from training.runs.scores import without_nan

THRESHOLDS = (1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0, 10.0)  # SUV
Box = tuple[slice, slice, slice]


@dataclass(frozen=True, kw_only=True)
class ViewScore:
    """One study in one view. dice: with the truth in view, NaN without any; agreement: Dice with the whole image's mask
    where both look, 1 where neither marks anything; thresholds: Dice of SUV at and above each of THRESHOLDS.
    """

    case: str
    view: str
    dice: float
    agreement: float
    marked_ml: float
    thresholds: tuple[float, ...]


def view_scores(
    bundle: Bundle, device: Device, studies: Sequence[Study], on_row: Callable[[ViewScore], None] = lambda row: None
) -> list[ViewScore]:
    """Score a bundle on every view of every study, in order. Raises CaseError or WeightsError as process.py does."""
    options = SegmentOptions(bundle=bundle, device=device)
    options = replace(options, voters=load_now(voters(bundle), device.torch_device))
    rows: list[ViewScore] = []
    for study in studies:
        case = read_case([study.pet, study.ct], bundle.manifest.limits)
        truth, grid = read_mask(study.truth, "truth")
        check_grid(grid, f"truth '{study.truth}'", case.pet.grid, f"PET '{study.pet}'")
        for row in _views_of(study.case, case, truth > 0, options):
            rows.append(row)
            on_row(row)
    return rows


def _views_of(name: str, case: Case, truth: NDArray[np.bool_], options: SegmentOptions) -> list[ViewScore]:
    """The views of one study: the whole image first, then the cuts, then the borders of air."""
    whole, rows = _mask(case, options), []
    for cut_mm in CUTS_MM:
        smaller, box = cut_case(case, cut_mm)
        mask = _mask(smaller, options) if cut_mm else whole
        rows.append(_scored(name, f"{cut_mm:g} mm cut", mask, smaller.pet, truth[box], whole[box]))
    for voxels in AIR_VOXELS:
        mask = mask_in_air(case, voxels, options)
        rows.append(_scored(name, f"{voxels} voxels of air", mask, case.pet, truth, whole))
    return rows


def cut_case(case: Case, cut_mm: float) -> tuple[Case, Box]:
    """The study with `cut_mm` cut off every side of its PET, in whole voxels, and the box (z, y, x) that is left.

    The CT stays: it is resampled to the PET. At least FEWEST_VOXELS are left on each axis.
    """
    pet = case.pet
    edges = zip(pet.grid.size, pet.grid.spacing_mm, strict=True)
    cut = [voxels_of_cut(cut_mm, edge, spacing_mm) for edge, spacing_mm in edges]
    x, y, z = (slice(n, edge - n) for n, edge in zip(cut, pet.grid.size, strict=True))
    direction = np.array(pet.grid.direction).reshape(3, 3)
    corner = np.array(pet.grid.origin_mm) + direction @ (np.array(pet.grid.spacing_mm) * cut)
    grid = Grid(
        size=(x.stop - x.start, y.stop - y.start, z.stop - z.start),
        spacing_mm=pet.grid.spacing_mm,
        origin_mm=(float(corner[0]), float(corner[1]), float(corner[2])),
        direction=pet.grid.direction,
    )
    image = sitk.RegionOfInterest(pet.image, grid.size, cut)
    smaller = Volume(path=pet.path, grid=grid, array=pet.array[z, y, x], image=image)
    return replace(case, pet=smaller), (z, y, x)


def mask_in_air(case: Case, voxels: int, options: SegmentOptions) -> NDArray[np.bool_]:
    """The mask (z, y, x) of a study around whose crop `voxels` of air were added on every side. In a mixed bundle each
    kind of network crops again.
    """
    bundle = options.bundle
    ready = make_ready(case, bundle, Stopwatch())
    placed = ready.placed
    if placed.box is None:
        return np.zeros(case.pet.grid.shape, bool)
    hu = np.pad(placed.hu, voxels, constant_values=AIR_HU)
    view = view_for(replace(placed, hu=hu, suv=np.pad(placed.suv, voxels)), bundle.manifest)
    lesion = (vote(view, options.voters or voters(bundle), options).margin > 0).cpu().numpy()  # (X, Y, Z)
    inner = tuple(slice(voxels, edge - voxels) for edge in lesion.shape)
    mask: NDArray[np.bool_] = put_back(placed, lesion[inner])
    return mask


def means(rows: Sequence[ViewScore]) -> list[dict[str, Any]]:
    """One entry a view: studies, mean Dice over those with lesion in view, agreement, ml marked, and the threshold of
    THRESHOLDS that scores best on this view.
    """
    found = []
    for view in dict.fromkeys(row.view for row in rows):
        of_view = [row for row in rows if row.view == view]
        ill = [row for row in of_view if not np.isnan(row.dice)]
        thresholds = np.mean([row.thresholds for row in ill], axis=0) if ill else np.full(len(THRESHOLDS), np.nan)
        best = int(np.argmax(thresholds)) if ill else 0
        found.append(
            {
                "view": view,
                "studies": len(of_view),
                "with_lesion": len(ill),
                "dice": float(np.mean([row.dice for row in ill])) if ill else float("nan"),
                "agreement": float(np.mean([row.agreement for row in of_view])),
                "marked_ml": float(np.mean([row.marked_ml for row in of_view])),
                "best_threshold_suv": THRESHOLDS[best] if ill else float("nan"),
                "best_threshold_dice": float(thresholds[best]),
            }
        )
    return found


def markdown(found: Sequence[dict[str, Any]]) -> str:
    """The entries of `means` as a table."""
    lines = [
        "| view | studies | with lesion | Dice | agreement with the whole image | ml marked | best fixed threshold |"
    ]
    lines += ["|---" * 7 + "|"]
    for row in found:
        cells = [row["view"], f"{row['studies']}", f"{row['with_lesion']}", _number(row["dice"], 4)]
        cells += [_number(row["agreement"], 4), _number(row["marked_ml"], 1)]
        cells += [
            f"SUV {row['best_threshold_suv']:g}: {row['best_threshold_dice']:.4f}" if row["with_lesion"] else "n/a"
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def write_views(rows: Sequence[ViewScore], entry: dict[str, Any], path: Path) -> None:
    """Write a row a study and view as CSV, and the means beside it as JSON with what was run. Raises OutputError."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["case", "view", "dice", "agreement", "marked_ml"])
    writer.writerows([row.case, row.view, row.dice, row.agreement, row.marked_ml] for row in rows)
    with Staging() as staging:
        write_bytes(text.getvalue().encode(), path, staging)
        write_json(without_nan(entry | {"views": means(rows)}), path.with_suffix(".json"), staging)
        staging.commit()


def _number(value: float, digits: int) -> str:
    return "n/a" if np.isnan(value) else f"{value:.{digits}f}"


def _mask(case: Case, options: SegmentOptions) -> NDArray[np.bool_]:
    return segment(case, options).mask


def _scored(
    name: str, view: str, mask: NDArray[np.bool_], pet: Volume, truth: NDArray[np.bool_], whole: NDArray[np.bool_]
) -> ViewScore:
    ill, voxel_ml = bool(truth.any()), pet.grid.voxel_ml
    return ViewScore(
        case=name,
        view=view,
        dice=score(mask, truth, voxel_ml).dice if ill else float("nan"),
        agreement=agreement(mask, whole),
        marked_ml=np.count_nonzero(mask) * voxel_ml,
        thresholds=tuple(threshold_dice(pet.array, truth, np.array(THRESHOLDS)).tolist()),
    )
