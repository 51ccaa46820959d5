"""Refuse image files that the image libraries accept in silence: empty, cut off, damaged, or with a wrong header.

The header is read strictly before the image is, and compared with the length of the file. Once the image is read, its
grid is compared with the header, and its voxels with the stored data.
"""

import zlib
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from model.errors import CaseError
from model.files import is_lfs_pointer
from model.opening import check_regular
from model.study.geometry import Grid
from model.study.metaimage import metaimage_data, metaimage_header
from model.study.nifti import nifti_header
from model.study.nrrd import nrrd_data, nrrd_header
from model.study.stored import Refused, Stored, check_length, differences

HEADERS = {
    ".mha": metaimage_header,
    ".mhd": metaimage_header,
    ".nrrd": nrrd_header,
    ".nii.gz": nifti_header,
    ".nii": nifti_header,
}


def check_header(path: Path, what: str) -> Stored:
    """How an image is stored.

    Raises CaseError if the file is empty, a Git-LFS pointer or of another length than its header says, or if the header
    is damaged or asks for something that is not supported; OSError if the file cannot be opened.
    """
    check_regular(path)
    if path.stat().st_size == 0:
        raise CaseError(f"{what} '{path}' is empty (0 bytes); copy it again")
    if is_lfs_pointer(path):
        raise CaseError(f"{what} '{path}' is a Git-LFS pointer, not the image; run: git lfs pull")
    try:
        stored = _read_header(path)
        check_length(stored)
        if stored.compression == "gzip" and stored.data != path:
            differences(stored, None)  # NrrdIO never closes a data file whose stream it cannot read
    except (EOFError, ValueError, zlib.error) as error:
        raise refusal(path, what, error) from None
    return stored


def check_grid_read(stored: Stored, path: Path, what: str, grid: Grid) -> None:
    """Raise CaseError if the grid that a 3-D image was read onto is not the one in its header."""
    if not any(stated.equals(grid) for stated in stored.grids):
        expected = stored.grids[0] if stored.grids else None
        raise refusal(path, what, ValueError(f"it was read onto the grid {grid}, and its header says {expected}"))


def check_voxels(stored: Stored, path: Path, what: str, voxels: NDArray[Any] | None) -> None:
    """Raise CaseError if the voxels that were read (z, y, x) differ from the stored ones, or if these are not finite.

    voxels: None if the reader failed; then only a damaged stream is an error here, and the caller reports the rest.
    """
    try:
        different, not_finite = differences(stored, voxels)
    except (EOFError, ValueError, zlib.error) as error:
        raise refusal(path, what, error) from None
    if not_finite:
        raise CaseError(f"{what} '{path}' has {not_finite} voxels that are NaN or infinite; replace them first")
    if different and voxels is not None:
        hint = " (is its header's CompressedDataSize right?)" if stored.compression == "zlib" else ""
        raise refusal(path, what, ValueError(f"{different} voxels were read otherwise than it holds them{hint}"))


def data_file(path: Path) -> Path | None:
    """The data file beside a MetaImage or NRRD header; None if the voxels are in the header's file, or nowhere."""
    find_data = {".mha": metaimage_data, ".mhd": metaimage_data, ".nrrd": nrrd_data}.get(path.suffix.lower())
    if find_data is None:
        return None
    try:
        data = find_data(path)
    except (OSError, EOFError, ValueError, zlib.error):
        return None
    return data if data != path else None


def _read_header(path: Path) -> Stored:
    return next(read for ending, read in HEADERS.items() if path.name.lower().endswith(ending))(path)


def refusal(path: Path, what: str, error: Exception) -> CaseError:
    if isinstance(error, Refused):
        return CaseError(f"{what} '{path}' cannot be used: {error}")
    return CaseError(f"{what} '{path}' is cut off or damaged: {error}; copy or convert it again")
