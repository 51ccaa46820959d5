"""Refuse image files that the image libraries take without a word: empty, Git-LFS pointers, damaged compression.

MetaIO, NrrdIO and the NIfTI reader return garbage for a damaged or cut-off compressed stream, and the NIfTI
reader for a file that is too short: so each compressed stream is run through once, its checksum compared, and
the number of bytes held against the header, before the file is read. An .mha file that is compressed in itself is not
inflated twice: what was read of it is held against its checksum. Header fields that MetaIO would turn into zeros, or
crash on, are refused; so are the NaN and infinite voxels that the NIfTI reader would turn into zeros.
"""

import math
import os
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from model.errors import CaseError
from model.files import is_lfs_pointer

CHUNK_BYTES = 1 << 22
ADLER_BYTES = 4
HEADER_LINES = 1000  # more than any header has: a file without an end mark is not read to its end
ELEMENT_BYTES = {
    "MET_CHAR": 1, "MET_UCHAR": 1, "MET_SHORT": 2, "MET_USHORT": 2, "MET_INT": 4, "MET_UINT": 4,
    "MET_LONG_LONG": 8, "MET_ULONG_LONG": 8, "MET_FLOAT": 4, "MET_DOUBLE": 8,
}  # fmt: skip
METAIMAGE_NUMBERS = ("NDims", "DimSize", "ElementSpacing", "Offset", "Position", "Origin", "TransformMatrix")
NIFTI_HEADERS = {348: ("hh", 40, 70, "f", 108), 540: ("qh", 16, 12, "q", 168)}  # dim type, dim, datatype, vox_offset
NIFTI_HEAD_BYTES = 544  # of the longer header, with the flag for extensions
NIFTI_FLOATS = {16: "f4", 64: "f8"}


@dataclass(frozen=True, kw_only=True)
class _Nifti:
    """What a header says of the data: where they begin, how many bytes they have, their type if it is floating."""

    offset: int
    length: int
    floats: str | None


def check_bytes(path: Path, what: str) -> bool:
    """Raise CaseError if the file is empty, a Git-LFS pointer, damaged, or has fewer bytes than its header says.

    True: its voxels are left to `check_read`.
    """
    if path.stat().st_size == 0:
        raise CaseError(f"{what} '{path}' is empty (0 bytes); copy it again")
    if is_lfs_pointer(path):
        raise CaseError(f"{what} '{path}' is a Git-LFS pointer, not the image; run: git lfs pull")
    name, wrong, left = path.name.lower(), 0, False
    try:
        with path.open("rb") as file:
            if name.endswith((".nii", ".nii.gz")):
                wrong = _check_nifti(file, name.endswith(".gz"))
            elif name.endswith((".mha", ".mhd")):
                left = _check_metaimage(file, path)
            elif name.endswith(".nrrd"):
                _check_nrrd(file, path)
    except (EOFError, ValueError, zlib.error) as error:
        raise _damaged(path, what, error) from None
    if wrong:
        raise CaseError(f"{what} '{path}' has {wrong} voxels that are NaN or infinite; replace them first")
    return left


def check_read(path: Path, what: str, voxels: NDArray[Any] | None) -> None:
    """Raise CaseError if what was read of an .mha file compressed in itself is not what it holds.

    voxels: None where nothing could be read. A zlib stream ends with the Adler-32 of what it holds (RFC 1950). Where
    the voxels have another, the stream is run through, which says why.
    """
    with path.open("rb") as file:
        file.seek(-ADLER_BYTES, os.SEEK_END)
        if voxels is not None and zlib.adler32(voxels.data) == int.from_bytes(file.read(), "big"):
            return
        file.seek(0)
        try:
            _check_metaimage(file, path, inflate=True, voxels=voxels)
        except (EOFError, ValueError, zlib.error) as error:
            raise _damaged(path, what, error) from None


