"""Small image files of every format, each drawn by a random generator.

They are written from the formats' documentation, not by a library, so that every field can be set.
"""

import gzip
import random
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SIZE = (7, 6, 5)  # voxels (x, y, z)
FORMATS = (
    "mha raw",
    "mha compressed",
    "mhd raw",
    "mhd zraw",
    "nrrd raw",
    "nrrd gzip",
    "nrrd beside",
    "nhdr",
    "nii",
    "nii.gz",
    "nii scaled",
    "nii.gz scaled",
    "nifti-2",
    "hdr img",
)
TYPES = {
    "i2": ("MET_SHORT", "short", 4),
    "u2": ("MET_USHORT", "ushort", 512),
    "i4": ("MET_INT", "int", 8),
    "f4": ("MET_FLOAT", "float", 16),
    "f8": ("MET_DOUBLE", "double", 64),
    "u1": ("MET_UCHAR", "uchar", 2),
}  # kind: its name in MetaImage and NRRD, its number in NIfTI


def write(folder: Path, form: str, dice: random.Random) -> tuple[Path, Path]:
    """Write a good file of this format. Returns the file to read, and the one that holds the voxels."""
    kind = dice.choice(sorted(TYPES))
    order = dice.choice("<>")
    values = np.random.default_rng(dice.getrandbits(32)).normal(0, 50, SIZE[::-1])
    voxels = np.round(values).astype(order + kind) if kind[0] != "u" else np.abs(values).astype(order + kind)
    raw = voxels.tobytes()
    if form.startswith("mh"):
        return _metaimage(folder, form, raw, kind, order, dice)
    if form.startswith(("nrrd", "nhdr")):
        return _nrrd(folder, form, raw, kind, order, dice)
    return _nifti(folder, form, raw, kind, order, dice)


def _rotation(dice: random.Random) -> NDArray[np.float64]:
    """A rotation about the third axis, sometimes none, sometimes with an axis reversed."""
    angle = dice.choice((0.0, 0.0, 0.3, np.pi / 2))
    turned = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    return turned * [1, 1, dice.choice((1, -1))]


def _place(dice: random.Random) -> tuple[list[float], list[float]]:
    """Spacing and origin, mm."""
    return [dice.choice((2.0, 4.07, 5.5)) for _ in range(3)], [round(dice.uniform(-300, 300), 3) for _ in range(3)]


def _metaimage(folder: Path, form: str, raw: bytes, kind: str, order: str, dice: random.Random) -> tuple[Path, Path]:
    spacing, origin = _place(dice)
    packed = zlib.compress(raw) if form in ("mha compressed", "mhd zraw") else raw
    data = "LOCAL" if form.startswith("mha") else "p.zraw" if form == "mhd zraw" else "p.raw"
    lines = [
        "ObjectType = Image",
        "NDims = 3",
        "BinaryData = True",
        f"BinaryDataByteOrderMSB = {order == '>'}",
        f"CompressedData = {packed is not raw}",
        f"TransformMatrix = {_row(_rotation(dice).T.ravel())}",
        f"Offset = {_row(origin)}",
        "CenterOfRotation = 0 0 0",
        f"ElementSpacing = {_row(spacing)}",
        f"DimSize = {_row(SIZE)}",
        f"ElementType = {TYPES[kind][0]}",
    ]
    if packed is not raw:
        lines.insert(5, f"CompressedDataSize = {len(packed)}")
    head = "\n".join([*lines, f"ElementDataFile = {data}\n"]).encode()
    path = folder / ("p.mha" if data == "LOCAL" else "p.mhd")
    path.write_bytes(head + packed if data == "LOCAL" else head)
    if data != "LOCAL":
        (folder / data).write_bytes(packed)
    return path, path if data == "LOCAL" else folder / data


