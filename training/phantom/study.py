"""Synthetic whole-body FDG PET/CT studies with lesions, to train and test without patients.

`make_phantom(seed)` draws a body, paints its organs and lesions, and images it on one of six scanners;
the same seed and site give the same study to the bit on one machine and set of libraries. Anatomy,
uptake, lesions and scan have random streams of their own.

Seeds: 0 to 99,999 train, 100,000 to 199,999 validate and select, 200,000 and above test; the sample
study of the tests comes from the last range. Site F (phantom_physics.UNSEEN_SITE) is never used in
training or selection, whatever the seed. What is modelled, and how well: docs/phantoms.md.

    python -m training phantoms --seed 7 --site A --output DIR --count 3
"""

import argparse
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from model.errors import ConfigError, OutputError
from model.whole import Staging
from training.command import ENDS, told
from training.parallel import over
from training.phantom import physics
from training.phantom.anatomy import draw_build, paint_body
from training.phantom.lesions import Cloud, Lesion, draw_diagnosis, draw_lesions, occupancy
from training.phantom.organs import paint_organs
from training.phantom.shapes import Canvas, Frame, make_frame
from training.phantom.table import TABLE, read_rows, study_name, study_paths, write_row
from training.phantom.tissues import LABELS, draw_hu, draw_suv

if TYPE_CHECKING:
    import SimpleITK

TRAINING_SEEDS, VALIDATION_SEEDS, TEST_SEEDS_FROM = (0, 100_000), (100_000, 200_000), 200_000
MODEL_X_MM, MODEL_Y_MM = (-290.0, 290.0), (-195.0, 175.0)
Triple = tuple[float, float, float]


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
    lesions: list[Lesion]  # centres in the coordinates of the PET
    diagnosis: str
    seed: int
    site: str
    organs: np.ndarray | None = None  # uint8 labels on the PET grid (phantom_tissues.LABELS), if asked for


def make_phantom(seed: int, site: str = "A", diagnosis: str | None = None, keep_organs: bool = False) -> Phantom:
    """Make the study of a seed at a site (a key of phantom_physics.SITES).

    diagnosis: "negative", "melanoma", "lung cancer", "lymphoma", "sarcoma", "positive" (any but
    negative), or None: drawn, half of them negative. A negative study has an empty truth.
    Raises ValueError for an unknown site or diagnosis.
    """
    if site not in physics.SITES:
        raise ValueError(f"unknown site {site!r}: must be one of {list(physics.SITES)}")
    scanner = physics.SITES[site]
    body_rng, tissue_rng, lesion_rng, scan_rng = (
        np.random.default_rng(stream) for stream in np.random.SeedSequence(seed).spawn(4)
    )
    diagnosis = draw_diagnosis(lesion_rng, diagnosis)
    frame, labels = _draw_patient(body_rng, scanner)
    suv, hu = draw_suv(tissue_rng), draw_hu(tissue_rng, bool(tissue_rng.random() < scanner.contrast_share))
    pairs = draw_lesions(lesion_rng, frame, labels, suv, diagnosis)
    activity, density = _fill(frame, labels, suv, hu, pairs)
    world = np.round(scan_rng.uniform((-20, -20, -900), (20, 20, 100)), 2)  # where the room's zero is
    shift = scan_rng.normal(0, (1.0, 1.0, 1.6)) + (0, 0, scan_rng.uniform(-1, 1))
    shift *= min(1.0, 4 / np.linalg.norm(shift))
    pet, origin = _scan_pet(scan_rng, frame, activity, scanner, float(suv[LABELS["liver"]]), shift)
    ct, ct_origin = _scan_ct(scan_rng, frame, density, labels, scanner)
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
        organs=_nearest(frame, labels, pet.shape, scanner.pet_spacing_mm, origin - shift) if keep_organs else None,
    )


