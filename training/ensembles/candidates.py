"""The trained runs that a selection chooses from: read them, check that they are of one kind, average their weights."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from model.errors import ConfigError
from model.networks.weights import mean_of
from training.judging.leakage import Seen, seen_in
from training.settings import Training, read_yaml, settings_from
from training.weights import checkpoint
from training.weights.checkpoint import State

SHARED = ("network", "intensity", "window")  # what members of one bundle have in common


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A finished run. start: sha256 of the file of the base run's weights, None without a base run (a shared CT encoder
    is no shared start); base: the base run's folder, if it is found; seen: the cases and patients that trained the run
    or the run it started from.
    """

    name: str
    folder: Path
    weights: Path
    sha256: str
    settings: Training
    start: str | None
    base: Path | None
    seen: Seen


def read_candidates(runs: Iterable[Path]) -> dict[str, Candidate]:
    """Finished runs by the names of their folders. Raises ConfigError or WeightsError if one bundle cannot hold all."""
    found: dict[str, Candidate] = {}
    for folder in runs:
        one = read_candidate(folder)
        if one.name in found:
            raise ConfigError(f"two runs are called {one.name}: '{found[one.name].folder}' and '{folder}'; rename one")
        found[one.name] = one
    if not found:
        raise ConfigError("there is no member to choose from; name at least one run")
    first = next(iter(found.values()))
    for one in found.values():
        wrong = [key for key in SHARED if getattr(one.settings, key) != getattr(first.settings, key)]
        if wrong:
            raise ConfigError(
                f"'{first.folder}' and '{one.folder}' differ in {', '.join(wrong)}: members of one bundle share "
                f"{', '.join(SHARED)}; leave one of them out"
            )
    return found


def read_candidate(folder: Path) -> Candidate:
    """A finished run. Raises ConfigError if it is not finished, WeightsError if its weights have changed since."""
    result = checkpoint.result_of(folder)
    config = read_yaml(folder / checkpoint.CONFIG)
    try:
        weights, expected, start = folder / result["result"], result["sha256"], result["start"]
        settings = settings_from(config["settings"], f"'{folder / checkpoint.CONFIG}': settings")
    except (KeyError, TypeError) as error:
        raise ConfigError(f"'{folder}' is no run of training train: {error} is missing; train it again") from None
    checkpoint.check_weights(weights, expected, "the run")
    origin = start["sha256"] if start and "run" in start else None
    base = find_base(folder, Path(start["run"]), origin) if origin else None
    return Candidate(
        name=folder.resolve().name,
        folder=folder,
        weights=weights,
        sha256=expected,
        settings=settings,
        start=origin,
        base=base,
        seen=seen_in(config, folder / checkpoint.CONFIG),
    )


def find_base(folder: Path, base: Path, sha256: str) -> Path | None:
    """The base run: where the run names it, else beside the run or its folder, for runs are moved; else None."""
    here = folder.resolve().parent
    for place in (base, here / base.name, here.parent / base.name):
        result = checkpoint.result_of(place) if (place / checkpoint.RESULT).exists() else {}
        if result.get("sha256") == sha256 and (place / result["result"]).exists():
            return place
    return None


def check_one_start(candidates: Sequence[Candidate]) -> None:
    """Weights may be averaged only if they were fine-tuned from one network (section 2.5). Raises ConfigError."""
    starts = {one.start for one in candidates}
    if len(candidates) > 1 and (len(starts) > 1 or None in starts):
        starts_text = ", ".join(
            f"{one.name} from {one.start[:12] if one.start else 'no base run'}" for one in candidates
        )
        raise ConfigError(
            f"DiWA averages weights, which needs members of one start, and these have several: {starts_text}; leave "
            "out the members of another start, or give --method eoa"
        )


def soup(members: Sequence[tuple[Path, int]]) -> State:
    """The mean of weights files, each as often as it counts (algorithm 2)."""
    total = sum(count for _, count in members)
    return mean_of((count / total, checkpoint.read_weights(path)) for path, count in members)
