r"""Score simple methods on the cases of an evaluation, beside bundles: one command, one table.

    python -m training baselines --index index.csv --split split.json --fold 0 --part test --weights eoa \
        --unet-minutes 8 --output runs/baselines-0
    python -m training baselines --index index.csv --cases test.txt --output runs/baselines

Thresholds: the fixed SUV that scores best on the training cases; SUV 2.5 and 4; 41 % of the image's hottest voxel; and,
as upper bounds that no method may have, the fixed SUV that scores best on the very cases, and the best one of each
case. A plain MONAI BasicUNet trained on the training cases, if it is given minutes or steps. Bundles of any kind,
imported ones too: nnU-Net trained by its own trainer comes in this way (docs/gpu.md). All are scored alike: cut at
random as training recrop does, whole, with 15, 30 and 45 mm cut off every side, and with air around.

DIR gets baselines.md, .csv (a row a method, study and view), .json, and for each method its scores of the random cuts
as training evaluate writes them, for training compare and training results.
"""

import argparse
import csv
import io
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from model import __version__
from model.bundle.manifest import chosen_bundle
from model.errors import ConfigError, OutputError, shown
from model.files import sha256_of
from model.results.writing import check_output, write_bytes, write_json
from model.whole import Staging
from training.bundles.baseline_cases import Parts, case_scores, parts_of
from training.bundles.baseline_page import page
from training.bundles.field_of_view import Masking, ViewScore, masking_of, view_scores
from training.bundles.plain_unet import PlainTraining, fresh, plain_masking, train_plain
from training.bundles.study_views import RECROPPED, name_of_cut, originals_of
from training.bundles.thresholds import above, above_share, best_of_each_case, best_of_each_view, best_on
from training.bundles.trained_on import training_cases_among
from training.command import add_device_option
from training.compute.device import device_for, scoring_device
from training.data.metadata import safe_name
from training.data.table import Study, patients_in, read_table
from training.judging.scores import summary, without_nan
from training.judging.scores import write as write_scores
from training.weights import checkpoint

UNET, UNET_NOTE = "basic_unet.safetensors", "basic_unet.json"
CSV_COLUMNS = ("case", "patient", "view", "dice", "fpv_ml", "fnv_ml", "lesions_true", "lesions_found", "agreement")


def methods_of(
    options: argparse.Namespace, parts: Parts, index: dict[str, Study]
) -> tuple[dict[str, Masking], list[str]]:
    """Every way to mark lesions by its name, and notes on them. Raises the errors of bundles and of training."""
    found: dict[str, Masking] = {}
    notes: list[str] = []
    for name in options.weights:
        bundle = chosen_bundle(name, None)
        trained = training_cases_among(bundle, parts.scored, index)
        title = f"bundle {bundle.manifest.name}"
        if title in found:
            raise ConfigError(f"two of --weights are called {bundle.manifest.name}; give one another name")
        if trained is None:
            notes.append(f"{title} does not say what it was trained on: these may be training scores")
        elif trained:
            notes.append(f"{title} was trained or selected on {len(trained)} of these cases: training scores")
        found[title] = masking_of(bundle, scoring_device(options.device))
    if options.unet:
        network, note = plain_unet(options, parts)
        found["MONAI BasicUNet"] = network
        notes.append(note)
    if parts.train:
        chosen = best_on(originals_of(parts.of_same_sites, index), options.recrops, options.seed)
        if math.isnan(chosen):
            notes.append("no training case has a lesion: no fixed threshold was chosen")
        else:
            found[f"SUV {chosen:g}, best on the training cases"] = above(chosen)
    found |= {f"SUV {suv:g}": above(suv) for suv in options.suv}
    found["41 % of the image's SUVmax"] = above_share()
    return found, notes


