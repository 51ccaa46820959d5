"""How a header says that an image's voxels are stored; decode them and compare them with what was read.

The image libraries accept a stream that is cut off, a word in the place of a number or a wrong length in silence. So
each format's header is read strictly (model/study/metaimage.py, nrrd.py, nifti.py), the length of the data is compared
with it, and so are the voxels: by the checksum at the end of a zlib stream if it agrees, else one by one.
"""

import math
import os
import re
import zlib
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from model.opening import open_regular, other_kind
from model.study.geometry import Grid

CHUNK_BYTES = 1 << 22
MOST_INFLATED = 1032  # times its length is what a deflate stream can hold (zlib's technical details)
GZIP = b"\x1f\x8b"  # how a gzip stream begins (RFC 1952)
ADLER_BYTES = 4  # Adler-32, the end of a zlib stream (RFC 1950)
SCALED_TOLERANCE = 1e-5  # of the largest term, where the reader scales in float32
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
SHOWN = 80  # characters of a header's value in a message


class Refused(ValueError):
    """An undamaged header asks for something that is not supported; the message ends with a remedy."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What a header says.

    size: voxels (x, y, z, ...). kind: type of one value, with its byte order. channels: values a voxel. data: the file
    that holds the voxels; offset: bytes before them, after inflating. compression: "", "zlib" or "gzip", of all of
    `data` from `start` on. slope, intercept: value = stored x slope + intercept. grids: where the voxels lie, one for
    each way in which the header says it; empty unless there are three dimensions.
    """

    size: tuple[int, ...]
    kind: np.dtype[Any]
    data: Path
    start: int = 0
    offset: int = 0
    channels: int = 1
    compression: str = ""
    slope: float = 1.0
    intercept: float = 0.0
    grids: tuple[Grid, ...] = ()

    @property
    def bytes(self) -> int:
        """Bytes of all voxels."""
        return math.prod(self.size) * self.channels * self.kind.itemsize

    @property
    def scaled(self) -> bool:
        return (self.slope, self.intercept) != (1.0, 0.0)


def numbers(field: str, text: str, count: int) -> list[float]:
    """`count` finite decimal numbers, separated by blanks. Raises ValueError."""
    words = text.split()
    values = [float(word) if NUMBER.fullmatch(word) else math.nan for word in words]
    if len(values) != count or not all(map(math.isfinite, values)):
        raise ValueError(f"its header says {field} = {text[:SHOWN]}, not {count} finite numbers")
    return values


def whole_numbers(field: str, text: str, count: int) -> list[int]:
    """`count` whole numbers of 1 or more, separated by blanks. Raises ValueError."""
    words = text.split()
    if len(words) != count or not all(re.fullmatch(r"\+?\d{1,18}", word, re.ASCII) and int(word) for word in words):
        raise ValueError(f"its header says {field} = {text[:SHOWN]}, not {count} whole numbers above 0")
    return [int(word) for word in words]


def beside(header: Path, name: str) -> Path:
    """The file beside a header that holds its voxels. Raises Refused, or ValueError if it is not there.

    It must lie in the header's folder or below, with links followed; if the header is itself a link, the folder of its
    target counts, too. So a header cannot name a file of somebody else.
    """
    if not name or any(ord(letter) < 32 or ord(letter) == 127 for letter in name):
        raise ValueError(f"its header names no data file, but {name[:SHOWN]!r}")
    name = os.fsdecode(name.encode("latin-1"))  # the bytes of the header
    path = header.parent / name
    inside = [os.path.realpath(header.parent), os.path.dirname(os.path.realpath(header))]
    away = name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name)
    if away or not any(Path(os.path.realpath(path)).is_relative_to(folder) for folder in inside):
        raise Refused(
            f"its header names the data file '{name[:SHOWN]}', which leads out of the header's folder; "
            "put the data file beside its header, and name it there without a folder"
        )
    try:
        kind = other_kind(path)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"its data file '{path}' is not there") from None
    if kind:
        raise ValueError(f"its data file '{path}' is {kind}, not a regular file")
    return path


def compression_of(path: Path, start: int) -> str:
    """How the stream from `start` on is compressed: "gzip" or, for anything else, "zlib"."""
    with open_regular(path) as file:
        file.seek(start)
        return "gzip" if file.read(len(GZIP)) == GZIP else "zlib"


def check_length(stored: Stored) -> None:
    """Raise ValueError if the size of the file shows that it holds fewer or more voxels than its header says."""
    held = stored.data.stat().st_size - stored.start
    if not stored.compression:
        if held - stored.offset != stored.bytes:
            raise ValueError(
                f"it holds {max(0, held - stored.offset)} bytes of image, its header asks for {stored.bytes}"
            )
    elif stored.bytes > held * MOST_INFLATED:
        raise ValueError(f"it holds at most {held * MOST_INFLATED} bytes of image, its header asks for {stored.bytes}")


