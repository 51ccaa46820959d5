"""Go on from a state that training state wrote: its runs are put back where training nested looks for them."""

import math
import re
from pathlib import Path
from typing import Any

import yaml

from model.errors import ConfigError, WeightsError
from model.files import sha256_of
from model.whole import recover, whole_folder
from training.data.folds import Fold
from training.data.table import some_of
from training.judging.validation import BEST, BEST_NOTE
from training.papers.shipping import SCORED, WRITTEN
from training.papers.state import AVERAGE, BEGUN, FORMAT, LOSS, NETWORK, RUNS, STATE
from training.runs.folder import RESTARTS
from training.runs.planned import differing_from_plan
from training.settings import Training, read_yaml
from training.weights import checkpoint

PATH = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*){0,3}")
HALFWAY = ".putting-back"  # in the folder while a state is put back: not all of its runs are there yet
WARMUP_STEPS = 50  # at most, after a run went on without its optimizer's state
WARMUP_SHARE = 0.1  # of the steps that are left


def put_back(state: Path, folder: Path, planned: dict[str, tuple[Training, Fold]], cache: Path) -> list[str]:
    """Put the runs and records of a state into training nested's folder. Returns the names of the runs.

    planned: settings and fold of every run of the plan. A folder that holds runs goes on from them, and gets nothing,
    unless a kill ended this halfway before. Raises ConfigError if the state is none, if it is of other settings or
    studies than the plan's, or further than the folder's own runs; WeightsError if a file of it changed.
    """
    content, halfway = read_state(state), folder / HALFWAY
    if not halfway.exists() and any((folder / name / checkpoint.CONFIG).exists() for name in planned):
        check_not_behind(folder, content, state, [name for name in planned if "/" not in name])
        print(f"'{folder}' holds runs already, and goes on from them; nothing is taken from '{state}'", flush=True)
        return []
    for name, about in content["runs"].items():
        check_files(state / RUNS / name, about["sha256"], state)
        check_run(state, name, planned, cache)
    checkpoint.write_text(halfway, f"{state.resolve()}\n")
    for path, sha256 in content["records"].items():
        check_files(state / RUNS / Path(path).parent, {Path(path).name: sha256}, state)
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write_text(folder / path, (state / RUNS / path).read_text(encoding="utf-8"))
    for name in content["runs"]:
        recover(folder / name)
        if not (folder / name / checkpoint.CONFIG).exists():
            put_run_back(state / RUNS / name, folder / name)
    halfway.unlink()
    return list(content["runs"])


def check_not_behind(folder: Path, content: dict[str, Any], state: Path, starts: list[str]) -> None:
    """Raise ConfigError if a state is further than the runs in a folder: writing it anew would lose what it has.

    starts: the plan's runs on phantoms alone, in order: of those before a finished one nothing is needed.
    """
    lost = [path for path in content["records"] if not (folder / path).exists()]
    for name, about in content["runs"].items():
        later = starts[starts.index(name) :] if name in starts else [name]
        ended = any((folder / name.split("/")[0] / note).exists() for note in (WRITTEN, SCORED))
        ended = ended or any(checkpoint.finished(folder / one) for one in later)
        if not ended and steps_done(folder / name) < about.get("step", math.inf):
            lost.append(name)
    if lost:
        raise ConfigError(
            f"state '{state}' is further than '{folder}' ({some_of(lost)}), and would be written over with less; give "
            "an empty --run, which goes on from the state, or another --state"
        )


def steps_done(run: Path) -> int:
    """Steps at a begun run's last checkpoint; 0 without one."""
    path = run / checkpoint.STATE
    return int(checkpoint.read_state(path)["step"]) if path.exists() else 0


