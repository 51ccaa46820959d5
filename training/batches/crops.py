"""Training crops (Ahn and Park, section 2.3), each a pure function of the seed and its number.

The paper draws them around a lesion or anywhere, and gives no shares. The authors' code draws 80 % by MONAI's
positive : negative = 1 : 0.2 and 20 % anywhere; training.settings.Crops has these and our own additions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from model.inference.sliding import centred
from model.inference.view import network_image, with_body
from training.batches.augment import Changes, changed, drawn_changes
from training.batches.misalign import drawn_nodes, misaligned
from training.data.prepared import Prepared, load
from training.settings import STRENGTHS, Crops, Training

Box = tuple[slice, slice, slice]
NO_POINTS = np.empty((0, 3), np.int16)


@dataclass(frozen=True, kw_only=True)
class CropPlan:
    """All that is drawn for one crop; no voxel of the study has been read for it."""

    study: Prepared
    box: Box
    suv_top: float  # SUV is divided by it
    nodes: np.ndarray | None  # of the CT's movement; see training.batches.misalign
    size: tuple[int, ...]  # (x, y, z) of the crop, at least that of the box
    before: tuple[int, ...]  # zeros along x, y, z before the box's voxels; the rest comes after them
    changes: Changes

    @property
    def edges(self) -> tuple[int, ...]:
        """The size of the box."""
        return tuple(part.stop - part.start for part in self.box)


class CropDataset(Dataset[tuple[Tensor, Tensor]]):
    """Crop number n of a run: image (2, *size) float32, of PET alone (1, *size), and truth (1, *size) float32 {0, 1}.

    Every pass over the studies has a new order. With `crops.pairs` crops of even number lie around a lesion, in a
    study that has one. With `window.shrink` crops of small studies are smaller, as their windows are, and the odd crop
    of a pair comes from any study whose crops have the same size, so that `together` pads little.
    """

    def __init__(self, cache: Path, cases: Sequence[str], settings: Training) -> None:
        self.cache, self.cases, self.settings = cache, tuple(cases), settings
        self.studies = [load(cache, case) for case in cases]
        self.ill = [study for study in self.studies if len(study.lesion)]
        self.alike: dict[tuple[int, ...], list[Prepared]] = {}  # by the size of their crops
        for study in self.studies:
            self.alike.setdefault(self.size_of(study), []).append(study)

    def __reduce__(self) -> tuple[type, tuple[Path, tuple[str, ...], Training]]:
        return CropDataset, (
            self.cache,
            self.cases,
            self.settings,
        )  # a worker opens the files itself, so nothing is copied

    def __len__(self) -> int:
        return len(self.studies)

    @staticmethod
    def together(crops: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """A batch of crops, image and truth, padded with zeros on both sides to the largest of them on each axis."""
        x, y, z = (max(image.shape[axis] for image, _ in crops) for axis in (1, 2, 3))
        images, truths = ([centred(part, (x, y, z)) for part in parts] for parts in zip(*crops, strict=True))
        return torch.stack(images), torch.stack(truths)

    def size_of(self, study: Prepared) -> tuple[int, ...]:
        """The size of a study's crops, before anything is cut off it."""
        return self.settings.part.fitted(self.settings.crops.size, study.suv.shape)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        return crop_of(self.plan(number), self.settings)

    def plan(self, number: int, seeded: bool = False) -> CropPlan:
        """All that is drawn for a crop; seeded: see `drawn_changes`."""
        rng = np.random.default_rng([self.settings.seed, number])
        crops = self.settings.crops
        in_pairs = crops.pairs and bool(self.ill)
        paired = in_pairs and number % 2 == 0
        if in_pairs and not paired and self.settings.window.shrink:
            pool = self.alike[self.size_of(self._in_turn(self.ill, number // 2, True))]
            study = pool[rng.integers(len(pool))]
        else:
            study = self._in_turn(self.ill if paired else self.studies, number // 2 if in_pairs else number, paired)
        return planned(study, draw_box(study, crops, rng, sure_lesion=paired), self.settings, rng, seeded)

    def _in_turn(self, pool: list[Prepared], draw: int, paired: bool) -> Prepared:
        """The study of a draw: every pass over the pool has a new order."""
        order = np.random.default_rng([self.settings.seed, 1 + paired, draw // len(pool)]).permutation(len(pool))
        return pool[int(order[draw % len(pool)])]


def draw_box(study: Prepared, crops: Crops, rng: np.random.Generator, sure_lesion: bool = False) -> Box:
    """Slices (x, y, z) of a crop: around a lesion's voxel, physiological uptake, or anywhere.

    At most crops.size on each axis, less where the study is smaller.
    """
    low, high = recropped(study, crops.recrop_mm, rng)
    by_part = rng.random() < crops.by_part
    shape = study.suv.shape
    share = crops.positive / (crops.positive + crops.negative)
    at_lesion = sure_lesion or (rng.random() < crops.sought and rng.random() < share)
    points = _within(study.lesion_parts if by_part else study.lesion, low, high, shape) if at_lesion else NO_POINTS
    if not len(points) and rng.random() < crops.uptake:
        points = _within(study.uptake_parts if by_part else study.uptake, low, high, shape)
    centre = drawn(points, rng) if len(points) else rng.integers(low, high)
    size = np.array(crops.size)
    centre = centre + np.rint(rng.uniform(-crops.shift, crops.shift, 3) * size).astype(int)
    first = np.clip(centre - size // 2, low, np.maximum(high - size, low))
    last = np.minimum(first + size, high)
    x, y, z = (slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
    return x, y, z


def drawn(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One of the voxels (n, 3); of (n, 4), whose first column is a part's number, first a part, then a voxel of it."""
    if points.shape[1] == 4:
        points = points[points[:, 0] == rng.choice(np.unique(points[:, 0]))][:, 1:]
    point: np.ndarray = points[rng.integers(len(points))]
    return point


def recropped(study: Prepared, most_mm: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """First voxel (3,), and one past the last, of what is left when 0 to most_mm are cut off every side at random."""
    shape = np.array(study.suv.shape)
    cut = np.floor(rng.uniform(0, most_mm, (2, 3)) / np.array(study.spacing_mm)).astype(int)
    low = np.minimum(cut[0], (shape - 1) // 2)
    return low, np.maximum(shape - cut[1], low + 1)


def planned(study: Prepared, box: Box, settings: Training, rng: np.random.Generator, seeded: bool = False) -> CropPlan:
    """What is drawn for the crop of a box: its SUV range, its CT's movement, its place in the air, its augmentation.

    A small crop is padded to its full size, or with `window.shrink` to its window's size: both sides alike or, with
    `crops.scattered`, at random.
    """
    edges = tuple(part.stop - part.start for part in box)
    suv_top = float(rng.choice(settings.suv_tops))
    nodes = drawn_nodes(edges, study.spacing_mm, settings.misalignment, rng)
    size = tuple(max(pair) for pair in zip(settings.part.fitted(settings.crops.size, edges), edges, strict=True))
    short = np.array(size) - edges
    before = rng.integers(0, short + 1) if settings.crops.scattered else short // 2
    changes = drawn_changes(
        (len(settings.network.channels), *size), STRENGTHS[settings.augmentation], rng, settings.flips, seeded
    )
    return CropPlan(
        study=study,
        box=box,
        suv_top=suv_top,
        nodes=nodes,
        size=size,
        before=tuple(int(n) for n in before),
        changes=changes,
    )


def crop_of(plan: CropPlan, settings: Training) -> tuple[Tensor, Tensor]:
    """The crop in network units, padded with zeros and augmented: image (2, *size), of PET alone (1, *size), with norm
    body one channel more, and truth (1, *size), float32.
    """
    study, box, seen = plan.study, plan.box, len(settings.network.channels)
    hu = None if settings.network.pet_alone else study.hu[box].transpose(2, 1, 0)
    image = network_image(hu, study.suv[box].transpose(2, 1, 0).astype(np.float32), settings.intensity)
    image[-1] *= settings.intensity.suv_top / plan.suv_top
    truth = torch.from_numpy(np.array(study.truth[box], dtype=np.float32))[None]
    image = with_body(misaligned(image, plan.nodes), settings.part, plan.suv_top)
    around = zip(plan.before[::-1], plan.size[::-1], plan.edges[::-1], strict=True)
    pad = [n for before, size, edge in around for n in (before, size - edge - before)]
    image, truth = (functional.pad(part, pad).contiguous() for part in (image, truth))
    # the body is no intensity: it is turned and bent as the truth is, and noise and shift leave it where it was found
    image, labels = changed(image[:seen], torch.cat([truth, image[seen:]]), plan.changes)
    return torch.cat([image, labels[1:]]), labels[:1]


def _within(points: np.ndarray, low: np.ndarray, high: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The points of a study of this shape from `low` to before `high`; only axes that are cut are compared."""
    sides = [points[:, axis - 3] >= int(low[axis]) for axis in range(3) if low[axis] > 0]
    sides += [points[:, axis - 3] < int(high[axis]) for axis in range(3) if high[axis] < shape[axis]]
    return points.take(np.flatnonzero(np.logical_and.reduce(sides)), axis=0) if sides else points
