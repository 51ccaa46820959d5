"""NIfTI files, field by field."""

import struct

import numpy as np

TYPES = {"u1": 2, "i2": 4, "f4": 16, "f8": 64}
LAYOUT = {
    "size": (0, "i"),
    "dim": (40, "8h"),
    "type": (70, "2h"),
    "pixdim": (76, "8f"),
    "vox_offset": (108, "f"),
    "scaling": (112, "2f"),
    "units": (123, "B"),
    "codes": (252, "2h"),
    "quaternion": (256, "6f"),
    "rows": (280, "12f"),
    "magic": (344, "4s"),
}
SPACING, ORIGIN = (5.0, 5.0, 4.0), (-97.5, -90.0, 12.0)
ROWS = (5, 0, 0, -97.5, 0, 5, 0, -90, 0, 0, 4, 12)
ARRAY = np.arange(4 * 5 * 6, dtype="<i2").reshape(4, 5, 6) - 50


def content(array: np.ndarray = ARRAY, more: bytes = b"", **changes: object) -> bytes:
    """A good file of an array (z, y, x), with some fields changed."""
    order = ">" if array.dtype.byteorder == ">" else "<"
    fields = {
        "size": 348,
        "dim": (3, *array.shape[::-1], 1, 1, 1, 1),
        "units": 2,
        "codes": (1, 1),
        "rows": ROWS,
        "type": (TYPES[array.dtype.str[1:]], array.dtype.itemsize * 8),
        "pixdim": (1, *SPACING, 1, 1, 1, 1),
        "vox_offset": 352 + len(more),
        "scaling": (1, 0),
        "quaternion": (0, 0, 0, *ORIGIN),
        "magic": b"n+1\0",
    } | changes
    head = bytearray(352)
    for name, (at, kind) in LAYOUT.items():
        values = fields[name] if isinstance(fields[name], tuple) else (fields[name],)
        struct.pack_into(order + kind, head, at, *values)
    return bytes(head) + more + array.tobytes()
