"""What the experiments and the shipped weights have in common: a plan in YAML, its data, its runs, its scores.

A plan says which phantoms there are, how a base run and its members are trained, and how studies are cropped;
training/configs holds those of this project.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from model.config import Crop
from model.device import Device, choose_device
from model.errors import CaseError, ConfigError
from model.lesions import Scores
from model.networks import build as build_network
from training import checkpoint, phantom
from training.bundle import state_sha256
from training.candidates import soup
from training.index import main as index_main
from training.phantom_table import study_name
from training.predict import kept_margin, score_margin
from training.prepare import load, prepare_all
from training.pretrain import pretrain_run
from training.scores import CaseScore
from training.select import TITLES, log_of, select_runs
from training.settings import Training, build, changed, read_yaml, settings_from
from training.split import Fold
from training.sweep import Sweep, sweep
from training.table import Study, read_table
from training.train import train_run

PARTS = ("train", "validate", "test")
CONVENTION = "autopet_1_2"
State = dict[str, Tensor]
Site = tuple[int, int]  # first seed, how many


@dataclass(frozen=True, kw_only=True)
class Plan:
    """phantoms: {part: {site: [first seed, how many]}}; members: {name: changes of settings}.

    settings: of the base run, which ends at schedule.stop (t0); members run from there to schedule.epochs.
    pretrain: changes of settings for the CT encoder's run, null: none. networks: {row of table 2: network}.
    crop_suv_above: SUV, see training.prepare.
    """

    settings: dict[str, Any]
    members: dict[str, Any]
    averaging: dict[str, Any]
    phantoms: dict[str, Any]
    networks: dict[str, Any]
    pretrain: dict[str, Any] | None = None
    crop_suv_above: float = 0.0

    def __post_init__(self) -> None:
        if self.base.schedule.stop is None:
            raise ConfigError("settings.schedule.stop must say the epoch t0 at which members leave the base run")
        if set(self.phantoms) != set(PARTS):
            raise ConfigError(f"phantoms must have {', '.join(PARTS)}, got {', '.join(map(str, self.phantoms))}")
        self.member_settings()

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
        return {name: changed(common, changes or {}, f"members: {name}") for name, changes in self.members.items()}


def read_plan(path: Path) -> Plan:
    """A plan from YAML. Raises ConfigError naming the file and the key that is wrong."""
    return build(Plan, read_yaml(path), str(path))


def make_phantoms(plan: Plan, folder: Path, workers: int) -> tuple[Path, Fold]:
    """The plan's phantoms, those that are not there yet; the path of their index, and which part each is of."""
    parts: dict[str, tuple[str, ...]] = {}
    for part, sites in plan.phantoms.items():
        names: list[str] = []
        for site, (first, count) in (sites or {}).items():
            names += [study_name(seed, site) for seed in range(first, first + count)]
            _command(phantom.main, "--seed", first, "--count", count, "--site", site, "--output", folder / "phantoms",
                     "--workers", workers)  # fmt: skip
        parts[part] = tuple(sorted(names))
    path = folder / "phantoms.csv"
    if not path.exists() or not {name for names in parts.values() for name in names} <= set(read_table(path)):
        _command(index_main, folder / "phantoms", "--output", path, "--workers", workers, "--strict")
    return path, Fold(name="phantoms", **parts)


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
    plan: Plan, folder: Path, cache: Path, fold: Fold, wanted: str, *,
    ct_encoder: Path | None = None, start: Path | None = None,
) -> list[Path]:  # fmt: skip
    """The base run to theta_0, then its members; the members' folders. `start`: a run the base run goes on from."""
    base = folder / "base"
    train_run(base, plan.base, cache, fold, start=start, ct_encoder=ct_encoder, wanted=wanted)
    members = plan.member_settings()
    report = sweep(Sweep(
        members=members, base=base, cache=cache, split=write_fold(fold, folder / "split.json"), fold=fold.name,
        runs=folder / "members", device=wanted,
    ))  # fmt: skip
    failed = {name: entry for name, entry in report["members"].items() if entry["state"] != "finished"}
    if failed:
        raise ConfigError(f"members failed: {', '.join(failed)}; see '{folder / 'members' / 'sweep'}'")
    return [folder / "members" / name for name in members]


