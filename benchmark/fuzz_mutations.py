"""Damage to image files: bits, words, lines, fields, lengths, streams, and something other than a file.

Each change is a function of a path and a random generator.
"""

import gzip
import os
import random
import re
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

Field = tuple[int, str, tuple[Any, ...]]  # offset in bytes, format for struct, values
SMALL = (-1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 14, 300, 32767)
REAL = (float("nan"), float("inf"), 0.0, -1.0, 0.5, 1.0, 1e-3, 4.0, 5.0, 50.0, 1e10, -1e10)
WORDS = (
    *"nan inf -inf 0 -1 1e400 1e-400 4,5 4. .5 +4 0x10 1_0 232.n1 -232.n1".split(),
    "",
    " ",
    *"None 2147483648 4294967300 18446744073709551616 True False true LOCAL LIST".split(),
    "\x00",
)
LINES = {
    "mha": (
        "ElementToIntensityFunctionSlope = 2",
        "ElementToIntensityFunctionOffset = 5",
        "HeaderSize = 8",
        "HeaderSize = -1",
        "DistanceUnits = cm",
        "ElementSize = 1 1 1",
        "BinaryData = False",
        "CompressedData = True",
        "CompressedData = False",
        "BinaryDataByteOrderMSB = True",
        "ElementByteOrderMSB = True",
        "ElementNumberOfChannels = 2",
        "Origin = 9 9 9",
        "Position = 9 9 9",
        "Rotation = 0 1 0 1 0 0 0 0 1",
        "Orientation = 0 1 0 1 0 0 0 0 1",
        "NDims = 2",
        "a line",
        "Comment = Müller",
        "A:B = c",
        "ObjectType = Tube",
        "ElementDataFile = /etc/passwd",
        "ElementDataFile = ../other.raw",
        "ElementDataFile = LIST",
        "ElementDataFile = p%d.raw 1 2 1",
        "Offset: 1 2 3",
    ),
    "nrrd": (
        "line skip: 1",
        "byte skip: 8",
        "byte skip: -1",
        "old min: 0",
        "old max: 9",
        "spacings: 1 1 1",
        "endian: big",
        "endian: little",
        'space units: "cm" "cm" "cm"',
        "kinds: vector domain domain",
        "encoding: hex",
        "encoding: raw",
        "encoding: gzip",
        "type: double",
        "type: block",
        "data file: /etc/passwd",
        "data file: ../other.raw",
        "data file: LIST",
        "a line",
        "key:=value",
        "# a comment",
        "space: left-anterior-superior",
        "space: right-anterior-superior",
        "space: scanner-xyz",
        "space dimension: 3",
        "number: 3",
        "axis mins: 0 0 0",
        "dimension: 2",
    ),
}


def mutate(path: Path, data: Path, dice: random.Random) -> str:
    """Change a file or its data in one to three ways. Returns the names of the changes."""
    done = []
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        kinds = _for_text if path.suffix in (".mha", ".mhd", ".nrrd", ".nhdr") else _for_nifti
        change = dice.choice((*kinds, *kinds, *_for_bytes))
        target = dice.choice((path, data)) if change in _for_bytes else path
        if target.is_file() and target.stat().st_size:
            change(target, dice)
            done.append(change.__name__)
    if dice.random() < 0.02:
        _other_kind(dice.choice((path, data)), dice)
        done.append("other kind")
    return ", ".join(done)


def _split(path: Path) -> tuple[list[bytes], bytes]:
    """The lines of a text header, and the bytes behind it."""
    content = path.read_bytes()
    end = re.search(rb"ElementDataFile[^\n]*\n|\n\r?\n", content)
    head = content[: end.end()] if end else content[:400]
    return head.splitlines(keepends=True), content[len(head) :]


