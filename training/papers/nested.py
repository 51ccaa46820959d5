"""Make the shipped weights, and score their procedure on patients that no network was trained on.

    python -m training nested --real ../shared/data/sts --run runs/shipped
    python -m training nested --real ../shared/data/sts --run runs/shipped --ship --output weights

The first command divides the real patients into outer folds. For each, base run, members and selection use the other
folds and phantoms only, a part of which validates; then the fold's patients are scored, each re-cropped at random.
--fold N does one fold, so that several can run side by side. --ship runs the same procedure on all patients and writes
the plan's bundles, weights/eoa and weights/diwa. It can be stopped at any moment: finished work is not done again.
"""

import argparse
import fcntl
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from model.errors import ConfigError
from model.results.writing import check_output
from model.schema import build, check_fields
from model.whole import locked
from training.bundles.export import ExportOptions, export
from training.command import add_device_option, option_words, parse
from training.data import index as index_command
from training.data import recrop as recrop_command
from training.data.blend import Blend, blend
from training.data.folds import Fold
from training.data.prepared import load
from training.data.stratify import draw_share, strata, stratified_parts
from training.data.table import Study, read_table, write_table
from training.ensembles.candidates import read_candidates
from training.ensembles.field_of_view import table as views_table
from training.ensembles.field_of_view import views
from training.ensembles.scoreboard import Scoreboard
from training.ensembles.select import TITLES
from training.papers.nested_detail import ENDING as DETAIL
from training.papers.nested_detail import VIEWS, write_detail
from training.papers.procedure import (
    ExperimentPlan,
    MethodAndMembers,
    add_data_options,
    choices_of,
    make_phantoms,
    prepare_cases,
    score_choices,
    select_members,
    train_members,
)
from training.runs.checkpoint import read_json, write_json
from training.runs.leakage import check_not_seen
from training.runs.predict import scoring_device
from training.runs.scores import CaseScore, summary, table, without_empty, write
from training.runs.train import train_run
from training.settings import Training, changed, read_yaml

CHOICES = {title: name for name, title in TITLES.items()}


