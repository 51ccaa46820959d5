"""An NRRD's header (.nrrd, with its data in it or beside it), read strictly.

Source: http://teem.sourceforge.net/nrrd/format.html. Refused is what changes values or positions but is ignored by ITK
(quantised values, units other than mm), and what is rare (data in several files, text, bzip2).
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from model.opening import open_regular
from model.study.geometry import Grid, grid_from
from model.study.stored import CHUNK_BYTES, NUMBER, SHOWN, Refused, Stored, beside, numbers, whole_numbers

HEADER_LINES = 1000
KINDS = {
    "i1": "signed char|int8|int8_t",
    "u1": "uchar|unsigned char|uint8|uint8_t",
    "i2": "short|short int|signed short|signed short int|int16|int16_t",
    "u2": "ushort|unsigned short|unsigned short int|uint16|uint16_t",
    "i4": "int|signed int|int32|int32_t",
    "u4": "uint|unsigned int|uint32|uint32_t",
    "i8": "longlong|long long|long long int|signed long long|signed long long int|int64|int64_t",
    "u8": "ulonglong|unsigned long long|unsigned long long int|uint64|uint64_t",
    "f4": "float",
    "f8": "double",
}  # the names of each type of value
SPACES = {
    "left-posterior-superior": (1, 1, 1),
    "lps": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1),
    "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1),
    "las": (1, -1, 1),
}  # signs that turn each into ITK's coordinates (left, posterior, superior)
FIELDS = frozenset(
    (
        "dimension",
        "type",
        "block size",
        "encoding",
        "endian",
        "content",
        "min",
        "max",
        "old min",
        "old max",
        "data file",
        "line skip",
        "byte skip",
        "number",
        "sample units",
        "sizes",
        "spacings",
        "thicknesses",
        "axis mins",
        "axis maxs",
        "centers",
        "labels",
        "units",
        "kinds",
        "space",
        "space dimension",
        "space units",
        "space origin",
        "space directions",
        "measurement frame",
    )
)
SYNONYMS = {
    "datafile": "data file",
    "lineskip": "line skip",
    "byteskip": "byte skip",
    "oldmin": "old min",
    "oldmax": "old max",
    "blocksize": "block size",
    "sampleunits": "sample units",
    "axismins": "axis mins",
    "axismaxs": "axis maxs",
    "centerings": "centers",
}
MM = ("mm", "millimeter", "millimeters", "millimetre", "millimetres", "", "???")
DOMAINS = ("domain", "space", "???", "none")
LAYERS = ("list", "vector")  # the kind of the first axis of a segmentation whose segments overlap (3D Slicer, MITK)
VECTOR = re.compile(r"\s*\(([^()\s]*)\)")


def nrrd_header(path: Path) -> Stored:
    """What the header says. Raises ValueError for one that is damaged, Refused for what is not supported."""
    with open_regular(path) as file:
        fields, _, has_end = _fields(file)
        end = file.tell()
    return _stored(path, fields, has_end, end)


def nrrd_layers(path: Path) -> tuple[Stored, dict[str, str]]:
    """How a segmentation of 3D Slicer or MITK is stored, and its own entries, "key:=value". Raises as `nrrd_header`.

    Overlapping segments are in layers, the first of four axes: here `channels` layers of a volume with three axes.
    """
    with open_regular(path) as file:
        fields, entries, has_end = _fields(file)
        end = file.tell()
    kinds, steps, sizes = (fields.get(name, "").split() for name in ("kinds", "space directions", "sizes"))
    if not (len(sizes) == len(kinds) == 4 and kinds[0] in LAYERS and steps[:1] == ["none"]):
        return _stored(path, fields, has_end, end), entries
    (layers,) = whole_numbers("sizes", sizes[0], 1)
    volume = {"dimension": "3", "sizes": " ".join(sizes[1:]), "kinds": " ".join(kinds[1:])}
    volume["space directions"] = fields["space directions"].removeprefix("none").strip()
    return replace(_stored(path, fields | volume, has_end, end), channels=layers), entries


def _stored(path: Path, fields: dict[str, str], has_end: bool, end: int) -> Stored:
    """What the fields of a header that ends at byte `end` say."""
    (dimensions,) = whole_numbers("dimension", fields.get("dimension", ""), 1)
    if dimensions > 16:
        raise ValueError(f"its header says dimension: {dimensions}")
    size = whole_numbers("sizes", fields.get("sizes", ""), dimensions)
    _check_supported(fields)
    compressed = _compressed(fields)
    data = _data(fields, path)
    if data == path and not has_end:
        raise ValueError("its header does not end: an empty line must stand before the voxels")
    kind = next((kind for kind, names in KINDS.items() if fields.get("type", "") in names.split("|")), None)
    if kind is None:
        raise Refused(f"its header says type: {fields.get('type', '')[:SHOWN]}, which is not supported; convert it")
    stored = Stored(
        size=tuple(size),
        kind=np.dtype(_order(fields, kind) + kind),
        data=data,
        start=end if data == path else 0,
        compression="gzip" if compressed else "",
        grids=_grids(fields, size),
    )
    return stored


def nrrd_data(path: Path) -> Path:
    """The file that holds the voxels, whatever else the header says. Raises as `nrrd_header`."""
    with open_regular(path) as file:
        return _data(_fields(file)[0], path)


def _data(fields: dict[str, str], path: Path) -> Path:
    name = fields.get("data file")
    if name is None:
        return path
    if re.match(r"LIST\b", name) or "%" in name:
        raise Refused(
            f"its header says data file: {name[:SHOWN]}: voxels in several files are not supported; "
            "convert it to one file"
        )
    return beside(path, name)


def _fields(file: BinaryIO) -> tuple[dict[str, str], dict[str, str], bool]:
    """The fields up to an empty line; the file's own entries, "key:=value"; whether there is such a line."""
    first = file.readline(CHUNK_BYTES).decode("latin-1")
    if not re.fullmatch(r"NRRD000[1-5]\r?\n", first):
        raise ValueError("it does not begin with NRRD0001 to NRRD0005")
    fields: dict[str, str] = {}
    entries: dict[str, str] = {}
    for number in range(2, HEADER_LINES + 2):
        text = file.readline(CHUNK_BYTES).decode("latin-1")
        line = text.rstrip("\r\n")
        if not line:
            return fields, entries, bool(text)
        if line.startswith("#"):
            continue
        if ":=" in line.partition(": ")[0]:
            key, _, value = line.partition(":=")
            entries[key] = value
            continue
        name, colon, value = line.partition(": ")
        name = SYNONYMS.get(name, name)
        if not colon or name not in FIELDS:
            raise ValueError(f"line {number} of its header is no field of an NRRD")
        if name in fields:
            raise ValueError(f"its header says {name} twice")
        fields[name] = value.strip()
    raise ValueError(f"its header has more than {HEADER_LINES} lines")