def draw_truth(
    pairs: list[tuple[Lesion, Cloud]], shape: tuple[int, int, int], spacing_mm: Triple, origin_mm: np.ndarray
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
    """Write images/pet/<name>_pet.mha, images/ct/<name>_ct.mha and truth/<name>_ct.mha, compressed.

    The truth is named after the CT, as a prediction is. The files are renamed into place when all three are
    written. Returns the three paths. Raises OutputError if they cannot be written.
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
        name = study_name(seed, options.site)
        try:  # the stream of lesions is drawn from as in make_phantom
            wanted = draw_diagnosis(np.random.default_rng(np.random.SeedSequence(seed).spawn(4)[2]), options.diagnosis)
        except ValueError as error:
            raise ConfigError(f"--diagnosis: {error}") from None
        if name not in rows or not all(path.is_file() for path in study_paths(options.output, name)):
            missing.append(seed)
        elif rows[name]["diagnosis"] != wanted:
            raise ConfigError(
                f"'{options.output}' holds {name} as {rows[name]['diagnosis']!r} and {wanted!r} is asked for; "
                "give another folder, or delete it there"
            )
    return missing


def make_study(seed: int, site: str, diagnosis: str | None, folder: Path) -> str:
    """Make one study, write its files and its row. Returns a line about it."""
    phantom = make_phantom(seed, site, diagnosis)
    write_study(phantom, folder, study_name(seed, site))
    write_row(folder, seed, site, phantom.diagnosis)
    volume = sum(lesion.volume_ml for lesion in phantom.lesions)
    return f"seed {seed} site {site}: {phantom.diagnosis}, {len(phantom.lesions)} lesions, {volume:.1f} ml"


def main(arguments: list[str] | None = None) -> int:
    """Command line: write the studies that are missing, and print one line for each. Returns the exit code."""
    options = parse(arguments)
    make = partial(make_study, site=options.site, diagnosis=options.diagnosis, folder=options.output)
    try:
        missing = missing_seeds(options)
        for line in over(make, missing, options.workers):
            tqdm.write(line)
    except ENDS as error:
        return told(error)
    print(f"'{options.output / TABLE}': {len(missing)} studies made, {options.count - len(missing)} were there already")
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training phantoms",
        description="Write synthetic PET/CT studies with their truth.",
        epilog="Cost: about 10 s a study and 1 GB a process. A study that is there, files and row of studies.csv, is "
        "not made again; delete it to have it made by a changed generator.",
    )
    parser.add_argument("--seed", type=int, required=True, help="seed of the first study")
    parser.add_argument("--site", default="A", choices=list(physics.SITES), help="scanner (default A, 4 mm voxels)")
    parser.add_argument("--diagnosis", default=None, help="a diagnosis, or positive (default: drawn, half negative)")
    parser.add_argument("--output", type=Path, required=True, help="folder to write into, made if absent")
    parser.add_argument("--count", type=int, default=1, help="how many studies, seeds one apart (default 1)")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default 1)")
    return parser.parse_args(arguments)


def _triple(values: np.ndarray) -> Triple:
    """Three floats rounded to 1e-4 mm."""
    return tuple(round(float(v), 4) for v in values)


def _moved(lesion: Lesion, shift: np.ndarray) -> Lesion:
    """The lesion with its centre moved."""
    return Lesion(lesion.kind, lesion.volume_ml, lesion.suv, _triple(np.asarray(lesion.centre_mm) + shift))


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


def _fill(frame: Frame, labels: np.ndarray, suv: np.ndarray, hu: np.ndarray, pairs) -> tuple[np.ndarray, np.ndarray]:
    """Activity (SUV) and density (HU) on the model grid, float32 (z, y, x), lesions mixed in."""
    activity, density = suv[labels], hu[labels]
    for lesion, cloud in pairs:
        for keep, level, number in ((~cloud.dead, lesion.suv, cloud.hu), (cloud.dead, cloud.dead_suv, 18.0)):
            box, share = occupancy(cloud, keep, labels.shape, frame.spacing_mm, frame.origin_mm)
            if share.size:
                activity[box] += share * (np.float32(level) - activity[box])
                density[box] += share * (np.float32(number) - density[box])
    return activity, density


def _scan_pet(rng, frame: Frame, activity, scanner, liver_suv: float, shift) -> tuple[np.ndarray, np.ndarray]:
    """PET (z, y, x) and its origin before the room's offset; shift (mm) moves it against the CT."""
    x, y, z = scanner.pet_spacing_mm
    lines = [frame.origin_mm[a] + frame.spacing_mm[a] * np.arange(frame.shape[2 - a]) + shift[a] for a in range(3)]
    slices = int((lines[2][-1] - lines[2][0]) / z)
    half = (scanner.pet_matrix - 1) / 2
    origin = np.array([-half * x, -half * y, lines[2][0]]) + rng.uniform((-6, -10, 0), (6, 25, z))
    heights = origin[2] + z * np.arange(slices)
    moved = physics.breathing(heights, 430 * frame.scale[2], rng.uniform(4, 16))
    matrices = (
        physics.sample_matrix(slices, z, origin[2], lines[2], scanner.blur_mm, moved),
        physics.sample_matrix(scanner.pet_matrix, y, origin[1], lines[1], scanner.blur_mm, 0.0),
        physics.sample_matrix(scanner.pet_matrix, x, origin[0], lines[0], scanner.blur_mm, 0.0),
    )
    suv = physics.sample(activity, matrices)
    suv *= 1 + np.float32(0.05) * physics.texture(rng, suv.shape, (14 / z, 14 / y, 14 / x))
    liver_slice = int(np.clip((360 * frame.scale[2] - origin[2]) / z, 0, slices - 1))
    suv = physics.add_noise(rng, suv, scanner, liver_suv, liver_slice)
    return physics.finish_pet(rng, suv, scanner), origin


def _scan_ct(rng, frame: Frame, density, labels, scanner) -> tuple[np.ndarray, np.ndarray]:
    """CT (z, y, x) of the site's field of view and its origin, with the table under the patient."""
    x, y, z = scanner.ct_spacing_mm
    hu = physics.finish_ct(rng, density, labels > 0, scanner)
    size = int(scanner.ct_field_mm / x)
    middle_y = float(rng.uniform(-8, 12))
    start = [round((middle_y - size * y / 2 - frame.origin_mm[1]) / y), round((-size * x / 2 - frame.origin_mm[0]) / x)]
    ct = np.full((hu.shape[0], size, size), physics.AIR_HU, np.int16)
    source, target = [], []
    for begin, length in zip(start, hu.shape[1:], strict=True):
        source.append(slice(max(begin, 0), min(begin + size, length)))
        target.append(slice(source[-1].start - begin, source[-1].stop - begin))
    ct[:, target[0], target[1]] = hu[:, source[0], source[1]]
    origin = np.array([frame.origin_mm[0] + start[1] * x, frame.origin_mm[1] + start[0] * y, frame.origin_mm[2]])
    rows, columns = origin[1] + y * np.arange(size), origin[0] + x * np.arange(size)
    lowest = np.flatnonzero((labels > 0).any((0, 2)))[-1]
    physics.add_table(ct, columns, rows, frame.origin_mm[1] + y * lowest + 4)
    outside = (rows[:, None] - middle_y) ** 2 + columns[None, :] ** 2 > (scanner.ct_field_mm / 2) ** 2
    ct[:, outside] = physics.AIR_HU
    return ct, origin


def _nearest(frame: Frame, labels, shape, spacing_mm: Triple, origin_mm) -> np.ndarray:
    """Labels at the centres of another grid's voxels, air outside the model grid."""
    index, inside = [], []
    for axis, count in enumerate(shape):
        at = origin_mm[2 - axis] + spacing_mm[2 - axis] * np.arange(count)
        place = np.rint((at - frame.origin_mm[2 - axis]) / frame.spacing_mm[2 - axis]).astype(int)
        inside.append((place >= 0) & (place < labels.shape[axis]))
        index.append(np.clip(place, 0, labels.shape[axis] - 1))
    picked = labels[np.ix_(*index)]
    z, y, x = inside
    return picked * (z[:, None, None] & y[:, None] & x)