def _nrrd(folder: Path, form: str, raw: bytes, kind: str, order: str, dice: random.Random) -> tuple[Path, Path]:
    spacing, origin = _place(dice)
    steps = (_rotation(dice) * spacing).T
    packed = gzip.compress(raw, mtime=0) if form == "nrrd gzip" or (form != "nrrd raw" and dice.random() < 0.5) else raw
    lines = [
        "NRRD0004",
        f"type: {TYPES[kind][1]}",
        "dimension: 3",
        f"space: {dice.choice(('left-posterior-superior', 'right-anterior-superior'))}",
        f"sizes: {_row(SIZE)}",
        f"space directions: {' '.join(_vector(step) for step in steps)}",
        "kinds: domain domain domain",
        f"endian: {'big' if order == '>' else 'little'}",
        f"encoding: {'raw' if packed is raw else 'gzip'}",
        f"space origin: {_vector(origin)}",
    ]
    beside = form in ("nrrd beside", "nhdr")
    path = folder / ("p.nhdr" if form == "nhdr" else "p.nrrd")
    data = folder / ("p.raw" if packed is raw else "p.raw.gz") if beside else path
    lines += [f"data file: {data.name}"] if beside else []
    head = ("\n".join(lines) + "\n\n").encode()
    path.write_bytes(head if beside else head + packed)
    if beside:
        data.write_bytes(packed)
    return path, data


def _nifti(folder: Path, form: str, raw: bytes, kind: str, order: str, dice: random.Random) -> tuple[Path, Path]:
    spacing, origin = _place(dice)
    turn = _rotation(dice)
    quaternion = (0.0, 0.0, np.sin(np.arctan2(turn[1, 0], turn[0, 0]) / 2))
    qfac = float(np.sign(np.linalg.det(turn)))
    rows = np.column_stack([turn * spacing, origin]).ravel()
    slope, intercept = (
        (dice.choice((0.001, 2.0, -1.5)), dice.choice((0.0, -1024.0)))
        if "scaled" in form
        else (dice.choice((0.0, 1.0, float("nan"))), 0.0)
    )
    codes = dice.choice(((1, 1), (0, 1), (1, 0), (1, 2)))
    bits, where = int(kind[1]) * 8, 0 if form == "hdr img" else 352
    if form == "nifti-2":
        head = bytearray(544)
        for at, fmt, fields in (
            (0, "i", [540]),
            (4, "8s", [b"n+2\0\r\n\x1a\n"]),
            (12, "2h", [TYPES[kind][2], bits]),
            (16, "8q", [3, *SIZE, 1, 1, 1, 1]),
            (104, "8d", [qfac, *spacing, 1, 1, 1, 1]),
            (168, "q", [544]),
            (176, "2d", [slope, intercept]),
            (344, "2i", codes),
            (352, "3d", quaternion),
            (376, "3d", origin),
            (400, "12d", rows),
            (500, "i", [2]),
        ):
            struct.pack_into(order + fmt, head, at, *fields)
    else:
        head = bytearray(348 if form == "hdr img" else 352)
        for at, fmt, fields in (
            (0, "i", [348]),
            (40, "8h", [3, *SIZE, 1, 1, 1, 1]),
            (70, "2h", [TYPES[kind][2], bits]),
            (76, "8f", [qfac, *spacing, 1, 1, 1, 1]),
            (108, "f", [where]),
            (112, "2f", [slope, intercept]),
            (123, "B", [2]),
            (252, "2h", codes),
            (256, "3f", quaternion),
            (268, "3f", origin),
            (280, "12f", rows),
            (344, "4s", [b"ni1\0" if form == "hdr img" else b"n+1\0"]),
        ):
            struct.pack_into(order + fmt, head, at, *fields)
    if form == "hdr img":
        (folder / "p.img").write_bytes(raw)
        path = folder / dice.choice(("p.hdr", "p.nii"))
        path.write_bytes(head)
        return path, folder / "p.img"
    content = bytes(head) + raw
    packed = "gz" in form or (form == "nifti-2" and dice.random() < 0.5)
    path = folder / ("p.nii.gz" if packed else "p.nii")
    path.write_bytes(gzip.compress(content, mtime=0) if packed else content)
    return path, path


def _row(values: object) -> str:
    return " ".join(f"{value:.10g}" for value in values)  # type: ignore[attr-defined]


def _vector(values: object) -> str:
    return "(" + _row(values).replace(" ", ",") + ")"
