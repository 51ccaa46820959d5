r"""Dice, FPV and FNV of masks or of a bundle, case by case, with intervals, by diagnosis and site.

    python -m training evaluate --index index.csv --masks masks/ --output runs/masks/scores.csv
    python -m training evaluate --index index.csv --split split.json --fold 0 --part test \
        --weights eoa --output runs/eoa/scores.csv

Writes scores.csv (a row a case), scores.json beside it (means, intervals, what was run), and prints the means.
A bundle is run as the container runs it, from the index's files to the mask, but in float32 on every CPU.
"""

import argparse
import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from model import __version__
from model.bundle.manifest import Bundle, chosen_bundle
from model.bundle.settings import METHODS
from model.errors import ConfigError
from model.files import sha256_of
from model.results.metrics import CONVENTIONS, score
from model.results.writing import check_output
from model.study.geometry import Grid
from model.study.masks import check_grid, read_mask
from training.bundles.masks import Predict, from_bundle, from_masks
from training.bundles.trained_on import TRAINED_ON, training_cases_among
from training.command import check_targets, warn
from training.data.table import Study, read_table, some_of
from training.judging.scores import CaseScore, summary, table, write

GROUPS = ("diagnosis", "site", "tracer")
PARTS = ("train", "validate", "test")


def evaluate(
    studies: Sequence[Study],
    predict: Predict,
    convention: str = "autopet_1_2",
    on_row: Callable[[CaseScore], None] = lambda row: None,
) -> list[CaseScore]:
    """Score `predict` on every study, in order; `on_row` is called with each row as it is done.

    Raises CaseError if a file cannot be read, is no mask, or if mask and truth lie on different grids.
    """
    rows = []
    for study in studies:
        mask, grid, seconds = predict(study)
        truth, truth_grid = read_mask(study.truth, "truth")
        check_grid(truth_grid, f"truth '{study.truth}'", grid, f"the mask of case {study.case}")
        scores = score(mask, truth, grid.voxel_ml, convention)
        names = ("case", "patient", "diagnosis", "tracer", "site")
        rows.append(CaseScore(**{n: getattr(study, n) for n in names}, **dataclasses.asdict(scores), seconds=seconds))
        on_row(rows[-1])
    return rows


def run(options: argparse.Namespace) -> None:
    """One evaluation, from the index to the written scores. Raises the errors of model/errors.py, then writes none."""
    check_options(options)
    index = read_table(options.index)
    studies = studies_to_score(index, options)
    check_paths(options, studies, index)
    if options.field_of_view:
        return score_views(options, studies, index)
    predict, source = bundle_source(options, studies, index) if options.weights else masks_source(options, studies)
    for note in source["notes"]:
        warn(note)
    rows = evaluate(studies, predict, options.convention, _print_row)
    result, lines = summary(rows, options.by), []
    if options.detail:
        from training.bundles import detection

        source["detection"] = detection.report(options.detections)
        lines = ["", detection.markdown(source["detection"])]
    write(rows, result, options.output, {"ran": _ran(options), **source})
    print("\n".join(["", table(result), *lines, "", *source["notes"], f"wrote '{options.output}' and its .json"]))


def score_views(options: argparse.Namespace, studies: Sequence[Study], index: dict[str, Study]) -> None:
    """--field-of-view: the bundle on views of every study. Writes a row a study and view, and the means beside it."""
    bundle, device, source = bundle_of(options, studies, index)
    for note in source["notes"]:
        warn(note)
    from training.bundles import field_of_view, views_page  # they import torch, which scoring masks does not need

    masking = field_of_view.masking_of(bundle, device)
    rows = field_of_view.view_scores(masking, studies, copies=options.recrops, on_row=_print_view)
    found = views_page.means(rows)
    text = views_page.page(found, f"bundle {bundle.manifest.name}", facts_of(bundle, studies, source, options))
    views_page.write_views(rows, {"ran": _ran(options), **source}, options.output, text)
    notes = [*source["notes"], f"wrote '{options.output}', its .json and its .md"]
    print("\n".join(["", views_page.markdown(found), "", *notes]))


