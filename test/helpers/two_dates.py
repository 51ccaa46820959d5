"""Synthetic patients at two dates: the same body in another pose, breath and place of the room, with planted changes.

The second date's tissues and lesions are moved together: turned and shifted as a patient who lies down again, the
diaphragm up or down by a breath, and every organ by a few mm. So the truth of each lesion is known at both dates.
"""

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter

from training.phantom import physics
from training.phantom.lesions import Cloud, PhantomLesion, draw_lesions, occupancy
from training.phantom.scan import fill, scan_ct, scan_pet
from training.phantom.shapes import Frame, height_mm
from training.phantom.study import _draw_patient
from training.phantom.tissues import LABELS, draw_hu, draw_suv

ROLES = {  # change: the lesion's volume at the two dates, as a share of what was drawn, and the factor on its uptake
    "grown": (0.6, 1.3, 1.4),
    "shrunk": (1.0, 0.35, 0.7),
    "unchanged": (1.0, 1.0, 1.0),
    "gone": (1.0, 0.0, 1.0),
    "new": (0.0, 1.0, 1.0),
}
APART_MM = 25.0  # between the surfaces of two lesions, so that neither is taken for the other
# Lesions are large, hot, and above the diaphragm, where little else takes up FDG: so weak weights find them.
VOLUME_ML = (12.0, 40.0)  # as drawn
LEAST_SUV = 14.0
LOWEST = 430.0  # height in body coordinates
COARSE_MM = 8.0  # voxels of the movement, which is smooth


@dataclass(frozen=True, kw_only=True)
class PlantedLesion:
    """What was planted: the change, volume (ml) and centre (mm, LPS, in the coordinates of that date's PET) at both
    dates. Where there is none the volume is 0 and the centre None.
    """

    patient: str
    lesion: int
    kind: str
    change: str
    ml_1: float
    ml_2: float
    centre_1_mm: tuple[float, ...] | None
    centre_2_mm: tuple[float, ...] | None


@dataclass(frozen=True)
class Dated:
    """One date's images: PET in SUV, CT in HU, and the lesions by number on the PET's grid."""

    pet: sitk.Image
    ct: sitk.Image
    truth: sitk.Image


def two_dates(
    patient: str, seed: int, site: str, roles: Sequence[str] = tuple(ROLES)
) -> tuple[Dated, Dated, list[PlantedLesion]]:
    """One patient at two dates, with a lesion for each of `roles` (keys of ROLES)."""
    body_rng, tissue_rng, lesion_rng, *scan_rngs, pose_rng = (
        np.random.default_rng(stream) for stream in np.random.SeedSequence([seed, 2]).spawn(6)
    )
    scanner = physics.SITES[site]
    frame, labels = _draw_patient(body_rng, scanner)
    suv, hu = draw_suv(tissue_rng), draw_hu(tissue_rng, False)
    drawn = _apart(lesion_rng, frame, labels, suv, len(roles))
    dates, found = [], []
    for number, rng in enumerate(scan_rngs[:2]):
        pairs = [_at(pair, ROLES[role], number) for pair, role in zip(drawn, roles, strict=True)]
        move = _movement(pose_rng, frame) if number else sitk.Transform(3, sitk.sitkIdentity)
        made = _scan(rng, frame, labels, (suv, hu), pairs, scanner, move)
        dates.append(made)
        found.append(_measured(made.truth, len(roles)))
    planted = [
        PlantedLesion(
            patient=patient,
            lesion=number,
            kind=drawn[number - 1][0].kind,
            change=role,
            ml_1=found[0][number][0],
            ml_2=found[1][number][0],
            centre_1_mm=found[0][number][1],
            centre_2_mm=found[1][number][1],
        )
        for number, role in enumerate(roles, start=1)
    ]
    return dates[0], dates[1], planted


