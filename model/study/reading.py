"""Read a study from /input, or from two named files: PET in SUV and CT in HU, each on its own grid.

A study that cannot be right is refused with a message that names the file, the value, the limit and the remedy.
"""

import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import ceil, floor
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from model.bundle.settings import Limits
from model.errors import CaseError
from model.files import free_memory_bytes, silence
from model.opening import other_kind
from model.study.geometry import Grid, array_of, grid_of
from model.study.integrity import check_grid_read, check_header, check_voxels
from model.study.listing import TO_DO_WITHOUT_CT, places_from

IMAGE_IO = {
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
    ".nrrd": "NrrdImageIO",
    ".nii.gz": "NiftiImageIO",
    ".nii": "NiftiImageIO",
}
SUFFIXES = tuple(IMAGE_IO)
MEMORY_PER_VOXEL_BYTES = 8  # for reading: the volume as stored, and once more as float32
HOTTEST_SUV = 3000.0  # a syringe in view may be as hot; above it is never SUV, so no message offers to move the limit
ORTHOGONAL = 1e-3  # largest |D'D - I| of a direction matrix


@dataclass(frozen=True, kw_only=True)
class Volume:
    """One image: array (z, y, x) as stored, SUV or HU; `image` is the SimpleITK image it is a view of."""

    path: Path
    grid: Grid
    array: NDArray[Any]
    image: sitk.Image


@dataclass(frozen=True, kw_only=True)
class Case:
    """A PET/CT study, or one of PET alone, whose ct is None. name: the CT file's name without its ending
    (grand-challenge's contract), the PET's without CT, or see `name_of`.
    """

    name: str
    pet: Volume
    ct: Volume | None
    warnings: tuple[str, ...]


def read_case(
    inputs: list[Path], limits: Limits, on_found: Callable[[], object] = lambda: None, pet_alone: bool = False
) -> Case:
    """Read a study from a folder that holds images/pet and images/ct, or from the files [PET, CT].

    on_found: called when the files are found, before they are read, to start other work meanwhile. pet_alone: read the
    PET alone, from the folder or from the files [PET] or [PET, CT]; a CT that is there still names the study.
    Raises CaseError for everything that is wrong with the input.
    """
    pet_path, ct_path = _files_of(inputs, pet_alone)
    on_found()
    if pet_alone or ct_path is None:
        ct, pet = None, read_volume(pet_path, "PET")
    else:
        with ThreadPoolExecutor(max_workers=2) as both:  # inflating keeps a core busy
            ct, pet = both.map(read_volume, (ct_path, pet_path), ("CT", "PET"))
        check_spacing(ct, "CT", limits)
    check_spacing(pet, "PET", limits)
    warnings = (check_hu(ct, limits) if ct else []) + check_suv(pet, limits)
    if ct_path is not None and ct is None:
        warnings += [ct_not_read(f"CT '{ct_path}'")]
    if len(inputs) == 1 and (inputs[0] / "lesion-clicks.json").exists():
        warnings += ["lesion-clicks.json is there and is not used: this method takes no clicks"]
    if ct is not None:
        check_overlap(pet, ct)
    if ct_path is None:
        name = stem(pet_path)
    else:
        name = name_of(pet_path, ct_path) if len(inputs) == 2 else stem(ct_path)
    return Case(name=name, pet=pet, ct=ct, warnings=tuple(warnings))


def ct_not_read(what: str) -> str:
    """The warning that a CT is there and these networks do not see it."""
    return f"{what} is there and is not read: the weights see PET alone"


def name_of(pet: Path, ct: Path) -> str:
    """The name of a study of two named files: the CT's, without its ending.

    In autoPET's folders every study's files are called SUV and CTres, or SUV and CT. Such a study is named by its
    folders, PETCT_<id>_<study>, or by the one folder if that lies in no PETCT_ folder.
    """
    if (stem(pet), stem(ct)) not in (("SUV", "CTres"), ("SUV", "CT")):
        return stem(ct)
    folder = ct.resolve().parent
    names = [folder.parent.name, folder.name] if folder.parent.name.startswith("PETCT_") else [folder.name]
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", "_".join(names)).strip("-.") or stem(ct)


