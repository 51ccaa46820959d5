"""The studies of an experiment: phantoms or the user's own, prepared, and divided into train, validate and test."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from model.errors import ConfigError
from model.files import sha256_of
from training.data.folds import PARTS, Fold, make_fold, read_fold
from training.data.stratify import draw_share, strata
from training.data.table import Study, patients_in, read_table
from training.papers.plan import ExperimentPlan
from training.papers.plan_phantoms import make_phantoms
from training.papers.procedure import prepare_cases
from training.weights import checkpoint


@dataclass(frozen=True, kw_only=True)
class ExperimentData:
    """The studies of an experiment, prepared and divided. start: the finished run that table3's base run continues."""

    studies: Mapping[str, Study]
    cache: Path
    fold: Fold
    text: str
    start: Path | None = None


def data_of(plan: ExperimentPlan, options: argparse.Namespace, folder: Path) -> ExperimentData:
    """Prepare and divide the plan's phantoms, or the studies of the user's index."""
    if options.split and not options.index:
        raise ConfigError("--split divides the studies of --index; give that, too")
    if options.start and options.table != "table3":
        raise ConfigError(f"--start is for table3, whose rows share one base run; {options.table} compares networks")
    start_sha256 = sha256_of(checkpoint.result_file(options.start)) if options.start else ""
    shared = options.data or folder.parent / f"data-{options.scale}"
    if options.index is None:
        index, fold = make_phantoms(plan, shared, options.workers, options.maps)
        parts = [
            f"{part} " + ", ".join(f"{n} of site {site} from seed {first}" for site, (first, n) in sites.items())
            for part, sites in plan.phantoms.items()
        ]
        text = f"phantoms (synthetic): {'; '.join(parts)}"
        studies = read_table(index)
    else:
        studies = read_table(options.index)
        fold = read_fold(options.split, options.fold) if options.split else divide(studies)
        check_fold(fold, studies)
        text = f"{len(studies)} studies of {options.index.name}"
    cache = shared / "cache"
    prepare_cases(studies, (*fold.train, *fold.validate, *fold.test), cache, plan.crop, options.workers)
    if start_sha256:
        text += f"; the base run goes on from the run {options.start.resolve().name}, weights of sha256 {start_sha256}"
    return ExperimentData(studies=studies, cache=cache, fold=fold, text=text, start=options.start)


def check_fold(fold: Fold, studies: Mapping[str, Study]) -> None:
    """Refuse a fold with a part that cannot be used, before hours of training. Raises ConfigError."""
    parts = {part: getattr(fold, part) for part in PARTS}
    for part, cases in parts.items():
        if unknown := sorted(set(cases) - studies.keys()):
            raise ConfigError(
                f"fold {fold.name}, {part}: not in the index: {', '.join(unknown[:5])}; give the index that was divided"
            )
        if not any(studies[case].lesion_ml > 0 for case in cases):
            raise ConfigError(
                f"fold {fold.name} has no case with lesion to {part} ({len(cases)} cases in all): an experiment needs "
                f"all of {', '.join(PARTS)}; training split --test or --folds with --nested makes a part to test"
            )
    patients = {part: patients_in(studies[case] for case in cases) for part, cases in parts.items()}
    for one, other in (("train", "validate"), ("train", "test"), ("validate", "test")):
        if both := sorted(patients[one] & patients[other]):
            raise ConfigError(
                f"fold {fold.name}: patients both to {one} and to {other}: {', '.join(both[:5])}; give a patient one "
                "part"
            )


def divide(studies: Mapping[str, Study]) -> Fold:
    """20 % of the patients test, 20 % of the rest validate; stratified over diagnosis, seed 0."""
    stratum_of = strata(studies.values(), "diagnosis")
    test = draw_share(stratum_of, 0.2, "0/test")
    rest = {patient: stratum for patient, stratum in stratum_of.items() if patient not in test}
    validate = draw_share(rest, 0.2, "0")
    return make_fold("0", rest.keys() - validate, validate, test, dict(studies))
