"""MetaImage files, field by field."""

from pathlib import Path

import numpy as np

ARRAY = np.arange(4 * 5 * 6, dtype="<i2").reshape(4, 5, 6) - 50
PLAIN = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryData": "True",
    "BinaryDataByteOrderMSB": "False",
    "CompressedData": "False",
    "TransformMatrix": "0 1 0 -1 0 0 0 0 1",
    "Offset": "1 -2 3.5",
    "ElementSpacing": "4 5 6",
    "DimSize": "6 5 4",
    "ElementType": "MET_SHORT",
}


def write(folder: Path, *extra: str, data: bytes | None = None, beside: str = "", **changes: str | None) -> Path:
    """A good file with some lines changed, left out (None) or added."""
    fields = {name: value for name, value in (PLAIN | changes).items() if value is not None}
    lines = [*(f"{name} = {value}" for name, value in fields.items()), *extra]
    data = ARRAY.tobytes() if data is None else data
    head = "\n".join([*lines, f"ElementDataFile = {beside or 'LOCAL'}\n"]).encode("latin-1")
    path = folder / ("p.mhd" if beside else "p.mha")
    path.write_bytes(head if beside else head + data)
    return path
