r"""Make one table of the studies of one or more data sets, each read and checked as the container does.

    python -m training index ROOT [ROOT ...] --output index.csv

finds the studies (layouts: see training/data/layouts.py), reads PET, CT and truth, and writes a row for each good one
(training/data/table.py). index-problems.csv (case, file, reason) and stderr say what is wrong with the others.
Every run reads every file again.
"""

import argparse
import csv
import sys
from collections import Counter, defaultdict
from dataclasses import replace
from functools import partial
from pathlib import Path

from model.bundle.settings import Limits, override_limits
from model.errors import CaseError, ConfigError, shown
from model.whole import Staging
from training.command import check_targets
from training.data.check import Defaults, Problem, check_study
from training.data.layouts import FDG, LAYOUTS, StudyFiles, find, table_folders
from training.data.metadata import Metadata, csv_rows, missing_columns, read_metadata
from training.data.table import UNKNOWN, Study, some_of, write_table
from training.parallel import cores, map_parallel


def gather(roots: list[Path], layout: str, tables: list[Path]) -> tuple[list[StudyFiles], list[str]]:
    """The studies of all roots, with the diagnoses of their tables, and notes. Prints the layout of each root.

    Raises ConfigError if two studies have the same case name.
    """
    everything: dict[str, StudyFiles] = {}
    notes = []
    for root in roots:
        name, found, more = find(root, layout)
        print(f"'{root}': layout {name}, {len(found)} studies")
        has_tables = name in ("autopet", "nnunet")  # these data sets come with a table of diagnoses
        beside, unused = own_tables(table_folders(root, name)) if has_tables and not tables else ([], [])
        found, open_questions = with_metadata(found, read_metadata([*tables, *beside]))
        if has_tables and not (tables or beside):
            notes.append(
                f"'{root}': no table of diagnoses beside the studies; give one with --metadata; without it training "
                "split can keep the shares of lesion volumes only, not of diagnoses"
            )
        notes += [*more, *unused, *open_questions]
        for study in found:
            if study.case in everything:
                raise ConfigError(
                    f"two studies are called {study.case}: '{everything[study.case].pet}' and '{study.pet}'; index "
                    "each data set once, or rename one in a CSV of your own"
                )
            everything[study.case] = study
    return list(everything.values()), notes


def own_tables(folders: list[Path]) -> tuple[list[Path], list[str]]:
    """The CSV files in a data set's folders that hold diagnoses, and notes on the others."""
    tables, notes = [], []
    for path in (path for folder in folders for path in sorted(folder.glob("*.csv"))):
        missing = missing_columns(csv_rows(path)[0])
        if missing:
            notes.append(f"'{path}' holds no diagnoses: no column {' and none '.join(missing)}")
        else:
            tables.append(path)
            print(f"diagnoses from '{path}'")
    return tables, notes


def with_metadata(found: list[StudyFiles], metadata: Metadata) -> tuple[list[StudyFiles], list[str]]:
    """The studies with their diagnosis from the tables, if there is one, and notes on those without."""
    known, missing = [], defaultdict[str, list[str]](list)
    for study in found:
        diagnosis, reason = metadata.diagnosis(study.patient, study.study)
        known.append(replace(study, diagnosis=diagnosis or study.diagnosis))
        if reason:
            missing[reason].append(study.case)
    return known, [f"{len(cases)} studies {reason}: {some_of(cases)}" for reason, cases in missing.items()]


def write_problems(problems: list[Problem], path: Path) -> None:
    """Write the list of problems, sorted by case. An empty one is written, too, in place of an old one."""
    with Staging() as staging:
        with staging.path(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("case", "file", "reason"))
            writer.writerows((p.case, p.file, p.reason) for p in sorted(problems, key=lambda p: (p.case, str(p.file))))
        staging.commit()


def index(options: argparse.Namespace) -> list[Study]:
    """Find and check the studies, and write the index. Raises ConfigError or CaseError; then no index is written."""
    listing = options.output.with_name(f"{options.output.stem}-problems.csv")
    found, notes = gather(options.roots, options.layout, options.metadata)
    files = (path for study in found for path in (study.pet, study.ct, study.truth))
    check_targets((options.output, listing), (*options.roots, *options.metadata, *files))
    defaults = Defaults(diagnosis=options.diagnosis, tracer=options.tracer, site=options.site)
    limits = override_limits(Limits(), options.limit)
    studies, problems = [], []
    check = partial(check_study, defaults=defaults, limits=limits)
    for study, more, warnings in map_parallel(check, found, options.workers):
        studies += [study] if study else []
        problems += more
        notes += warnings
    for note in [*notes, *duplicates(studies)]:
        print(f"warning: {shown(note)}", file=sys.stderr)
    for problem in problems:
        print(shown(f"left out: {problem.case}: {problem.reason}"), file=sys.stderr)
    write_problems(problems, listing)
    if not studies:
        raise CaseError(f"none of {len(found)} studies is good; '{listing}' says why")
    if problems and options.strict:
        raise CaseError(f"{len(found) - len(studies)} of {len(found)} studies are not good; '{listing}' says why")
    write_table(studies, options.output)
    return studies


def duplicates(studies: list[Study]) -> list[str]:
    """Warnings about studies whose three files are the same, byte for byte, under different names."""
    same = defaultdict(list)
    for study in studies:
        same[study.sha256].append(study.case)
    return [f"the same three files under {len(cases)} names: {some_of(cases)}" for cases in same.values() if cases[1:]]


def run(options: argparse.Namespace) -> None:
    """Write the index, and print how many studies it has. Raises ConfigError or CaseError."""
    studies = index(options)
    kinds = Counter(study.diagnosis for study in studies)
    print(f"wrote '{options.output}': {len(studies)} studies of {len({s.patient for s in studies})} patients")
    print(", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items())))


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Cost: every file is read once and hashed; a whole-body study takes about 1 GB and 10 s a process."
    add = parser.add_argument
    add("roots", nargs="+", type=Path, metavar="ROOT", help="folder of a data set as distributed, or a CSV")
    add("--output", type=Path, required=True, metavar="CSV", help="the table to write")
    add("--layout", choices=("auto", *LAYOUTS), default="auto", help="layout of every ROOT (default: auto, by files)")
    add(
        "--metadata",
        type=Path,
        action="append",
        default=[],
        metavar="CSV",
        help="table of diagnoses; may be repeated (default: the CSVs in ROOT and beside its patients)",
    )
    add("--diagnosis", default=UNKNOWN, help="for studies with lesion that state none (default: unknown)")
    add("--tracer", default=FDG, help="for studies that state none (default: FDG)")
    add("--site", default=UNKNOWN, help="for studies that state none (default: unknown)")
    add(
        "--limit",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="move a limit on the input, as process.py "
        "does, for example pet_max_suv=2000; give it to training prepare, too; may be repeated (default: those of the "
        "container)",
    )
    add("--workers", type=int, default=cores(), metavar="N", help="processes (default: all processors)")
    add("--strict", action="store_true", help="write no index if anything is wrong with any study (default: list it)")
