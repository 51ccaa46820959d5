"""Phantoms in numbers: statistics of studies, and the generator's settings as tables."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from training.phantom import lesions
from training.phantom.lesions import PhantomLesion
from training.phantom.maps import MapFile
from training.phantom.physics import HELD_OUT_SITE, SITES
from training.phantom.study import Phantom, make_phantom
from training.phantom.tissues import LABELS, MORE_TISSUES, TISSUES
from training.phantom.uptake import correlated, draw_uptake, published

THRESHOLDS = np.array([1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 10, 12, 15, 20])
PERCENTILES = (0, 5, 25, 50, 75, 95, 100)
EDGE_MM = 10.0  # further inside, blur and breathing mix in nothing from outside: 15 and 20 mm give the same figures


@dataclass(frozen=True)
class Facts:
    """One study as numbers."""

    seed: int
    site: str
    diagnosis: str
    lesions: list[PhantomLesion]
    truth_ml: float
    dice: np.ndarray  # of PET at or above each of THRESHOLDS; NaN without lesion
    body_l: float
    liver_suv: float  # of healthy_liver
    liver_variation: float  # of healthy_liver: standard deviation over mean
    seconds: float  # to make it, by the clock
    processor_seconds: float


def measure(seed: int, site: str, diagnosis: str | None = None, maps: Sequence[MapFile] = ()) -> Facts:
    """Make a study and measure it. maps: as for `make_phantom`."""
    start, processor_start = time.perf_counter(), time.process_time()
    phantom = make_phantom(seed, site, diagnosis, keep_organs=True, maps=maps)
    organs = organs_of(phantom)
    seconds, processor_seconds = time.perf_counter() - start, time.process_time() - processor_start
    voxel_ml = float(np.prod(phantom.pet_spacing_mm)) / 1000
    liver = phantom.pet[healthy_liver(phantom)]
    return Facts(
        seed=seed,
        site=site,
        diagnosis=phantom.diagnosis,
        lesions=phantom.lesions,
        truth_ml=float(phantom.truth.sum()) * voxel_ml,
        dice=threshold_dice(phantom.pet, phantom.truth, THRESHOLDS),
        body_l=float((organs > 0).sum()) * voxel_ml / 1000,
        liver_suv=float(liver.mean()),
        liver_variation=float(liver.std() / liver.mean()),
        seconds=seconds,
        processor_seconds=processor_seconds,
    )


def organs_of(phantom: Phantom) -> np.ndarray:
    """The labels that a phantom kept. Raises ValueError if it kept none."""
    if phantom.organs is None:
        raise ValueError(f"the phantom of seed {phantom.seed} kept no organs: make it with keep_organs")
    return phantom.organs


def healthy_liver(phantom: Phantom) -> np.ndarray:
    """Voxels of the liver, bool (z, y, x), more than EDGE_MM from its surface and from lesions."""
    mask: np.ndarray = np.equal(organs_of(phantom), LABELS["liver"])
    box = ndimage.find_objects(mask.view(np.uint8))[0]
    healthy = np.pad(mask[box] & (phantom.truth[box] == 0), 1)  # padded: the box's border is the liver's surface
    deep = ndimage.distance_transform_edt(healthy, sampling=phantom.pet_spacing_mm[::-1])
    found = np.zeros(mask.shape, bool)
    found[box] = deep[1:-1, 1:-1, 1:-1] > EDGE_MM
    return found


def threshold_dice(suv: np.ndarray, truth: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Dice of `suv >= threshold` for each of the ascending thresholds; NaN for an empty truth."""
    edges = np.append(thresholds, np.inf)
    marked, both = (np.histogram(values, edges)[0][::-1].cumsum()[::-1] for values in (suv, suv[truth > 0]))
    total = int(truth.sum())
    return 2 * both / (marked + total) if total else np.full(len(thresholds), np.nan)


def statistics(studies: list[Facts]) -> str:
    """Statistics of studies, as lines to print: diagnoses, lesions, liver, thresholds, seconds."""
    ill = [study for study in studies if study.lesions]
    every = [lesion for study in ill for lesion in study.lesions]
    sites = sorted({study.site for study in studies})
    lines = [
        f"{len(studies)} studies, seeds {studies[0].seed} to {studies[-1].seed}, sites {', '.join(sites)}",
        "diagnoses: " + _counts(Counter(study.diagnosis for study in studies)),
        "lesions: " + _counts(Counter(lesion.kind for lesion in every)),
        "",
        f"{'':34}" + "".join(f"{f'{p} %':>9}" for p in PERCENTILES) + f"{'mean':>9}",
        _spread("lesions a study with lesion", [len(study.lesions) for study in ill], 0),
        _spread("lesion ml a study with lesion", [study.truth_ml for study in ill], 1),
        _spread("volume of a lesion (ml)", [lesion.volume_ml for lesion in every], 1),
        _spread("SUV of a lesion's live part", [lesion.suv for lesion in every], 1),
        _spread("liver, mean SUV", [study.liver_suv for study in studies], 2),
        _spread("liver, coefficient of variation", [study.liver_variation for study in studies], 3),
        _spread("body (l)", [study.body_l for study in studies], 0),
        _spread("seconds a study", [study.seconds for study in studies], 1),
    ]
    for site in sites:
        times = [study.processor_seconds for study in studies if study.site == site]
        lines.append(_spread(f"processor seconds, site {site}", times, 1))
    if ill:
        mean = np.mean([study.dice for study in ill], axis=0)
        best = int(mean.argmax())
        lines += ["", "SUV at or above   mean Dice over the studies with lesion"]
        lines += [f"{threshold:15g}   {dice:.3f}" for threshold, dice in zip(THRESHOLDS, mean, strict=True)]
        lines.append(f"best fixed threshold: SUV >= {THRESHOLDS[best]:g}, Dice {mean[best]:.3f} ({len(ill)} studies)")
    return "\n".join(lines)