def differences(stored: Stored, voxels: NDArray[Any] | None) -> tuple[int, int]:
    """Two counts: voxels that were read with another value than is stored; stored values that are not finite.

    The second count covers only the parts of the file in which something differs.
    voxels: as read (z, y, x), in memory order; None if nothing could be read: then every voxel counts as different.
    Raises EOFError or ValueError for a wrong length, zlib.error for a damaged stream.
    """
    if voxels is not None and _checksum_agrees(stored, voxels):
        return 0, 0
    flat = None if voxels is None else voxels.reshape(-1)
    different, not_finite, place, left = 0, 0, 0, b""
    with closing(decoded(stored)) as parts:
        for part in parts:
            part = left + part if left else part
            values = np.frombuffer(part, stored.kind, len(part) // stored.kind.itemsize)
            left = part[values.nbytes :]
            wrong = values.size if flat is None else _different(stored, values, flat[place : place + values.size])
            if wrong and stored.kind.kind == "f":  # NIfTI's reader replaces them by zeros
                not_finite += values.size - int(np.count_nonzero(np.isfinite(values)))
            different, place = different + wrong, place + values.size
    return different, not_finite


def _different(stored: Stored, values: NDArray[Any], read: NDArray[Any]) -> int:
    """How many of these stored values were read as another value."""
    if values.size != read.size:
        return int(values.size)
    if not stored.scaled:
        native = values.astype(stored.kind.newbyteorder("="), copy=False)
        if native.dtype != read.dtype:
            return int(values.size)
        bits = np.dtype(f"u{native.dtype.itemsize}")  # NaN is not equal to itself, its bits are
        return int(np.count_nonzero(native.view(bits) != np.ascontiguousarray(read).view(bits)))
    wanted = values.astype(np.float64) * stored.slope
    limit = SCALED_TOLERANCE * (np.abs(wanted) + abs(stored.intercept)) + np.finfo(np.float32).tiny
    return int(np.count_nonzero(~(np.abs(wanted + stored.intercept - read) <= limit)))


def _checksum_agrees(stored: Stored, voxels: NDArray[Any]) -> bool:
    """Whether the checksum at the end of a zlib stream is the one of the voxels as read: then nothing needs inflating.

    False also if that cannot be known: values in another byte order, or bytes after the stream. The checksum of a gzip
    stream is not used, since it may cover only the last of several members.
    """
    if stored.compression != "zlib" or voxels.dtype != stored.kind or not voxels.flags.c_contiguous:
        return False
    with open_regular(stored.data) as file:
        file.seek(-ADLER_BYTES, os.SEEK_END)
        return zlib.adler32(voxels.data) == int.from_bytes(file.read(), "big")


def decoded(stored: Stored) -> Generator[bytes, None, None]:
    """The bytes of the voxels, in parts."""
    wanted, skipped, given = stored.bytes, stored.offset, 0
    with open_regular(stored.data) as file:
        file.seek(stored.start)
        parts = inflated(file) if stored.compression else iter(lambda: file.read(CHUNK_BYTES), b"")
        for part in parts:
            if skipped:
                skipped, part = max(0, skipped - len(part)), part[skipped:]
            given += len(part)
            if given > wanted:
                raise ValueError(f"it holds more than the {wanted} bytes of image that its header asks for")
            yield part
    if given < wanted:
        raise EOFError(f"it holds {given} bytes of image, its header asks for {wanted}")


def inflated(data: BinaryIO) -> Iterator[bytes]:
    """The content of a zlib or gzip stream, in parts.

    Raises zlib.error for a wrong checksum, EOFError for a stream that does not end, ValueError if anything but zeros
    follows a gzip stream (a zlib stream's header says where it ends).
    """
    stream = zlib.decompressobj(wbits=47)  # a zlib or a gzip header
    begin, rest = b"", b""
    while not stream.eof and (chunk := stream.unconsumed_tail or data.read(CHUNK_BYTES)):
        begin = begin or chunk[: len(GZIP)]
        yield stream.decompress(chunk, CHUNK_BYTES)
        while stream.eof and (rest := _bytes_after(stream.unused_data, data)).startswith(GZIP):
            stream = zlib.decompressobj(wbits=47)  # another gzip member follows, as bgzip writes them
            yield stream.decompress(rest, CHUNK_BYTES)
    if not stream.eof:
        raise EOFError("the compressed data end before their end mark")
    if begin == GZIP and rest.strip(b"\0"):
        raise ValueError("other bytes follow its compressed data")


def _bytes_after(rest: bytes, data: BinaryIO) -> bytes:
    """The bytes after a stream's end, at least as many as show whether another stream begins."""
    return rest if len(rest) >= len(GZIP) else rest + data.read(CHUNK_BYTES)
