"""What the experiments and the shipped weights have in common: a plan in YAML, its data, its runs, its scores.

A plan says which phantoms there are, how a base run and its members are trained, and how studies are cropped;
training/configs holds those of this project.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from msgspec import Struct

from model.bundle.settings import Crop
from model.errors import CaseError, ConfigError
from model.inference.device import choose_device
from model.schema import Number, build, check_fields
from training.data.folds import PARTS, Fold
from training.data.index import main as index_main
from training.data.prepare import prepare_all
from training.data.table import Study, read_table
from training.ensembles.candidates import read_candidates
from training.ensembles.members import check_name
from training.ensembles.scoreboard import Bench, Judged
from training.ensembles.select import TITLES, log_of, select_runs
from training.ensembles.sweep import Sweep, sweep
from training.phantom import study
from training.phantom.physics import HELD_OUT_SITE, SITES
from training.phantom.table import study_name
from training.runs import checkpoint
from training.runs.leakage import check_not_seen
from training.runs.pretrain import pretrain_run
from training.runs.scores import CaseScore
from training.runs.train import train_run
from training.settings import Training, changed, read_yaml, settings_from

CONVENTION = "autopet_1_2"
RANGES = {  # of phantoms' seeds
    "train": study.TRAINING_SEEDS,
    "validate": study.VALIDATION_SEEDS,
    "test": (study.TEST_SEEDS_FROM, 2**32),
}
Choice = tuple[str, tuple[str, ...]]  # "eoa" or "diwa", and the members' names


class Plan(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """phantoms: {part: {site: [first seed, how many]}}; members: {name: changes of settings}.

    settings: of the base run, which ends at schedule.stop (t0); members run from there to schedule.epochs.
    pretrain: changes of settings for the CT encoder's run, null: none. networks: {row of table 2: network}. slices:
    changes of settings for the runs on slices of experiment wholebody.
    crop_suv_above: SUV, see training prepare.
    """

    settings: dict[Any, Any]
    members: dict[Any, Any]
    averaging: dict[Any, Any]
    phantoms: dict[Any, Any]
    networks: dict[Any, Any]
    pretrain: dict[Any, Any] | None = None
    slices: dict[Any, Any] | None = None
    crop_suv_above: Number = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.base.schedule.stop is None:
            raise ConfigError("settings.schedule.stop must say the epoch t0 at which members leave the base run")
        if set(self.phantoms) != set(PARTS):
            raise ConfigError(f"phantoms must have {', '.join(PARTS)}, got {', '.join(map(str, self.phantoms))}")
        for part, sites in self.phantoms.items():
            for site, seeds in _mapping(sites, f"phantoms.{part}").items():
                check_seeds(part, site, seeds)
        self.member_settings()
        if self.pretrain is not None:
            changed(self.base, self.pretrain, "pretrain")
        if self.slices is not None:
            changed(self.base, self.slices, "slices")
        for name, network in _mapping(self.networks, "networks").items():
            changed(self.base, {"network": network}, f"networks: {name}")

    @property
    def base(self) -> Training:
        """Settings of the base run."""
        return settings_from(self.settings, "settings")

    @property
    def crop(self) -> Crop:
        """How studies are cropped."""
        return Crop(suv_above=self.crop_suv_above)

    def member_settings(self) -> dict[str, Training]:
        """Settings of every member by name: those of the base run, averaged from t0 on, with the member's changes."""
        phase = {"averaging": self.averaging | {"start": self.base.schedule.stop}, "schedule": {"stop": None}}
        common = changed(self.base, phase, "averaging")
        members = _mapping(self.members, "members")
        for name in members:
            check_name(name, "members")
        return {name: changed(common, changes or {}, f"members: {name}") for name, changes in members.items()}


def check_seeds(part: str, site: object, seeds: object) -> None:
    """Refuse seeds of a part of the phantoms that another part may use, and the unseen site outside tests.

    One seed is one patient, whatever the site that scans him. Raises ConfigError.
    """
    where = f"phantoms.{part}.{site}"
    if site not in SITES:
        raise ConfigError(f"{where}: there is no site {site}; the sites are {', '.join(SITES)}")
    if site == HELD_OUT_SITE and part != "test":
        raise ConfigError(f"{where}: site {site} is for tests alone, so that no network has met its scanner")
    if not (isinstance(seeds, list) and len(seeds) == 2 and all(type(number) is int for number in seeds)):
        raise ConfigError(f"{where} must be [first seed, how many], got {seeds}")
    low, high = RANGES[part]
    first, count = seeds
    if count < 1 or not low <= first <= first + count <= high:
        raise ConfigError(f"{where} is seeds {first} to {first + count - 1}; those to {part} are {low} to {high - 1}")


def _mapping(value: object, name: str) -> dict[str, Any]:
    """A mapping of YAML; {} for nothing. Raises ConfigError for anything else."""
    if value is None or isinstance(value, dict):
        return value or {}
    raise ConfigError(f"{name} must be a mapping, got {value!r}")


def read_plan(path: Path) -> Plan:
    """A plan from YAML. Raises ConfigError naming the file and the key that is wrong."""
    return build(Plan, read_yaml(path), str(path))


