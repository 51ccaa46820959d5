r"""Decide which studies train, validate and test. Patients are divided, never a patient's studies.

    python -m training split index.csv --output split.json                        80:20 over the diagnosis
    python -m training split index.csv --output split.json --folds 5              each fold validates once
    python -m training split index.csv --output split.json --folds 3 --nested 4   outer folds test, inner ones validate
    python -m training split index.csv --output split.json --from-nnunet splits_final.json

Every part gets its share of each stratum (training/data/stratify.py). The lists (--test, --always-train,
--always-validate) name cases or patients; a case brings its whole patient.
"""

import argparse
import json
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from model.errors import ConfigError
from model.files import sha256_of
from model.whole import Staging
from training.command import check_targets
from training.data.folds import PARTS, Fold, cases_of, from_nnunet, make_fold
from training.data.stratify import VOLUME, draw_share, strata, stratified_parts, without_diagnosis
from training.data.table import Study, read_table, some_of

BY = ("diagnosis", "tracer", "site", VOLUME)


def split(options: argparse.Namespace, studies: dict[str, Study]) -> tuple[list[Fold], list[str]]:
    """The folds, and the cases of the test list. Raises ConfigError for settings that do not go together."""
    fixed = {
        part: patients_of(path, studies)
        for part, path in (
            ("test", options.test),
            ("train", options.always_train),
            ("validate", options.always_validate),
        )
    }
    for one, other in (("test", "train"), ("test", "validate"), ("train", "validate")):
        if both := fixed[one] & fixed[other]:
            raise ConfigError(f"patients on two lists, {one} and {other}: {some_of(both)}; a patient has one place")
    test_list = cases_of(fixed["test"], studies)
    free = [study for study in studies.values() if study.patient not in set().union(*fixed.values())]
    if options.positive:
        positive = {study.patient for study in studies.values() if study.lesion_ml > 0}
        free = [study for study in free if study.patient in positive]
    if options.from_nnunet:
        return from_nnunet(options.from_nnunet, studies, fixed), test_list
    stratum_of, seed = strata(free, options.by), str(options.seed)
    divided: dict[str, tuple[set[str], set[str]]] = {}  # by the fold's name: who validates, who tests
    if options.folds is not None and options.nested is not None:
        for outer, test in enumerate(stratified_parts(stratum_of, options.folds, seed)):
            rest = {patient: stratum for patient, stratum in stratum_of.items() if patient not in test}
            for inner, validate in enumerate(stratified_parts(rest, options.nested, f"{seed}/{outer}")):
                divided[f"{outer}.{inner}"] = validate, test
    elif options.folds is not None:
        parts = stratified_parts(stratum_of, options.folds, seed)
        divided = {str(number): (part, fixed["test"]) for number, part in enumerate(parts)}
    else:
        divided = {"0": (draw_share(stratum_of, options.validation, seed), fixed["test"])}
    folds = []
    for name, (validate, test) in divided.items():
        train = stratum_of.keys() - validate - test | fixed["train"]
        folds.append(make_fold(name, train, validate | fixed["validate"], test, studies))
    return folds, test_list


def patients_of(path: Path | None, studies: dict[str, Study]) -> set[str]:
    """The patients of a list of case or patient names, one a line; empty without a file.

    A case brings its whole patient. Raises ConfigError for a name that is not in the index.
    """
    if path is None:
        return set()
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the list '{path}': {error}; give a UTF-8 text, one name a line") from None
    names = {line.strip() for line in lines} - {""}
    by_name = {study.patient: study.patient for study in studies.values()}
    by_name |= {case: study.patient for case, study in studies.items() if case not in by_name}
    unknown = names - by_name.keys()
    if unknown:
        raise ConfigError(
            f"'{path}' has {len(unknown)} names that are no case or patient of the index: {some_of(unknown)}; "
            "correct them"
        )
    return {by_name[name] for name in names}


def report(folds: list[Fold], test_list: list[str], studies: dict[str, Study], by: str) -> str:
    """A table of each fold and part: its patients, its studies, and its share of each stratum's patients."""
    stratum_of = strata(studies.values(), by)
    whole = Counter(stratum_of.values())
    names = sorted(whole)
    width = max(12, *(len(name) + 2 for name in names))
    lines = [f"{'fold':<6}{'part':<10}{'patients':>9}{'studies':>9}" + "".join(f"{name:>{width}}" for name in names)]
    rows = [("all", "", list(studies)), *((fold.name, part, getattr(fold, part)) for fold in folds for part in PARTS)]
    for fold, part, cases in [*rows, ("", "test list", test_list)]:
        patients = {studies[case].patient for case in cases}
        counts = Counter(stratum_of[patient] for patient in patients)
        cells = "".join(f"{f'{counts[name]} ({counts[name] / whole[name]:.0%})':>{width}}" for name in names)
        lines.append(f"{fold:<6}{part:<10}{len(patients):>9}{len(cases):>9}{cells}")
    return "\n".join([f"patients of each {by} (share of all its patients)", *lines]) + "\n"


