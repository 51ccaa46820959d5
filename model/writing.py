"""Results onto the disk: each is written under a temporary name, read back and compared, then renamed."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from model.errors import OutputError
from model.files import PARTIAL, Staging, silence
from model.geometry import Grid, grid_of

FOLDERS = {
    1: "automated-petct-lesion-segmentation", 2: "automated-petct-lesion-segmentation",
    3: "automated-petct-lesion-segmentation", 4: "tumor-lesion-segmentation", 5: "tumor-lesion-segmentation",
}  # fmt: skip
DATA_CENTRIC = "data-centric-model.json"  # autoPET III: a bare true or false; this method is no data-centric entry


def mask_path(output: Path, name: str, edition: int) -> Path:
    """Where autoPET's edition (1 to 5) wants the mask of the case `name`."""
    return output / "images" / FOLDERS[edition] / f"{name}.mha"


def check_output(output: Path) -> None:
    """Make the output folder and try to write there, so that a run of minutes does not end in vain.

    Removes what an interrupted run left under temporary names. Raises OutputError.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        probe = output / f"{PARTIAL}{os.getpid()}-probe"
        probe.write_bytes(b"x")
        probe.unlink()
        for left in output.rglob(f"{PARTIAL}*"):
            if not _alive(left):
                left.unlink()
    except OSError as error:
        raise OutputError(
            f"cannot write into '{output}': {error.strerror or error}; it must be a folder with free space "
            "that the user this runs as may write to"
        ) from None


def check_only_mask(output: Path, mask: Path) -> None:
    """Raise OutputError if another .mha lies below `output`: the platform wants exactly one, and we delete none."""
    others = [p for p in sorted(output.rglob("*.mha")) if p != mask and not p.name.startswith(PARTIAL)]
    if others:
        raise OutputError(
            f"'{output}' already holds another result, '{others[0]}'; there must be only one .mha below it: "
            "give an empty folder with --output, or move that file away"
        )


def write_mask(mask: NDArray[Any], grid: Grid, target: Path, staging: Staging) -> None:
    """Stage `mask` (z, y, x), bool or 0/1, as uint8 on `grid`; read it back and compare. Raises OutputError."""
    _write_image(mask.astype(np.uint8), grid, target, staging, exact=True)


def write_probabilities(probability: NDArray[Any], grid: Grid, target: Path, staging: Staging) -> None:
    """Stage lesion probabilities (z, y, x), float32 in [0, 1], as NRRD on `grid`. Raises OutputError.

    NRRD stores spacing times direction, so the grid comes back to within rounding only.
    """
    _write_image(probability.astype(np.float32), grid, target, staging, exact=False)


def write_json(content: Any, target: Path, staging: Staging) -> None:
    """Stage `content` as JSON. Raises OutputError."""
    write_bytes((json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode(), target, staging)


def write_bytes(content: bytes, target: Path, staging: Staging) -> None:
    """Stage `content`. Raises OutputError."""
    partial = staging.path(target)
    try:
        partial.write_bytes(content)
    except OSError as error:
        raise OutputError(f"cannot write '{target}': {error.strerror}; free some space") from None


def _write_image(array: NDArray[Any], grid: Grid, target: Path, staging: Staging, exact: bool) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(grid.spacing_mm)
    image.SetOrigin(grid.origin_mm)
    image.SetDirection(grid.direction)
    partial = staging.path(target)
    try:
        with silence():
            sitk.WriteImage(image, str(partial), useCompression=True)
            back = sitk.ReadImage(str(partial))
    except RuntimeError:
        raise OutputError(f"cannot write '{target}': {_disk(partial)}; free some space and run again") from None
    same_grid = grid_of(back) == grid if exact else grid_of(back).equals(grid)
    if not same_grid or not np.array_equal(sitk.GetArrayViewFromImage(back), array):
        raise OutputError(f"'{target}' read back differs from what was written: {_disk(partial)}; run again")


def _disk(path: Path) -> str:
    try:
        stats = os.statvfs(path.parent)
        return f"the disk has {stats.f_bavail * stats.f_frsize / 1e6:.1f} MB free"
    except OSError as error:
        return f"the folder is gone ({error.strerror})"


def _alive(partial: Path) -> bool:
    """Whether the process that a temporary name belongs to still runs (and is not this one)."""
    with suppress(ValueError, OSError):
        pid = int(partial.name[len(PARTIAL) :].split("-")[0])
        os.kill(pid, 0)
        return pid != os.getpid()
    return False
