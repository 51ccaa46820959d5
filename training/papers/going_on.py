"""Go on from a state that training state wrote: its runs are put back where training nested looks for them."""

import re
from pathlib import Path
from typing import Any

import yaml

from model.errors import ConfigError, WeightsError
from model.files import sha256_of
from model.whole import whole_folder
from training.data.folds import Fold
from training.papers.state import AVERAGE, BEGUN, FORMAT, LOSS, NETWORK, RUNS, STATE
from training.runs import checkpoint
from training.runs.planned import differing_from_plan
from training.runs.validation import BEST, BEST_NOTE
from training.settings import Training, read_yaml

PATH = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*){0,3}")
WARMUP_STEPS = 50  # at most, after a run went on without its optimizer's state
WARMUP_SHARE = 0.1  # of the steps that are left


def put_back(state: Path, folder: Path, planned: dict[str, tuple[Training, Fold]], cache: Path) -> list[str]:
    """Put the runs and records of a state into training nested's folder. Returns the names of the runs.

    planned: settings and fold of every run of the plan. A folder that holds runs goes on from them, and gets nothing.
    Raises ConfigError if the state is none, or if it is of other settings or studies than the plan's; WeightsError if a
    file of it changed.
    """
    content = read_state(state)
    if any((folder / name / checkpoint.CONFIG).exists() for name in planned):
        print(f"'{folder}' holds runs already, and goes on from them; nothing is taken from '{state}'", flush=True)
        return []
    for name, about in content["runs"].items():
        check_files(state / RUNS / name, about["sha256"], state)
        check_run(state, name, planned, cache)
    for path, sha256 in content["records"].items():
        check_files(state / RUNS / Path(path).parent, {Path(path).name: sha256}, state)
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write_text(folder / path, (state / RUNS / path).read_text(encoding="utf-8"))
    for name in content["runs"]:
        put_run_back(state / RUNS / name, folder / name)
    return list(content["runs"])


def read_state(state: Path) -> dict[str, Any]:
    """What state.json says. Raises ConfigError for a folder without a state of this version."""
    path = state / RUNS / STATE
    if not path.exists():
        raise ConfigError(f"'{state}' holds no state ('{RUNS}/{STATE}' is not there); training state writes one")
    content = checkpoint.read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ConfigError(f"'{path}' is no state of this version; write it again with training state")
    names = [*content.get("runs", {}), *content.get("records", {})]
    if wrong := [name for name in names if not PATH.fullmatch(name)]:
        raise ConfigError(f"'{path}' names {wrong[0]!r}, which is no folder below it; write it again")
    return content


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
            config[checkpoint.RESTARTS] = [*config.get(checkpoint.RESTARTS, []), warmup]
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