def facts_of(
    bundle: Bundle, studies: Sequence[Study], source: dict[str, Any], options: argparse.Namespace
) -> list[str]:
    """What stands above the table of a page: the bundle, the studies, and whether it was trained on them."""
    manifest, weights = bundle.manifest, source["weights"]
    part = f", part {options.part} of fold {options.fold} of '{options.split.name}'" if options.split else ""
    return [
        f"Bundle {manifest.name}: {manifest.kind}, {manifest.method} of {len(manifest.members)} networks, manifest of "
        f"sha256 {bundle.sha256[:12]}, on {weights['device']} in {weights['precision']}.",
        f"{len(studies)} studies of {len({study.patient for study in studies})} patients of '{options.index.name}'"
        f"{part}, {time.strftime('%Y-%m-%d')}.",
        *(note[0].upper() + note[1:] + "." for note in source["notes"]),
    ]


def _ran(options: argparse.Namespace) -> dict[str, Any]:
    """What was run on which index."""
    return {
        "command": options.command_line,
        "version": __version__,
        "index": _file_entry(options.index),
        "split": _file_entry(options.split) | {"fold": options.fold, "part": options.part} if options.split else None,
    }


def check_options(options: argparse.Namespace) -> None:
    """Raise ConfigError for options that do not go together."""
    if len({bool(options.split), bool(options.fold), bool(options.part)}) > 1:
        raise ConfigError("--split, --fold and --part go together; give all three or none")
    if options.masks and (options.method or options.device or options.save):
        raise ConfigError("--method, --device and --save go with --weights; leave them out with --masks")
    if options.detail and (options.masks or options.field_of_view):
        raise ConfigError("--detail goes with --weights and without --field-of-view: it needs a bundle's probabilities")
    if options.field_of_view and (options.masks or options.save):
        raise ConfigError("--field-of-view goes with --weights and without --save: it runs the networks on other views")
    if options.recrops < 0 or (options.recrops and not options.field_of_view):
        raise ConfigError(f"--recrops must be 0 or more and goes with --field-of-view, got {options.recrops}")
    if options.output.suffix != ".csv":
        raise ConfigError(f"--output must end in .csv, got '{options.output}'")


def masks_source(options: argparse.Namespace, studies: Sequence[Study]) -> tuple[Predict, dict[str, Any]]:
    """The masks of --masks, and their entry in scores.json. Raises CaseError."""
    predict, others = from_masks(options.masks, studies)
    notes = (
        [f"{len(others)} masks are of no evaluated case and were not used: {some_of(path.name for path in others)}"]
        if others
        else []
    )
    return predict, {"masks": str(options.masks), "notes": notes}


def bundle_source(
    options: argparse.Namespace, studies: Sequence[Study], index: dict[str, Study]
) -> tuple[Predict, dict[str, Any]]:
    """The bundle of --weights, and its entry in scores.json. Raises ConfigError or WeightsError."""
    bundle, device, source = bundle_of(options, studies, index)
    on_probability = None
    if options.detail:
        from training.bundles.detection import detect  # imports MONAI's metrics

        options.detections = []

        def on_probability(study: Study, probability: NDArray[Any], grid: Grid) -> None:
            truth, _ = read_mask(study.truth, "truth")
            options.detections.append(detect(study.case, probability, truth > 0, grid.spacing_mm))

    return from_bundle(bundle, device, studies, options.save, on_probability), source


def bundle_of(
    options: argparse.Namespace, studies: Sequence[Study], index: dict[str, Study]
) -> tuple[Bundle, Any, dict[str, Any]]:
    """The bundle of --weights, the device to run it on, and its entry in scores.json."""
    bundle = chosen_bundle(options.weights, options.method)
    trained = training_cases_among(bundle, studies, index)

    from model.inference.device import make_deterministic  # imports torch; a wrong bundle needs none
    from training.compute.device import scoring_device

    make_deterministic()
    device = scoring_device(options.device or "auto")
    notes = [device.warning] if device.warning else []
    if trained is None:
        notes += [f"the bundle does not say ({TRAINED_ON}) what it was trained on: these may be training scores"]
    elif trained:
        notes += [f"{len(trained)} of {len(studies)} cases were trained or selected on: these are training scores"]
    weights = {
        "folder": str(bundle.folder),
        "name": bundle.manifest.name,
        "method": bundle.manifest.method,
        "manifest_sha256": bundle.sha256,
        "members_sha256": [member.sha256 for member in bundle.manifest.members],
        "device": device.name,
        "precision": str(device.precision).removeprefix("torch."),
    }
    return bundle, device, {"weights": weights, "trained_or_selected_on": trained, "notes": notes}