def plain_unet(options: argparse.Namespace, parts: Parts) -> tuple[Masking, str]:
    """Train the BasicUNet, or take the one that the same command left in DIR. Returns its masks, and a note."""
    settings: PlainTraining = options.unet
    device = device_for("auto", options.device)
    path, note = options.output / UNET, options.output / UNET_NOTE
    key = {"settings": asdict(settings), "cases": {study.case: study.sha256 for study in parts.train}}
    before = read_note(note)
    if before and before.get("key") == key and path.exists() and sha256_of(path) == before.get("sha256"):
        network = fresh()
        network.load_state_dict(checkpoint.read_weights(path))
        network.to(device.torch_device).eval()
    else:
        print(f"training a BasicUNet on {len(parts.train)} studies", flush=True)
        network, steps, seconds = train_plain(parts.train, settings, device)
        checkpoint.write_weights(path, network.state_dict())
        before = {"key": key, "steps": steps, "seconds": seconds, "device": device.name, "sha256": sha256_of(path)}
        with Staging() as staging:
            write_json(before, note, staging)
            staging.commit()
    text = (
        f"MONAI BasicUNet: {before['steps']} steps of {settings.batch} crops of {settings.crop}^3 on "
        f"{len(parts.train)} studies, {before['seconds'] / 60:.1f} min on {before['device']}, last weights"
    )
    return plain_masking(network, settings.crop, device), text


def read_note(path: Path) -> dict[str, Any] | None:
    """What was noted beside a network; None if there is nothing."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def score_all(methods: Mapping[str, Masking], parts: Parts, options: argparse.Namespace) -> dict[str, list[ViewScore]]:
    """The rows of every method, and the two upper bounds of thresholds."""
    rows: dict[str, list[ViewScore]] = {}
    for name, masking in methods.items():
        print(f"{name}: {len(parts.scored)} studies", flush=True)
        rows[name] = view_scores(masking, parts.scored, copies=options.recrops, seed=options.seed)
    some = next(iter(rows.values()))
    rows["best fixed SUV, chosen on these very cases (upper bound)"] = best_of_each_view(some)
    rows["best SUV of each case, chosen with its own mask (upper bound)"] = best_of_each_case(some)
    return rows


def run(options: argparse.Namespace) -> None:
    """Score all methods and write the table. Raises the errors of model/errors.py."""
    check(options)
    index = read_table(options.index)
    parts = parts_of(options, index)
    if options.unet and not parts.train:
        raise ConfigError("a BasicUNet needs training cases: give --split, --fold and --part, or --cases")
    check_output(options.output)
    methods, notes = methods_of(options, parts, index)
    for note in notes:
        print(f"note: {shown(note)}", file=sys.stderr)
    rows = score_all(methods, parts, options)
    facts = [facts_line(parts, options), *notes]
    text = page(rows, facts, main_view(options))
    write(rows, text, facts, index, options)
    print(f"\n{text}\nwrote '{options.output / 'baselines.md'}', .csv and .json")


def main_view(options: argparse.Namespace) -> str:
    """The view of the first table: random cuts, or the whole image without any."""
    return RECROPPED if options.recrops else name_of_cut(0)


def facts_line(parts: Parts, options: argparse.Namespace) -> str:
    """What was scored and learned from, in a line."""
    scored, train = len(patients_in(parts.scored)), len({study.patient for study in parts.train})
    where = f"part {options.part} of fold {options.fold} of '{options.split.name}'" if options.split else "all cases"
    where = f"the cases of '{options.cases.name}'" if options.cases else where
    return (
        f"{len(parts.scored)} studies of {scored} patients of '{options.index.name}' ({where}), {options.recrops} "
        f"random cuts each, seed {options.seed}; training cases: {len(parts.train)} of {train} patients; "
        f"{time.strftime('%Y-%m-%d')}"
    )


def write(
    rows: Mapping[str, list[ViewScore]],
    text: str,
    facts: Sequence[str],
    index: dict[str, Study],
    options: argparse.Namespace,
) -> None:
    """Write the page, all rows as CSV, what was run as JSON, and each method's scores by themselves."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("method", *CSV_COLUMNS))
    for method, found in rows.items():
        writer.writerows((method, *(getattr(row, name) for name in CSV_COLUMNS)) for row in found)
    entry = {"command": options.command_line, "version": __version__, "index": str(options.index), "facts": list(facts)}
    entry |= {"methods": {method: f"{safe_name(method)}.csv" for method in rows}, "main_view": main_view(options)}
    with Staging() as staging:
        write_bytes(text.encode(), options.output / "baselines.md", staging)
        write_bytes(table.getvalue().encode(), options.output / "baselines.csv", staging)
        write_json(without_nan(entry), options.output / "baselines.json", staging)
        staging.commit()
    for method, found in rows.items():
        scores = case_scores([row for row in found if row.view == main_view(options)], index)
        path = options.output / f"{safe_name(method)}.csv"
        write_scores(scores, summary(scores, ("site",)), path, {"method": method, "facts": list(facts)})