def _check_supported(fields: dict[str, str]) -> None:
    for name in ("line skip", "byte skip"):
        if name in fields and not re.fullmatch(r"\+?0+", fields[name]):
            raise Refused(
                f"its header says {name}: {fields[name][:SHOWN]}, which is not supported; "
                "cut what is to be skipped off the data file"
            )
    for name in ("old min", "old max"):
        if name in fields:
            raise Refused(f"its header says {name}: its values are quantised, which is not supported; undo that first")
    for name in ("space units", "units"):
        for unit in re.findall(r'"([^"]*)"', fields.get(name, "")):
            if unit.lower() not in MM:
                raise Refused(f"its header says {name} {unit[:SHOWN]!r}, which is not supported; write lengths in mm")
    for kind in fields.get("kinds", "").lower().split():
        if kind not in DOMAINS:
            raise Refused(f"its header says kinds: {fields['kinds'][:SHOWN]}; give one scalar 3-D volume")


def _compressed(fields: dict[str, str]) -> bool:
    encoding = fields.get("encoding", "")
    if encoding not in ("raw", "gzip", "gz"):
        raise Refused(f"its header says encoding: {encoding[:SHOWN]}, which is not supported; write it raw or as gzip")
    return encoding != "raw"


def _order(fields: dict[str, str], kind: str) -> str:
    order = fields.get("endian", "")
    if order not in ("little", "big") and (order or kind[1] != "1"):
        raise ValueError(f"its header says endian: {order[:SHOWN]}, not little or big")
    return ">" if order == "big" else "<"


def _grids(fields: dict[str, str], size: list[int]) -> tuple[Grid, ...]:
    """Where the voxels lie, in ITK's coordinates: the vectors of `space directions` are the steps along the axes."""
    if len(size) != 3:
        return ()
    space = fields.get("space", "").lower()
    if space not in SPACES:
        problem = f"says space: {space[:SHOWN]}, which is not supported" if space else "says nothing of a space"
        raise Refused(
            f"its header {problem}: which side is the patient's left is not known; write space: "
            "left-posterior-superior with space directions and space origin"
        )
    for name in ("space directions", "space origin"):
        if name not in fields:
            raise ValueError(f"its header has no {name}")
    if "spacings" in fields:
        raise ValueError("its header has spacings beside space directions, and only one of them may be there")
    signs = np.array(SPACES[space], float)
    (origin,) = _vectors("space origin", fields["space origin"], 1)
    steps = np.array(_vectors("space directions", fields["space directions"], 3)).T  # a column an axis
    spacing = np.linalg.norm(steps, axis=0)
    if not spacing.all():
        raise ValueError(f"its header says space directions: {fields['space directions'][:SHOWN]}, one of length 0")
    return (grid_from(size, spacing, signs * origin, signs[:, None] * steps / spacing),)


def _vectors(field: str, text: str, count: int) -> list[list[float]]:
    """`count` vectors of three numbers, as (x,y,z). Raises ValueError."""
    found = VECTOR.findall(text)
    words = [vector.split(",") for vector in found]
    good = all(len(vector) == 3 and all(NUMBER.fullmatch(word) for word in vector) for vector in words)
    if VECTOR.sub("", text).strip() or len(found) != count or not good:
        raise ValueError(f"its header says {field}: {text[:SHOWN]}, not {' '.join(['(x,y,z)'] * count)}")
    return [numbers(field, " ".join(vector), 3) for vector in words]