def write_planted(planted: Sequence[PlantedLesion], path: Path) -> None:
    """The truth, lesion by lesion, as CSV."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        rows = [asdict(one) for one in planted]
        writer.writerow(rows[0])
        for row in rows:
            writer.writerow([" ".join(map(str, cell)) if isinstance(cell, tuple) else cell for cell in row.values()])


def read_planted(path: Path) -> list[PlantedLesion]:
    """The table that `write_planted` wrote."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    centres = ("centre_1_mm", "centre_2_mm")
    return [
        PlantedLesion(
            **{name: row[name] for name in ("patient", "kind", "change")},
            lesion=int(row["lesion"]),
            **{name: float(row[name]) for name in ("ml_1", "ml_2")},
            **{name: tuple(map(float, row[name].split())) if row[name] else None for name in centres},
        )
        for row in rows
    ]


def _apart(
    rng: np.random.Generator, frame: Frame, labels: np.ndarray, suv: np.ndarray, count: int
) -> list[tuple[PhantomLesion, Cloud]]:
    """`count` lesions that lie apart from each other, whatever the disease."""
    kept: list[tuple[PhantomLesion, Cloud]] = []
    while len(kept) < count:
        diagnosis = ("melanoma", "lymphoma", "lung cancer")[int(rng.integers(3))]
        for lesion, cloud in draw_lesions(rng, frame, labels, suv, diagnosis):
            inner = VOLUME_ML[0] <= lesion.volume_ml <= VOLUME_ML[1]
            inner = inner and lesion.centre_mm[2] > height_mm(frame, LOWEST)
            if inner and all(_gap_mm(cloud, other) > APART_MM for _, other in kept):
                kept.append((replace(lesion, suv=max(lesion.suv, LEAST_SUV)), cloud))
    return kept[:count]


def _gap_mm(one: Cloud, other: Cloud) -> float:
    """About the distance of two lesions' surfaces."""
    centres = [cloud.points_mm.mean(0) for cloud in (one, other)]
    reach = [np.linalg.norm(cloud.points_mm - c, axis=1).max() for cloud, c in zip((one, other), centres, strict=True)]
    return float(np.linalg.norm(centres[0] - centres[1]) - sum(reach))


def _at(
    pair: tuple[PhantomLesion, Cloud], role: tuple[float, float, float], date: int
) -> tuple[PhantomLesion, Cloud] | None:
    """A lesion as it is at a date: its points moved away from their centre, or towards it; None where it is not."""
    lesion, cloud = pair
    share = role[date]
    if not share:
        return None
    centre = cloud.points_mm.mean(0)
    points = centre + (cloud.points_mm - centre) * share ** (1 / 3)
    uptake = lesion.suv * (role[2] if date else 1.0)
    return replace(lesion, suv=uptake), replace(cloud, points_mm=points, point_ml=cloud.point_ml * share)


def _movement(rng: np.random.Generator, frame: Frame) -> sitk.Transform:
    """Where each point of the second date lay at the first: a pose, a breath, and a few mm of each organ."""
    low = np.asarray(frame.origin_mm, float)
    high = low + (np.array(frame.shape[::-1]) - 1) * frame.spacing_mm
    size = np.ceil((high - low) / COARSE_MM).astype(int) + 1
    field = np.stack(
        [gaussian_filter(rng.standard_normal(size[::-1]), 50 / COARSE_MM, mode="reflect") for _ in range(3)], -1
    )
    field *= 3.0 / field.std()
    z = low[2] + COARSE_MM * np.arange(size[2])
    breath = rng.choice([-1, 1]) * rng.uniform(8, 15) * np.exp(-0.5 * ((z - height_mm(frame, 400)) / 80) ** 2)
    field[..., 2] += breath[:, None, None]
    field[..., 1] += 0.3 * breath[:, None, None]
    image = sitk.GetImageFromArray(field, isVector=True)
    image.SetSpacing((COARSE_MM,) * 3)
    image.SetOrigin(low.tolist())
    pose = sitk.Euler3DTransform()
    pose.SetCenter(((low + high) / 2).tolist())
    pose.SetRotation(*np.deg2rad(rng.uniform((-2, -1.5, -5), (2, 1.5, 5))).tolist())
    pose.SetTranslation(rng.uniform((-15, -10, -15), (15, 10, 15)).tolist())
    return sitk.CompositeTransform([pose, sitk.DisplacementFieldTransform(sitk.Cast(image, sitk.sitkVectorFloat64))])