def _damaged(path: Path, what: str, error: Exception) -> CaseError:
    return CaseError(f"{what} '{path}' is cut off or damaged: {error}; copy or convert it again")


def _check_metaimage(
    file: BinaryIO, path: Path, inflate: bool = False, voxels: NDArray[Any] | None = None
) -> bool:
    """Whether it is compressed in itself and was not run through, as `inflate` asks for, and held against `voxels`."""
    header = _metaimage_header(file)
    if header is None:
        return False  # the reader says so
    for name in METAIMAGE_NUMBERS:
        _check_numbers(name, header.get(name, ""))
    dimensions = int(header.get("NDims", "3"))
    if not 1 <= dimensions <= 9:
        raise ValueError(f"its header says NDims = {dimensions}")
    sizes = [int(n) for n in header.get("DimSize", "").split()]
    item = ELEMENT_BYTES.get(header.get("ElementType", "").removesuffix("_ARRAY"), 0)
    expected = item * math.prod(sizes) * int(header.get("ElementNumberOfChannels", "1"))
    place = header.get("ElementDataFile", "LOCAL")
    local = place.upper() == "LOCAL"
    if header.get("CompressedData", "").lower() == "true":
        if local and not inflate:
            return True
        length, adler = _compressed(file, path, place) or (None, 0)
        _check_length(length, expected)
        if voxels is not None and adler not in (zlib.adler32(voxels.data), zlib.adler32(voxels.byteswap().data)):
            raise ValueError("other voxels were read than it holds; is its header's CompressedDataSize right?")
    elif local and "HeaderSize" not in header:
        _check_length(path.stat().st_size - file.tell(), expected)
    return False


def _check_nrrd(file: BinaryIO, path: Path) -> None:
    header = _nrrd_header(file)
    if header.get("encoding", "").lower() in ("gzip", "gz"):
        _compressed(file, path, header.get("data file", header.get("datafile", "LOCAL")))


def data_file(path: Path) -> Path | None:
    """The file beside a MetaImage or NRRD header that holds its voxels; None where they are in it, or none is there."""
    read = {".mhd": _metaimage_header, ".mha": _metaimage_header, ".nrrd": _nrrd_header}.get(path.suffix.lower())
    if read is None:
        return None
    with suppress(OSError), path.open("rb") as file:
        header = read(file) or {}
        name = next((header[key] for key in ("ElementDataFile", "data file", "datafile") if key in header), "LOCAL")
        found = path.parent / os.fsdecode(name.encode("latin-1"))
        return found if name.upper() not in ("LOCAL", "LIST") and found.is_file() else None
    return None


def _metaimage_header(file: BinaryIO) -> dict[str, str] | None:
    """The lines up to that of the data; None if it is no MetaImage."""
    header: dict[str, str] = {}
    for _ in range(HEADER_LINES):
        key, equals, value = file.readline(CHUNK_BYTES).decode("latin-1").partition("=")
        if not equals:
            return None
        header[key.strip()] = value.strip()
        if key.strip() == "ElementDataFile":
            break
    return header


def _nrrd_header(file: BinaryIO) -> dict[str, str]:
    """The lines up to an empty one, keys in small letters."""
    header = {}
    for _ in range(HEADER_LINES):
        line = file.readline(CHUNK_BYTES).decode("latin-1")
        if not line.strip():
            break
        key, _, value = line.partition(":")
        header[key.strip().lower()] = value.strip()
    return header


