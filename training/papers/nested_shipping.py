"""The shipped weights: the procedure on all patients, scored on phantoms never used, and written as bundles."""

import argparse
from pathlib import Path

from model.bundle.manifest import MANIFEST
from model.files import sha256_of
from training.bundles.export import ExportOptions, export
from training.data.folds import Fold
from training.papers.nested_data import NestedData
from training.papers.nested_folds import shipped_fold, train_and_select
from training.papers.nested_progress import hours_of
from training.papers.nested_scores import is_of, key_of_fold, report_phantoms, start_key
from training.papers.shipping import CHOICES, SELECTION, SHIPPED, WRITTEN, Shipping
from training.weights.checkpoint import read_json, write_json


def ship(shipping: Shipping, data: NestedData, start: Path | None, options: argparse.Namespace) -> None:
    """Train and select on all patients, write the bundles, and score them on phantoms never used."""
    fold = shipped_fold(shipping, data, options)
    folder, source = options.run / fold.name, f" ({options.data})" if options.data else ""
    members, choices = train_and_select(shipping, data, fold, folder, start, options)
    of_patients = (data.originals, data.copies, data.blended)
    hours = hours_of(shipping, options.run, SHIPPED, options.start)
    for name in choices:
        export(
            ExportOptions(
                selection=folder / SELECTION,
                choice=CHOICES[shipping.bundles[name]],
                name=name,
                output=options.output / name,
                half=True,
                force=True,
                data=f"{len(data.originals)} patients{source}, some of them to validate; and "
                f"{len(data.phantoms.train)} synthetic phantoms of training/phantom/study.py",
                licence=options.licence,
                index=options.run / "index.csv",
                check_case=case_to_check(fold, data),
                device=options.device,
                hours=hours,
                trained_on=[case for of in of_patients for cases in of.values() for case in cases],
            )
        )
    report_phantoms(members, choices, data, options.run, options.device)  # takes long, and the bundles are there
    keys = {"key": key_of_fold(shipping, data, fold), "start": start_key(shipping, options)}
    write_json(folder / WRITTEN, written_from(shipping, options) | keys | {"hours": round(hours, 4)})


def case_to_check(fold: Fold, data: NestedData) -> str:
    """The first case to validate whose images are here, one with lesion if any has: those of a pack have none."""
    here = [case for case in fold.validate if data.studies[case].pet.exists()]
    return next((case for case in here if data.studies[case].lesion_ml > 0), (*here, fold.validate[0])[0])


def is_written(shipping: Shipping, data: NestedData, options: argparse.Namespace) -> bool:
    """Whether the bundles that were written are at --output, of this plan, this start and these studies, and of the
    selection that is there, if one is.
    """
    path = options.run / SHIPPED / WRITTEN
    if not path.exists():
        return False
    before, now = read_json(path), written_from(shipping, options)
    key = key_of_fold(shipping, data, shipped_fold(shipping, data, options))
    return is_of(before, {"key": key, "start": start_key(shipping, options)}) and all(
        before.get(name) == sha256 for name, sha256 in now.items() if name != SELECTION or sha256
    )


def written_from(shipping: Shipping, options: argparse.Namespace) -> dict[str, str | None]:
    """The sha256 of the selection and of every bundle's manifest at --output; None for one that is not there."""
    paths = {SELECTION: options.run / SHIPPED / SELECTION}
    paths |= {str(name): options.output / name / MANIFEST for name in shipping.bundles}
    return {name: sha256_of(path) if path.exists() else None for name, path in paths.items()}
