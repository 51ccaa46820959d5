r"""Copy studies and cut the copies at random on every side.

    python -m training recrop index.csv --output DIR --seed 1

If a data set's images all end at the same distance from the contour, a network can learn from the border where the
lesion is. A random cut prevents that. Each side of the PET grid loses a whole number of voxels, 0 to 45 mm by default,
drawn from the seed, the case and the copy alone; PET, CT and truth are cut alike. Truth near a side may be cut, but
never all of it. DIR gets a folder for each copy, and an index.csv: cases are <case>-r<copy>, patients stay the same,
so a split keeps copies together.
"""

import argparse
import hashlib
from dataclasses import dataclass, replace
from functools import partial
from math import ceil, floor
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from model.errors import CaseError, ConfigError, OutputError
from model.study.geometry import Grid
from model.study.reading import Volume, read_volume
from training.data.check import check_grid
from training.data.table import Study, new_studies, origin_of, read_table, study_sha256, write_table
from training.parallel import cores, map_parallel

FEWEST_VOXELS = 8  # on every axis of what is left
TRIES = 100  # draws until one keeps some of the truth
ENDINGS = (".mha", ".nii.gz")

Cut = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]  # voxels off the low and the high side of x, y, z


@dataclass(frozen=True, kw_only=True)
class Recrop:
    """How to cut: mm off each side, from `low_mm` to `high_mm`; the ending decides the format."""

    seed: int
    low_mm: float = 0.0
    high_mm: float = 45.0
    copies: int = 1
    ending: str = ".mha"

    def __post_init__(self) -> None:
        if not 0 <= self.low_mm <= self.high_mm <= 1e4:
            raise ConfigError(f"--low-mm must be from 0 to --high-mm, got {self.low_mm:g} and {self.high_mm:g}")
        if not 1 <= self.copies <= 10_000:
            raise ConfigError(f"--copies must be from 1 to 10000, got {self.copies}")
        if self.seed < 0:
            raise ConfigError(f"--seed must be 0 or more, got {self.seed}")


def draw_cut(rng: np.random.Generator, spacing_mm: tuple[float, float, float], low_mm: float, high_mm: float) -> Cut:
    """Voxels off each of six sides, every whole number between the two lengths as likely.

    Raises ConfigError if no whole number of voxels lies between them.
    """
    sides = []
    for axis, spacing in zip("xyz", spacing_mm, strict=True):
        least, most = ceil(low_mm / spacing - 1e-6), floor(high_mm / spacing + 1e-6)
        if least > most:
            raise ConfigError(
                f"no whole number of voxels of {spacing:g} mm along {axis} is from {low_mm:g} to {high_mm:g} mm; "
                "set --low-mm and --high-mm further apart"
            )
        low, high = rng.integers(least, most + 1, 2)
        sides.append((int(low), int(high)))
    return sides[0], sides[1], sides[2]


def cut_of(case: str, copy: int, truth: Volume, settings: Recrop) -> Cut:
    """The cut of a copy of a study, by seed, case and copy alone: the first drawn that keeps some of the truth.

    With an empty truth it is the first. Raises CaseError if it would leave fewer than FEWEST_VOXELS on an axis, or if
    TRIES draws leave nothing of the truth.
    """
    digest = hashlib.sha256(f"{case}/{copy}".encode()).digest()
    rng = np.random.default_rng([settings.seed, *digest])
    mask = truth.array != 0
    for _ in range(TRIES):
        cut = draw_cut(rng, truth.grid.spacing_mm, settings.low_mm, settings.high_mm)
        size = tuple(n - low - high for n, (low, high) in zip(truth.grid.size, cut, strict=True))
        if min(size) < FEWEST_VOXELS:
            raise CaseError(
                f"{case}: cut by {cut} voxels, {truth.grid.size} would become {size}, and every axis must keep "
                f"{FEWEST_VOXELS}; lower --high-mm, or leave the study out of the index"
            )
        if mask[box(cut, truth.grid)].any() or not mask.any():
            return cut
    raise CaseError(
        f"{case}: {TRIES} cuts of {settings.low_mm:g} to {settings.high_mm:g} mm left nothing of its truth; "
        "lower --high-mm, or leave the study out of the index"
    )


def box(cut: Cut, grid: Grid) -> tuple[slice, slice, slice]:
    """What a cut leaves of an array (z, y, x)."""
    x, y, z = (slice(low, n - high) for n, (low, high) in zip(grid.size, cut, strict=True))
    return z, y, x


def crop(image: sitk.Image, cut: Cut) -> sitk.Image:
    """The image without the voxels of the cut; every voxel left stays where it is in space."""
    return sitk.Crop(image, [low for low, _ in cut], [high for _, high in cut])