def tables() -> str:
    """Sites, tissues, diseases and lesions' settings as Markdown."""
    lines = [
        "| site | PET voxel (mm) | PET matrix | field (mm) | blur FWHM (mm) | liver noise | calibration "
        "| CT voxel (mm) | CT field (mm) | CT noise (HU) | from | arms up | contrast CT |",
        "|---" * 13 + "|",
    ]
    for name, site in SITES.items():
        cells = (
            f"{name}{' (held out)' if name == HELD_OUT_SITE else ''}",
            _by(site.pet_spacing_mm),
            f"{site.pet_matrix}",
            f"{site.pet_matrix * site.pet_spacing_mm[0]:.0f}",
            f"{site.blur_mm:g}",
            f"{site.liver_noise:.2f}",
            f"{site.calibration:.2f}",
            _by(site.ct_spacing_mm),
            f"{site.ct_field_mm:g}",
            f"{site.ct_noise_hu:g}",
            "vertex" if site.whole_head else "skull base",
            f"{site.arms_up_share:.0%}",
            f"{site.contrast_share:.0%}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| tissue | HU | HU with contrast | SUV |", "|---" * 4 + "|"]
    for name, tissue in (TISSUES | MORE_TISSUES).items():
        suv = f"{tissue.suv_low:g} to {tissue.suv_high:g}"
        lines.append(f"| {name} | {tissue.hu:g} | {tissue.hu_contrast:g} | {suv} |")
    lines += ["", "| disease | share | lesion | chance | at most | median ml | SUV |", "|---" * 7 + "|"]
    for disease, share in lesions.DIAGNOSES.items():
        for kind, chance, most, median_ml, low, high in lesions.SPREAD.get(disease, []):
            lines.append(
                f"| {disease} | {share:.0%} | {kind} | {chance:.0%} | {most} | {median_ml:g} | {low:g} to {high:g} |"
            )
    low, high = lesions.LOW_CONTRAST
    lines += [
        "",
        f"- Volume of a lesion: {lesions.SMALLEST_ML:g} to {lesions.LARGEST_ML:g} ml.",
        f"- Low contrast: {lesions.LOW_CONTRAST_SHARE:.0%} of the lesions, {low:g} to {high:g} times the ground.",
        f"- Cold centre: {lesions.COLD_SHARE:.0%} of the lesions above {lesions.COLD_FROM_ML:g} ml.",
        f"- Negative: {lesions.DIAGNOSES['negative']:.0%} of the studies.",
    ]
    return "\n".join(lines)


def uptake_table(count: int, seed: int) -> str:
    """Drawn SUV of healthy organs beside the published values, as Markdown: mean and deviation of each region over so
    many patients, and how far the correlations lie apart.
    """
    rng = np.random.default_rng(seed)
    drawn = [draw_uptake(rng) for _ in range(count)]
    lines = ["| region | published mean | drawn | published deviation | drawn |", "|---" * 5 + "|"]
    for region, row in published().items():
        values = np.array([patient[region] for patient in drawn])
        cells = (f"{float(row['mean']):.2f}", f"{values.mean():.2f}", f"{float(row['sd']):.2f}", f"{values.std():.2f}")
        lines.append(f"| {region} | {' | '.join(cells)} |")
    names, wanted, _ = correlated()
    found = np.corrcoef([[patient[name] for patient in drawn] for name in names])
    apart = np.abs(found - wanted)[np.triu_indices(len(names), 1)]
    lines += ["", f"Correlations of {count} drawn patients lie {apart.mean():.3f} from the published ones on average, "]
    lines[-1] += f"{apart.max():.3f} at most."
    return "\n".join(lines)


def _counts(counter: Counter[str]) -> str:
    """Names with how often, the most frequent first."""
    return ", ".join(f"{name} {count}" for name, count in counter.most_common()) or "none"


def _spread(name: str, values: list[float], digits: int) -> str:
    """One line: PERCENTILES and mean of the values; dashes if there are none."""
    if not values:
        return f"{name:34}" + f"{'-':>9}" * (len(PERCENTILES) + 1)
    numbers = [*np.percentile(values, PERCENTILES), np.mean(values)]
    return f"{name:34}" + "".join(f"{number:9.{digits}f}" for number in numbers)


def _by(spacing_mm: tuple[float, float, float]) -> str:
    """Three lengths as text."""
    return " x ".join(f"{step:g}" for step in spacing_mm)