def find_pair(folder: Path) -> tuple[Path, Path]:
    """PET and CT paths below an input folder: by inputs.json if it is there, else images/pet and images/ct.

    Raises CaseError unless there is exactly one image of each.
    """
    pet, ct = _find(folder, ct_may_lack=False)
    assert ct is not None  # an error was raised
    return pet, ct


def find_pet(folder: Path) -> tuple[Path, Path | None]:
    """The PET's path below an input folder, and the CT's if there is one. Raises CaseError unless there is one PET."""
    return _find(folder, ct_may_lack=True)


def _find(folder: Path, ct_may_lack: bool) -> tuple[Path, Path | None]:
    try:
        if not folder.is_dir():
            what = "images/pet" if ct_may_lack else "images/pet and images/ct"
            raise CaseError(f"input folder '{folder}' is not there; it must hold {what}")
        places = {"pet": folder / "images" / "pet", "ct": folder / "images" / "ct"}
        listing = folder / "inputs.json"
        if listing.is_symlink() or listing.exists():
            places = places_from(listing, ct_may_lack)
        pet = _only_image(places["pet"], "PET")
        if ct_may_lack:
            return pet, _any_image(places.get("ct"))
        return pet, _only_image(places["ct"], "CT", f", or {TO_DO_WITHOUT_CT}")
    except OSError as error:
        raise unreadable(Path(os.fsdecode(error.filename or folder)), "input", error) from None


def stem(path: Path) -> str:
    """The file's name without its ending (.nii.gz is one ending)."""
    ending = next((s for s in SUFFIXES if path.name.lower().endswith(s)), path.suffix)
    return path.name[: len(path.name) - len(ending)]


def read_volume(path: Path, what: str) -> Volume:
    """Read one 3-D scalar image, whatever its values are. Raises CaseError if it cannot be read."""
    _check_file(path, what)
    stored = None
    try:
        stored = check_header(path, what)
        with silence():
            reader = sitk.ImageFileReader()
            reader.SetImageIO(next(io for ending, io in IMAGE_IO.items() if path.name.lower().endswith(ending)))
            reader.SetFileName(str(path))
            reader.ReadImageInformation()
        _check_header(reader, path, what)
        check_grid_read(stored, path, what, grid_of(reader))
        with silence():
            image = reader.Execute()
        check_voxels(stored, path, what, array_of(image))
    except RuntimeError as error:
        if stored is not None:
            check_voxels(stored, path, what, None)  # its error is more exact, if it finds one
        raise CaseError(f"{what} '{path}' cannot be read: {_reason(error)}; copy or convert it again") from None
    except MemoryError:
        raise CaseError(f"{what} '{path}' does not fit into memory; use a machine with more") from None
    except OSError as error:
        raise unreadable(path, what, error) from None
    return volume_of(image, path)


def unreadable(path: Path, what: str, error: OSError) -> CaseError:
    """The error for a file or folder that cannot be read for want of permission, or because the disk fails."""
    return CaseError(f"{what} '{path}' cannot be read: {error.strerror or error}; check access to '{path}'")


def _check_file(path: Path, what: str) -> None:
    """Raise CaseError unless a regular file is there, with an ending and a name that can be read."""
    try:
        kind = other_kind(path)
    except (FileNotFoundError, NotADirectoryError):
        raise CaseError(f"{what} file '{path}' is not there") from None
    except OSError as error:
        raise unreadable(path, what, error) from None
    if kind:
        raise CaseError(f"{what} '{path}' is {kind}, not a file; give a regular file, or a link to one")
    if not path.name.lower().endswith(SUFFIXES):
        raise CaseError(f"{what} '{path}' is none of {', '.join(SUFFIXES)}; convert it first")
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise CaseError(f"{what} file '{path}': its name is not UTF-8; rename it") from None


def volume_of(image: sitk.Image, path: Path) -> Volume:
    """The volume of an image in memory; `path` is what messages call it."""
    return Volume(path=path, grid=grid_of(image), array=array_of(image), image=image)