def read_state(state: Path) -> dict[str, Any]:
    """What state.json says. Raises ConfigError for a folder without a state of this version."""
    path = state / RUNS / STATE
    if not path.exists():
        raise ConfigError(f"'{state}' holds no state ('{RUNS}/{STATE}' is not there); training state writes one")
    content = checkpoint.read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ConfigError(f"'{path}' is no state of this version; write it again with training state")
    runs, records = content.get("runs"), content.get("records")
    if not isinstance(runs, dict) or not isinstance(records, dict) or not all(map(is_about, runs.values())):
        raise ConfigError(f"'{path}' is damaged: it does not say what it holds; write it again with training state")
    names = [*runs, *records]
    if wrong := [name for name in names if not PATH.fullmatch(name)]:
        raise ConfigError(f"'{path}' names {wrong[0]!r}, which is no folder below it; write it again")
    return content


def is_about(about: Any) -> bool:
    """Whether this is what state.json says of a run: the sha256 of each of its files, config.yaml among them."""
    return isinstance(about, dict) and isinstance(about.get("sha256"), dict) and checkpoint.CONFIG in about["sha256"]


def check_files(folder: Path, sha256: dict[str, str], state: Path) -> None:
    """Raise WeightsError unless every file has its sha256."""
    for name, expected in sha256.items():
        if "/" in name or not (folder / name).is_file() or sha256_of(folder / name) != expected:
            raise WeightsError(f"'{folder / name}' is not the file that the state '{state}' names; write it again")


def check_run(state: Path, name: str, planned: dict[str, tuple[Training, Fold]], cache: Path) -> None:
    """Raise ConfigError if a run of a state is not one of the plan's, of its settings and its studies."""
    where = f"state '{state}', run {name}"
    if name not in planned:
        raise ConfigError(f"{where}: the plan has no such run; give the --plan that it was written with")
    found = read_yaml(state / RUNS / name / checkpoint.CONFIG)
    if differs := differing_from_plan(found, *planned[name], cache):
        words = {"data": "studies (their sha256)", "train": "cases to train", "validate": "cases to validate"}
        about = [words.get(key, key) for key in differs]
        raise ConfigError(
            f"{where} is of other {', '.join(about)} than the plan has; give the plan and the studies that it was "
            "written with, or leave --state out"
        )


def put_run_back(kept: Path, run: Path) -> None:
    """Make a run's folder of a kept one: finished as it is; begun with a checkpoint that has no optimizer's state."""
    run.parent.mkdir(parents=True, exist_ok=True)
    config = read_yaml(kept / checkpoint.CONFIG)
    with whole_folder(run) as new:
        for name in (checkpoint.LOG, checkpoint.RESULT, BEST, BEST_NOTE):
            if (kept / name).exists():
                (new / name).write_bytes((kept / name).read_bytes())
        if (kept / checkpoint.RESULT).exists():
            result = checkpoint.read_json(kept / checkpoint.RESULT)["result"]
            (new / result).write_bytes((kept / result).read_bytes())
        else:
            note = checkpoint.read_json(kept / BEGUN)
            checkpoint.write_state(new / checkpoint.STATE, state_of(kept, note))
            warmup = {"step": note["step"], "warmup_steps": WARMUP_STEPS, "share": WARMUP_SHARE, "weights": "float16"}
            config[RESTARTS] = [*config.get(RESTARTS, []), warmup]
        (new / checkpoint.CONFIG).write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def state_of(kept: Path, note: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint of what is kept of a begun run: a fresh optimizer, and the mean of equation 2 in float64."""
    mean = checkpoint.read_weights(kept / AVERAGE) if (kept / AVERAGE).exists() else {}
    mean = {name: t.double() if t.is_floating_point() else t for name, t in mean.items()}
    return {
        "network": checkpoint.read_weights(kept / NETWORK),
        "optimizer": {},
        "scaler": {},
        "loss": checkpoint.read_weights(kept / LOSS) if (kept / LOSS).exists() else {},
        "average": {"terms": note["terms"], "mean": mean},
        **{key: note[key] for key in ("step", "losses", "seconds", "left_out")},
    }