def _scan(
    rng: np.random.Generator,
    frame: Frame,
    labels: np.ndarray,
    tissues: tuple[np.ndarray, np.ndarray],
    pairs: Sequence[tuple[PhantomLesion, Cloud] | None],
    scanner: physics.Site,
    move: sitk.Transform,
) -> Dated:
    """PET, CT and numbered lesions of the moved body on one scanner, anywhere in its room."""
    suv, hu = tissues
    there = [pair for pair in pairs if pair is not None]
    activity, density = fill(frame, labels, suv, hu, there)
    labels = _moved(frame, labels, move, 0, sitk.sitkNearestNeighbor)
    activity = _moved(frame, activity, move, 0.0, sitk.sitkLinear)
    density = _moved(frame, density, move, float(physics.AIR_HU), sitk.sitkLinear)
    world = np.round(rng.uniform((-20, -20, -900), (20, 20, 100)), 2)
    pet, origin = scan_pet(rng, frame, activity, scanner, float(suv[LABELS["liver"]]), np.zeros(3))
    ct, ct_origin = scan_ct(rng, frame, density, labels, scanner)
    reference = _image(pet, scanner.pet_spacing_mm, origin)
    truth = np.zeros(pet.shape, np.uint8)
    for number, pair in enumerate(pairs, start=1):
        if pair is not None:
            share = np.zeros(labels.shape, np.float32)
            box, part = occupancy(
                pair[1], np.ones(len(pair[1].dead), bool), share.shape, frame.spacing_mm, frame.origin_mm
            )
            share[box] = part
            whole = _image(share, frame.spacing_mm, frame.origin_mm)
            on_pet = sitk.Resample(whole, reference, move, sitk.sitkLinear, 0.0)
            truth[sitk.GetArrayViewFromImage(on_pet) > 0.5] = number
    return Dated(
        _image(pet, scanner.pet_spacing_mm, origin + world),
        _image(ct, scanner.ct_spacing_mm, ct_origin + world),
        _image(truth, scanner.pet_spacing_mm, origin + world),
    )


def _moved(frame: Frame, array: np.ndarray, move: sitk.Transform, outside: float, how: int) -> np.ndarray:
    """A volume on the model's grid after the movement."""
    image = _image(array, frame.spacing_mm, frame.origin_mm)
    return sitk.GetArrayFromImage(sitk.Resample(image, image, move, how, outside))


def _image(array: np.ndarray, spacing_mm: Sequence[float], origin_mm: Sequence[float]) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing([float(mm) for mm in spacing_mm])
    image.SetOrigin([float(mm) for mm in origin_mm])
    return image


def _measured(truth: sitk.Image, count: int) -> dict[int, tuple[float, tuple[float, ...] | None]]:
    """Volume (ml) and centre (mm) of each numbered lesion; 0 and None where it is not."""
    array, voxel_ml = sitk.GetArrayViewFromImage(truth), float(np.prod(truth.GetSpacing())) / 1000
    found: dict[int, tuple[float, tuple[float, ...] | None]] = {}
    for number in range(1, count + 1):
        places = np.argwhere(array == number)
        centre = truth.TransformContinuousIndexToPhysicalPoint(places.mean(0)[::-1].tolist()) if len(places) else None
        found[number] = (
            round(len(places) * voxel_ml, 4),
            tuple(round(mm, 2) for mm in centre) if centre is not None else None,
        )
    return found