def _check_nifti(file: BinaryIO, compressed: bool) -> int:
    """At least vox_offset + voxels x bitpix / 8 bytes, inflated; the number of voxels that are NaN or infinite."""
    chunks = _inflated(file) if compressed else iter(lambda: file.read(CHUNK_BYTES), b"")
    head = b""
    while len(head) < NIFTI_HEAD_BYTES and (chunk := next(chunks, b"")):
        head += chunk
    header = _nifti_header(head)
    if header is None:
        for _ in chunks:  # to its end: a damaged stream is told
            pass
        return 0
    length, wrong, left = 0, 0, b""
    item = int(header.floats[-1]) if header.floats else 1
    for chunk in chain([head], chunks):
        if header.floats:
            data = left + chunk[max(0, header.offset - length) : max(0, header.offset + header.length - length)]
            whole = len(data) // item * item
            wrong += whole // item - int(np.isfinite(np.frombuffer(data[:whole], header.floats)).sum())
            left = data[whole:]
        length += len(chunk)
    if length < header.offset + header.length:
        raise EOFError(f"it has {length} bytes, its header asks for {header.offset + header.length}")
    return wrong


def _nifti_header(head: bytes) -> _Nifti | None:
    """The fields of NIfTI-1 or 2 (nifti1.h, nifti2.h), of either byte order; None if it is neither."""
    for order in "<>":
        if len(head) < NIFTI_HEAD_BYTES or (size := struct.unpack_from(f"{order}i", head)[0]) not in NIFTI_HEADERS:
            continue
        kinds, dim_at, type_at, offset_kind, offset_at = NIFTI_HEADERS[size]
        dims = struct.unpack_from(f"{order}8{kinds[0]}", head, dim_at)
        datatype, bits = struct.unpack_from(f"{order}2{kinds[1]}", head, type_at)
        (offset,) = struct.unpack_from(f"{order}{offset_kind}", head, offset_at)
        if not 1 <= dims[0] <= 7:
            raise ValueError(f"its header says {dims[0]} dimensions")
        kind = NIFTI_FLOATS.get(datatype)
        length = math.prod(dims[1 : dims[0] + 1]) * bits // 8
        return _Nifti(offset=int(offset), length=length, floats=f"{order}{kind}" if kind else None)
    return None


def _compressed(file: BinaryIO, path: Path, place: str) -> tuple[int, int] | None:
    """`_run_through` of the compressed data: the rest of the file, or another file that the header names."""
    if place.upper() == "LOCAL":
        return _run_through(file)
    beside = path.parent / place
    if re.search("%|LIST", place) or not beside.is_file():
        return None  # a list of files, or none: left to the reader
    with beside.open("rb") as data:
        return _run_through(data)


def _run_through(data: BinaryIO) -> tuple[int, int]:
    """Decompress to nowhere: how many bytes there are, and their Adler-32. Raises as `_inflated` does."""
    length, adler = 0, zlib.adler32(b"")
    for part in _inflated(data):
        length, adler = length + len(part), zlib.adler32(part, adler)
    return length, adler


def _inflated(data: BinaryIO) -> Iterator[bytes]:
    """What a zlib or gzip stream holds, in parts.

    Raises zlib.error for a wrong checksum, EOFError for a stream that does not end.
    """
    stream = zlib.decompressobj(wbits=47)  # a zlib or a gzip header
    while not stream.eof and (chunk := stream.unconsumed_tail or data.read(CHUNK_BYTES)):
        yield stream.decompress(chunk, CHUNK_BYTES)
        rest = stream.unused_data
        if stream.eof and rest.startswith(b"\x1f\x8b"):  # another gzip member follows, as bgzip writes them
            stream = zlib.decompressobj(wbits=47)
            yield stream.decompress(rest, CHUNK_BYTES)
    if not stream.eof:
        raise EOFError("the compressed data end before their end mark")


def _check_length(found: int | None, expected: int) -> None:
    """`expected` 0 means that the header does not tell (an element type of no fixed size)."""
    if found is not None and expected and found != expected:
        raise EOFError(f"it holds {found} bytes of image, its header asks for {expected}")


def _check_numbers(name: str, text: str) -> None:
    for word in text.split():
        try:
            good = math.isfinite(float(word))
        except ValueError:
            good = False
        if not good:
            raise ValueError(f"its header says {name} = {text[:80]}")