class Shipping(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The keys of a plan for shipped weights. plan: base run, members and phantoms. bundles: {name below weights/: the
    choice it holds, EoA greedy and the like}. starts: {name: changes of settings} of runs on phantoms alone; each goes
    on from the one before, and every base run from the last; without any, base runs begin with random weights. copies:
    re-crops of each real study. originals: whole images train, too. blended: studies made of each real study that
    trains, its tumour in the body of a phantom that trains (training blend).
    """

    plan: ExperimentPlan
    bundles: dict[Any, str]
    starts: dict[Any, Any] = field(default_factory=dict)
    copies: int = 2
    originals: bool = False
    blended: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        unknown = sorted(set(self.bundles.values()) - set(CHOICES))
        if unknown or not self.bundles:
            raise ConfigError(f"bundles must name choices out of {', '.join(CHOICES)}, got {self.bundles}")
        if self.copies < 1:
            raise ConfigError(f"copies must be 1 or more, got {self.copies}")
        if self.blended < 0:
            raise ConfigError(f"blended must be 0 (none) or more, got {self.blended}")
        self.start_settings()

    def start_settings(self) -> dict[str, Training]:
        """Settings of the runs on phantoms alone, by name, in order."""
        common = changed(self.plan.base, {"schedule": {"stop": None}})
        return {name: changed(common, changes, f"starts: {name}") for name, changes in self.starts.items()}


@dataclass(frozen=True, kw_only=True)
class NestedData:
    """All studies by case, prepared; the parts of the phantoms; each real patient's original and re-cropped cases.

    blended: each real patient's tumours in the bodies of phantoms that train.
    """

    studies: Mapping[str, Study]
    phantoms: Fold
    originals: Mapping[str, list[str]]
    copies: Mapping[str, list[str]]
    cache: Path
    blended: Mapping[str, list[str]] = dataclass_field(default_factory=dict)


def run(options: argparse.Namespace) -> None:
    """Score the outer folds, or write the bundles. Raises the errors of training, selection and export."""
    check(options)
    shipping = build(Shipping, read_yaml(options.plan), str(options.plan))
    check_output(options.run)
    with locked(options.run, fcntl.LOCK_EX):  # one process makes the data that all folds share, the others wait for it
        data = data_of(shipping, options)
        start = options.start or train_start(shipping, data, options)
    if options.ship:
        ship(shipping, data, start, options)
    else:
        score_outer_folds(shipping, data, start, options)


def check(options: argparse.Namespace) -> None:
    """Raise ConfigError for options that are wrong or do not go together, before hours of training."""
    if options.ship and (options.fold is not None or options.output is None):
        raise ConfigError("--ship trains on all patients; give it without --fold, and with --output")
    if options.ship and options.views:
        raise ConfigError("--views scores the patients of outer folds, and --ship trains on all; leave one of them out")
    if not options.ship and options.output is not None:
        raise ConfigError("--output is for --ship: outer folds write no bundle; leave it out")
    if options.outer < 2:
        raise ConfigError(
            f"--outer must be 2 or more, got {options.outer}: every fold tests networks that the others trained"
        )
    if options.fold is not None and not 0 <= options.fold < options.outer:
        raise ConfigError(f"--fold must be from 0 to {options.outer - 1}, got {options.fold}")
    if not 0 < options.validation < 1:
        raise ConfigError(f"--validation must be a share in (0, 1), got {options.validation:g}")


def train_start(shipping: Shipping, data: NestedData, options: argparse.Namespace) -> Path | None:
    """Train the runs on phantoms alone. Returns the folder of the last; None if the plan has none."""
    before: Path | None = None
    for name, settings in shipping.start_settings().items():
        folder = options.run / name
        train_run(folder, settings, data.cache, data.phantoms, start=before, wanted=options.device)
        before = folder
    return before


def data_of(shipping: Shipping, options: argparse.Namespace) -> NestedData:
    """Make the phantoms, index the real studies, make their re-cropped copies, and prepare all."""
    index, phantoms = make_phantoms(shipping.plan, options.run, options.workers, options.maps)
    studies, real, copied = dict(read_table(index)), options.run / "real.csv", options.run / "copies"
    origin: dict[str, object] = {"diagnosis": options.diagnosis, "site": options.site}
    cuts: dict[str, object] = {"copies": shipping.copies, "seed": shipping.seed}
    bodies = [studies[case] for case in phantoms.train] if shipping.blended else []
    of_bodies = {"blended": shipping.blended, "bodies": digest_of_bodies(bodies)} if shipping.blended else {}
    check_same_source(real.with_suffix(".json"), {"root": str(options.real.resolve())} | origin | cuts | of_bodies)
    if not real.exists():
        words = option_words(origin | {"output": real, "workers": options.workers})
        index_command.run(parse("index", index_command, [str(options.real), "--strict", *words]))
    if not copied.exists():
        words = option_words(cuts | {"output": copied, "workers": options.workers})
        recrop_command.run(parse("recrop", recrop_command, [str(real), *words]))
    blended = blend_tumours(shipping, real, bodies, options) if shipping.blended else None
    parts: list[dict[str, list[str]]] = []
    for path in (real, copied / "index.csv", *([blended] if blended else [])):
        found: dict[str, list[str]] = {}
        for study in read_table(path).values():
            studies[study.case] = study
            found.setdefault(study.patient, []).append(study.case)
        parts.append(found)
    write_table(list(studies.values()), options.run / "index.csv")
    cache = options.run / "cache"
    prepare_cases(studies, studies, cache, shipping.plan.crop, options.workers)
    originals, copies, *more = parts
    tumours = more[0] if more else {}
    return NestedData(
        studies=studies, phantoms=phantoms, originals=originals, copies=copies, cache=cache, blended=tumours
    )


def blend_tumours(shipping: Shipping, real: Path, bodies: list[Study], options: argparse.Namespace) -> Path:
    """Put the patients' tumours into the bodies, once a run, all as they are prepared. Returns the index. Raises
    ConfigError for no body.
    """
    if not bodies:
        raise ConfigError("blended needs bodies, and the plan has no phantoms to train; add some, or set blended: 0")
    run_folder: Path = options.run
    folder, index, cache = (run_folder / name for name in ("blended", "bodies.csv", "cache"))
    if not folder.exists():
        write_table(bodies, index)
        studies = read_table(real) | {study.case: study for study in bodies}
        prepare_cases(studies, studies, cache, shipping.plan.crop, options.workers)
        settings = Blend(seed=shipping.seed, copies=shipping.blended)
        blend(real, index, folder, settings, options.workers, cache)
    return folder / "index.csv"


def digest_of_bodies(bodies: list[Study]) -> str:
    """One sha256 for the studies whose bodies are used."""
    return hashlib.sha256("".join(sorted(study.sha256 for study in bodies)).encode()).hexdigest()


def check_same_source(path: Path, source: dict[str, Any]) -> None:
    """Write down at `path` what real studies and copies come from; refuse another source later. Raises ConfigError."""
    if not path.exists():
        write_json(path, source)
    elif (found := read_json(path)) != source:
        raise ConfigError(
            f"'{path.parent}' holds studies made from {found}, and {source} is asked for; give another --run"
        )


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


def score_outer_folds(shipping: Shipping, data: NestedData, start: Path | None, options: argparse.Namespace) -> None:
    """Train and score every outer fold, then report the mean over all patients; with --fold only that fold."""
    real = [data.studies[case] for cases in data.originals.values() for case in cases]
    stratum_of = strata(real, "diagnosis")
    rows: dict[str, list[CaseScore]] = {name: [] for name in shipping.bundles}
    for number, test in enumerate(stratified_parts(stratum_of, options.outer, str(shipping.seed))):
        if options.fold not in (None, number):
            continue
        rest = {patient: stratum for patient, stratum in stratum_of.items() if patient not in test}
        validate = draw_share(rest, options.validation, f"{shipping.seed}/{number}")
        fold = fold_of(f"outer-{number}", set(rest) - validate, validate, test, data, shipping.originals)
        folder = options.run / fold.name
        members, choices = train_and_select(shipping, data, fold, folder, start, options.device)
        found = score(members, choices, fold.test, data, folder, options.device)
        whole = [case for patient in sorted(test) for case in data.originals[patient]]
        for name, scores in found.items():
            report(scores, folder / f"{name}.csv", f"{name}, outer fold {number}: {len(test)} patients not trained on")
            rows[name] += scores
            if options.views:
                report_views(choices[name], members, whole, data, folder / f"{name}{VIEWS}", options.device)
    if options.fold is not None:
        return
    for name, scores in rows.items():
        report(scores, options.run / f"{name}-outer-folds.csv", f"{name}, all {options.outer} outer folds")
    if start is not None:
        alone: dict[str, MethodAndMembers] = {"start": ("eoa", (start.resolve().name,))}
        report_phantoms([start], alone, data, options.run, options.device)


def train_and_select(
    shipping: Shipping, data: NestedData, fold: Fold, folder: Path, start: Path | None, device: str
) -> tuple[list[Path], dict[str, MethodAndMembers]]:
    """Train base run and members on one fold, and select. Returns the members' folders and each bundle's choice."""
    members = train_members(shipping.plan, folder, data.cache, fold, device, start=start)
    choices = choices_of(select_members(members, data.cache, fold, folder, device))
    return members, {name: choices[choice] for name, choice in shipping.bundles.items()}


def score(
    runs: list[Path],
    choices: dict[str, MethodAndMembers],
    cases: tuple[str, ...],
    data: NestedData,
    folder: Path,
    device: str,
) -> dict[str, list[CaseScore]]:
    """Scores of choices on cases that trained none of the runs."""
    keep = folder / "margins"
    return score_choices(runs, choices, data.studies, cases, cache=data.cache, keep=keep, device=device)


def ship(shipping: Shipping, data: NestedData, start: Path | None, options: argparse.Namespace) -> None:
    """Train and select on all patients, score on phantoms never used, and write the bundles."""
    real = [data.studies[case] for cases in data.originals.values() for case in cases]
    stratum_of = strata(real, "diagnosis")
    validate = draw_share(stratum_of, options.validation, f"{shipping.seed}/all")
    fold = fold_of("all", set(stratum_of) - validate, validate, set(), data, shipping.originals)
    folder, source = options.run / fold.name, f" ({options.data})" if options.data else ""
    of_patients = (data.originals, data.copies, data.blended)
    members, choices = train_and_select(shipping, data, fold, folder, start, options.device)
    report_phantoms(members, choices, data, options.run, options.device)
    for name in choices:
        export(
            ExportOptions(
                selection=folder / "selection.json",
                choice=CHOICES[shipping.bundles[name]],
                name=name,
                output=options.output / name,
                half=True,
                force=True,
                data=f"{len(stratum_of)} patients{source}, some of them to validate; and {len(data.phantoms.train)} "
                "synthetic phantoms of training/phantom/study.py",
                licence=options.licence,
                index=options.run / "index.csv",
                check_case=fold.validate[0],
                device=options.device,
                trained_on=[case for of in of_patients for cases in of.values() for case in cases],
            )
        )


def report_views(
    choice: MethodAndMembers, runs: list[Path], cases: Sequence[str], data: NestedData, path: Path, device: str
) -> None:
    """Score a choice on cases that trained none of its runs, with parts cut off the image and with air around it; then
    lesions found, surfaces and calibration on the whole images, beside it.
    """
    method, names = choice
    candidates = read_candidates(run for run in runs if run.resolve().name in names)
    for one in candidates.values():
        check_not_seen(one.folder, one.seen, cases, data.cache, "score on")
    scoreboard = Scoreboard(candidates, data.cache, cases, path.parent / "margins", scoring_device(device))
    margin_of, studies = scoreboard.margin_of(method, names), [load(data.cache, case) for case in cases]
    found = views(margin_of, studies)
    print(f"\n{path.stem}: {method}, {len(cases)} studies not trained on\n\n{views_table(found)}\n", flush=True)
    write_json(path, [asdict(view) for view in found])
    write_detail(margin_of, studies, path.with_name(path.name.replace(VIEWS, DETAIL)))


def report_phantoms(
    runs: list[Path], choices: dict[str, MethodAndMembers], data: NestedData, folder: Path, device: str
) -> None:
    """Score choices on phantoms never used, and report it."""
    for name, scores in score(runs, choices, data.phantoms.test, data, folder, device).items():
        report(scores, folder / f"{name}-phantoms.csv", f"{name}, phantoms never used")


def report(scores: list[CaseScore], path: Path, title: str) -> None:
    """Print the scores, Dice of the cases with lesion too, and write them as CSV and JSON."""
    result, with_lesion = (summary(rows, by=("site",)) for rows in (scores, without_empty(scores)))
    print(f"\n{title}\n\n{table(result)}\n\n{table(with_lesion)}\n", flush=True)
    write(scores, result, path, {"title": title, "date": time.strftime("%Y-%m-%d")})


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Cost: training/README.md has the hours; 5 bytes a voxel of every study and copy on disk."
    add = parser.add_argument
    add("--real", type=Path, required=True, metavar="ROOT", help="data set of real studies, as training index reads it")
    add("--run", type=Path, required=True, help="folder of everything that is made")
    add("--ship", action="store_true", help="train on all patients and write the bundles (default: outer folds)")
    add(
        "--start",
        type=Path,
        metavar="RUN",
        help="finished run on phantoms alone that base runs go on from "
        "(default: trained as the plan says, below --run)",
    )
    add(
        "--plan",
        type=Path,
        default=Path(__file__).parent.with_name("configs") / "shipped.yaml",
        help="YAML (default training/configs/shipped.yaml)",
    )
    add("--outer", type=int, default=3, help="outer folds (default 3)")
    add(
        "--fold",
        type=int,
        metavar="N",
        help="only outer fold N, counted from 0, so that several run side by side, "
        "on a GPU or a core each; the command without it then sums up what they did (default: all, in turn)",
    )
    add("--validation", type=float, default=0.2, help="share of the patients not tested that validates (default 0.2)")
    add(
        "--views",
        action="store_true",
        help="also score each outer fold's whole images with less of the body and with "
        "air around them (cost: on a GPU half a minute a fold, on two CPU cores an hour)",
    )
    add("--diagnosis", default="sarcoma", help="for real studies that state none (default sarcoma)")
    add("--site", default="sts", help="for real studies that state none (default sts)")
    add(
        "--data",
        default="",
        metavar="TEXT",
        help="text on the patients for the bundles' manifests: whose they are, "
        "where they were published, under which licence, whom to cite (default: nothing)",
    )
    add("--licence", default="unknown", metavar="TEXT", help="licence of the bundles (default unknown)")
    add(
        "--output",
        type=Path,
        metavar="DIR",
        help="where --ship writes the bundles; bundles of the same names are replaced",
    )
    add_data_options(parser)
    add_device_option(parser)