def check_spacing(volume: Volume, what: str, limits: Limits) -> None:
    """Raise CaseError for voxels of a size that no scanner makes: the header is wrong, or not in mm."""
    spacing = volume.grid.spacing_mm
    if min(spacing) < limits.spacing_min_mm or max(spacing) > limits.spacing_max_mm:
        shown = " x ".join(f"{s:.6g}" for s in spacing)
        raise CaseError(
            f"{what} '{volume.path}' has voxels of {shown} mm; every edge must be {limits.spacing_min_mm:g} to "
            f"{limits.spacing_max_mm:g} mm; correct the header, or move the limits with --limit spacing_min_mm=... "
            "or --limit spacing_max_mm=..."
        )


def check_suv(pet: Volume, limits: Limits) -> list[str]:
    """Warnings about PET values. Raises CaseError if they are not finite or cannot be SUV."""
    low, high = _range(pet, "PET")
    if low < limits.pet_min_suv:
        raise CaseError(
            f"PET '{pet.path}' has a value of {low:g}, below {limits.pet_min_suv:g}: it is not SUV (is it the CT?); "
            f"give PET in SUV, or move the limit with --limit pet_min_suv={floor(low)}"
        )
    if high > limits.pet_max_suv:
        move = f", or move the limit with --limit pet_max_suv={ceil(high)}" if high <= HOTTEST_SUV else ""
        raise CaseError(
            f"PET '{pet.path}' has a value of {high:g}, above {limits.pet_max_suv:g}: it looks like Bq/ml, not SUV; "
            f"convert it to body-weight SUV{move}"
        )
    if high > limits.pet_warn_suv:
        return [f"PET '{pet.path}' reaches SUV {high:g}, above {limits.pet_warn_suv:g} (pet_warn_suv): is it SUV?"]
    return []


def check_hu(ct: Volume, limits: Limits) -> list[str]:
    """Warnings about CT values (none yet). Raises CaseError if they are not finite or cannot be HU."""
    low, high = _range(ct, "CT")
    if low > limits.ct_min_hu:
        raise CaseError(
            f"CT '{ct.path}' has no value at or below {limits.ct_min_hu:g}, its minimum is {low:g}: without air it is "
            f"not in HU (is it the PET?); give CT in HU, or move the limit with --limit ct_min_hu={ceil(low)}"
        )
    if high > limits.ct_max_hu:
        raise CaseError(
            f"CT '{ct.path}' has a value of {high:g}, above {limits.ct_max_hu:g}: it is not in HU; "
            f"apply its rescale slope and intercept, or move the limit with --limit ct_max_hu={ceil(high)}"
        )
    return []


def check_overlap(pet: Volume, ct: Volume) -> None:
    """Raise CaseError if the two volumes' bounding boxes share no space."""
    spans = [v.grid.corner_span_mm() for v in (pet, ct)]
    for number, axis in enumerate("xyz"):
        (pet_low, pet_high), (ct_low, ct_high) = (span[:, number] for span in spans)
        if pet_high <= ct_low or ct_high <= pet_low:
            raise CaseError(
                f"PET '{pet.path}' and CT '{ct.path}' do not overlap in space: PET spans {axis} {pet_low:.0f}.."
                f"{pet_high:.0f} mm, CT spans {axis} {ct_low:.0f}..{ct_high:.0f} mm. Are they of the same study?"
            )


def _files_of(inputs: list[Path], pet_alone: bool) -> tuple[Path, Path | None]:
    """The paths of PET and CT; of PET alone the CT's is None where there is none. Raises CaseError."""
    if len(inputs) == 2:
        if pet_alone:  # it is not read, but names the study: a wrong path would name the mask
            _check_file(inputs[1], "CT")
        return inputs[0], inputs[1]
    is_file = inputs[0].is_file()
    if pet_alone:
        return (inputs[0], None) if is_file else find_pet(inputs[0])
    if is_file:
        raise CaseError(f"input '{inputs[0]}' is one file; give a folder, or PET and CT, or {TO_DO_WITHOUT_CT}")
    return find_pair(inputs[0])


def _any_image(place: Path | None) -> Path | None:
    """An image of a folder, if there is one, or the file in the folder's place. Raises OSError."""
    if place is None or not place.is_dir():
        return place if place is not None and place.exists() else None
    return next(iter(_images_in(place)), None)


