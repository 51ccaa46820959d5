"""A MetaImage's header (.mha, and .mhd with its data beside it), read strictly.

MetaIO replaces a number that it cannot read by 0 or 1, skips a field whose name is misspelled, and ignores some fields
that change values or lengths. All of these are refused here. Fields that only describe the image are skipped.
Source: https://itk.org/Wiki/ITK/MetaIO/Documentation, and what MetaIO itself does with each field.
"""

import re
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from model.opening import open_regular
from model.study.geometry import Grid, grid_from
from model.study.stored import CHUNK_BYTES, SHOWN, Refused, Stored, beside, compression_of, numbers, whole_numbers

HEADER_LINES = 1000  # more than any header has; stops the reading of a file that has no end mark
KINDS = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
MATRIX, ORIGIN = ("TransformMatrix", "Rotation", "Orientation"), ("Offset", "Position", "Origin")
BYTE_ORDER = ("BinaryDataByteOrderMSB", "ElementByteOrderMSB")
DATA = "ElementDataFile"
USED_FIELDS = (
    "NDims",
    "DimSize",
    "ElementSpacing",
    "ElementType",
    "ElementNumberOfChannels",
    "HeaderSize",
    "BinaryData",
    "CompressedData",
    "CompressedDataSize",
    "DistanceUnits",
    "ElementToIntensityFunctionSlope",
    "ElementToIntensityFunctionOffset",
    *MATRIX,
    *ORIGIN,
    *BYTE_ORDER,
    DATA,
)
CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
MOST_EDITS = 2  # between a field's name and its misspelling


def metaimage_header(path: Path) -> Stored:
    """What the header says. Raises ValueError for one that is damaged, Refused for what is not supported."""
    with open_regular(path) as file:
        fields = _fields(file)
        end = file.tell()
    (dimensions,) = whole_numbers("NDims", fields.get("NDims", ""), 1)
    if dimensions > 9:
        raise ValueError(f"its header says NDims = {dimensions}")
    size = whole_numbers("DimSize", fields.get("DimSize", ""), dimensions)
    (channels,) = whole_numbers("ElementNumberOfChannels", fields.get("ElementNumberOfChannels", "1"), 1)
    compressed = _is_true(fields, "CompressedData", False)
    _check_supported(fields)
    data, start = _find_data(fields, path, end)
    left = data.stat().st_size - start
    if compressed and "CompressedDataSize" in fields and not 0 < _count(fields, "CompressedDataSize") <= left:
        stated = fields["CompressedDataSize"]
        raise ValueError(f"its header says CompressedDataSize = {stated}, and {left} bytes are there")
    stored = Stored(
        size=tuple(size),
        kind=_kind(fields),
        channels=channels,
        data=data,
        start=start,
        compression=compression_of(data, start) if compressed else "",
        grids=_grids(fields, size),
    )
    _check_header_size(fields, stored)
    return stored


def metaimage_data(path: Path) -> Path:
    """The file that holds the voxels, whatever else the header says. Raises as `metaimage_header`."""
    with open_regular(path) as file:
        return _find_data(_fields(file), path, 0)[0]


def _fields(file: BinaryIO) -> dict[str, str]:
    """The fields, up to the one that names the data; blank lines are skipped, as in MetaIO.

    A field that is used must hold no control characters; others may, for example names of patients (ISO 2022).
    """
    fields: dict[str, str] = {}
    for number in range(1, HEADER_LINES + 1):
        line = file.readline(CHUNK_BYTES).decode("latin-1")
        if not line:
            break
        if not line.strip():
            continue
        name, equals, value = line.partition("=")
        name, value = name.strip(), value.strip()
        if not equals or not name or CONTROL.search(name if name not in USED_FIELDS else line.rstrip("\r\n")):
            raise ValueError(f"line {number} of its header is no 'field = value'")
        if name in fields and fields[name] != value:
            raise ValueError(f"line {number} of its header contradicts an earlier line")
        fields[name] = value
        if name == DATA:
            _check_names(fields)
            return fields
    raise ValueError(f"its header has no line {DATA}")


def _check_names(fields: dict[str, str]) -> None:
    """Raise ValueError for a field that looks like a misspelled one of USED_FIELDS: MetaIO would skip it in silence."""
    known = {name for group in (MATRIX, ORIGIN, BYTE_ORDER) if fields.keys() & set(group) for name in group}
    missing = [name for name in USED_FIELDS if name not in fields and name not in known]
    for name in fields:
        if name not in USED_FIELDS:
            meant = next((other for other in missing if _is_similar(name.lower(), other.lower())), None)
            if meant:
                raise ValueError(f"its header has the field {name[:SHOWN]!r} and no {meant}: is it misspelled?")