def covering_cut(ct: Volume, target: sitk.Image) -> Cut:
    """The largest cut of a CT on a grid of its own that still covers the target's voxels, edges and all, where it did.

    Raises CaseError if they do not meet.
    """
    ends = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in target.GetSize()])).reshape(3, -1).T
    points = [target.TransformContinuousIndexToPhysicalPoint(end.tolist()) for end in ends]
    places = np.array([ct.image.TransformPhysicalPointToContinuousIndex(point) for point in points])
    cut = []
    for low, high, size in zip(places.min(axis=0), places.max(axis=0), ct.grid.size, strict=True):
        first, last = max(floor(low), 0), min(ceil(high), size - 1)
        first, last = min(first, size - 2), max(last, 1)  # an image has at least 2 voxels
        if low >= size - 0.5 or high <= -0.5:
            raise CaseError(f"CT '{ct.path}' covers nothing of the cut PET; are they of the same study?")
        cut.append((first, size - 1 - last))
    return cut[0], cut[1], cut[2]


def recrop_study(job: tuple[Study, int], settings: Recrop, folder: Path, final: Path) -> Study:
    """Write one copy below `folder` and return its row, whose paths lie below `final`, where the folder will be.

    Raises CaseError if the study cannot be read or cut, OutputError if the copy cannot be written.
    """
    study, copy = job
    pet, ct, truth = (
        read_volume(path, what) for what, path in (("PET", study.pet), ("CT", study.ct), ("truth", study.truth))
    )
    check_grid(truth, pet)
    cut = cut_of(study.case, copy, truth, settings)
    images = {"pet": crop(pet.image, cut), "truth": crop(truth.image, cut)}
    images["ct"] = crop(ct.image, cut if ct.grid.equals(pet.grid) else covering_cut(ct, images["pet"]))
    case = f"{study.case}-r{copy}"
    names = {what: Path(case) / f"{what}{settings.ending}" for what in ("pet", "ct", "truth")}
    try:
        (folder / case).mkdir()
        for what, image in images.items():
            sitk.WriteImage(image, str(folder / names[what]), True)
        sha256 = study_sha256(*(folder / name for name in names.values()))
    except (OSError, RuntimeError) as error:
        raise OutputError(f"cannot write '{final / case}': {error}; check free space and write permission") from None
    lesion_ml = float(np.count_nonzero(sitk.GetArrayViewFromImage(images["truth"]))) * pet.grid.voxel_ml
    return replace(
        study,
        case=case,
        pet=final / names["pet"],
        ct=final / names["ct"],
        truth=final / names["truth"],
        lesion_ml=lesion_ml,
        sha256=sha256,
        made=f"cut by {settings.seed} of {origin_of(study)}" if study.made else "",  # a cut alone computes nothing
    )


def recrop(index: Path, output: Path, settings: Recrop, workers: int = 1) -> list[Study]:
    """Cut every study of an index into a new folder. Returns the rows of its index.csv.

    Raises ConfigError if the folder is there and not empty, CaseError for the first study that cannot be cut; then
    nothing is written.
    """
    studies = read_table(index)
    jobs = [(study, copy) for study in studies.values() for copy in range(settings.copies)]
    with new_studies(output) as (hidden, final):
        work = partial(recrop_study, settings=settings, folder=hidden, final=final)
        rows = list(map_parallel(work, jobs, workers))
        write_table(rows, hidden / "index.csv")
    return rows


def run(options: argparse.Namespace) -> None:
    """Write the copies. Raises ConfigError, CaseError or OutputError."""
    settings = Recrop(
        seed=options.seed,
        low_mm=options.low_mm,
        high_mm=options.high_mm,
        copies=options.copies,
        ending=options.format,
    )
    rows = recrop(options.index, options.output, settings, options.workers)
    patients = {row.patient for row in rows}
    print(f"wrote '{options.output / 'index.csv'}': {len(rows)} studies of {len(patients)} patients")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "A study that the drawn cut would leave smaller than 8 voxels, or without its truth, is an error. Cost: "
        "about 10 s and 1 GB a process for a copy of a study of 400 x 400 x 326 voxels, and at most its size on disk."
    )
    add = parser.add_argument
    add("index", type=Path, help="index.csv of training index")
    add("--output", type=Path, required=True, metavar="DIR", help="new folder for the copies and their index.csv")
    add("--seed", type=int, required=True, help="seed of the cuts; the same seed gives the same copies")
    add("--low-mm", type=float, default=0.0, metavar="MM", help="least that a side loses (default: 0)")
    add("--high-mm", type=float, default=45.0, metavar="MM", help="most that a side loses (default: 45)")
    add("--copies", type=int, default=1, metavar="N", help="copies of each study, each cut otherwise (default: 1)")
    add(
        "--format",
        choices=ENDINGS,
        default=".mha",
        help="format of the images (default: .mha, which keeps every digit)",
    )
    add("--workers", type=int, default=cores(), metavar="N", help="processes (default: all processors)")
