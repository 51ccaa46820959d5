"""overrides.csv: values to use in place of headers, one line for each study.

Columns: study (its name in the results, its StudyInstanceUID, or a path that holds this study alone), weight_kg,
height_m, dose_MBq, injection_time, sex; and, to compare lesions with, liver_sphere, blood_sphere, liver_mask and
blood_mask. They are separated by comma, semicolon or tab. An empty cell overrides nothing.
"""

import csv
import io
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from model.dicom.weight_and_dose import PET_DOSE_BQ, WEIGHT_KG
from model.errors import ConfigError
from model.hospital.find.entry import Entry, FoundStudies, Unusable
from model.hospital.find.tree import read_csv_text
from model.hospital.names import digest_in, is_name, name_of
from model.results.body_size import SEXES
from model.results.reference_options import RADIUS_MM, sphere_from

OVERRIDES = "overrides.csv"
STUDY = "study"
LIMITS = {
    "weight_kg": (*WEIGHT_KG, "kg"),
    "height_m": (0.2, 3.0, "m, not cm"),
    "dose_MBq": (PET_DOSE_BQ[0] / 1e6, PET_DOSE_BQ[1] / 1e6, "MBq"),
}
INJECTION, SEX = "injection_time", "sex"
SPHERES = {f"{what}_sphere": what for what in RADIUS_MM}
MASKS = tuple(f"{what}_mask" for what in RADIUS_MM)
COLUMNS = (STUDY, *LIMITS, INJECTION, SEX, *SPHERES, *MASKS)
ISO = re.compile(r"(?:(\d{4}-\d\d-\d\d)[T ])?\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?(Z|[+-]\d\d:?\d\d)?")
ISO_EXAMPLES = "ISO 8601, such as 2024-03-05T10:00:00, 2024-03-05T10:00:00+01:00 or 10:00:00"


def read_overrides(path: Path) -> dict[int, dict[str, Any]]:
    """The lines of the table, by their number in the file: `study`, and the values that are given.

    Raises ConfigError for a file that cannot be read, an unknown or repeated column, a line without a study, and an
    impossible value.
    """
    content, separator = read_csv_text(path)
    rows = csv.reader(io.StringIO(content, newline=""), delimiter=separator)
    head = [name.strip() for name in next(rows, [])]
    while head and not head[-1]:  # spreadsheets leave empty columns behind
        head.pop()
    names = [_column(name, path) for name in head]
    if STUDY not in names or len(set(names)) != len(names):
        raise ConfigError(
            f"'{path}' must have the column {STUDY}, and every column once; it has {', '.join(names) or 'none'}: "
            "correct its first line"
        )
    lines: dict[int, dict[str, Any]] = {}
    for cells in rows:
        stripped = [cell.strip() for cell in cells]
        if not any(stripped):
            continue
        where = f"'{path}' line {rows.line_num}"
        if any(stripped[len(names) :]):
            raise ConfigError(f"{where} has more cells than the head has columns; quote a cell that holds a separator")
        given = {name: cell for name, cell in zip(names, stripped, strict=False) if cell}
        if STUDY not in given:
            raise ConfigError(f"{where} names no study; give its name, its StudyInstanceUID or its path")
        lines[rows.line_num] = {name: _value(name, cell, where) for name, cell in given.items()}
    return lines


def with_overrides(
    found: FoundStudies, path: Path, root: Path, salt: bytes, named: bool, some: bool = False
) -> FoundStudies:
    """The studies with the table's values. named: whether messages may hold what the table calls a study. some: these
    are some of the studies; lines of others are passed over.

    Raises ConfigError if a line's study was not found, is several studies, or has another line already.
    """
    base = root if root.is_dir() else root.parent
    entries, lines_of = list(found.entries), dict[int, int]()
    for line, given in read_overrides(path).items():
        wanted = str(given[STUDY])
        label = f"study '{wanted}'" if named else "its study"
        matches = studies_meant(wanted, entries, base, salt)
        if not matches and (some or studies_meant(wanted, list(found.unusable), base, salt)):
            continue  # it is not among some of the studies, or cannot be scored; then failures.csv says why
        if len(matches) != 1:
            meaning = f"could be {len(matches)} of" if matches else "is not among"
            raise ConfigError(
                f"'{path}' line {line}: {label} {meaning} the {len(entries)} studies found; give its name in the "
                "results (failures.csv, summary.csv), its StudyInstanceUID, or the path of a folder that holds it alone"
            )
        (number,) = matches
        if number in lines_of:
            raise ConfigError(f"'{path}' lines {lines_of[number]} and {line} are of one study; remove one of them")
        lines_of[number] = line
        entries[number] = _entry_with(entries[number], given, base, f"'{path}' line {line}")
    return replace(found, entries=tuple(entries))


def lines_of_others(found: FoundStudies, path: Path, root: Path, salt: bytes) -> list[int]:
    """The table's lines whose study is not among these, by their number in the file. Raises ConfigError."""
    base = root if root.is_dir() else root.parent
    items = [*found.entries, *found.unusable]
    lines = read_overrides(path).items()
    return [line for line, given in lines if not studies_meant(str(given[STUDY]), items, base, salt)]


