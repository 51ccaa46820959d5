"""Image files read by other readers: nibabel, pynrrd and a plain reader of MetaImage; and how ours differs.

The reader of MetaImage is written from the format's documentation and shares nothing with model/study/metaimage.py on
purpose, not even the table of types: what both share, they would get wrong together.
"""

import io
import zlib
from pathlib import Path
from typing import Any

import nibabel
import nrrd  # type: ignore[import-untyped,unused-ignore]
import numpy as np
from numpy.typing import NDArray

from model.study.reading import Volume

TYPES = {
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
SPACES = {
    "right-anterior-superior": [-1, -1, 1],
    "ras": [-1, -1, 1],
    "left-anterior-superior": [1, -1, 1],
    "las": [1, -1, 1],
}
IDENTITY = "1 0 0 0 1 0 0 0 1"
nibabel.imageglobals.logger.setLevel("CRITICAL")
CORNER_VOXEL = 0.26  # a header may state the place twice, up to 0.25 of a voxel apart
SAME = 1e-5  # relative, of scaled values: some readers scale in float32

Image = tuple[
    NDArray[np.float64], NDArray[np.float64]
]  # values (z, y, x), and the matrix (4, 4) from voxels to mm in ITK's coordinates


def read(path: Path) -> Image:
    """An image by a reader that shares nothing with ours. Raises whatever that reader raises."""
    if path.suffix in (".mha", ".mhd"):
        return metaimage(path)
    if path.suffix == ".nrrd":
        values, header = _nrrd(path)
        signs = np.diag([*SPACES.get(header["space"].lower(), [1, 1, 1]), 1.0])
        affine = np.eye(4)
        affine[:3, :3], affine[:3, 3] = np.array(header["space directions"]).T, header["space origin"]
        return values.T.astype(np.float64), signs @ affine
    content = path.read_bytes()
    content = inflated(content) if path.suffix == ".gz" else content
    image = (nibabel.Nifti2Image if b"n+2" in content[:8] else nibabel.Nifti1Image).from_bytes(content)
    voxels: NDArray[Any] = image.get_fdata()
    return voxels.reshape(voxels.shape[:3]).T.astype(np.float64), np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine


def _nrrd(path: Path) -> tuple[NDArray[Any], dict[str, Any]]:
    """The values and the header by pynrrd. Gzip streams in a row are inflated here, since pynrrd does not read them."""
    with path.open("rb") as file:
        header = nrrd.read_header(file)
        if header["encoding"] == "raw":
            return nrrd.read_data(header, file, str(path)), header
        rest = file.read()
    name = header.pop("data file", header.pop("datafile", None))
    content = (path.parent / name).read_bytes() if name else rest
    header["encoding"] = "raw"
    return nrrd.read_data(header, io.BytesIO(inflated(content)), str(path)), header


def inflated(content: bytes) -> bytes:
    """The content of gzip streams in a row, without what follows them."""
    whole = b""
    while content[:2] == b"\x1f\x8b":
        stream = zlib.decompressobj(31)
        whole += stream.decompress(content)
        content = stream.unused_data
    return whole


def metaimage(path: Path) -> Image:
    """A MetaImage by its documentation; the last of repeated fields counts."""
    content = path.read_bytes()
    data_field = content.index(b"ElementDataFile")
    end = content.find(b"\n", data_field) + 1 or len(content)
    fields = {}
    for line in content[:end].decode("latin-1").split("\n"):
        name, _, value = line.partition("=")
        fields[name.strip()] = value.strip()
    location = fields["ElementDataFile"]
    data = content[end:] if location == "LOCAL" else (path.parent / location).read_bytes()
    order = fields.get("BinaryDataByteOrderMSB", fields.get("ElementByteOrderMSB", "False")).lower() in ("true", "1")
    kind = np.dtype((">" if order else "<") + TYPES[fields["ElementType"].removesuffix("_ARRAY")])
    size = [int(word) for word in fields["DimSize"].split()]
    if fields.get("CompressedData", "False").lower() in ("true", "1"):
        data = zlib.decompressobj(47).decompress(
            data[:-4]
        )  # without the checksum, the last 4 bytes, which our reader has compared
    values = np.frombuffer(data, kind, int(np.prod(size))).reshape(size[::-1])
    matrix = next((fields[n] for n in ("TransformMatrix", "Rotation", "Orientation") if n in fields), IDENTITY)
    origin = next((fields[name] for name in ("Offset", "Position", "Origin") if name in fields), "0 0 0")
    affine = np.eye(4)
    affine[:3, :3] = _numbers(matrix).reshape(3, 3).T * _numbers(fields["ElementSpacing"])
    affine[:3, 3] = _numbers(origin)
    return values.astype(np.float64), affine


def _numbers(text: str) -> NDArray[np.float64]:
    return np.array([float(word) for word in text.split()])


def difference(ours: Volume, other: Image) -> str:
    """How two readings of a file differ, in values or corners; "" where they agree."""
    values, affine = other
    if ours.array.shape != values.shape:
        return f"shape {ours.array.shape} against {values.shape}"
    read = ours.array.astype(np.float64)
    with np.errstate(invalid="ignore"):
        near = np.abs(read - values) <= SAME * np.abs(values) + 1e-30
    different = ~(near | (read == values) | (np.isnan(read) & np.isnan(values)))
    if different.any():
        return f"{int(different.sum())} values, as {read[different][0]:g} against {values[different][0]:g}"
    grid = ours.grid
    own = np.eye(4)
    own[:3, :3] = np.array(grid.direction).reshape(3, 3) * grid.spacing_mm
    own[:3, 3] = grid.origin_mm
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in grid.size], [1])).reshape(4, -1)
    apart = float(np.abs((own - affine) @ corners)[:3].max())
    return f"corners {apart:g} mm apart" if not apart <= CORNER_VOXEL * min(grid.spacing_mm) else ""
