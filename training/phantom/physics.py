"""The scanners: what turns activity and HU into the PET and CT of one site.

One sparse matrix for each axis holds point spread, voxel size, breathing and the shift against the CT, so the
PET is linear in the activity, but for its noise. Blur and noise are those of clinical whole-body scans:
Boellaard et al., EANM guidelines 2.0, Eur J Nucl Med Mol Imaging 42:328-354 (2015). The variance
follows the counts and the attenuation of the slice, as in a reconstruction with few iterations.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_filter1d
from scipy.sparse import csr_matrix

AIR_HU = -1000
SUV_STEP = 1 / 256  # SUV is stored in such steps, so that a compressed file stays small
WATER_PER_MM = 0.0096  # attenuation at 511 keV


@dataclass(frozen=True)
class Site:
    """One scanner and its protocol."""

    pet_spacing_mm: tuple[float, float, float]  # x, y, z
    pet_matrix: int  # voxels in x and in y
    ct_spacing_mm: tuple[float, float, float]
    ct_field_mm: float  # side and diameter of the CT's field of view
    blur_mm: float  # FWHM of the point spread
    liver_noise: float  # coefficient of variation in the liver
    calibration: float  # factor on every SUV
    ct_noise_hu: float
    whole_head: bool  # from the vertex, or from the skull base
    arms_up_share: float
    contrast_share: float


SITES: dict[str, Site] = {
    "A": Site((4.0, 4.0, 4.0), 144, (2.0, 2.0, 3.0), 560, 6.0, 0.13, 1.00, 9, True, 0.85, 0.3),
    "B": Site((5.47, 5.47, 3.27), 112, (2.0, 2.0, 3.27), 540, 7.0, 0.17, 0.94, 12, False, 0.9, 0.0),
    "C": Site((2.6, 2.6, 2.8), 224, (1.8, 1.8, 2.8), 560, 4.5, 0.18, 1.05, 14, True, 0.6, 0.5),
    "D": Site((4.07, 4.07, 3.0), 160, (2.0, 2.0, 3.0), 600, 5.0, 0.14, 0.98, 9, True, 0.5, 0.8),
    "E": Site((2.04, 2.04, 3.0), 288, (2.04, 2.04, 3.0), 588, 5.5, 0.15, 1.00, 10, True, 0.7, 0.8),
    "F": Site((4.0, 4.0, 4.0), 152, (1.9, 1.9, 2.5), 500, 6.8, 0.16, 0.92, 11, True, 0.65, 0.6),
}
HELD_OUT_SITE = "F"  # never used in training or selection: it tests networks on a scanner they have never met
TRAINING_SITES = tuple(site for site in SITES if site != HELD_OUT_SITE)


def sample_matrix(
    count: int, spacing_mm: float, origin_mm: float, source: np.ndarray, fwhm_mm: float, moved_mm: np.ndarray | float
) -> csr_matrix:
    """Matrix (count, len(source)): Gaussian means of a line of samples at `source` (mm), rows sum to 1.

    The width of a row is the point spread, the voxel's own box (variance spacing**2 / 12) and, in the
    same way, a movement of moved_mm peak to peak, which may differ from row to row. A row outside the
    source is zero.
    """
    at = origin_mm + spacing_mm * np.arange(count)
    sigma = np.sqrt((fwhm_mm / 2.355) ** 2 + spacing_mm**2 / 12 + np.broadcast_to(moved_mm, count) ** 2 / 12)
    distance = (source[None, :] - at[:, None]) / sigma[:, None]
    weight = np.where(np.abs(distance) < 3, np.exp(-0.5 * distance**2), 0.0)
    step = abs(float(source[1] - source[0]))
    full = sigma * 2.5 / step  # the sum of a row wholly inside the source, nearly: outside there is air
    weight = weight / np.maximum(weight.sum(1), full)[:, None]
    return csr_matrix(weight.astype(np.float32))


def sample(volume: np.ndarray, matrices: tuple[csr_matrix, csr_matrix, csr_matrix]) -> np.ndarray:
    """Apply one matrix an axis (z, y, x) to a float32 volume (z, y, x)."""
    for axis, matrix in enumerate(matrices):
        moved = np.moveaxis(volume, axis, 0)
        flat = matrix @ np.ascontiguousarray(moved).reshape(moved.shape[0], -1)
        volume = np.moveaxis(flat.reshape(matrix.shape[0], *moved.shape[1:]), 0, axis)
    return np.ascontiguousarray(volume)


def breathing(z_mm: np.ndarray, dome_mm: float, depth_mm: float) -> np.ndarray:
    """Movement (mm, peak to peak) at heights z_mm: depth_mm at the diaphragm, none 250 mm away."""
    return depth_mm * np.exp(-0.5 * ((z_mm - dome_mm) / 80.0) ** 2)


def texture(rng: np.random.Generator, shape: tuple[int, int, int], sigma: tuple[float, ...]) -> np.ndarray:
    """Gaussian random field of mean 0 and variance 1, blurred by sigma voxels (z, y, x)."""
    field: np.ndarray = gaussian_filter(rng.standard_normal(shape, np.float32), sigma, mode="wrap", truncate=3)
    return field / np.float32(field.std())


def add_noise(rng: np.random.Generator, suv: np.ndarray, site: Site, liver_suv: float, liver_slice: int) -> np.ndarray:
    """PET noise: std = liver_noise * sqrt(suv * liver_suv), correlated, scaled by each slice's attenuation.

    suv: float32 (z, y, x) without noise; returns the same shape, not below 0.
    """
    x, y, z = site.pet_spacing_mm
    sigma = 0.95 * site.blur_mm / 2.355  # as wide as the point spread, as in a clinical scan
    field = texture(rng, suv.shape, (0.75 * sigma / z, sigma / y, sigma / x))
    thickness = np.sqrt((suv > 0.15).sum((1, 2)) * x * y)
    thickness = gaussian_filter1d(thickness.astype(float), 20 / z, mode="nearest")
    slice_gain = np.exp(0.5 * WATER_PER_MM * (thickness - thickness[liver_slice]))
    slice_gain = np.clip(slice_gain, 0.35, 1.6).astype(np.float32)
    field *= np.sqrt(np.maximum(suv, 0) * np.float32(liver_suv)) * np.float32(site.liver_noise)
    field *= slice_gain[:, None, None]
    noisy: np.ndarray = np.maximum(suv + field, 0)
    return noisy


def finish_pet(rng: np.random.Generator, suv: np.ndarray, site: Site) -> np.ndarray:
    """Calibrate, add the faint background of air, round up to SUV_STEP, zero outside the circle.

    Inside the reconstruction circle nothing is 0, so that PET > 0 finds the circle.
    """
    suv = suv * np.float32(site.calibration)
    suv += np.float32(0.0012) * rng.standard_exponential(suv.shape, np.float32)
    suv = np.maximum(np.ceil(suv / np.float32(SUV_STEP)), 1) * np.float32(SUV_STEP)
    middle = (site.pet_matrix - 1) / 2
    off = np.arange(site.pet_matrix) - middle
    radius = site.pet_matrix / 2 - 3
    suv[:, off[:, None] ** 2 + off[None, :] ** 2 > radius**2] = 0
    return suv


def finish_ct(rng: np.random.Generator, hu: np.ndarray, body: np.ndarray, site: Site) -> np.ndarray:
    """CT of a float32 HU volume: soft edges, noise in the body, int16 in [-1000, 3071].

    hu and body (bool): (z, y, x) on the CT grid; air outside the body stays exactly -1000.
    """
    hu = gaussian_filter(hu, (0.3, 0.55, 0.55), mode="nearest", truncate=2.5)
    width = np.sqrt(body.sum((1, 2)) * site.ct_spacing_mm[0] * site.ct_spacing_mm[1])
    gain = np.clip(np.exp(0.004 * (width - 270)), 0.4, 2.0).astype(np.float32)
    noise = rng.standard_normal(hu.shape, np.float32)
    noise = gaussian_filter1d(gaussian_filter1d(noise, 0.6, 1, truncate=2), 0.6, 2, truncate=2) * np.float32(2.1)
    hu += np.where(body, noise * gain[:, None, None] * np.float32(site.ct_noise_hu), 0)
    finished: np.ndarray = np.clip(np.rint(hu), AIR_HU, 3071).astype(np.int16)
    return finished


def add_table(hu: np.ndarray, x_mm: np.ndarray, y_mm: np.ndarray, top_mm: float) -> None:
    """Draw a patient table, in place, where there is air: a thin curved shell over foam.

    x_mm, y_mm: positions of the columns and rows; top_mm: the table's surface under the middle.
    """
    depth = y_mm[:, None] - (top_mm - x_mm[None, :] ** 2 / 1400)
    within = (np.abs(x_mm) < 215)[None, :] & (y_mm[:, None] < top_mm + 32)
    table = np.where((depth < 3) | (y_mm[:, None] > top_mm + 29), np.float32(-120), np.float32(-880))
    inside = within & (depth >= 0)
    for plane in hu:
        air = inside & (plane < -900)
        plane[air] = table[air]
