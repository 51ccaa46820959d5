"""A run in a folder of its own: begun or resumed, by one process or torchrun's, and held while it runs."""

import fcntl
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import yaml

from model.errors import ConfigError
from model.inference.device import Device
from model.results.writing import check_output
from model.whole import PARTIAL, remove_left_behind
from training.compute.torchrun import process_group, processes, rank
from training.settings import read_yaml, settings_from, settings_to
from training.weights.checkpoint import CONFIG, RESULT, STATE, read_state, write_text

LOCK = ".lock"
WITHOUT_INFLUENCE = ("workers", "checkpoint_minutes", "most_left_out", "log_every")  # settings that change no weight
MAY_CHANGE = (  # settings that may differ when an unfinished run resumes: they help if its loss is no longer finite
    "precision",
    "optimizer.rate",
    "optimizer.clip_norm",
    "averaging.peak",
    "averaging.constant",
)
# these may differ, too, if their product stays the same: then a step has the same crops, whichever process draws them
DIVIDED = ("processes", "settings.batch", "settings.accumulate")
CHANGES = "changes"  # of such settings, in config.yaml: from which step on, from what, to what
FITTED = "fitted"  # in config.yaml and run.json: what schedule.minutes chose
RESTARTS = "restarts"  # in both: where the run went on elsewhere, from weights alone
_held: dict[Path, TextIO] = {}  # locks; the system closes them, and so gives them up, when the process ends


@contextmanager
def opened(folder: Path, config: dict[str, Any], device: Device) -> Iterator[dict[str, Any] | None]:
    """Begin or resume the run in its folder, in torchrun's process group if there is one; gives its last state.

    The first process opens the folder before the others do. Raises ConfigError as `open_run` does.
    """
    if processes() == 1:
        yield open_run(folder, config)
        return
    state = open_run(folder, config) if rank() == 0 else None
    with process_group(device):
        yield state if rank() == 0 else open_run(folder, config, hold=False)


def open_run(folder: Path, config: dict[str, Any], hold: bool = True) -> dict[str, Any] | None:
    """Begin a run in a folder of its own, or resume it. Returns the state of its last checkpoint, None without one.

    hold: keep other processes out of the folder until this one ends, and remove what killed ones left there; False
    for a process that joins one which began the run. In a run that is not finished, the settings of MAY_CHANGE and
    DIVIDED may differ from before: config.yaml then has the new ones, and what changed at which step. Raises
    ConfigError if the folder holds a run of another configuration or files that are no run, or if another process
    works on it.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"'{folder}' is a file: name a folder for the run")
    path = folder / CONFIG
    if not path.exists() and folder.exists() and not all(is_ours(file.name) for file in folder.iterdir()):
        raise ConfigError(f"'{folder}' is not empty and holds no {CONFIG}: name another folder for the run")
    if hold:
        check_output(folder)
        hold_folder(folder)
        remove_left_behind(folder)
    if not path.exists():
        if not hold:
            raise ConfigError(
                f"'{path}' is not there, which the first process wrote: over several machines the run folder must lie "
                "on a disk that all of them share, at the same path"
            )
        write_text(path, yaml.safe_dump(json.loads(json.dumps(config)), sort_keys=False))
        return None
    before = read_yaml(path)
    if not isinstance(before, dict):
        raise ConfigError(f"'{path}' is damaged: it holds no settings; name another folder for the run")
    changed = differing(before, config)
    check_changes(folder, before, config, changed)
    state = read_state(folder / STATE) if (folder / STATE).exists() else None
    if changed:
        changes = {key: {"from": _at(before, key), "to": _at(config, key)} for key in changed}
        before[CHANGES] = [*before.get(CHANGES, []), {"step": _at(state, "step") or 0} | changes]
        before |= {key: config[key] for key in ("settings", "processes") if key in config}
        write_text(path, yaml.safe_dump(json.loads(json.dumps(before)), sort_keys=False))
        print(f"'{folder}' goes on with other settings, as its {CONFIG} now says: {', '.join(changed)}")
    return state


def check_changes(folder: Path, before: dict[str, Any], config: dict[str, Any], changed: list[str]) -> None:
    """Raise ConfigError if one of the settings that differ may not change in the run of this folder."""
    allowed = () if (folder / RESULT).exists() else tuple(f"settings.{key}" for key in MAY_CHANGE)
    if allowed and _crops_a_step(before) == _crops_a_step(config):
        allowed += DIVIDED
    if wrong := [key for key in changed if key not in allowed]:
        raise ConfigError(
            f"'{folder}' holds a run of other settings ({', '.join(wrong)}); name another folder"
            + (f", or keep batch x accumulate x processes at {_crops_a_step(before)}" if {*wrong} & {*DIVIDED} else "")
        )


def _crops_a_step(config: dict[str, Any]) -> int | None:
    """The effective batch; None for a configuration without one."""
    numbers = [_at(config, key) for key in DIVIDED]
    return math.prod(numbers) if all(isinstance(number, int) for number in numbers) else None


def _at(config: Any, key: str) -> Any:
    """The value at a path such as settings.optimizer.rate; None where there is none."""
    value: Any = config
    for name in key.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def is_ours(name: str) -> bool:
    """Whether a file of this name may lie in a run's folder before its config.yaml."""
    return name == LOCK or name.startswith(PARTIAL)


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The keys in which two configurations differ, inner ones by their path; a start is compared by its sha256 alone.

    Settings that change no weight are left out. A setting that is missing, as an earlier version did not have it,
    counts as its default, which is what that version did.
    """
    one, other = (json.loads(json.dumps(config)) for config in (one, other))
    for config in (one, other):
        if isinstance(settings := config.get("settings"), dict):
            settings = _filled(settings)
            config["settings"] = {key: value for key, value in settings.items() if key not in WITHOUT_INFLUENCE}
        for key in (CHANGES, FITTED, RESTARTS):
            config.pop(key, None)
        if isinstance(config.get("start"), dict):
            config["start"] = config["start"].get("sha256", config["start"])
    return _unequal(one, other)


def _filled(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings with defaults where they lack some; unchanged if they are none of this version."""
    try:
        return settings_to(settings_from(settings))
    except ConfigError:
        return settings


def _unequal(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    found: list[str] = []
    for key in sorted(one.keys() | other.keys()):
        a, b = one.get(key), other.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += [f"{key}.{inner}" for inner in _unequal(a, b)]
        elif a != b:
            found.append(key)
    return found


def hold_folder(folder: Path) -> None:
    """Keep other processes out of a run's folder until this one ends. Raises ConfigError if one is in it."""
    path = folder.resolve() / LOCK
    if path in _held:
        return
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise ConfigError(f"another process works on '{folder}': wait for it, or end it") from None
    _held[path] = file
