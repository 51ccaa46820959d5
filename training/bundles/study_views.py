"""One study seen in several fields of view: whole, with margins cut off, cut at random, and with air around it.

A random cut is that of `training recrop` with the same seed: copy 2 of case `a` is called a-r2 in both.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from model.bundle.settings import Limits
from model.study.geometry import Grid
from model.study.masks import check_grid, read_mask
from model.study.reading import Case, Volume, read_case, read_volume
from training.data.recrop import Cut, Recrop, cut_of
from training.data.table import Study
from training.ensembles.field_of_view import AIR_VOXELS, CUTS_MM, voxels_of_cut

RECROPPED = "re-cropped"  # the name of the view that random cuts are
COPY = re.compile(r"(.+)-r\d+")  # the name of a copy that training recrop made, and of its original

Box = tuple[slice, slice, slice]


@dataclass(frozen=True, kw_only=True)
class FieldView:
    """One view of a study. case: the study in view, its truth (z, y, x) and the box of the whole that it is.

    name: of the study, -r<copy> behind it for a random cut. air: voxels of air to add past the crop, on every side.
    """

    view: str
    name: str
    case: Case
    truth: NDArray[np.bool_]
    box: Box
    air: int = 0


def read_study(study: Study, limits: Limits) -> tuple[Case, NDArray[np.bool_]]:
    """A study and its truth (z, y, x). Raises CaseError if one cannot be read or they lie on different grids."""
    case = read_case([study.pet, study.ct], limits)
    truth, grid = read_mask(study.truth, "truth")
    check_grid(grid, f"truth '{study.truth}'", case.pet.grid, f"PET '{study.pet}'")
    return case, truth > 0


def views_of(
    study: Study, case: Case, truth: NDArray[np.bool_], *, copies: int = 0, seed: int = 0, air: bool = True
) -> list[FieldView]:
    """The views of a study: whole first, then the cuts, `copies` random cuts, and the borders of air."""
    whole = FieldView(view=name_of_cut(0), name=study.case, case=case, truth=truth, box=everything(case))
    views = [whole] + [view_of_cut(whole, cut_mm) for cut_mm in CUTS_MM if cut_mm]
    views += recrops_of(study, whole, copies, seed)
    if air:
        views += [replace(whole, view=f"{voxels} voxels of air", air=voxels) for voxels in AIR_VOXELS]
    return views


def recrops_of(study: Study, whole: FieldView, copies: int, seed: int) -> list[FieldView]:
    """The study cut at random, as `training recrop` cuts it. Raises CaseError if a cut would leave too little."""
    if not copies:
        return []
    settings = Recrop(seed=seed, copies=copies)
    stored = read_volume(study.truth, "truth")
    found = []
    for copy in range(copies):
        part, box = cut_by(whole.case, cut_of(study.case, copy, stored, settings))
        found.append(
            FieldView(view=RECROPPED, name=f"{study.case}-r{copy}", case=part, truth=whole.truth[box], box=box)
        )
    return found


def view_of_cut(whole: FieldView, cut_mm: float) -> FieldView:
    """The view with `cut_mm` cut off every side."""
    smaller, box = cut_case(whole.case, cut_mm)
    return replace(whole, view=name_of_cut(cut_mm), case=smaller, truth=whole.truth[box], box=box)


def name_of_cut(cut_mm: float) -> str:
    """The name of the view with so much cut off; 0: the whole image."""
    return f"{cut_mm:g} mm cut"


def cut_case(case: Case, cut_mm: float) -> tuple[Case, Box]:
    """The study with `cut_mm` cut off every side of its PET, in whole voxels, and the box (z, y, x) that is left.

    At least FEWEST_VOXELS are left on each axis.
    """
    edges = zip(case.pet.grid.size, case.pet.grid.spacing_mm, strict=True)
    x, y, z = ((voxels, voxels) for voxels in (voxels_of_cut(cut_mm, *edge) for edge in edges))
    return cut_by(case, (x, y, z))


def cut_by(case: Case, cut: Cut) -> tuple[Case, Box]:
    """The study without the voxels of a cut, and the box (z, y, x) that is left. The CT stays: it is resampled to the
    PET.
    """
    pet = case.pet
    low = [first for first, _ in cut]
    x, y, z = (slice(first, edge - last) for (first, last), edge in zip(cut, pet.grid.size, strict=True))
    direction = np.array(pet.grid.direction).reshape(3, 3)
    corner = np.array(pet.grid.origin_mm) + direction @ (np.array(pet.grid.spacing_mm) * low)
    grid = Grid(
        size=(x.stop - x.start, y.stop - y.start, z.stop - z.start),
        spacing_mm=pet.grid.spacing_mm,
        origin_mm=(float(corner[0]), float(corner[1]), float(corner[2])),
        direction=pet.grid.direction,
    )
    image = sitk.RegionOfInterest(pet.image, grid.size, low)
    smaller = Volume(path=pet.path, grid=grid, array=pet.array[z, y, x], image=image)
    return replace(case, pet=smaller), (z, y, x)


def everything(case: Case) -> Box:
    """The box (z, y, x) of a whole study."""
    z, y, x = (slice(0, edge) for edge in case.pet.array.shape)
    return z, y, x


def originals_of(studies: Sequence[Study], index: dict[str, Study]) -> list[Study]:
    """The studies, each once; a copy that training recrop made is replaced by its original where the index has that."""
    found: dict[str, Study] = {}
    for study in studies:
        match = COPY.fullmatch(study.case)
        original = index.get(match[1]) if match else None
        one = original if original and original.patient == study.patient else study
        found[one.case] = one
    return list(found.values())


def paths_of(studies: Iterable[Study]) -> set[Path]:
    """All files of the studies."""
    return {path for study in studies for path in (study.pet, study.ct, study.truth)}
