"""Write results: each under a temporary name, read back, compared, then renamed."""

import json
import os
import tempfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from model.errors import OutputError
from model.files import silence
from model.study.geometry import Grid, grid_of, image_on
from model.whole import PARTIAL, Staging, remove_left_behind

FOLDERS = {
    1: "automated-petct-lesion-segmentation",
    2: "automated-petct-lesion-segmentation",
    3: "automated-petct-lesion-segmentation",
    4: "tumor-lesion-segmentation",
    5: "tumor-lesion-segmentation",
}
DATA_CENTRIC = "data-centric-model.json"  # autoPET III: a bare true or false; this method is no data-centric entry
LONGEST_NAME = 255  # bytes of a file name


def mask_path(output: Path, name: str, edition: int) -> Path:
    """Where autoPET's edition (1 to 5) wants the mask of the case `name`."""
    return output / "images" / FOLDERS[edition] / f"{name}.mha"


def check_output(output: Path) -> None:
    """Make the output folder and try to write there, before minutes of work. Raises OutputError."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix=PARTIAL, dir=output) as probe:
            probe.write(b"x")
    except OSError as error:
        raise OutputError(
            f"cannot write into '{output}': {error.strerror or error}; it must be a folder with free space "
            "that the user this runs as may write to"
        ) from None


def check_targets(output: Path, targets: list[Path], inputs: list[Path], organs: Path | None = None) -> None:
    """Refuse targets that would fail or do harm after minutes of work; the mask is the first of `targets`.

    organs: the one among them that is the organ map. Raises OutputError if the output holds the input or another .mha
    (the platform wants exactly one, and we delete none; an organ map is a second one), if two targets are one file, or
    if a target is a folder or has an impossible name. Removes the temporary files that killed runs left.
    """
    whole = output.resolve()
    for path in inputs:
        if path.resolve().is_relative_to(whole):
            raise OutputError(f"the input '{path}' lies in the output folder '{output}'; give another --output")
    for folder in {output, targets[0].parent}:
        if folder.is_dir():
            remove_left_behind(folder)
    images = (targets[0], organs)
    others = [p for p in sorted(output.rglob("*.mha")) if p not in images]
    if others:
        raise OutputError(
            f"'{output}' already holds another result, '{others[0]}'; there must be only one .mha below it: "
            "give an empty folder with --output, or move that file away"
        )
    if len({target.resolve() for target in targets}) != len(targets):
        raise OutputError(f"two results would go into one file: {', '.join(map(str, targets))}; give another --report")
    for target in targets:
        if os.path.isdir(target):
            raise OutputError(f"'{target}' is a folder; give the name of a file")
        if len(os.fsencode(target.name)) > LONGEST_NAME:
            raise OutputError(f"the name '{target.name}' is longer than {LONGEST_NAME} bytes; rename the CT file")
        if target not in images and target.suffix.lower() == ".mha":
            raise OutputError(f"'{target}' ends in .mha, which only the mask may; give another name")
    with Staging() as staging:  # without a commit: this only tries to write to every folder
        for target in targets:
            staging.path(target)


def write_mask(mask: NDArray[Any], grid: Grid, target: Path, staging: Staging, names: Sequence[str] = ()) -> None:
    """Stage `mask` (z, y, x), bool, 0/1 or labels, as uint8 on `grid`; read it back and compare. Raises OutputError.

    names: what the labels 1, 2, ... mean; the file's header says it.

    SimpleITK writes this format only under names that end in .mha, and below the output only the mask may have such a
    name. So the file is written in the system's temporary folder first; or, if there is none or it is full, built in
    memory.
    """
    voxels = mask.astype(np.uint8)
    try:
        with tempfile.TemporaryDirectory() as folder:
            whole = Path(folder) / "mask.mha"
            _write_image(voxels, grid, whole, target, label_notes(names))
            content = whole.read_bytes()
    except (OSError, OutputError):
        content = mha_bytes(voxels, grid, label_notes(names))
    partial = write_bytes(content, target, staging)
    _read_back(partial, "MetaImageIO", mask, grid, target, exact=True)


def label_notes(names: Sequence[str]) -> dict[str, str]:
    """What the labels 1, 2, ... of an image mean, as an entry for its header; none without names."""
    return {"Labels": ", ".join(f"{label} {name}" for label, name in enumerate(names, start=1))} if names else {}


def mha_bytes(voxels: NDArray[np.uint8], grid: Grid, notes: Mapping[str, str] | None = None) -> bytes:
    """An array (z, y, x) as a compressed MetaImage file, as ITK writes it; numbers keep all their digits.

    notes: more entries of the header.
    """
    data = zlib.compress(np.ascontiguousarray(voxels).tobytes())
    columns = np.array(grid.direction).reshape(3, 3).T.ravel()  # MetaImage has one row for each axis of the image

    def joined(numbers: Iterable[float]) -> str:
        return " ".join(f"{float(number):.17g}" for number in numbers)

    head = [
        "ObjectType = Image",
        "NDims = 3",
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        "CompressedData = True",
        f"CompressedDataSize = {len(data)}",
        f"TransformMatrix = {joined(columns)}",
        f"Offset = {joined(grid.origin_mm)}",
        "CenterOfRotation = 0 0 0",
        f"ElementSpacing = {joined(grid.spacing_mm)}",
        f"DimSize = {' '.join(map(str, grid.size))}",
        *(f"{name} = {text}" for name, text in (notes or {}).items()),
        "ElementType = MET_UCHAR",
        "ElementDataFile = LOCAL",
    ]
    return ("\n".join(head) + "\n").encode() + data


def write_probabilities(probability: NDArray[Any], grid: Grid, target: Path, staging: Staging) -> None:
    """Stage lesion probabilities (z, y, x), float32 in [0, 1], as NRRD on `grid`. Raises OutputError.

    NRRD stores spacing times direction, so the grid comes back only up to rounding.
    """
    partial = staging.path(target)
    _write_image(probability.astype(np.float32), grid, partial, target)
    _read_back(partial, "NrrdImageIO", probability, grid, target, exact=False)


def write_json(content: Any, target: Path, staging: Staging) -> None:
    """Stage `content` as JSON. Raises OutputError."""
    write_bytes(json_bytes(content), target, staging)


def json_bytes(content: Any) -> bytes:
    """`content` as JSON for people to read."""
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode(errors="replace")


def write_bytes(content: bytes, target: Path, staging: Staging) -> Path:
    """Stage `content`; returns the temporary path. Raises OutputError."""
    partial = staging.path(target)
    try:
        partial.write_bytes(content)
    except OSError as error:
        raise OutputError(
            f"cannot write '{target}': {error.strerror}, {_disk(partial)}; free some space and run again"
        ) from None
    return partial


def _write_image(
    array: NDArray[Any], grid: Grid, path: Path, target: Path, notes: Mapping[str, str] | None = None
) -> None:
    image = image_on(array, grid)
    for name, text in (notes or {}).items():
        image.SetMetaData(name, text)
    try:
        with silence():
            sitk.WriteImage(image, str(path), useCompression=True)
    except RuntimeError:
        raise _not_whole(target, path) from None


def _read_back(partial: Path, image_io: str, array: NDArray[Any], grid: Grid, target: Path, exact: bool) -> None:
    try:
        with silence():
            back = sitk.ReadImage(str(partial), imageIO=image_io)
        found = grid_of(back)
        if (found == grid if exact else found.equals(grid)) and np.array_equal(sitk.GetArrayViewFromImage(back), array):
            return
    except RuntimeError:
        pass
    raise _not_whole(target, partial)


def _not_whole(target: Path, partial: Path) -> OutputError:
    return OutputError(f"cannot write '{target}' whole: {_disk(partial)}; free some space and run again")


def _disk(path: Path) -> str:
    try:
        stats = os.statvfs(path.parent)
        return f"the disk has {stats.f_bavail * stats.f_frsize / 1e6:.1f} MB free"
    except OSError as error:
        return f"the folder is gone ({error.strerror})"