def studies_to_score(index: dict[str, Study], options: argparse.Namespace) -> list[Study]:
    """The studies to evaluate: all of the index, or one part of a fold. Raises ConfigError."""
    if not options.split:
        return list(index.values())
    from training.data.folds import read_fold

    cases = getattr(read_fold(options.split, options.fold), options.part)
    if unknown := [case for case in cases if case not in index]:
        raise ConfigError(
            f"split '{options.split}', fold {options.fold}: {len(unknown)} cases of part {options.part} are not in "
            f"'{options.index}': {some_of(unknown)}; give the index that the split was made from"
        )
    if not cases:
        raise ConfigError(f"split '{options.split}', fold {options.fold}: part {options.part} holds no case")
    return [index[case] for case in cases]


def check_paths(options: argparse.Namespace, studies: Sequence[Study], index: dict[str, Study]) -> None:
    """Refuse to write over an input, and try every folder that is written to. Raises ConfigError or OutputError."""
    targets = [options.output, options.output.with_suffix(".json")]
    targets += [options.output.with_suffix(".md")] if options.field_of_view else []
    targets += [options.save / f"{study.case}.mha" for study in studies] if options.save else []
    inputs = {path for study in index.values() for path in (study.pet, study.ct, study.truth)}
    check_targets(targets, (*inputs, options.index, options.split))
    for folder in filter(None, (options.output.parent, options.save)):
        check_output(folder)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Cost: scoring takes about 2 s a case of 400 x 400 x 326 voxels; a bundle costs what process.py does."
    )
    add = parser.add_argument
    add("--index", type=Path, required=True, metavar="CSV", help="made by training index")
    add("--split", type=Path, metavar="JSON", help="made by training split; with --fold, --part (default: all cases)")
    add("--fold", metavar="NAME", help="fold of the split")
    add("--part", choices=PARTS, help="part of the fold")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--masks", type=Path, metavar="DIR", help="masks of 0 and 1, <case>.mha or <case>.nii.gz, on the PET's grid"
    )
    source.add_argument("--weights", metavar="BUNDLE", help="a bundle's folder, or a name under weights/")
    add("--method", choices=METHODS, help="with --weights: eoa or diwa (default: what the bundle says)")
    add("--device", choices=("auto", "cuda", "cpu"), help="with --weights (default: auto)")
    add(
        "--save",
        type=Path,
        metavar="DIR",
        help="with --weights: also write the masks there, <case>.mha, each as soon "
        "as it is made, replacing one of that name (default: no)",
    )
    add(
        "--detail",
        action="store_true",
        help="with --weights: also lesions found against false ones (FROC) by size, surface distances, and the "
        "calibration of probabilities (default: no; cost: 4 bytes a voxel, and a second or more a study)",
    )
    add(
        "--field-of-view",
        action="store_true",
        help="with --weights: score each study whole, with 15, 30 and 45 mm cut off every side, and with 16, 32 and 64 "
        "voxels of air around it; says how far the masks agree where both look, beside the best fixed threshold; "
        "writes a page in Markdown, too (default: no; cost: about seven times that of scoring)",
    )
    add(
        "--recrops",
        type=int,
        default=0,
        metavar="N",
        help="with --field-of-view: also N random cuts of each study, as training recrop --seed 0 makes them "
        "(default 0; cost: one scoring each)",
    )
    add("--output", type=Path, required=True, metavar="CSV", help="scores by case; the .json goes beside it")
    add(
        "--convention",
        choices=tuple(CONVENTIONS),
        default="autopet_1_2",
        help="what empty masks score, by autoPET's edition (default: autopet_1_2)",
    )
    add(
        "--by",
        nargs="*",
        choices=GROUPS,
        default=["diagnosis", "site"],
        help="also means of these groups (default: diagnosis site)",
    )


def _print_row(row: CaseScore) -> None:
    print(
        f"{row.case}: Dice {row.dice:.4f}, FPV {row.fpv_ml:.2f} ml, FNV {row.fnv_ml:.2f} ml, "
        f"{row.lesions_found} of {row.lesions_true} lesions"
        + ("" if math.isnan(row.seconds) else f", {row.seconds:.1f} s"),
        flush=True,
    )


def _print_view(row: Any) -> None:
    print(f"{row.case}, {row.view}: Dice {row.dice:.4f}, agreement {row.agreement:.4f}", flush=True)


def _file_entry(path: Path) -> dict[str, Any]:
    return {"path": str(path), "sha256": sha256_of(path)}