def _images_in(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.name.lower().endswith(SUFFIXES) and not p.name.startswith("."))


def _only_image(place: Path, what: str, remedy: str = "") -> Path:
    """The one image of a folder, or the file that the platform put in the folder's place. Raises OSError.

    remedy: what else can be done where there is none.
    """
    if not place.is_dir():
        if place.is_symlink() or place.exists():
            return place  # whether it can be read is found out when it is
        raise CaseError(f"{what} folder '{place}' is not there; it must hold one image ({', '.join(SUFFIXES)}){remedy}")
    found = _images_in(place)
    if len(found) != 1:
        others = len(list(place.iterdir())) - len(found)
        names = ": " + ", ".join(p.name for p in found) if found else f" ({others} other files)"
        raise CaseError(
            f"{what} folder '{place}' holds {len(found)} images{names}; it must hold exactly one "
            f"({', '.join(SUFFIXES)}){remedy if not found else ''}"
        )
    return found[0]


def _check_header(reader: sitk.ImageFileReader, path: Path, what: str) -> None:
    size = reader.GetSize()
    if len(size) != 3:
        raise CaseError(f"{what} '{path}' has {len(size)} dimensions {size}, not 3; give one 3-D volume")
    if reader.GetNumberOfComponents() != 1:
        raise CaseError(
            f"{what} '{path}' has {reader.GetNumberOfComponents()} values a voxel, not 1; give a scalar volume"
        )
    if min(size) < 2:
        raise CaseError(f"{what} '{path}' has size {size}: every axis needs at least 2 voxels; give a 3-D volume")
    spacing = reader.GetSpacing()
    if not all(np.isfinite(spacing)) or min(spacing) <= 0:
        raise CaseError(f"{what} '{path}' has spacing {spacing} mm; every value must be above 0; correct the header")
    if not all(np.isfinite(reader.GetOrigin())):
        raise CaseError(f"{what} '{path}' has origin {reader.GetOrigin()}, which is not finite; correct the header")
    direction = np.array(reader.GetDirection()).reshape(3, 3)
    error = np.abs(direction.T @ direction - np.eye(3)).max()
    if not error <= ORTHOGONAL:
        raise CaseError(
            f"{what} '{path}' has a direction matrix that is not orthogonal (off by {error:.3g}, limit "
            f"{ORTHOGONAL:g}): a sheared or tilted volume; resample it to an orthogonal grid"
        )
    voxels = int(np.prod([int(n) for n in size], dtype=object))
    free = free_memory_bytes()
    if free is not None and voxels * MEMORY_PER_VOXEL_BYTES > free:
        raise CaseError(
            f"{what} '{path}' says it has {size[0]} x {size[1]} x {size[2]} voxels, which take "
            f"{voxels * MEMORY_PER_VOXEL_BYTES / 1e9:.1f} GB to read, and {free / 1e9:.1f} GB are free; "
            "is the header right? If it is, use a machine with more memory"
        )
    if not 1 <= reader.GetPixelIDValue() <= 9 and reader.GetPixelIDValue() != 0:
        raise CaseError(f"{what} '{path}' has a pixel type that is not a real number; give a scalar volume")


def _range(volume: Volume, what: str) -> tuple[float, float]:
    """Smallest and largest value; NaN and infinity are refused (one pass each: NaN spreads to the minimum)."""
    low, high = float(volume.array.min()), float(volume.array.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = int(volume.array.size - np.isfinite(volume.array).sum())
        raise CaseError(f"{what} '{volume.path}' has {bad} voxels that are NaN or infinite; replace them first")
    return low, high


def _reason(error: RuntimeError) -> str:
    """The line of an ITK exception that says what is wrong, without source paths and addresses."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[-1] if lines else "unknown reason"
    if any("orthonormal" in line for line in lines):
        return "its axes are not at right angles: a sheared or tilted volume; resample it to an orthogonal grid"
    if any("could not be read" in line or "No such file" in line for line in lines):
        return "the file is shorter than its header says, or damaged"
    return re.sub(r"^(sitk::|ITK )ERROR: (\w+\(0x[0-9a-f]+\): )?", "", text).rstrip(".")
