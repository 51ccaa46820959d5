r"""Put patients' tumours into phantoms' bodies: new whole-body studies whose lesions are real.

    python -m training blend --patients real.csv --bodies phantoms.csv --output DIR --copies 3 --seed 1

A data set that was cropped around its tumours shows a network no other surroundings. Here each tumour, PET, CT and
contour, is put into a body, at a place inside it where it fits (training/data/tumours.py has the rules), half of the
times mirrored left to right. The truth is the body's own lesions and the tumour. DIR gets a folder for each study,
and an index.csv: cases are <case>-b<copy>, the patient is the tumour's, and the column `body` names the patient whose
body it is: training split, and the checks of every run, keep both on the training side.
"""

import argparse
import hashlib
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from model.errors import CaseError, ConfigError, OutputError, shown
from model.files import silence
from model.study.reading import read_volume
from training.data.check import check_grid
from training.data.places import find_place
from training.data.prepared import load
from training.data.table import Study, new_studies, origin_of, read_table, some_of, study_sha256, write_table
from training.data.tumours import Tumour, on_grid_of, put, take
from training.parallel import cores, map_parallel
from training.phantom.physics import HELD_OUT_SITE
from training.phantom.study import TRAINING_SEEDS
from training.phantom.table import seed_of

VERSION = 1  # of this file, places.py and tumours.py: raise it when the same seed gives another study
MOST_BODIES = 8  # tried for one tumour
COMPRESSION = 1  # of 9: a study is written in half a second


@dataclass(frozen=True, kw_only=True)
class Blend:
    """How many studies to make of each patient's tumours, and the seed of bodies, places and sides."""

    seed: int
    copies: int

    def __post_init__(self) -> None:
        if not 1 <= self.copies <= 10_000:
            raise ConfigError(f"--copies must be from 1 to 10000, got {self.copies}")
        if self.seed < 0:
            raise ConfigError(f"--seed must be 0 or more, got {self.seed}")


def check_bodies(bodies: dict[str, Study], patients: dict[str, Study], index: Path) -> None:
    """Refuse bodies that may not train, or are the patients' own. Raises ConfigError naming them."""
    blended = [case for case, study in bodies.items() if study.body]
    if blended:
        raise ConfigError(
            f"--bodies '{index}' holds tumours already put into bodies ({some_of(blended)}): leave them out"
        )
    first, end = TRAINING_SEEDS
    found = {case: seed_of(case) for case in bodies}
    kept = [case for case, seed in found.items() if seed and not (seed[0] != HELD_OUT_SITE and first <= seed[1] < end)]
    if kept:
        raise ConfigError(
            f"--bodies '{index}' holds phantoms that must never train ({some_of(kept)}): those of seeds from {end} on "
            f"validate and test, and site {HELD_OUT_SITE} tests; give phantoms of training seeds"
        )
    own = {study.patient for study in bodies.values()} & {study.patient for study in patients.values()}
    if own:
        raise ConfigError(f"--bodies '{index}' holds the patients' own studies ({some_of(own)}): give other bodies")


def blend_study(
    job: tuple[Study, int], bodies: list[Study], settings: Blend, cache: Path | None, folder: Path, final: Path
) -> Study | str:
    """Write one study below `folder` and return its row, whose paths lie below `final`, where the folder will be.

    Returns a line that says why not if the tumour fits into none of MOST_BODIES bodies. Raises CaseError if a study
    cannot be read, OutputError if the new one cannot be written.
    """
    study, copy = job
    tumour = read_tumour(study, cache)
    digest = hashlib.sha256(f"{study.case}/{copy}".encode()).digest()
    rng = np.random.default_rng([settings.seed, *digest])
    mirrored = bool(rng.random() < 0.5)
    chosen = rng.permutation(len(bodies))[:MOST_BODIES]
    for number in chosen:
        body = bodies[int(number)]
        images = read_images(body, cache)
        at = find_place(rng, tumour, (images[0], on_grid_of(images[1], images[0]), images[2]), mirrored)
        if at is not None:
            made = f"blend {VERSION}, seed {settings.seed}: {origin_of(study)} in {body.case}"
            new = replace(study, case=f"{study.case}-b{copy}", body=body.patient, made=made)
            return write_blended(new, put(tumour, images, at, mirrored), (folder, final))
    names = some_of(bodies[int(number)].case for number in chosen)
    return (
        f"{study.case}-b{copy}: its tumour of {study.lesion_ml:.0f} ml fits into none of {len(chosen)} bodies ({names})"
    )


def read_tumour(study: Study, cache: Path | None) -> Tumour:
    """A study's tumour. Raises CaseError if it cannot be read or has none."""
    try:
        return take(*read_images(study, cache))
    except CaseError as error:
        raise CaseError(f"{study.case}: {error}") from None


