"""Settings that come from files: msgspec checks their keys, types and ranges; here its errors become our messages.

A class of settings is a msgspec.Struct that is frozen, takes keywords alone and forbids unknown fields. Its types hold
the ranges. Its `__post_init__` calls `check_fields`, then checks what several fields must have in common, and raises
SettingError.
"""

import functools
import re
from collections.abc import Iterator
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct, ValidationError, inspect, structs

from model.errors import ConfigError

T = TypeVar("T")
LATER_FIELDS = frozenset(  # that models of nnU-Net v2 brought, then those of training
    (
        "stages",
        "bias",
        "organs",
        "organ_names",
        "lesion",
        "regions",
        "placing",
        "mirrored",
        "preprocessing",
        "citation",
        "fold",
        "body",
        "misalignment",
        "log_every",
        "on_maps",
        "on_pet_grid",
        "validate_overlap",
        "recompute",
        "minutes",
        "fused_norm",
        "compile",
        "channels",
    )
)
LONGEST_VALUE = 60  # characters of a value in a message
PLACE = re.compile(r" - at (?:`key` in )?`\$(.*)`$")  # the end of msgspec's messages: the key's path
STEP = re.compile(r"\.(\w+)|\[(\d+)\]")

# 1 stays 1 and 1.0 stays 1.0: the keys of stored results are hashes of the digits.
_FINITE = Meta(gt=-1e300, lt=1e300, description="a finite number")
Number = Annotated[int, Meta(ge=-(2**62), le=2**62)] | Annotated[float, _FINITE]
Share = Annotated[int, Meta(ge=0, le=1)] | Annotated[float, Meta(ge=0, le=1)]
ShareBelowOne = Annotated[int, Meta(ge=0, lt=1)] | Annotated[float, Meta(ge=0, lt=1)]


class SettingError(ConfigError, ValueError):
    """A ConfigError that is raised while settings are built; msgspec adds the key's path to a ValueError."""


def one_of(*names: str) -> Meta:
    """The constraint of a text that must be one of `names`."""
    return text_like("|".join(map(re.escape, names)), f"one of {', '.join(names)}")


def text_like(pattern: str, description: str) -> Meta:
    """The constraint of a text that a regular expression matches from its first letter to its last."""
    return Meta(pattern=rf"\A(?:{pattern})\Z", description=description)


def build(kind: type[T], data: Any, where: str) -> T:
    """Settings of a class from nested dictionaries and lists, as JSON and YAML give them.

    where: what the data are of, for example the file. Raises ConfigError naming it, the key, the value and the limit.
    """
    try:
        if _holds_set(data):
            raise ConfigError("it holds a set, which has no order; write a list")
        return msgspec.convert(data, kind)
    except ValidationError as error:
        raise ConfigError(_message(error, kind, data, where)) from None
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    except RecursionError:
        raise ConfigError(f"{where}: it is nested too deep, or refers to itself; write it out") from None


def check_fields(settings: Struct) -> None:
    """Raise SettingError if a field is not of its type or range: msgspec checks what it reads, not what we build."""
    for name, kind in _types(type(settings)):
        value, where = getattr(settings, name), f"{type(settings).__name__}.{name}"
        try:
            same = msgspec.convert(value, kind) == value  # not so for a list in the place of a tuple
        except ValidationError as error:
            raise SettingError(_message(error, kind, value, where)) from None
        if not same:
            raise SettingError(f"{where} must be {_words(inspect.type_info(kind))}, got {_shown(value)}")


