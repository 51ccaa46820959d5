"""Check one study as the container does, with its truth: the result is a row of the index, or what is wrong."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.bundle.settings import Limits
from model.errors import CaseError
from model.study.reading import Volume, check_hu, check_overlap, check_spacing, check_suv, read_volume
from training.data.layouts import FDG, StudyFiles
from training.data.table import NEGATIVE, UNKNOWN, Study, study_sha256

TRUTH_TOLERANCE_VOXEL = 0.05  # headers of one data set differ in their last digits: by 0.01 mm over 300 slices
SHOWN = 5  # values named in one message


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Why a study is left out of the index, and because of which file."""

    case: str
    file: Path
    reason: str


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """Values to write where neither the data set's names nor its tables give one."""

    diagnosis: str = UNKNOWN
    tracer: str = FDG
    site: str = UNKNOWN


def check_study(found: StudyFiles, defaults: Defaults, limits: Limits) -> tuple[Study | None, list[Problem], list[str]]:
    """Read and check a study. Returns its row (None if anything is wrong), all problems of its files, and warnings."""
    volumes: dict[str, Volume] = {}
    problems = []
    for what, path in (("PET", found.pet), ("CT", found.ct), ("truth", found.truth)):
        try:
            volumes[what] = read_volume(path, what)
            check_spacing(volumes[what], what, limits)
        except CaseError as error:
            problems.append(Problem(case=found.case, file=path, reason=str(error)))
    warnings: list[str] = []
    checks: list[tuple[str, tuple[str, ...], Callable[[], None]]] = [  # file at fault, files needed, check
        ("PET", ("PET",), lambda: warnings.extend(check_pet(volumes["PET"], limits))),
        ("CT", ("CT",), lambda: warnings.extend(check_hu(volumes["CT"], limits))),
        ("CT", ("PET", "CT"), lambda: check_overlap(volumes["PET"], volumes["CT"])),
        ("truth", ("truth",), lambda: check_binary(volumes["truth"])),
        ("truth", ("PET", "truth"), lambda: check_grid(volumes["truth"], volumes["PET"])),
    ]
    for file, needed, check in checks:
        try:
            if volumes.keys() >= {*needed}:
                check()
        except CaseError as error:
            problems.append(Problem(case=found.case, file=volumes[file].path, reason=str(error)))
    if problems:
        return None, problems, warnings
    lesion_ml = float(np.count_nonzero(volumes["truth"].array)) * volumes["PET"].grid.voxel_ml
    diagnosis = found.diagnosis or (defaults.diagnosis if lesion_ml else NEGATIVE)
    if lesion_ml and diagnosis == NEGATIVE:
        warnings.append(
            f"{found.case}: {NEGATIVE} by its names or tables, but its truth holds {lesion_ml:.2f} ml: "
            f"taken as {UNKNOWN}"
        )
        diagnosis = UNKNOWN
    if not lesion_ml and diagnosis not in (NEGATIVE, UNKNOWN):
        warnings.append(
            f"{found.case}: {diagnosis} by its names or tables, but its truth '{found.truth}' is empty: it trains as a "
            "study without lesion; export the truth again if that is wrong"
        )
    pet, ct, truth = (path.resolve() for path in (found.pet, found.ct, found.truth))
    study = Study(
        case=found.case,
        patient=found.patient,
        diagnosis=diagnosis,
        tracer=found.tracer or defaults.tracer,
        site=found.site or defaults.site,
        pet=pet,
        ct=ct,
        truth=truth,
        lesion_ml=lesion_ml,
        sha256=study_sha256(pet, ct, truth),
        body=found.body,
        made=found.made,
    )
    return study, [], warnings


def check_pet(pet: Volume, limits: Limits) -> list[str]:
    """Warnings about PET values. Raises CaseError if they cannot be SUV, or if none is above 0: the crop would then
    leave nothing.
    """
    warnings = check_suv(pet, limits)
    if not pet.array.max() > 0:
        raise CaseError(f"PET '{pet.path}' has no value above 0: it is empty; export it again")
    return warnings


def check_binary(truth: Volume) -> None:
    """Raise CaseError if the truth holds anything but 0 and 1."""
    other = truth.array[(truth.array != 0) & (truth.array != 1)]
    if other.size:
        values = ", ".join(f"{value:g}" for value in np.unique(other)[:SHOWN])
        raise CaseError(
            f"truth '{truth.path}' has {other.size} voxels that are neither 0 nor 1 ({values}); make it a 0/1 mask"
        )


def check_grid(truth: Volume, pet: Volume) -> None:
    """Raise CaseError unless the truth lies on the PET's grid, to TRUTH_TOLERANCE_VOXEL."""
    if truth.grid.size != pet.grid.size:
        raise CaseError(
            f"truth '{truth.path}' has size {truth.grid.size}, PET '{pet.path}' has {pet.grid.size}; it must lie on "
            "the PET's grid: resample it there by nearest neighbour"
        )
    if not truth.grid.equals(pet.grid, TRUTH_TOLERANCE_VOXEL):
        raise CaseError(
            f"truth '{truth.path}' (origin {_three(truth.grid.origin_mm)}, spacing {_three(truth.grid.spacing_mm)} mm) "
            f"does not lie on the grid of PET '{pet.path}' (origin {_three(pet.grid.origin_mm)}, spacing "
            f"{_three(pet.grid.spacing_mm)} mm); more than {TRUTH_TOLERANCE_VOXEL} voxel apart: resample it there"
        )


def _three(values: tuple[float, float, float]) -> str:
    return " x ".join(f"{value:.6g}" for value in values)