def selected(members: Sequence[Path], cache: Path, fold: Fold, folder: Path, wanted: str) -> dict[str, Any]:
    """The members' selection on the fold's validation cases, kept as selection.json and .txt; done once."""
    path = folder / "selection.json"
    if not path.exists():
        report = select_runs(members, cache, fold, folder / "margins", wanted=wanted)
        checkpoint.write_text(path.with_suffix(".txt"), log_of(report))
        checkpoint.write_json(path, report)
    found: dict[str, Any] = checkpoint.read_json(path)
    return found


def weights_of(run: Path) -> State:
    """What a finished run ended with."""
    return checkpoint.read_weights(run / str(checkpoint.result_of(run)["result"]))


def voters_of(report: Mapping[str, Any]) -> dict[str, list[tuple[float, State]]]:
    """What votes in each choice of a selection, by its title: (share, weights); for DiWA the one mean of weights."""
    files = {member["name"]: Path(member["run"]) for member in report["members"]}
    files = {name: run / str(checkpoint.result_of(run)["result"]) for name, run in files.items()}
    voters = {}
    for name, choice in report["choices"].items():
        counts = {member: choice["weights"][member] for member in sorted(choice["weights"])}
        total = sum(counts.values())
        if choice["method"] == "diwa":
            states = [(1.0, soup([(files[member], count) for member, count in counts.items()]))]
        else:
            states = [(count / total, checkpoint.read_weights(files[member])) for member, count in counts.items()]
        voters[TITLES[name]] = states
    return voters


class Judge:
    """Scores of networks and of ensembles on prepared cases; every network runs once a case (state: the cache)."""

    def __init__(self, settings: Training, studies: Mapping[str, Study], cache: Path, kept: Path, wanted: str) -> None:
        self.settings, self.studies, self.cache, self.kept = settings, studies, cache, kept
        self.device: Device = choose_device(wanted)  # as the container computes

    def scores(self, states: Sequence[tuple[float, State]], cases: Iterable[str]) -> list[CaseScore]:
        """Scores of the weighted mean of these networks' logits (one network: itself), case by case."""
        return [self._one(states, case) for case in cases]

    def _one(self, states: Sequence[tuple[float, State]], case: str) -> CaseScore:
        study, row = load(self.cache, case), self.studies[case]
        total, seconds = np.zeros(study.suv.shape, np.float32), 0.0
        for weight, state in states:
            network = build_network(self.settings.network)
            network.load_state_dict(state)
            folder = self.kept / state_sha256(state)[:16]
            margin, spent = kept_margin(
                folder, case, network.to(self.device.torch_device), self.cache, self.settings, self.device
            )
            total += weight * margin.astype(np.float32)
            seconds += spent
        return case_score(row, score_margin(total, study), seconds)


def case_score(row: Study, scores: Scores, seconds: float) -> CaseScore:
    """A row of scores with what the index knows of the case."""
    return CaseScore(
        case=row.case, patient=row.patient, diagnosis=row.diagnosis, tracer=row.tracer, site=row.site,
        dice=scores.dice, fpv_ml=scores.fpv_ml, fnv_ml=scores.fnv_ml, lesions_true=scores.lesions_true,
        lesions_found=scores.lesions_found, seconds=seconds, convention=scores.convention,
    )  # fmt: skip


def _command(main: Any, *words: object) -> None:
    """Run another command's main. Raises ConfigError if it fails; it has said why."""
    if main([str(word) for word in words]):
        sys.stderr.flush()
        raise ConfigError(f"{main.__module__} {' '.join(map(str, words))} failed, see above")