def to_plain(value: Any) -> Any:
    """Settings as the nested dictionaries and lists that `build` reads, in the order of their fields.

    LATER_FIELDS are left out where they have their default: so older versions read what is written, and hashes of
    settings stay what they were.
    """
    if isinstance(value, Struct):
        kept = [field for field in structs.fields(type(value)) if not _is_later_default(value, field)]
        return {field.name: to_plain(getattr(value, field.name)) for field in kept}
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    return [to_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _is_later_default(settings: Struct, field: structs.FieldInfo) -> bool:
    return field.name in LATER_FIELDS and not field.required and getattr(settings, field.name) == field.default


def _holds_set(data: Any) -> bool:
    """Whether nested data hold a set, as YAML may: msgspec takes one for a list."""
    if isinstance(data, (dict, list, tuple)):
        return any(map(_holds_set, data.values() if isinstance(data, dict) else data))
    return isinstance(data, (set, frozenset))


@functools.cache
def _types(kind: type[Struct]) -> list[tuple[str, Any]]:
    return [(field.name, field.type) for field in structs.fields(kind)]


def _message(error: ValidationError, kind: Any, data: Any, where: str) -> str:
    """What is wrong with which key, from msgspec's error and the data it is about."""
    found = PLACE.search(str(error))
    path, node, value = found[1] if found else "", inspect.type_info(kind), data
    for name, index in STEP.findall(path):
        node, value = _inside(node, name, index), value[name or int(index)]
    place = where + path if path.startswith("[") else f"{where}: {path.removeprefix('.')}" if path else where
    if error.__cause__ is not None:
        return f"{place}: {error.__cause__}"
    if isinstance(value, dict) and (fields := _fields(node)):
        unknown = sorted(str(key) for key in value if key not in fields)
        if unknown:
            return f"{place} has unknown keys: {', '.join(unknown)}; there are {', '.join(fields)}"
        missing = sorted(name for name, field in fields.items() if field.required and name not in value)
        if missing:
            return f"{place} lacks keys: {', '.join(missing)}; add them"
    return f"{place} must be {_words(node)}, got {_shown(value)}{_hint(value, node)}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."


def _hint(value: Any, node: Any) -> str:
    """How to write a number that stands there as text."""
    numbers = (inspect.IntType, inspect.FloatType)
    if isinstance(value, str) and any(isinstance(one, numbers) for one in _options(node)):
        try:
            float(value)
        except ValueError:
            return ""
        return "; write it without quotes, and in YAML as 5.0e-5, not 5e-5, which is text there"
    return ""


def _options(node: Any) -> Iterator[Any]:
    """The types of a union, or the one type, without their descriptions."""
    if isinstance(node, inspect.Metadata):
        yield from _options(node.type)
    elif isinstance(node, inspect.UnionType):
        for one in node.types:
            yield from _options(one)
    else:
        yield node


def _fields(node: Any) -> dict[str, Any]:
    """The fields of the settings among a type's options by name; none where it has no settings."""
    for one in _options(node):
        if isinstance(one, inspect.StructType):
            return {field.name: field for field in one.fields}
    return {}


def _inside(node: Any, name: str, index: str) -> Any:
    """The type of a field, or of an item of a list."""
    if name:
        return _fields(node)[name].type
    for one in _options(node):
        if isinstance(one, inspect.TupleType):
            return one.item_types[int(index)]
        if isinstance(one, (inspect.VarTupleType, inspect.ListType)):
            return one.item_type
    raise TypeError(f"{node} has no items")


def _words(node: Any) -> str:
    """A type and its range in words a user can act on."""
    if isinstance(node, inspect.Metadata):
        described: str | None = (node.extra_json_schema or {}).get("description")
        return described or _words(node.type)
    if isinstance(node, inspect.UnionType):
        floats = any(isinstance(one, inspect.FloatType) for one in _options(node))
        return " or ".join(_words(one) for one in node.types if not (floats and isinstance(one, inspect.IntType)))
    if isinstance(node, inspect.TupleType):
        return f"a list of {len(node.item_types)}, each {_words(node.item_types[0])}"
    if isinstance(node, inspect.VarTupleType):
        return f"a list{' of one or more' if node.min_length else ''}, each {_words(node.item_type)}"
    if isinstance(node, (inspect.IntType, inspect.FloatType)):
        return ("a whole number" if isinstance(node, inspect.IntType) else "a number") + _range(node)
    words: dict[type, str] = {inspect.StrType: "text", inspect.BoolType: "true or false", inspect.NoneType: "null"}
    return words.get(type(node), "a mapping")


def _range(node: Any) -> str:
    low = f" from {node.ge:.10g}" if node.ge is not None else f" above {node.gt:.10g}" if node.gt is not None else ""
    if node.le is not None:
        return f"{low} to {node.le:.10g}"
    return f"{low} and below {node.lt:.10g}" if node.lt is not None else low