def change_word(path: Path, dice: random.Random) -> None:
    """Replace a word of a text header."""
    lines, rest = _split(path)
    number = dice.randrange(len(lines))
    words = re.split(rb"([ ,()]+)", lines[number].rstrip(b"\n"))
    place = dice.randrange(len(words))
    old = words[place].decode("latin-1")
    longer = old + dice.choice("0159.e-n x")
    new = dice.choice((dice.choice(WORDS), longer, old[:-1], old[::-1], "-" + old, old + " " + old))
    words[place] = new.encode("latin-1")
    lines[number] = b"".join(words) + b"\n"
    path.write_bytes(b"".join(lines) + rest)


def change_lines(path: Path, dice: random.Random) -> None:
    """Remove, double, move, empty or join a line of a text header, or insert one."""
    lines, rest = _split(path)
    number, other = dice.randrange(len(lines)), dice.randrange(len(lines))
    what = dice.choice(("out", "double", "swap", "blank", "join", "new", "new", "crlf", "case"))
    if what == "out":
        del lines[number]
    elif what == "double":
        lines.insert(other, lines[number])
    elif what == "swap":
        lines[number], lines[other] = lines[other], lines[number]
    elif what == "blank":
        lines.insert(number, b"\n")
    elif what == "join":
        lines[number] = lines[number].rstrip(b"\n")
    elif what == "new":
        lines.insert(number, dice.choice(LINES["mha" if path.suffix in (".mha", ".mhd") else "nrrd"]).encode() + b"\n")
    elif what == "crlf":
        lines = [line.replace(b"\n", b"\r\n") for line in lines]
    else:
        lines[number] = lines[number].swapcase()
    path.write_bytes(b"".join(lines) + rest)


def flip_header(path: Path, dice: random.Random) -> None:
    """Flip a bit among the first bytes."""
    content = bytearray(path.read_bytes())
    if content:
        content[dice.randrange(min(len(content), 420))] ^= 1 << dice.randrange(8)
    path.write_bytes(content)


def change_field(path: Path, dice: random.Random) -> None:
    """Give a field of a NIfTI header another value."""
    content = path.read_bytes()
    packed = content[:2] == b"\x1f\x8b"
    try:
        head = bytearray(gzip.decompress(content) if packed else content)
    except (OSError, EOFError, zlib.error):
        return
    if len(head) < 348:
        return
    order = "<" if head[0] in (0x5C, 0x1C) else ">"
    is_nifti_1 = head[0] in (0x5C, 0x01) or head[3] == 0x5C
    at, fmt, values = dice.choice(_nifti_1_fields(dice) if is_nifti_1 else _nifti_2_fields(dice))
    if at + struct.calcsize(fmt) > len(head):
        return
    struct.pack_into(order + fmt, head, at, dice.choice(values))
    path.write_bytes(gzip.compress(bytes(head), mtime=0) if packed else bytes(head))


def _nifti_1_fields(dice: random.Random) -> tuple[Field, ...]:
    """Where a NIfTI-1 header has a field, its format, and values for it."""
    return (
        (40 + 2 * dice.randrange(8), "h", SMALL),
        (72, "h", (8, 16, 32, 64)),
        (70, "h", (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1536)),
        (76 + 4 * dice.randrange(4), "f", REAL),
        (108, "f", (0, 348, 352, 353, 352.5, 400, 1e9)),
        (112, "f", REAL),
        (116, "f", REAL),
        (123, "B", (0, 1, 2, 3, 10, 18)),
        (252, "h", (-1, 0, 1, 2, 4, 9)),
        (254, "h", (-1, 0, 1, 2, 4, 9)),
        (256 + 4 * dice.randrange(6), "f", REAL),
        (280 + 4 * dice.randrange(12), "f", REAL),
        (344, "4s", (b"n+1\0", b"ni1\0", b"\0\0\0\0", b"n+2\0")),
    )


