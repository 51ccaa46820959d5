"""The masks that are scored: from a folder, or of a bundle run as the container runs it."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import SimpleITK as sitk
from numpy.typing import NDArray

from model.bundle.manifest import Bundle
from model.errors import CaseError
from model.files import silence
from model.results.writing import write_mask
from model.study.geometry import Grid, grid_of
from model.study.masks import check_grid, read_mask
from model.study.reading import Case, read_case, stem
from model.whole import Staging
from training.command import warn
from training.data.table import Study, some_of

MASK_ENDINGS = (".mha", ".nii.gz")
Predict = Callable[[Study], tuple[NDArray[Any], Grid, float]]  # mask (z, y, x), its grid, seconds or NaN


def from_masks(folder: Path, studies: Sequence[Study]) -> tuple[Predict, list[Path]]:
    """Read masks named <case>.mha or <case>.nii.gz in `folder`; also returns the masks there of no study.

    Raises CaseError if the folder or a mask is missing, or if a case has two; when read, if it is on another grid.
    """
    if not folder.is_dir():
        raise CaseError(f"folder of masks '{folder}' is not there; give one that holds <case>{MASK_ENDINGS[0]} files")
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.name.endswith(MASK_ENDINGS) and not path.name.startswith("."):
            files.setdefault(stem(path), []).append(path)
    cases = [study.case for study in studies]
    for case in cases:
        if len(files.get(case, [])) > 1:
            raise CaseError(f"case {case} has more than one mask: {', '.join(map(str, files[case]))}; keep one of them")
    if missing := [case for case in cases if case not in files]:
        raise CaseError(
            f"'{folder}' has no mask of {len(missing)} of {len(cases)} cases: {some_of(missing)}; each must be there "
            f"as <case>{' or <case>'.join(MASK_ENDINGS)}, empty where nothing was found, or evaluate fewer with --split"
        )

    def predict(study: Study) -> tuple[NDArray[Any], Grid, float]:
        path = files[study.case][0]
        mask, grid = read_mask(path, "mask")
        check_grid(grid, f"mask '{path}'", pet_grid(study.pet), f"PET '{study.pet}'")
        return mask, grid, math.nan

    return predict, [path for case, paths in files.items() if case not in cases for path in paths]


def from_bundle(
    bundle: Bundle,
    device: Any,
    studies: Sequence[Study],
    save: Path | None = None,
    on_probability: Callable[[Study, NDArray[Any], Grid], None] | None = None,
) -> Predict:
    """Run a bundle as the container does, on one device; masks go to <save>/<case>.mha, replacing such files.

    on_probability: is called with each study's probabilities (z, y, x) and their grid, which else are not made.
    Takes the studies in their order. The next is read while one is segmented, so seconds do not include reading.
    When run, raises CaseError, WeightsError or OutputError as process.py does; warnings go to stderr.
    """
    from model.inference.options import SegmentOptions  # imports torch, which scoring masks does not need
    from model.inference.several import segment_each

    def read(study: Study) -> Case:
        return read_for(bundle, study)

    options = SegmentOptions(bundle=bundle, device=device, with_probability=on_probability is not None)
    segmented = segment_each(studies, read, options)

    def predict(study: Study) -> tuple[NDArray[Any], Grid, float]:
        begun = time.perf_counter()
        case, result = next(segmented)
        seconds = time.perf_counter() - begun
        for warning in (*case.warnings, *result.warnings):
            warn(f"case {study.case}: {warning}")
        if save:
            with Staging() as staging:
                write_mask(result.mask, case.pet.grid, save / f"{study.case}.mha", staging)
                staging.commit()
        if on_probability and result.probability is not None:
            on_probability(study, result.probability, case.pet.grid)
        return result.mask, case.pet.grid, seconds

    return predict


def read_for(bundle: Bundle, study: Study) -> Case:
    """A study as a bundle sees it: with its CT, or its PET alone. Raises CaseError."""
    manifest = bundle.manifest
    files = [study.pet] if manifest.pet_alone else [study.pet, study.ct]
    return read_case(files, manifest.limits, pet_alone=manifest.pet_alone)


def pet_grid(path: Path) -> Grid:
    """The grid of an image from its header alone. Raises CaseError if it cannot be read."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        with silence():
            reader.ReadImageInformation()
    except RuntimeError:
        raise CaseError(
            f"PET '{path}' cannot be read; check the path, or make the index again with training index"
        ) from None
    return grid_of(reader)