def read_images(study: Study, cache: Path | None) -> tuple[sitk.Image, sitk.Image, sitk.Image]:
    """PET, CT and truth of a study, from its files or, with a cache, as it was prepared: cropped, CT on the PET's grid.

    Raises CaseError if they cannot be read, ConfigError if the cache does not hold it.
    """
    if cache:
        found = load(cache, study.case)
        return tuple(las_image(array, found.spacing_mm) for array in (found.suv, found.hu, found.truth))
    pet, ct, truth = (
        read_volume(path, what) for what, path in (("PET", study.pet), ("CT", study.ct), ("truth", study.truth))
    )
    check_grid(truth, pet)
    return pet.image, ct.image, truth.image


def las_image(array: np.ndarray, spacing_mm: tuple[float, float, float]) -> sitk.Image:
    """A prepared array (X, Y, Z) as an image in LAS, the first voxel at zero: float32, int16 or uint8."""
    kind = {"f": np.float32, "i": np.int16, "b": np.uint8}[array.dtype.kind]
    image = sitk.GetImageFromArray(np.ascontiguousarray(np.asarray(array).transpose(2, 1, 0).astype(kind)))
    image.SetSpacing(spacing_mm)
    image.SetDirection((1, 0, 0, 0, -1, 0, 0, 0, 1))
    return image


def write_blended(new: Study, images: tuple[sitk.Image, sitk.Image, sitk.Image], folders: tuple[Path, Path]) -> Study:
    """Write PET, CT and truth into a folder of their own below the first folder; the row has paths in the second.

    new: the row as it is but for paths, volume and sha256.
    """
    folder, final = folders
    names = [Path(new.case) / f"{what}.mha" for what in ("pet", "ct", "truth")]
    try:
        (folder / new.case).mkdir()
        with silence():  # of texts in a body's file that a MetaImage cannot hold
            for image, name in zip(images, names, strict=True):
                sitk.WriteImage(image, str(folder / name), True, COMPRESSION)
        sha256 = study_sha256(*(folder / name for name in names))
    except (OSError, RuntimeError) as error:
        raise OutputError(
            f"cannot write '{final / new.case}': {error}; check free space and write permission"
        ) from None
    voxels = float(np.count_nonzero(sitk.GetArrayViewFromImage(images[2])))
    pet, ct, truth = (final / name for name in names)
    return replace(
        new,
        pet=pet,
        ct=ct,
        truth=truth,
        lesion_ml=voxels * float(np.prod(images[2].GetSpacing())) / 1000,
        sha256=sha256,
    )


def blend(
    patients: Path, bodies: Path, output: Path, settings: Blend, workers: int = 1, cache: Path | None = None
) -> list[Study]:
    """Put the tumours of one index into the bodies of another. Returns the rows of the new folder's index.csv.

    cache: take all of them from there, as they were prepared (default: from their files).

    Studies without lesion are left out; one whose tumour fits nowhere is named on stderr. Raises ConfigError for an
    index that cannot serve, CaseError if no study can be made, or for the first that cannot be read; then nothing is
    written.
    """
    studies, hosts = read_table(patients), read_table(bodies)
    check_bodies(hosts, studies, bodies)
    ill = [study for study in studies.values() if study.lesion_ml > 0 and not study.body]
    if not ill:
        raise ConfigError(
            f"--patients '{patients}' holds no study with a lesion of its own: there is no tumour to take"
        )
    jobs = [(study, copy) for study in ill for copy in range(settings.copies)]
    rows: list[Study] = []
    with new_studies(output) as (hidden, final):
        work = partial(
            blend_study, bodies=list(hosts.values()), settings=settings, cache=cache, folder=hidden, final=final
        )
        for found in map_parallel(work, jobs, workers):
            if isinstance(found, Study):
                rows.append(found)
            else:
                print(shown(f"left out: {found}"), file=sys.stderr)
        if not rows:
            raise CaseError(f"no tumour of '{patients}' fits into a body of '{bodies}'; give larger bodies")
        write_table(rows, hidden / "index.csv")
    return rows


def run(options: argparse.Namespace) -> None:
    """Write the studies. Raises ConfigError, CaseError or OutputError."""
    settings = Blend(seed=options.seed, copies=options.copies)
    rows = blend(options.patients, options.bodies, options.output, settings, options.workers)
    patients, bodies = {row.patient for row in rows}, {row.body for row in rows}
    print(
        f"wrote '{options.output / 'index.csv'}': {len(rows)} studies, tumours of {len(patients)} patients in the "
        f"bodies of {len(bodies)}"
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Cost: one to three seconds of a core and up to 1 GB a study and process; a study is as large on disk as its "
        "body. A tumour that fits into none of 8 bodies is named and left out."
    )
    add = parser.add_argument
    add("--patients", type=Path, required=True, metavar="CSV", help="index of the patients whose tumours are taken")
    add("--bodies", type=Path, required=True, metavar="CSV", help="index of whole-body phantoms of training seeds")
    add("--output", type=Path, required=True, metavar="DIR", help="new folder for the studies and their index.csv")
    add("--seed", type=int, required=True, help="seed of bodies, places and sides; the same gives the same studies")
    add("--copies", type=int, default=1, metavar="N", help="studies to make of each study with lesion (default: 1)")
    add("--workers", type=int, default=cores(), metavar="N", help="processes (default: all processors)")
