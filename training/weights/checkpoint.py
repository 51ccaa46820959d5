"""The files of a run's folder: its state written atomically, its log, and what a later command needs to know of it."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.bundle.manifest import MANIFEST
from model.errors import ConfigError, OutputError, WeightsError
from model.files import sha256_of
from model.whole import whole_file

State = dict[str, Tensor]
CONFIG, LOG, STATE, RESULT = "config.yaml", "log.jsonl", "checkpoint.pt", "run.json"
MEAN, LAST = "mean.safetensors", "last.safetensors"  # what a run ends with, averaged or not


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


def hours(ended: Mapping[str, Any]) -> float:
    """Hours of a run's steps over all pieces, from its result or its last checkpoint; 0 if it does not say."""
    return float(sum(ended.get("seconds", {}).values()) / 3600)


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