def check(options: argparse.Namespace) -> None:
    """Raise ConfigError for options that do not go together; puts the settings of the BasicUNet into the options."""
    if len({bool(options.split), bool(options.fold), bool(options.part)}) > 1:
        raise ConfigError("--split, --fold and --part go together; give all three or none")
    if options.cases and options.split:
        raise ConfigError("--cases and --split both say which cases are scored; give one of them")
    if options.recrops < 0 or options.seed < 0:
        raise ConfigError(f"--recrops and --seed must be 0 or more, got {options.recrops} and {options.seed}")
    if wrong := [suv for suv in options.suv if not 0 < suv < math.inf]:
        raise ConfigError(f"--suv must be above 0, got {wrong[0]:g}")
    if options.output.exists() and not options.output.is_dir():
        raise OutputError(f"--output '{options.output}' is a file; name a folder")
    wanted = options.unet_minutes or options.unet_steps
    make = partial(PlainTraining, crop=options.unet_crop, batch=options.unet_batch, workers=options.workers)
    options.unet = make(minutes=options.unet_minutes, steps=options.unet_steps, seed=options.seed) if wanted else None


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Cost: thresholds about a second a study; a bundle about 7 + N times process.py; the BasicUNet its minutes, "
        "and 5 bytes of memory a voxel of the training studies."
    )
    add = parser.add_argument
    add("--index", type=Path, required=True, metavar="CSV", help="made by training index, or a nested run's index.csv")
    add("--split", type=Path, metavar="JSON", help="of training split, or a nested fold's; with --fold, --part")
    add("--fold", metavar="NAME", help="fold of the split; its train part is what methods learn from")
    add("--part", choices=("validate", "test"), help="part of the fold that is scored")
    add(
        "--cases",
        type=Path,
        metavar="FILE",
        help="score these cases or patients, one a line; all others train (default: all cases are scored, none trains)",
    )
    add("--weights", nargs="*", default=[], metavar="BUNDLE", help="bundles to score too (default: none)")
    add("--suv", nargs="*", type=float, default=[2.5, 4.0], help="fixed thresholds to score too (default 2.5 4)")
    add(
        "--unet-minutes",
        type=float,
        default=0.0,
        metavar="M",
        help="train a BasicUNet for so many minutes (default: none)",
    )
    add("--unet-steps", type=int, default=0, metavar="N", help="train a BasicUNet for so many steps (default: none)")
    add(
        "--unet-crop",
        type=int,
        default=64,
        metavar="EDGE",
        help="edge of the BasicUNet's crops and windows in voxels (default 64)",
    )
    add("--unet-batch", type=int, default=4, metavar="N", help="the BasicUNet's crops a step (default 4)")
    add(
        "--workers", type=int, default=0, metavar="N", help="processes that cut the BasicUNet's crops (default 0: none)"
    )
    add("--recrops", type=int, default=5, metavar="N", help="random cuts of each study (default 5)")
    add("--seed", type=int, default=0, help="seed of the random cuts, and of the BasicUNet (default 0)")
    add("--output", type=Path, required=True, metavar="DIR", help="folder of the table; what is there is replaced")
    add_device_option(parser)
