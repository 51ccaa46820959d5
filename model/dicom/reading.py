"""From DICOM to a `Case`: PET in body-weight SUV and CT in HU, each on its own grid, and a record of the conversion.

Exactly one PET and one CT series is needed. Where a study has several, the choice is made in model/hospital/find.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom.dataset import FileDataset

from model.bundle.settings import Limits
from model.dicom.elements import path_of, tag_name, text
from model.dicom.headers import Series, find_series
from model.dicom.isotopes import check_positron
from model.dicom.pixels import OUTSIDE_HU, read_values, rescale_of
from model.dicom.series import MODALITY_NAMES, order_slices
from model.dicom.suv import Conversion, find_conversion
from model.errors import CaseError
from model.files import free_memory_bytes
from model.study.geometry import Grid, image_on
from model.study.reading import Case, Volume, check_hu, check_overlap, check_spacing, check_suv, volume_of

BODY_HU = -500.0  # above: body (or table), not air
BODY_MEAN_SUV = (0.3, 3.0)  # usual mean SUV of a body; with all of the dose spread over the whole body it is 1
MEMORY_PER_VOXEL_BYTES = 8  # while the volume is copied into its image


@dataclass(frozen=True, kw_only=True)
class DicomStudy:
    """A study read from DICOM, and how its PET became SUV. `case.warnings` hold the conversion's too."""

    case: Case
    conversion: Conversion


def read_dicom(
    inputs: Path | Iterable[Path],
    limits: Limits,
    weight_kg: float | None = None,
    name: str = "study",
    pet_alone: bool = False,
) -> DicomStudy:
    """Read the PET and the CT series in a folder (and those below it) or in a list of files; with pet_alone no CT.

    weight_kg: the patient's weight, in place of the header's. name: the case's name; the header gives none, since that
    would identify the patient. Other modalities (RTSTRUCT, SEG) are passed over. Raises CaseError unless
    there is exactly one PET and one CT series, and for everything that is wrong with them.
    """
    series = find_series(inputs)
    pet = _single_series(series, "PT", inputs)
    ct = None if pet_alone else _single_series(series, "CT", inputs)
    return read_study(pet, ct, limits, weight_kg=weight_kg, name=name)


def read_study(
    pet: Series, ct: Series | None, limits: Limits, weight_kg: float | None = None, name: str = "study"
) -> DicomStudy:
    """The same from two series that `find_series` found, or from a PET alone (ct None), whose mean SUV in the body is
    then not checked. Raises CaseError for everything that is wrong with them.
    """
    pet_volume, conversion = read_pet(pet, weight_kg)
    ct_volume = read_ct(ct) if ct else None
    if ct_volume:
        check_spacing(ct_volume, "CT", limits)
    check_spacing(pet_volume, "PET", limits)
    mean_suv = body_mean_suv(pet_volume, ct_volume) if ct_volume else None
    low, high = BODY_MEAN_SUV
    warnings = check_hu(ct_volume, limits) if ct_volume else []
    check_units(pet_volume, conversion, mean_suv, limits)
    warnings += check_suv(pet_volume, limits)
    if ct and ct_volume:
        warnings += check_frames(pet.headers[0], ct.headers[0], pet_volume, ct_volume)
    if ct_volume is None:
        warnings.append(f"PET '{pet_volume.path}' has no CT that shows the body: its mean SUV there is not checked")
    elif mean_suv is None:
        warnings.append(f"CT '{ct_volume.path}' shows no body where the PET is: the mean SUV is not checked")
    elif not low <= mean_suv <= high:
        warnings.append(
            f"PET '{pet_volume.path}' has a mean SUV of {mean_suv:.3g} in the body, not the usual {low:g} to {high:g}: "
            "are weight, dose and times in its header right?"
        )
    warnings = [*conversion.warnings, *warnings, *_lossy_warnings(pet, "PET")]
    warnings += _lossy_warnings(ct, "CT") if ct else []
    conversion = replace(conversion, body_mean_suv=mean_suv, warnings=tuple(warnings))
    case = Case(name=name, pet=pet_volume, ct=ct_volume, warnings=tuple(warnings))
    return DicomStudy(case=case, conversion=conversion)


def read_pet(series: Series, weight_kg: float | None = None) -> tuple[Volume, Conversion]:
    """A PET series in body-weight SUV, float32 (z, y, x), and its conversion. Raises CaseError."""
    for header in series.headers:
        check_positron(header)
    headers, grid = order_slices(series, "PT")
    conversion = find_conversion(headers, weight_kg)
    factors = dict(zip(map(path_of, headers), conversion.slice_factors, strict=True))
    volume = _read_volume(headers, grid, np.float32, "PET", lambda values, path: values * factors[path])
    return volume, conversion


def read_ct(series: Series) -> Volume:
    """A CT series in HU (z, y, x): int16 where rescaling leaves whole numbers, else float32. Raises CaseError."""
    headers, grid = order_slices(series, "CT")
    for header in headers:
        if text(header, "RescaleType") not in ("", "HU"):
            raise CaseError(
                f"CT '{path_of(header)}' has {tag_name('RescaleType')} {text(header, 'RescaleType')}, not HU; "
                "give a CT in HU"
            )
    whole = all(value.is_integer() for header in headers for value in rescale_of(header))

    def checked(values: NDArray[np.float64], path: Path) -> NDArray[np.float64]:
        low, high = values.min(), values.max()
        if whole and not (np.iinfo(np.int16).min <= low and high <= np.iinfo(np.int16).max):
            raise CaseError(
                f"CT '{path}' has values from {low:g} to {high:g} after rescaling; HU lie in -32768 to 32767: "
                "its rescale slope and intercept are wrong, or it is not a CT; export the series again"
            )
        return values

    return _read_volume(headers, grid, np.int16 if whole else np.float32, "CT", checked)