def _is_similar(one: str, other: str) -> bool:
    """Whether at most MOST_EDITS letters are changed, missing or added."""
    if abs(len(one) - len(other)) > MOST_EDITS:
        return False
    row = list(range(len(other) + 1))
    for number, letter in enumerate(one, start=1):
        before, row[0] = row[0], number
        for place, wanted in enumerate(other, start=1):
            before, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, before + (letter != wanted))
    return row[-1] <= MOST_EDITS


def _check_supported(fields: dict[str, str]) -> None:
    """Raise Refused for fields that change values or positions and that MetaIO or ITK ignores."""
    slope, offset = "ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset"
    for name, plain in ((slope, 1.0), (offset, 0.0)):
        if name in fields and numbers(name, fields[name], 1) != [plain]:
            raise Refused(
                f"its header says {name} = {fields[name][:SHOWN]}, which is not supported; apply it to the values and "
                f"write {name} = {plain:g}"
            )
    units = fields.get("DistanceUnits", "mm")
    if units not in ("mm", "?", ""):
        raise Refused(f"its header says DistanceUnits = {units[:SHOWN]}, which is not supported; write lengths in mm")
    if not _is_true(fields, "BinaryData", True):
        raise Refused("its header says BinaryData = False, which is not supported; write the voxels as binary data")
    if fields.get("ObjectType", "Image").lower() != "image":
        raise Refused(f"its header says ObjectType = {fields['ObjectType'][:SHOWN]}; give an image")


def _is_true(fields: dict[str, str], name: str, default: bool) -> bool:
    value = fields.get(name, str(default))
    if value.lower() not in ("true", "false", "1", "0"):
        raise ValueError(f"its header says {name} = {value[:SHOWN]}, not True or False")
    return value.lower() in ("true", "1")


def _count(fields: dict[str, str], name: str) -> int:
    if not re.fullmatch(r"-1|\d{1,18}", fields[name], re.ASCII):
        raise ValueError(f"its header says {name} = {fields[name][:SHOWN]}, not a number of bytes")
    return int(fields[name])


def _one_of(fields: dict[str, str], names: tuple[str, ...], default: str) -> tuple[str, str]:
    """A field that has several names: the name in this header, and its value. Raises ValueError if two contradict."""
    present = [name for name in names if name in fields]
    if len({fields[name] for name in present}) > 1:
        raise ValueError(f"its header says {' and '.join(f'{name} = {fields[name][:SHOWN]}' for name in present)}")
    return (present[0], fields[present[0]]) if present else (names[0], default)


def _kind(fields: dict[str, str]) -> np.dtype[Any]:
    name = fields.get("ElementType", "")
    kind = KINDS.get(name.removesuffix("_ARRAY"))
    if kind is None:
        raise Refused(
            f"its header says ElementType = {name[:SHOWN]}, which is not supported; convert it to one of "
            f"{', '.join(KINDS)}"
        )
    order, _ = _one_of(fields, BYTE_ORDER, "False")
    return np.dtype((">" if _is_true(fields, order, False) else "<") + kind)


def _find_data(fields: dict[str, str], path: Path, end: int) -> tuple[Path, int]:
    """The file with the voxels, and where they begin in it."""
    name = fields[DATA]
    if name.upper() == "LOCAL":
        return path, end
    if re.match(r"LIST\b", name, re.IGNORECASE) or "%" in name:
        raise Refused(
            f"its header says {DATA} = {name[:SHOWN]}: voxels in several files are not supported; "
            "convert it to one file"
        )
    return beside(path, name), 0


def _check_header_size(fields: dict[str, str], stored: Stored) -> None:
    """Raise Refused if HeaderSize puts bytes before the voxels. -1 says that the file ends with the voxels."""
    skipped = _count(fields, "HeaderSize") if "HeaderSize" in fields else 0
    if skipped == 0 or (skipped == -1 and stored.data.stat().st_size - stored.start == stored.bytes):
        return
    raise Refused(f"its header says HeaderSize = {skipped}, which is not supported; cut these bytes off the data file")


def _grids(fields: dict[str, str], size: list[int]) -> tuple[Grid, ...]:
    """Where the voxels lie. A row of the matrix is the direction of an axis; in ITK that is a column."""
    count = len(size)
    if "ElementSpacing" not in fields:
        raise ValueError("its header has no ElementSpacing: the size of a voxel is not known")
    spacing = numbers("ElementSpacing", fields["ElementSpacing"], count)
    name, text = _one_of(fields, ORIGIN, " ".join(["0"] * count))
    origin = numbers(name, text, count)
    identity = " ".join(f"{number:g}" for number in np.eye(count).ravel())
    name, text = _one_of(fields, MATRIX, identity)
    matrix = np.array(numbers(name, text, count * count)).reshape(count, count).T
    if count != 3:
        return ()
    return (grid_from(size, spacing, origin, matrix),)
