"""Synthetic whole-body FDG PET/CT studies with lesions, to train and test without patients.

`make_phantom(seed)` draws a body, paints its organs and lesions, and images it on one of six scanners. The same
seed and site give the same study, to the bit, on one machine and set of libraries. Anatomy, uptake, lesions and
scan have random streams of their own.

Seeds: 0 to 99,999 train, 100,000 to 199,999 validate and select, 200,000 and above test; the sample
study of the tests comes from the last range. Site F (training.phantom.physics.HELD_OUT_SITE) is never used in
training or selection, whatever the seed. docs/phantoms.md says what is modelled, and how well.

    python -m training phantoms --seed 7 --site A --output DIR --count 3

With --maps the organs are those of a real patient's organ map, and the model's body is fitted around them
(training/phantom/fitted.py). A map serves seeds of one of the three ranges alone.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from model.errors import ConfigError, OutputError
from model.whole import Staging
from training.parallel import map_parallel
from training.phantom import physics
from training.phantom.anatomy import draw_build, paint_body
from training.phantom.fitted import paint_fitted
from training.phantom.lesions import Cloud, PhantomLesion, draw_diagnosis, draw_lesions, occupancy
from training.phantom.maps import MapFile, find_maps, read_map
from training.phantom.organs import paint_organs
from training.phantom.scan import fill, nearest_labels, scan_ct, scan_pet
from training.phantom.shapes import Canvas, Frame, Triple, make_frame
from training.phantom.table import TABLE, read_rows, study_name, study_paths, write_row
from training.phantom.tissues import LABELS, draw_hu, draw_suv
from training.phantom.uptake import draw_measured_suv

if TYPE_CHECKING:
    import SimpleITK

TRAINING_SEEDS, VALIDATION_SEEDS, TEST_SEEDS_FROM = (0, 100_000), (100_000, 200_000), 200_000
VERSION = 1  # of the phantoms: raise it when a change of this room makes another study of the same seed
MODEL_X_MM, MODEL_Y_MM = (-290.0, 290.0), (-195.0, 175.0)


@dataclass(frozen=True)
class Phantom:
    """One study: arrays (z, y, x); spacings and origins (x, y, z) in mm, LPS, identity direction."""

    pet: np.ndarray  # float32 SUV
    ct: np.ndarray  # int16 HU, on a grid of its own
    truth: np.ndarray  # uint8 {0, 1} on the PET grid
    pet_spacing_mm: Triple
    pet_origin_mm: Triple
    ct_spacing_mm: Triple
    ct_origin_mm: Triple
    lesions: list[PhantomLesion]  # centres in the coordinates of the PET
    diagnosis: str
    seed: int
    site: str
    patient: str  # whose study it is: that of its seed at all sites, or of its organ map
    organs: np.ndarray | None = None  # uint8 labels on the PET grid (training.phantom.tissues.LABELS), if asked for


def make_phantom(
    seed: int,
    site: str = "A",
    diagnosis: str | None = None,
    keep_organs: bool = False,
    maps: Sequence[MapFile] = (),
    on_pet_grid: bool = False,
) -> Phantom:
    """Make the study of a seed at a site (a key of training.phantom.physics.SITES).

    maps: organ maps of real patients, one of which the seed chooses for the organs; none: the model's own organs.
    on_pet_grid: the body is painted on the PET's voxels, and the CT has them, too: made in a third of the time.
    diagnosis: "negative", "melanoma", "lung cancer", "lymphoma", "sarcoma", "positive" (any but
    negative), or None: drawn, half of them negative. A negative study has an empty truth.
    Raises ValueError for an unknown site or diagnosis.
    """
    if site not in physics.SITES:
        raise ValueError(f"unknown site {site!r}: must be one of {list(physics.SITES)}")
    scanner = physics.SITES[site]
    if on_pet_grid:
        scanner = replace(scanner, ct_spacing_mm=scanner.pet_spacing_mm)
    body_rng, tissue_rng, lesion_rng, scan_rng = (
        np.random.default_rng(stream) for stream in np.random.SeedSequence(seed).spawn(4)
    )
    diagnosis = draw_diagnosis(lesion_rng, diagnosis)
    if maps:
        chosen = maps[int(np.random.default_rng(np.random.SeedSequence([seed, len(maps)])).integers(len(maps)))]
        frame, labels = _draw_real_patient(body_rng, scanner, chosen)
        suv = draw_measured_suv(tissue_rng, labels)
    else:
        chosen, (frame, labels) = None, _draw_patient(body_rng, scanner)
        suv = draw_suv(tissue_rng)
    hu = draw_hu(tissue_rng, bool(tissue_rng.random() < scanner.contrast_share))
    pairs = draw_lesions(lesion_rng, frame, labels, suv, diagnosis)
    activity, density = fill(frame, labels, suv, hu, pairs)
    world = np.round(scan_rng.uniform((-20, -20, -900), (20, 20, 100)), 2)  # zero of the scanner room
    shift = scan_rng.normal(0, (1.0, 1.0, 1.6)) + (0, 0, scan_rng.uniform(-1, 1))
    shift *= min(1.0, float(4 / np.linalg.norm(shift)))
    pet, origin = scan_pet(scan_rng, frame, activity, scanner, float(suv[LABELS["liver"]]), shift)
    ct, ct_origin = scan_ct(scan_rng, frame, density, labels, scanner)
    truth = draw_truth(pairs, pet.shape, scanner.pet_spacing_mm, origin - shift)
    return Phantom(
        pet=pet,
        ct=ct,
        truth=truth,
        pet_spacing_mm=scanner.pet_spacing_mm,
        pet_origin_mm=_triple(origin + world),
        ct_spacing_mm=scanner.ct_spacing_mm,
        ct_origin_mm=_triple(ct_origin + world),
        lesions=[_moved(lesion, shift + world) for lesion, _ in pairs],
        diagnosis=diagnosis,
        seed=seed,
        site=site,
        patient=chosen.patient if chosen else f"phantom-{seed:06d}",
        organs=nearest_labels(frame, labels, pet.shape, scanner.pet_spacing_mm, origin - shift)
        if keep_organs
        else None,
    )


def draw_truth(
    pairs: list[tuple[PhantomLesion, Cloud]], shape: tuple[int, int, int], spacing_mm: Triple, origin_mm: np.ndarray
) -> np.ndarray:
    """Truth (z, y, x) uint8: voxels more than half inside the lesions, and at least one of each."""
    filled = np.zeros(shape, np.float32)
    shares = [occupancy(c, np.ones(len(c.dead), bool), shape, spacing_mm, origin_mm) for _, c in pairs]
    for box, share in shares:
        filled[box] += share
    truth = (filled > 0.5).astype(np.uint8)
    for box, share in shares:
        if share.size and not truth[box][share > 0].any():
            truth[box][np.unravel_index(share.argmax(), share.shape)] = 1
    return truth


def to_images(phantom: Phantom) -> tuple["SimpleITK.Image", "SimpleITK.Image", "SimpleITK.Image"]:
    """PET, CT and truth as SimpleITK images that say in their header that they are synthetic."""
    import SimpleITK as sitk

    images = []
    for modality, array in (("PET", phantom.pet), ("CT", phantom.ct), ("TRUTH", phantom.truth)):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(phantom.ct_spacing_mm if modality == "CT" else phantom.pet_spacing_mm)
        image.SetOrigin(phantom.ct_origin_mm if modality == "CT" else phantom.pet_origin_mm)
        image.SetMetaData("Synthetic", f"SYNTHETIC {modality}, no patient: seed {phantom.seed}, site {phantom.site}")
        images.append(image)
    return tuple(images)


def write_study(phantom: Phantom, folder: str | Path, name: str) -> list[Path]:
    """Write images/pet/<name>_pet.mha, images/ct/<name>_ct.mha and truth/<name>_ct.mha, compressed: all or none.

    The truth is named after the CT, as a prediction is. Returns the three paths. Raises OutputError if they cannot
    be written.
    """
    import SimpleITK as sitk

    paths = study_paths(Path(folder), name)
    with Staging() as staging:
        try:
            for image, path in zip(to_images(phantom), paths, strict=True):
                sitk.WriteImage(image, str(staging.path(path, ending=".mha")), True)  # SimpleITK goes by the ending
        except RuntimeError as error:
            raise OutputError(
                f"cannot write study {name} into '{folder}': {error}; check free space and write permission"
            ) from None
        staging.commit()
    return paths


def missing_seeds(options: argparse.Namespace) -> list[int]:
    """The seeds whose study is not complete in the folder: files and row.

    Raises ConfigError for seeds below 0, an unknown diagnosis, or a study that is there with another diagnosis.
    """
    if options.seed < 0 or options.count < 1:
        raise ConfigError(f"--seed must be 0 or more and --count 1 or more, got {options.seed} and {options.count}")
    rows, missing = read_rows(options.output), []
    for seed in range(options.seed, options.seed + options.count):
        name = study_name(seed, options.site, options.maps is not None, options.on_pet_grid)
        try:  # drawn from the same stream as in make_phantom
            wanted = draw_diagnosis(np.random.default_rng(np.random.SeedSequence(seed).spawn(4)[2]), options.diagnosis)
        except ValueError as error:
            raise ConfigError(f"--diagnosis: {error}") from None
        if name not in rows or not all(path.is_file() for path in study_paths(options.output, name)):
            missing.append(seed)
        elif rows[name]["diagnosis"] != wanted:
            raise ConfigError(
                f"'{options.output}' holds {name} as {rows[name]['diagnosis']!r}, but {wanted!r} is asked for; "
                "give another folder, or delete it there"
            )
    return missing


def maps_for(seed: int, folder: Path | None) -> list[MapFile]:
    """The organ maps of the side that a seed belongs to; none without a folder. Raises ConfigError if it has none."""
    if folder is None:
        return []
    return find_maps(folder, "train" if seed < TRAINING_SEEDS[1] else "test" if seed >= TEST_SEEDS_FROM else "validate")


def make_study(
    seed: int,
    site: str,
    diagnosis: str | None,
    folder: Path,
    maps_folder: Path | None = None,
    on_pet_grid: bool = False,
) -> str:
    """Make one study; write its files and its row. Returns a line to print about it."""
    maps = maps_for(seed, maps_folder)
    phantom = make_phantom(seed, site, diagnosis, maps=maps, on_pet_grid=on_pet_grid)
    name = study_name(seed, site, bool(maps), on_pet_grid)
    write_study(phantom, folder, name)
    write_row(folder, name, phantom.patient, site, phantom.diagnosis)
    volume = sum(lesion.volume_ml for lesion in phantom.lesions)
    return f"seed {seed} site {site}: {phantom.diagnosis}, {len(phantom.lesions)} lesions, {volume:.1f} ml"


def run(options: argparse.Namespace) -> None:
    """Write the studies that are missing, and print a line for each. Raises ConfigError or OutputError."""
    make = partial(
        make_study,
        site=options.site,
        diagnosis=options.diagnosis,
        folder=options.output,
        maps_folder=options.maps,
        on_pet_grid=options.on_pet_grid,
    )
    missing = missing_seeds(options)
    for seed in {missing[0], missing[-1]} if missing else ():
        maps_for(seed, options.maps)  # a folder without maps is an error before the first study
    for line in map_parallel(make, missing, options.workers):
        tqdm.write(line)
    print(f"'{options.output / TABLE}': {len(missing)} studies made, {options.count - len(missing)} were there already")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.description = "Write synthetic PET/CT studies with their truth."
    parser.epilog = (
        "Cost: about 10 s a study and 1 GB a process. A study that is there, files and row of studies.csv, is "
        "not made again; delete it to have it made by a changed generator."
    )
    parser.add_argument("--seed", type=int, required=True, help="seed of the first study")
    parser.add_argument("--site", default="A", choices=list(physics.SITES), help="scanner (default A, 4 mm voxels)")
    parser.add_argument("--diagnosis", default=None, help="a diagnosis, or positive (default: drawn, half negative)")
    parser.add_argument(
        "--maps",
        type=Path,
        metavar="FOLDER",
        help="folder of real patients' organ maps, around which bodies are painted; training/phantom/maps has five for "
        "training seeds (default: the model's own organs; cost: none)",
    )
    parser.add_argument(
        "--on-pet-grid",
        action="store_true",
        help="paint bodies on the PET's voxels, which the CT has then, too (default: on the CT's finer voxels; cost: a "
        "third of the time, and coarser edges)",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write into, made if absent")
    parser.add_argument("--count", type=int, default=1, help="how many studies, seeds one apart (default 1)")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default 1)")


def _triple(values: np.ndarray) -> Triple:
    """Three floats rounded to 1e-4 mm."""
    x, y, z = (round(float(value), 4) for value in values)
    return x, y, z


def _moved(lesion: PhantomLesion, shift: np.ndarray) -> PhantomLesion:
    """The lesion with its centre moved."""
    return PhantomLesion(lesion.kind, lesion.volume_ml, lesion.suv, _triple(np.asarray(lesion.centre_mm) + shift))


def _draw_real_patient(rng: np.random.Generator, scanner: physics.Site, file: MapFile) -> tuple[Frame, np.ndarray]:
    """Frame and labels (z, y, x) of a patient with the organs of a map, scanned from the skull base or beyond it."""
    build = draw_build(rng, scanner.arms_up_share)
    top_z = None if scanner.whole_head else float(rng.uniform(752, 790))
    return paint_fitted(read_map(file), build, scanner.ct_spacing_mm, top_z, rng)


def _draw_patient(rng: np.random.Generator, scanner: physics.Site) -> tuple[Frame, np.ndarray]:
    """Frame and labels (z, y, x) of a patient on the model grid, whose voxels are the CT's."""
    build = draw_build(rng, scanner.arms_up_share)
    tall, wide = np.clip(rng.normal(0.98, 0.055), 0.86, 1.1), np.clip(rng.normal(0.98, 0.05), 0.87, 1.08)
    scale = (wide * rng.uniform(0.97, 1.03), wide * rng.uniform(0.95, 1.05), tall)
    waves = [(rng.uniform(0, 4), rng.uniform(500, 900), rng.uniform(0, 6.28)) for _ in range(2)]
    low = rng.uniform(-250, -190) * tall
    base = rng.uniform(752, 790) * tall
    high = 935 * tall if scanner.whole_head else base
    x, y, z = scanner.ct_spacing_mm
    shape = (int((high - low) / z), int((MODEL_Y_MM[1] - MODEL_Y_MM[0]) / y), int((MODEL_X_MM[1] - MODEL_X_MM[0]) / x))
    frame = make_frame(shape, scanner.ct_spacing_mm, (MODEL_X_MM[0], MODEL_Y_MM[0], float(low)), scale, waves)
    labels = np.zeros(shape, np.uint8)
    canvas = Canvas(frame, labels, rng)
    paint_body(canvas, build)
    paint_organs(canvas, build)
    return frame, labels