def write_split(folds: list[Fold], test_list: list[str], text: str, options: argparse.Namespace) -> Path:
    """Write the JSON and, beside it, the report as .txt: both or none. Returns the report's path."""
    content = {
        "index_sha256": sha256_of(options.index),
        "by": options.by,
        "seed": options.seed,
        "test_list": test_list,
        "folds": [asdict(fold) for fold in folds],
    }
    beside: Path = options.output.with_suffix(".txt")
    if beside == options.output:
        raise ConfigError(f"--output '{beside}' must not end in .txt: the report is written there; end it in .json")
    with Staging() as staging:
        staging.path(options.output).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        staging.path(beside).write_text(text, encoding="utf-8")
        staging.commit()
    return beside


def run(options: argparse.Namespace) -> None:
    """Write the split and its report. Raises ConfigError or CaseError."""
    check(options)
    studies = read_table(options.index)
    check_duplicates(studies)
    options.by = options.by or stratified_by(studies)
    folds, test_list = split(options, studies)
    text = report(folds, test_list, studies, options.by)
    beside = write_split(folds, test_list, text, options)
    for warning in without_lesion(folds, studies):
        print(f"warning: {warning}", file=sys.stderr)
    print(f"{text}wrote '{options.output}' ({len(folds)} folds) and '{beside}'")


def stratified_by(studies: dict[str, Study]) -> str:
    """Diagnosis, or lesion volume if no patient with lesion has a diagnosis. Warns on stderr if any has none."""
    unknown, ill = without_diagnosis(studies.values())
    if not unknown:
        return "diagnosis"
    how = (
        f"parts get their share of small, middle and large lesion volumes instead (--by {VOLUME})"
        if unknown == ill
        else f"they are one stratum; --by {VOLUME} divides by the volume of lesion instead"
    )
    print(
        f"warning: {unknown} of {ill} patients with lesion have no diagnosis, so the shares of melanoma, lung "
        f"cancer and so on may differ between parts: {how}; training index --metadata reads tables of diagnoses",
        file=sys.stderr,
    )
    return VOLUME if unknown == ill else "diagnosis"


def without_lesion(folds: list[Fold], studies: dict[str, Study]) -> list[str]:
    """Warnings about parts of folds in which no study has a lesion."""
    effects = {
        "train": "there is none to learn from",
        "validate": "there is no Dice to validate or select by",
        "test": "there is no Dice to report",
    }
    return [
        f"fold {fold.name}, {part}: none of its {len(cases)} studies has a lesion: {effects[part]}"
        for fold in folds
        for part in PARTS
        if (cases := getattr(fold, part)) and not any(studies[case].lesion_ml > 0 for case in cases)
    ]


def check_duplicates(studies: dict[str, Study]) -> None:
    """Raise ConfigError if two patients have the same study, byte for byte: it could train and validate at once."""
    first: dict[str, Study] = {}
    for study in studies.values():
        other = first.setdefault(study.sha256, study)
        if other.patient != study.patient:
            raise ConfigError(
                f"cases {other.case} and {study.case} are the same three files under two patients, {other.patient} "
                f"and {study.patient}: leave one out of the index, or give both one patient"
            )


def check(options: argparse.Namespace) -> None:
    """Raise ConfigError for options that contradict each other."""
    if options.nested is not None and options.folds is None:
        raise ConfigError("--nested needs --folds: the outer folds, which test")
    if options.positive and options.from_nnunet is not None:
        raise ConfigError("--positive and --from-nnunet exclude each other: that file already names the cases")
    if not 0 < options.validation < 1:
        raise ConfigError(f"--validation must be a share in (0, 1), got {options.validation:g}")
    lists = (options.test, options.always_train, options.always_validate)
    targets = (options.output, options.output.with_suffix(".txt"))
    check_targets(targets, (options.index, options.from_nnunet, *lists))


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Cost: seconds; the index is read, and no image."
    add = parser.add_argument
    add("index", type=Path, help="index.csv of training index")
    add("--output", type=Path, required=True, metavar="JSON", help="the split; a report is written beside it (.txt)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--validation", type=float, default=0.2, metavar="SHARE", help="share that validates (default: 0.2)"
    )
    how.add_argument("--folds", type=int, metavar="K", help="each of K folds validates, the others train")
    how.add_argument("--from-nnunet", type=Path, metavar="JSON", help="take the folds of a splits_final.json")
    add(
        "--nested",
        type=int,
        metavar="K2",
        help="each of the K folds tests, and of the rest each of K2 validates; folds are named OUTER.INNER",
    )
    add(
        "--positive",
        action="store_true",
        help="leave out patients none of whose studies has a lesion, unless a list "
        "names them, as Zhong et al. do (default: all patients)",
    )
    add(
        "--by",
        choices=BY,
        help="give each part its share of this column's values, or of small, middle and large lesion volumes "
        "(default: diagnosis; volume where no patient with lesion has one)",
    )
    add("--seed", type=int, default=0, help="seed of the shuffling (default: 0)")
    for name, where in (
        ("--test", "kept for a test; with --nested they are in no fold"),
        ("--always-train", "they train in every fold"),
        ("--always-validate", "they validate in every fold"),
    ):
        add(
            name,
            type=Path,
            metavar="FILE",
            help=f"cases or patients, one a line: {where}; a case brings its whole patient (default: none)",
        )
