"""Refuse image files that the image libraries take without a word: empty, Git-LFS pointers, damaged compression.

MetaIO, NrrdIO and the NIfTI reader return garbage for a damaged or cut-off compressed stream, so each
such stream is run through once and its checksum compared, before the file is read.
"""

import gzip
import re
import zlib
from pathlib import Path
from typing import BinaryIO

from model.errors import CaseError
from model.files import is_lfs_pointer

CHUNK_BYTES = 1 << 22
HEADER_LINES = 1000  # more than any header has: a file without an end mark is not read to its end


def check_bytes(path: Path, what: str) -> None:
    """Raise CaseError if the file is empty, a Git-LFS pointer, or holds damaged compressed data."""
    if path.stat().st_size == 0:
        raise CaseError(f"{what} '{path}' is empty (0 bytes); copy it again")
    if is_lfs_pointer(path):
        raise CaseError(f"{what} '{path}' is a Git-LFS pointer, not the image; run: git lfs pull")
    name = path.name.lower()
    try:
        with path.open("rb") as file:
            if name.endswith(".gz"):
                _run_through(file)
            elif name.endswith((".mha", ".mhd")):
                _check_metaimage(file, path)
            elif name.endswith(".nrrd"):
                _check_nrrd(file, path)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise CaseError(f"{what} '{path}' is cut off or damaged: {error}; copy it again") from None


def _check_metaimage(file: BinaryIO, path: Path) -> None:
    header = {}
    for _ in range(HEADER_LINES):
        key, equals, value = file.readline(CHUNK_BYTES).partition(b"=")
        if not equals:
            return  # no MetaImage: the reader says so
        header[key.strip()] = value.strip()
        if key.strip() == b"ElementDataFile":
            break
    if header.get(b"CompressedData", b"").lower() == b"true":
        _check_data(file, path, header.get(b"ElementDataFile", b"LOCAL"))


def _check_nrrd(file: BinaryIO, path: Path) -> None:
    header = {}
    for _ in range(HEADER_LINES):
        line = file.readline(CHUNK_BYTES)
        if not line.strip():
            break
        key, _, value = line.partition(b":")
        header[key.strip().lower()] = value.strip()
    if header.get(b"encoding", b"").lower() in (b"gzip", b"gz"):
        _check_data(file, path, header.get(b"data file", header.get(b"datafile", b"LOCAL")))


def _check_data(file: BinaryIO, path: Path, place: bytes) -> None:
    """The compressed data: the rest of the file, or another file that the header names."""
    if place.upper() == b"LOCAL":
        _run_through(file)
        return
    beside = path.parent / place.decode(errors="replace")
    if beside.is_file() and not re.search(rb"%|LIST", place):  # a list of files is left to the reader
        with beside.open("rb") as data:
            _run_through(data)


def _run_through(data: BinaryIO) -> None:
    """Decompress to nowhere. Raises zlib.error for a wrong checksum, EOFError for a stream that does not end."""
    stream = zlib.decompressobj(wbits=47)  # a zlib or a gzip header
    while not stream.eof and (chunk := data.read(CHUNK_BYTES)):
        stream.decompress(chunk)
    if not stream.eof:
        raise EOFError("the compressed data end before their end mark")