def with_spheres(found: FoundStudies, spheres: Mapping[str, str]) -> FoundStudies:
    """The one study with the spheres that options give. spheres: text by liver and blood.

    Raises ConfigError if there are several studies, whose coordinates differ, or the study has the like already.
    """
    if not spheres:
        return found
    if len(found.entries) != 1:
        raise ConfigError(
            f"--{next(iter(spheres))}-sphere is of one patient, and there are {len(found.entries)} studies: give it in "
            f"overrides.csv, in the column {next(iter(spheres))}_sphere"
        )
    (entry,) = found.entries
    for what, text in spheres.items():
        if getattr(entry, f"{what}_sphere") or getattr(entry, f"{what}_mask"):
            raise ConfigError(f"--{what}-sphere: overrides.csv gives the study's {what}, too; leave one of them out")
        sphere_from(text, what, f"--{what}-sphere")
    changes: dict[str, Any] = {f"{what}_sphere": text for what, text in spheres.items()}
    return replace(found, entries=(replace(entry, **changes),))


def _entry_with(entry: Entry, given: Mapping[str, Any], base: Path, where: str) -> Entry:
    weight_kg = given.get("weight_kg")
    if weight_kg is not None and entry.weight_kg not in (None, weight_kg):
        raise ConfigError(
            f"{where} gives weight_kg {weight_kg:g}, and the list of studies {entry.weight_kg:g}; correct one of them"
        )
    return replace(
        entry,
        weight_kg=entry.weight_kg if weight_kg is None else weight_kg,
        height_m=given.get("height_m"),
        dose_mbq=given.get("dose_MBq"),
        injection_time=given.get(INJECTION),
        sex=given.get(SEX),
        liver_sphere=given.get("liver_sphere"),
        blood_sphere=given.get("blood_sphere"),
        liver_mask=_mask(given, "liver", base, where),
        blood_mask=_mask(given, "blood", base, where),
    )


def _mask(given: Mapping[str, Any], what: str, base: Path, where: str) -> Path | None:
    """The segmentation that a line names, by a path below the folder of studies. Raises ConfigError."""
    name = given.get(f"{what}_mask")
    if name is None:
        return None
    if f"{what}_sphere" in given:
        raise ConfigError(f"{where} gives {what}_sphere and {what}_mask; leave one of them out")
    path = Path(os.path.abspath(base / name))
    if not path.is_file():
        raise ConfigError(f"{where}: {what}_mask '{name}' is no file; give its path below the folder of studies")
    return path


def studies_meant(wanted: str, items: Sequence[Any], base: Path, salt: bytes) -> list[int]:
    """The places in `items` of the studies that a word means: by name, else by UID, else by path."""
    tests: list[Callable[[Entry | Unusable], bool]] = [
        lambda item: is_name(wanted) and digest_in(wanted) in _digests(item, salt),
        lambda item: wanted == getattr(item, "study_uid", None),
        lambda item: _is_path_of(wanted, item, base),
    ]
    for test in tests:
        if matches := [number for number, item in enumerate(items) if test(item)]:
            return matches
    return []


def _digests(item: Entry | Unusable, salt: bytes) -> set[str]:
    identities = (item.identity, *getattr(item, "also", ()))
    return {digest_in(name_of(item, salt, identity=identity)) for identity in identities}


def _is_path_of(wanted: str, item: Entry | Unusable, base: Path) -> bool:
    """Whether a path, with either kind of slashes, is the study's folder or file, or a folder above them."""
    files = (*item.pet, *item.ct) if isinstance(item, Entry) else item.paths
    for text in {wanted, wanted.replace("\\", "/")}:
        path = Path(os.path.abspath(base / text))
        if any(one.is_relative_to(path) for one in (item.source, *files)):
            return True
    return False


def _column(name: str, path: Path) -> str:
    known = {column.lower(): column for column in COLUMNS}
    if name.lower() not in known:
        raise ConfigError(f"'{path}' has the column '{name}'; known are {', '.join(COLUMNS)}: correct or remove it")
    return known[name.lower()]


def _value(name: str, cell: str, where: str) -> Any:
    """A cell's value, by its column. Raises ConfigError."""
    if name == STUDY:
        return cell
    if name == INJECTION:
        return _time(cell, where)
    if name == SEX:
        sexes = {word: code for code, whole in SEXES.items() for word in (code.lower(), whole)}
        if cell.lower() not in sexes:
            raise ConfigError(f"{where}: sex '{cell}' is not M or F, by which lean body mass is computed")
        return sexes[cell.lower()]
    if name in SPHERES:
        sphere_from(cell, SPHERES[name], f"{where}: {name}")
        return cell
    if name in MASKS:
        return cell
    low, high, unit = LIMITS[name]
    try:
        value = float(cell.replace(",", "."))
    except ValueError:
        raise ConfigError(f"{where}: {name} '{cell}' is not a number; give it in {unit}") from None
    if not low <= value <= high:  # also refuses NaN
        raise ConfigError(f"{where}: {name} is {value:g}; it must lie between {low:g} and {high:g}, in {unit}")
    return value


def _time(cell: str, where: str) -> str:
    match = ISO.fullmatch(cell)
    try:
        if match is None or (match[2] and not match[1]):
            raise ValueError
        moment = datetime.fromisoformat(cell if match[1] else f"2000-01-01T{cell}")
    except ValueError:
        raise ConfigError(f"{where}: injection_time '{cell}' cannot be read; give it as {ISO_EXAMPLES}") from None
    return moment.isoformat() if match[1] else moment.time().isoformat()
