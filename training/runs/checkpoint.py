"""A run's folder: its state written atomically, its log, and what a later command needs to know of it."""

import fcntl
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.bundle.manifest import MANIFEST
from model.errors import ConfigError, OutputError, WeightsError
from model.files import sha256_of
from model.results.writing import check_output
from model.whole import PARTIAL, remove_left_behind, whole_file
from training.settings import read_yaml, settings_from, settings_to

State = dict[str, Tensor]
CONFIG, LOG, STATE, RESULT = "config.yaml", "log.jsonl", "checkpoint.pt", "run.json"
MEAN, LAST = "mean.safetensors", "last.safetensors"  # what a run ends with, averaged or not
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


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that takes its place when the block ends well. Raises OutputError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as partial:
            yield partial
    except (OSError, SafetensorError, RuntimeError) as error:  # torch.save makes a RuntimeError of a full disk
        raise OutputError(f"cannot write '{path}': {error}; is there space, and may this user write there?") from None


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint so that a crash at any moment leaves the old one or the new one whole."""
    with replacing(path) as partial, partial.open("wb") as file:
        torch.save(state, file)


def read_state(path: Path) -> dict[str, Any]:
    """Read a checkpoint; nothing in it can run. Raises WeightsError if it is damaged."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"checkpoint '{path}' cannot be read: {reason}; delete it to start the run anew") from None
    return state


def write_weights(path: Path, state: State) -> None:
    """Write a network's tensors as safetensors, through a temporary name."""
    with replacing(path) as partial:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, partial)
        partial.chmod(0o644)


def read_weights(path: Path) -> State:
    """Read a network's tensors into float32 on the host. Raises WeightsError if they cannot be read."""
    try:
        state: State = load_file(path)
    except Exception as error:  # safetensors raises its own kinds
        raise WeightsError(f"weights '{path}' cannot be read: {error}; make or fetch it again") from None
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def write_text(path: Path, text: str) -> None:
    """Write a text file through a temporary name."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, data: Any) -> None:
    """Write JSON through a temporary name."""
    write_text(path, json.dumps(data, indent=1) + "\n")


def read_json(path: Path, remedy: str = "is it there, and readable?") -> Any:
    """Read JSON. Raises ConfigError naming the file; remedy: what to do where it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read '{path}': {error.strerror}; {remedy}") from None
    except ValueError as error:
        raise ConfigError(f"'{path}' is not JSON: {error}; copy it or make it again") from None


def result_of(folder: Path) -> dict[str, Any]:
    """What a finished run wrote of itself. Raises ConfigError if it is not finished."""
    path = folder / RESULT
    if not path.exists() and (folder / MANIFEST).exists():
        raise ConfigError(
            f"'{folder}' is a bundle of weights, which no run goes on from: a run must see the voxels and intensities "
            "of its start, and a bundle's, above all an imported one's, may be others; give a folder of training train"
        )
    if not path.exists():
        raise ConfigError(f"'{folder}' holds no finished run ({RESULT} is not there); run training train on it first")
    result = read_json(path)
    if not isinstance(result, dict) or not {"result", "sha256", "epoch"} <= result.keys():
        raise ConfigError(f"'{path}' is damaged: it does not say what the run ended with; train the run again")
    return result


def in_float16(tensor: Tensor) -> Tensor:
    """The tensor as it is stored in half the space: in float16; in float32 if it holds a number that float16 cannot,
    as the variances of a deep layer may. Whole numbers stay.
    """
    if not tensor.is_floating_point():
        return tensor
    half = tensor.to(torch.float16)
    return half if torch.isfinite(half).all() else tensor.to(torch.float32)


def finished(folder: Path) -> dict[str, Any] | None:
    """What a finished run wrote of itself; None if it is not finished, or its run.json or weights are damaged or gone.

    Such a run is to be done again, from its last checkpoint if there is one.
    """
    try:
        result = result_of(folder)
    except ConfigError:
        return None
    path = folder / str(result["result"])
    return result if path.is_file() and sha256_of(path) == result["sha256"] else None


def result_file(folder: Path) -> Path:
    """The weights a finished run ended with. Raises ConfigError if it is not finished, or they are gone."""
    path = folder / str(result_of(folder)["result"])
    if not path.is_file():
        raise ConfigError(f"'{path}' is not there, with which the run in '{folder}' ended; train the run again")
    return path


def check_weights(weights: Path, expected: str, run: str) -> None:
    """Raise WeightsError unless a file of weights has the sha256 that its run ended with. run: what to train again."""
    try:
        found = sha256_of(weights)
    except OSError as error:
        raise WeightsError(f"cannot read '{weights}': {error.strerror}; train {run} again") from None
    if found != expected:
        raise WeightsError(f"'{weights}' has sha256 {found}, its run ended with {expected}; train {run} again")


def cut_log(path: Path, last_step: int) -> None:
    """Drop the lines of a log that were written after the checkpoint from which a run resumes."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= last_step:
                kept.append(line + "\n")
        except (ValueError, KeyError):
            continue  # a line cut short by the crash
    write_text(path, "".join(kept))
