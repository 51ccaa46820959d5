"""The members of a sweep: from one YAML, either every combination of a grid or a list of their own.

`settings` is a mapping of training.settings.Training, or the path of such a YAML, from the folder of this one:

    settings: member.yaml
    grid:                                  # every combination, named for example adamp-paper-5e-5
      optimizer: [adamp, adamw, adabelief]
      augmentation: [weak, paper, strong]
      averaging: [5.0e-5, 1.0e-4]          # the constant rate; or {name: {constant: 1.0e-4, peak: 3.0e-4}}
    draw: 8                                # only so many of them, at random (default all)
    seed: 0                                # of that draw (default 0)

or, in place of grid, members that differ from `settings` as they say:

    members: {calm: {augmentation: weak}, wild: {augmentation: strong, optimizer: {name: adamw}}}
"""

import itertools
import random
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

from msgspec import Struct

from model.errors import ConfigError
from model.schema import build
from training.settings import Training, changed, read_settings, read_yaml, settings_from

LOGS = "sweep"  # folder of the members' settings and logs, beside their runs
STATES = "sweep.json"  # the state of every member, beside their runs
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}")  # a folder, and a file of a bundle
SMALL = 0.01  # rates below this are written as 1e-4 in names
SHORT = {"optimizer": "name", "averaging": "constant"}  # section: the key that a plain value in a grid sets


class SweepFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The keys of a sweep's YAML."""

    settings: Any
    grid: Any = None
    members: Any = None
    draw: Any = None
    seed: int = 0


def read_members(path: Path) -> dict[str, Training]:
    """The members of a sweep's YAML by name. Raises ConfigError naming the file and the key that is wrong."""
    data = read_yaml(path)
    file = build(SweepFile, data, f"'{path}'")
    if isinstance(file.settings, str):
        settings = read_settings(path.parent / file.settings)
    else:
        settings = settings_from(file.settings, f"'{path}': settings")
    if bool(file.grid) == bool(file.members):
        raise ConfigError(f"'{path}' must have either grid or members, not both")
    named = file.members or grid(file.grid, str(path))
    if not isinstance(named, dict):
        raise ConfigError(f"'{path}': members must be a mapping of names to changes")
    if file.draw is not None:
        if isinstance(file.draw, bool) or not isinstance(file.draw, int) or not 1 <= file.draw <= len(named):
            raise ConfigError(
                f"'{path}': draw must be from 1 to {len(named)}, the number of combinations, got {file.draw!r}"
            )
        drawn = set(random.Random(file.seed).sample(sorted(named, key=str), file.draw))
        named = {name: changes for name, changes in named.items() if name in drawn}
    members = {}
    for name, changes in named.items():
        check_member_name(name, f"'{path}'")
        members[str(name)] = changed(settings, changes or {}, f"'{path}': {name}")
    return members


def check_member_name(name: object, where: str) -> None:
    """Raise ConfigError if a member cannot have this name: a folder and a file of a bundle will have it, too."""
    if not NAME.fullmatch(str(name)) or name in (LOGS, STATES):
        raise ConfigError(
            f"{where}: a member cannot be called {name!r}: letters, digits, '_', '.' and '-', at most 80, and neither "
            f"{LOGS!r} nor {STATES!r}"
        )


def grid(axes: Any, where: str) -> dict[str, dict[str, Any]]:
    """Every combination of the axes' values as {name: changes}. Raises ConfigError if `axes` is not a grid."""
    if not isinstance(axes, dict) or not all(isinstance(v, (list, dict)) and v for v in axes.values()):
        raise ConfigError(f"'{where}': grid must be a mapping of settings to lists of values, or to named changes")
    choices = []
    for axis, values in axes.items():
        named = values if isinstance(values, dict) else {_label(axis, value, where): value for value in values}
        if len(named) < len(values):
            raise ConfigError(f"'{where}': grid: {axis} has a value twice: {values}")
        choices.append([(str(label), {axis: _change(axis, value)}) for label, value in named.items()])
    combinations = list(itertools.product(*choices))
    named = {
        "-".join(label for label, _ in chosen): {k: v for _, change in chosen for k, v in change.items()}
        for chosen in combinations
    }
    if len(named) < len(combinations):
        raise ConfigError(f"'{where}': grid: two combinations have the same name; give the values other names")
    return named


def _label(axis: str, value: Any, where: str) -> str:
    if isinstance(value, (dict, list)):
        raise ConfigError(f"'{where}': grid: {axis}: give {value} a name, as in {{name: {value}}}")
    number = _number(value)
    if number is None:
        return str(value)
    text = f"{Decimal(repr(number)).normalize():e}" if 0 < number < SMALL else f"{number:g}"
    return text if axis in SHORT else f"{axis}{text}"


def _change(axis: str, value: Any) -> Any:
    if isinstance(value, dict) or axis not in SHORT:
        return value
    return {SHORT[axis]: value if _number(value) is None else _number(value)}


def _number(value: Any) -> float | None:
    """The number, also where YAML 1.1 reads text (5e-5 without a point); None if it is no number."""
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None
