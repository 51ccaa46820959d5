"""From a painted body to the PET and CT of one site: activity and HU on the model grid, then on the scanner's."""

import numpy as np

from training.phantom import physics
from training.phantom.lesions import Cloud, PhantomLesion, occupancy
from training.phantom.physics import Site
from training.phantom.shapes import Frame, Triple, height_mm


def fill(
    frame: Frame, labels: np.ndarray, suv: np.ndarray, hu: np.ndarray, pairs: list[tuple[PhantomLesion, Cloud]]
) -> tuple[np.ndarray, np.ndarray]:
    """Activity (SUV) and density (HU) on the model grid, float32 (z, y, x), lesions mixed in."""
    activity, density = suv[labels], hu[labels]
    for lesion, cloud in pairs:
        for keep, level, number in ((~cloud.dead, lesion.suv, cloud.hu), (cloud.dead, cloud.dead_suv, 18.0)):
            box, share = occupancy(cloud, keep, labels.shape, frame.spacing_mm, frame.origin_mm)
            if share.size:
                activity[box] += share * (np.float32(level) - activity[box])
                density[box] += share * (np.float32(number) - density[box])
    return activity, density


def scan_pet(
    rng: np.random.Generator, frame: Frame, activity: np.ndarray, scanner: Site, liver_suv: float, shift: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """PET (z, y, x) and its origin before the room's offset; shift (mm) moves it against the CT."""
    x, y, z = scanner.pet_spacing_mm
    lines = [frame.origin_mm[a] + frame.spacing_mm[a] * np.arange(frame.shape[2 - a]) + shift[a] for a in range(3)]
    slices = int((lines[2][-1] - lines[2][0]) / z)
    half = (scanner.pet_matrix - 1) / 2
    origin = np.array([-half * x, -half * y, lines[2][0]]) + rng.uniform((-6, -10, 0), (6, 25, z))
    heights = origin[2] + z * np.arange(slices)
    moved = physics.breathing(heights, height_mm(frame, 430), rng.uniform(4, 16))
    matrices = (
        physics.sample_matrix(slices, z, origin[2], lines[2], scanner.blur_mm, moved),
        physics.sample_matrix(scanner.pet_matrix, y, origin[1], lines[1], scanner.blur_mm, 0.0),
        physics.sample_matrix(scanner.pet_matrix, x, origin[0], lines[0], scanner.blur_mm, 0.0),
    )
    suv = physics.sample(activity, matrices)
    suv *= 1 + np.float32(0.05) * physics.texture(rng, suv.shape, (14 / z, 14 / y, 14 / x))
    liver_slice = int(np.clip((height_mm(frame, 360) - origin[2]) / z, 0, slices - 1))
    suv = physics.add_noise(rng, suv, scanner, liver_suv, liver_slice)
    return physics.finish_pet(rng, suv, scanner), origin


def scan_ct(
    rng: np.random.Generator, frame: Frame, density: np.ndarray, labels: np.ndarray, scanner: Site
) -> tuple[np.ndarray, np.ndarray]:
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


def nearest_labels(
    frame: Frame, labels: np.ndarray, shape: tuple[int, ...], spacing_mm: Triple, origin_mm: np.ndarray
) -> np.ndarray:
    """Labels at the centres of another grid's voxels, air outside the model grid."""
    index, inside = [], []
    for axis, count in enumerate(shape):
        at = origin_mm[2 - axis] + spacing_mm[2 - axis] * np.arange(count)
        place = np.rint((at - frame.origin_mm[2 - axis]) / frame.spacing_mm[2 - axis]).astype(int)
        inside.append((place >= 0) & (place < labels.shape[axis]))
        index.append(np.clip(place, 0, labels.shape[axis] - 1))
    picked = labels[np.ix_(*index)]
    z, y, x = inside
    kept: np.ndarray = picked * (z[:, None, None] & y[:, None] & x)
    return kept