def check_units(pet: Volume, conversion: Conversion, mean_suv: float | None, limits: Limits) -> None:
    """Raise CaseError for values that cannot be SUV; the message names every field that they were made from.

    `check_suv` decides about a single hot spot in a body whose mean is usual.
    """
    top = float(pet.array.max())
    if not top > limits.pet_max_suv or (mean_suv is not None and mean_suv <= BODY_MEAN_SUV[1]):
        return
    mean = "" if mean_suv is None else f", and a mean of {mean_suv:.3g} in the body"
    begin = f"PET '{pet.path}' has a value of {top:g}, above {limits.pet_max_suv:g}{mean}"
    units = f"{tag_name('Units')} {conversion.units}"
    if conversion.dose_bq is None:
        raise CaseError(
            f"{begin}: it looks like Bq/ml, not SUV, which its header says it is ({units}, {conversion.route}); "
            "export the series in Bq/ml, or correct the header"
        )
    used = [
        f"{tag_name('PatientWeight')} {conversion.weight_kg:g} kg ({conversion.weight_from})",
        f"{tag_name('RadionuclideTotalDose')} {conversion.dose_bq:g} Bq",
        units,
    ]
    if conversion.half_life_s is not None:
        used.append(f"{tag_name('RadionuclideHalfLife')} {conversion.half_life_s:g} s")
        used.append(f"{conversion.decay_s:.0f} s of decay, {conversion.injection} to {conversion.reference}")
    raise CaseError(
        f"{begin}: one of the fields that SUV is made from is wrong, or in another unit: {', '.join(used)}; correct "
        "the header, or give weight_kg if the weight is wrong"
    )


def check_frames(pet: FileDataset, ct: FileDataset, pet_volume: Volume, ct_volume: Volume) -> list[str]:
    """Warnings about PET and CT that may not belong together. Raises CaseError if they cannot."""
    pet_frame, ct_frame = text(pet, "FrameOfReferenceUID"), text(ct, "FrameOfReferenceUID")
    warnings = []
    try:
        check_overlap(pet_volume, ct_volume)
    except CaseError as error:
        if pet_frame == ct_frame:
            raise
        raise CaseError(f"{error} Their {tag_name('FrameOfReferenceUID')} differs, too") from None
    if pet_frame != ct_frame or not pet_frame:
        warnings.append(
            f"PET '{pet_volume.path}' and CT '{ct_volume.path}' share no {tag_name('FrameOfReferenceUID')}, though "
            "they overlap in space: check that they are aligned"
        )
    for keyword in ("StudyInstanceUID", "PatientID"):
        if text(pet, keyword) != text(ct, keyword):
            warnings.append(
                f"PET '{pet_volume.path}' and CT '{ct_volume.path}' differ in {tag_name(keyword)}: "
                "are they of one patient?"
            )
    return warnings


def body_mean_suv(pet: Volume, ct: Volume) -> float | None:
    """Mean SUV of the voxels whose nearest CT voxel is above -500 HU; None where there is no such voxel."""
    grid = pet.grid
    hu = sitk.Resample(
        ct.image,
        grid.size,
        sitk.Transform(),
        sitk.sitkNearestNeighbor,
        grid.origin_mm,
        grid.spacing_mm,
        grid.direction,
        OUTSIDE_HU,
    )
    body = sitk.GetArrayViewFromImage(hu) > BODY_HU
    return float(pet.array[body].mean(dtype=np.float64)) if body.any() else None


def _single_series(series: Sequence[Series], modality: str, inputs: object) -> Series:
    """The one series of a modality. Raises CaseError where there is none, or several."""
    found = [s for s in series if s.modality == modality]
    if len(found) != 1:
        source = f"'{inputs}'" if isinstance(inputs, Path) else "the list of files"
        listed = "".join(f"; '{s.files[0]}' ({len(s.files)} files, {s.description or 'no description'})" for s in found)
        raise CaseError(
            f"{source} holds {len(found)} {MODALITY_NAMES[modality]} series, not one{listed}; give the files of one"
        )
    return found[0]


def _read_volume(
    headers: Sequence[FileDataset],
    grid: Grid,
    kind: type,
    what: str,
    change: Callable[[NDArray[np.float64], Path], NDArray[np.float64]],
) -> Volume:
    """The slices' rescaled values as one volume, each slice as `change(values, path)` returns it."""
    needed_bytes, free_bytes = int(np.prod(grid.size)) * MEMORY_PER_VOXEL_BYTES, free_memory_bytes()
    path = path_of(headers[0])
    if free_bytes is not None and needed_bytes > free_bytes:
        raise CaseError(
            f"{what} of '{path}' has {grid.size[0]} x {grid.size[1]} x {grid.size[2]} voxels, which take "
            f"{needed_bytes / 1e9:.1f} GB to read, but only {free_bytes / 1e9:.1f} GB are free; use a "
            "machine with more memory"
        )
    array: NDArray[Any] = np.empty(grid.shape, kind)
    for z, header in enumerate(headers):
        array[z] = change(read_values(path_of(header)), path_of(header))
    image = image_on(array, grid)
    return volume_of(image, path)


def _lossy_warnings(series: Series, what: str) -> list[str]:
    if any(text(header, "LossyImageCompression") == "01" for header in series.headers):
        return [f"{what} '{series.files[0]}' was compressed with loss: its values differ from the scanner's"]
    return []
