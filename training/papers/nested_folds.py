"""The folds of training nested: how patients are divided, and what is trained on a fold."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from model.errors import ConfigError
from training.command import option_words
from training.data.folds import Fold
from training.data.stratify import draw_share, strata, stratified_parts
from training.ensembles.processes import Engine
from training.papers.nested_data import NestedData
from training.papers.procedure import MethodAndMembers, choices_of, select_members, train_members
from training.papers.shipping import SHIPPED, Shipping
from training.runs.planned import differing_from_plan
from training.runs.train import train_run
from training.settings import read_yaml
from training.weights import checkpoint


def fold_of(
    name: str, train: set[str], validate: set[str], test: set[str], data: NestedData, originals: bool = False
) -> Fold:
    """A fold of the patients' re-cropped copies, since originals end at a fixed distance from tumours, and of phantoms.

    The training patients' tumours in phantoms' bodies train, too; these bodies are of phantoms that train.

    originals: the whole images train, too, so that a network also sees the surroundings of a tumour.
    """

    def cases(patients: set[str], of: Mapping[str, list[str]]) -> tuple[str, ...]:
        return tuple(case for patient in sorted(patients) for case in of.get(patient, ()))

    whole = cases(train, data.originals) if originals else ()
    return Fold(
        name=name,
        train=data.phantoms.train + cases(train, data.copies) + whole + cases(train, data.blended),
        validate=cases(validate, data.copies) + data.phantoms.validate,
        test=cases(test, data.copies),
    )


def patients_of(data: NestedData) -> dict[str, str]:
    """The stratum of every real patient."""
    return strata([data.studies[case] for cases in data.originals.values() for case in cases], "diagnosis")


def shipped_fold(shipping: Shipping, data: NestedData, options: argparse.Namespace) -> Fold:
    """The fold of the shipped weights: all patients train or validate."""
    stratum_of = patients_of(data)
    validate = draw_share(stratum_of, options.validation, f"{shipping.seed}/all")
    return fold_of(SHIPPED, set(stratum_of) - validate, validate, set(), data, shipping.originals)


def outer_folds(shipping: Shipping, data: NestedData, options: argparse.Namespace) -> list[tuple[Fold, set[str]]]:
    """Every outer fold, and the patients that it tests with."""
    stratum_of, folds = patients_of(data), []
    for number, test in enumerate(stratified_parts(stratum_of, options.outer, str(shipping.seed))):
        rest = {patient: stratum for patient, stratum in stratum_of.items() if patient not in test}
        validate = draw_share(rest, options.validation, f"{shipping.seed}/{number}")
        fold = fold_of(f"outer-{number}", set(rest) - validate, validate, test, data, shipping.originals)
        folds.append((fold, test))
    return folds


def train_start(shipping: Shipping, data: NestedData, options: argparse.Namespace) -> Path | None:
    """Train the runs on phantoms alone. Returns the folder of the last; None if the plan has none.

    Of the runs before one that is finished nothing is needed.
    """
    before: Path | None = None
    missing = list(shipping.start_settings().items())
    for number in reversed(range(len(missing))):
        name, settings = missing[number]
        folder = options.run / name
        if checkpoint.finished(folder):
            found = read_yaml(folder / checkpoint.CONFIG)
            if differs := differing_from_plan(found, settings, data.phantoms, data.cache):
                raise ConfigError(f"'{folder}' holds a run of other {', '.join(differs)}; name another folder")
            before, missing = folder, missing[number + 1 :]
            break
    for name, settings in missing:
        folder = options.run / name
        train_run(folder, settings, data.cache, data.phantoms, start=before, wanted=options.device)
        before = folder
    return before


def fold_words(options: argparse.Namespace, number: int) -> list[str]:
    """The words of the command that does one outer fold as these options do all."""
    return [*common_words(options), "--fold", str(number), *["--views"] * options.views]


def common_words(options: argparse.Namespace) -> list[str]:
    """The words of a command that works on the same studies, plan and run folder as these options."""
    paths = ("real", "run", "start", "plan", "maps", "pack")
    values: dict[str, object] = {name: getattr(options, name).resolve() for name in paths if getattr(options, name)}
    values |= {name: getattr(options, name) for name in ("outer", "validation", "diagnosis", "site", "device")}
    return ["nested", *option_words(values)]


def train_and_select(
    shipping: Shipping, data: NestedData, fold: Fold, folder: Path, start: Path | None, options: argparse.Namespace
) -> tuple[list[Path], dict[str, MethodAndMembers]]:
    """Train base run and members on one fold, and select. Returns the members' folders and each bundle's choice."""
    engine = Engine(parallel=options.parallel)
    members = train_members(shipping.plan, folder, data.cache, fold, options.device, start=start, engine=engine)
    choices = choices_of(select_members(members, data.cache, fold, folder, options.device))
    return members, {name: choices[choice] for name, choice in shipping.bundles.items()}