def _nifti_2_fields(dice: random.Random) -> tuple[Field, ...]:
    """The same of a NIfTI-2 header."""
    return (
        (16 + 8 * dice.randrange(8), "q", SMALL),
        (12, "h", (2, 4, 8, 16, 64, 128)),
        (104 + 8 * dice.randrange(4), "d", REAL),
        (168, "q", (0, 540, 544, 545, 560)),
        (176, "d", REAL),
        (184, "d", REAL),
        (344, "i", (-1, 0, 1, 9)),
        (348, "i", (-1, 0, 1, 9)),
        (352 + 8 * dice.randrange(6), "d", REAL),
        (400 + 8 * dice.randrange(12), "d", REAL),
        (500, "i", (0, 1, 2, 3)),
    )


def nudge_rows(path: Path, dice: random.Random) -> None:
    """Scale, shear or move the sform of a NIfTI-1 a little or much."""
    content = path.read_bytes()
    if content[:4] not in (b"\x5c\x01\0\0", b"\0\0\x01\x5c") or len(content) < 348:
        return
    order = "<" if content[0] else ">"
    head = bytearray(content)
    rows = list(struct.unpack_from(f"{order}12f", head, 280))
    rows[dice.randrange(12)] += dice.choice((1e-7, 1e-5, 1e-3, 0.01, 0.4, 50.0)) * dice.choice((1, -1))
    struct.pack_into(f"{order}12f", head, 280, *rows)
    path.write_bytes(bytes(head))


def flip_any(path: Path, dice: random.Random) -> None:
    """Flip a bit anywhere."""
    content = bytearray(path.read_bytes())
    if content:
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    path.write_bytes(content)


def cut(path: Path, dice: random.Random) -> None:
    """Remove the end, or a piece."""
    content = path.read_bytes()
    first = dice.randrange(len(content) + 1)
    last = len(content) if dice.random() < 0.6 else min(len(content), first + dice.choice((1, 2, 4, 8, 100)))
    path.write_bytes(content[:first] + content[last:])


def add(path: Path, dice: random.Random) -> None:
    """Insert bytes, at the end or in between."""
    content = path.read_bytes()
    place = len(content) if dice.random() < 0.6 else dice.randrange(len(content) + 1)
    noise = bytes(dice.randrange(256) for _ in range(16))
    more = dice.choice((b"\n", b"\0", b"\0" * 512, b"more", noise, content[-40:]))
    path.write_bytes(content[:place] + more + content[place:])


def blank_out(path: Path, dice: random.Random) -> None:
    """Write a run of zeros, as a broken copy leaves it."""
    content = bytearray(path.read_bytes())
    place, length = dice.randrange(len(content) + 1), dice.choice((1, 8, 64, 512))
    content[place : place + length] = bytes(len(content[place : place + length]))
    path.write_bytes(content)


def wrap(path: Path, dice: random.Random) -> None:
    """Compress the file once more, or in two streams, or unpack it, or double it."""
    content = path.read_bytes()
    half = len(content) // 2
    choices: list[Callable[[], bytes]] = [
        lambda: gzip.compress(content, mtime=0),
        lambda: zlib.compress(content),
        lambda: gzip.compress(content[:half], mtime=0) + gzip.compress(content[half:], mtime=0),
        lambda: gzip.decompress(content),
        lambda: content + content,
    ]
    try:
        path.write_bytes(dice.choice(choices)())
    except (OSError, EOFError, zlib.error):
        return


def _other_kind(path: Path, dice: random.Random) -> None:
    """Put something that is not a regular file under this name."""
    path.unlink(missing_ok=True)
    what = dice.choice(("pipe", "folder", "device", "socket", "loop", "nothing", "elsewhere"))
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "socket":
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(str(path))
    elif what != "nothing":
        path.symlink_to({"device": "/dev/zero", "loop": path.name, "elsewhere": "/etc/passwd"}[what])


_for_text = (change_word, change_word, change_lines, flip_header)
_for_nifti = (change_field, change_field, nudge_rows, flip_header)
_for_bytes = (flip_any, cut, add, blank_out, wrap)