def make_phantoms(plan: Plan, folder: Path, workers: int) -> tuple[Path, Fold]:
    """The plan's phantoms, those that are not there yet; the path of their index, and which part each is of.

    The index is made anew when a phantom is not in it, or a file of theirs is newer than it.
    """
    parts: dict[str, tuple[str, ...]] = {}
    for part, sites in plan.phantoms.items():
        names: list[str] = []
        for site, (first, count) in (sites or {}).items():
            names += [study_name(seed, site) for seed in range(first, first + count)]
            _command(
                study.main,
                "--seed",
                first,
                "--count",
                count,
                "--site",
                site,
                "--output",
                folder / "phantoms",
                "--workers",
                workers,
            )
        parts[part] = tuple(sorted(names))
    path = folder / "phantoms.csv"
    wanted = {name for names in parts.values() for name in names}
    if not path.exists() or changed_since(path, folder / "phantoms") or not wanted <= set(read_table(path)):
        _command(index_main, folder / "phantoms", "--output", path, "--workers", workers, "--strict")
    return path, Fold(name="phantoms", **parts)


def changed_since(path: Path, folder: Path) -> bool:
    """Whether a file at any depth below the folder is newer than the one at `path`."""
    then = path.stat().st_mtime_ns
    return any(file.stat().st_mtime_ns > then for file in folder.rglob("*") if file.is_file())


def prepare_cases(studies: Mapping[str, Study], cases: Iterable[str], cache: Path, crop: Crop, workers: int) -> None:
    """Prepare the cases that are not in the cache. Raises CaseError with the first reason if one cannot be."""
    failures = prepare_all([studies[case] for case in sorted(set(cases))], cache, crop, workers)
    for case, reason in failures.items():
        raise CaseError(f"{case} cannot be prepared: {reason} ({len(failures)} such cases in all)")


def write_fold(fold: Fold, path: Path) -> Path:
    """A split file of one fold."""
    parts = {part: list(getattr(fold, part)) for part in PARTS}
    checkpoint.write_json(path, {"by": "plan", "seed": 0, "folds": [{"name": fold.name, **parts}]})
    return path


def pretrained(plan: Plan, folder: Path, cache: Path, fold: Fold, wanted: str) -> Path | None:
    """The CT encoder of Models Genesis, trained on the fold's training cases; None if the plan has none."""
    if plan.pretrain is None:
        return None
    run = folder / "pretrain"
    result = pretrain_run(run, changed(plan.base, plan.pretrain, "pretrain"), cache, fold, wanted)
    return run / str(result["result"])


def base_and_members(
    plan: Plan,
    folder: Path,
    cache: Path,
    fold: Fold,
    wanted: str,
    *,
    ct_encoder: Path | None = None,
    start: Path | None = None,
) -> list[Path]:
    """The base run to theta_0, then its members; the members' folders. `start`: a run the base run goes on from.

    Raises ConfigError if the plan has no members.
    """
    if not plan.members:
        raise ConfigError("the plan has no members, and there is nothing to select: give it one or more")
    base = folder / "base"
    train_run(base, plan.base, cache, fold, start=start, ct_encoder=ct_encoder, wanted=wanted)
    members = plan.member_settings()
    report = sweep(
        Sweep(
            members=members,
            base=base,
            cache=cache,
            split=write_fold(fold, folder / "split.json"),
            fold=fold.name,
            runs=folder / "members",
            device=wanted,
        )
    )
    failed = {name: entry for name, entry in report["members"].items() if entry["state"] != "finished"}
    if failed:
        raise ConfigError(f"members failed: {', '.join(failed)}; see '{folder / 'members' / 'sweep'}'")
    return [folder / "members" / name for name in members]


def selected(members: Sequence[Path], cache: Path, fold: Fold, folder: Path, wanted: str) -> dict[str, Any]:
    """The members' selection on the fold's validation cases, kept as selection.json and .txt.

    Networks and soups run once: what they said is kept in margins/, so that doing it again takes seconds.
    """
    report = select_runs(members, cache, fold, folder / "margins", wanted=wanted)
    checkpoint.write_text(folder / "selection.txt", log_of(report))
    checkpoint.write_json(folder / "selection.json", report)
    return report


def choices_of(report: Mapping[str, Any]) -> dict[str, Choice]:
    """A selection's choices by their titles: how the members vote, and the members, each as often as it counts."""
    return {
        TITLES[name]: (choice["method"], tuple(m for m, count in choice["weights"].items() for _ in range(count)))
        for name, choice in report["choices"].items()
    }


def judged(
    runs: Iterable[Path],
    choices: Mapping[str, Choice],
    studies: Mapping[str, Study],
    cases: Sequence[str],
    cache: Path,
    keep: Path,
    wanted: str,
) -> dict[str, list[CaseScore]]:
    """What choices among these runs score on prepared cases, case by case; every network runs once a case.

    Raises ConfigError if a run, or one it started from, was trained on one of the cases or its patient.
    """
    used = {name for _, names in choices.values() for name in names}
    candidates = read_candidates(run for run in runs if run.resolve().name in used)
    for one in candidates.values():
        check_not_seen(one.folder, one.seen, cases, cache, "score on")
    bench = Bench(candidates, cache, cases, keep, choose_device(wanted))
    bench.run_all()
    return {
        title: _rows((bench.eoa if method == "eoa" else bench.diwa)(names), studies)
        for title, (method, names) in choices.items()
    }


def _rows(found: Judged, studies: Mapping[str, Study]) -> list[CaseScore]:
    """Rows of scores with what the index knows of the cases."""
    names = ("case", "patient", "diagnosis", "tracer", "site")
    return [
        CaseScore(**{n: getattr(studies[case], n) for n in names}, **asdict(scores), seconds=found.seconds_per_case)
        for case, scores in found.cases.items()
    ]


def _command(main: Any, *words: object) -> None:
    """Run another command's main. Raises ConfigError if it fails; it has said why."""
    if main([str(word) for word in words]):
        sys.stderr.flush()
        raise ConfigError(f"{main.__module__} {' '.join(map(str, words))} failed, see above")
