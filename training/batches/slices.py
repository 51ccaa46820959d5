"""Training slices (Zhong et al.) prepared as in the container, in the order of the whole-body strategy."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from monai.transforms import Compose, RandAffined, RandGaussianNoised, RandGaussianSmoothd, RandScaleIntensityd
from torch import Tensor
from torch.utils.data import Dataset

from model.errors import ConfigError
from model.inference.slices import cut, normalised, slice_starts
from model.inference.view import image_of
from training.batches.schedule import steps_of
from training.batches.whole_body import Slice, SliceOrder
from training.data.prepared import MOST_POINTS, Prepared, load
from training.settings import STRENGTHS, Training

FLIP = 0.5  # probability for each axis that may be flipped
KEYS = ("image", "truth")


class SliceDataset(Dataset[tuple[Tensor, Tensor]]):
    """Slice number n of a run: image (2, Y, X) float32, channel 0 = PET, and truth (1, Y, X) float32 {0, 1}.

    An epoch has as many slices as the run's steps take; if the list of slices is shorter, it begins again.
    """

    def __init__(self, cache: Path, cases: Sequence[str], settings: Training, processes: int = 1) -> None:
        self.arguments = (cache, tuple(cases), settings, processes)
        self.settings = settings
        self.studies = [load(cache, case) for case in cases]
        self.by_case = {study.case: study for study in self.studies}
        whole: dict[str, list[Slice]] = {}
        for study in self.by_case.values():
            whole.setdefault(study.patient, []).extend((study.case, z) for z in range(study.suv.shape[2]))
        lesion = [(study.case, z) for study in self.by_case.values() for z in lesion_slices(study)]
        self.order = SliceOrder(lesion=lesion, whole=whole, settings=settings.whole_body, seed=settings.seed)
        if not len(self.order):
            what = "of them shows a lesion" if self.by_case else "is in the cache"
            raise ConfigError(f"no slice to train on: of {len(cases)} training cases none {what}")
        self.warning = self.order.shortage()
        steps = steps_of(settings, len(self.order), processes)
        self.an_epoch = steps * settings.batch * settings.accumulate * processes
        self.listed: tuple[int, list[Slice]] = (-1, [])

    def __reduce__(self) -> tuple[type, tuple[Path, tuple[str, ...], Training, int]]:
        return SliceDataset, self.arguments

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        epoch, place = divmod(number, self.an_epoch)
        if self.listed[0] != epoch:
            self.listed = epoch, self.order.epoch(epoch)
        case, z = self.listed[1][place % len(self.listed[1])]
        image, truth = slice_of_study(self.by_case[case], z, self.settings)
        return augmented(
            image, truth, STRENGTHS[self.settings.augmentation], [self.settings.seed, number], self.settings.flips
        )


def lesion_slices(study: Prepared) -> list[int]:
    """The z of every slice that shows lesion."""
    if len(study.lesion) <= MOST_POINTS // 2:  # so few are all of its voxels: a thinned list has more
        return [int(z) for z in np.unique(study.lesion[:, 2])]
    return [int(z) for z in np.flatnonzero(np.asarray(study.truth).any((0, 1)))]


def slice_of_study(study: Prepared, z: int, settings: Training) -> tuple[Tensor, Tensor]:
    """Slice z as the container's network gets it, (2, Y, X), and its truth, (1, Y, X)."""
    hu, suv = (np.asarray(part[..., z], np.float32).T[None] for part in (study.hu, study.suv))
    image = image_of(hu, suv, settings.part)
    window, air = settings.window.size, settings.intensity.ct_low_hu
    (start,), _ = slice_starts(image[0].numpy(), window)
    truth = torch.from_numpy(np.array(study.truth[..., z : z + 1], np.float32))
    patch = normalised(cut(image, start, 0, window, air)[None], air)[0]
    return patch, cut(torch.stack([truth, truth]), start, 0, window, 0.0)[:1]


def augmented(
    image: Tensor, truth: Tensor, strength: float, seed: Sequence[int], flips: Sequence[int] = (0,)
) -> tuple[Tensor, Tensor]:
    """A normalised slice turned, scaled, shifted, flipped, made noisy, blurred and brighter, a function of the seed.

    The paper names no augmentation. Probabilities and ranges are ours; strength multiplies both, except a flip's
    probability and a blur's width, and 0 changes nothing. flips: axes (0: x, 1: y) that may be flipped; any other is
    ignored.
    """
    rng = np.random.default_rng(seed)
    if strength == 0:
        return image, truth
    axes = [-1 - axis for axis in flips if axis < 2 and rng.random() < FLIP]
    both = {"image": image.flip(axes), "truth": truth.flip(axes)} if axes else {"image": image, "truth": truth}
    chance, by = min(0.3 * strength, 1), strength
    change = Compose(
        [
            RandAffined(
                KEYS,
                prob=chance,
                rotate_range=np.radians(15) * by,
                scale_range=(0.15 * by,) * 2,
                translate_range=(16 * by,) * 2,
                mode=("bilinear", "nearest"),
                padding_mode="border",
            ),
            RandGaussianSmoothd("image", prob=chance, sigma_x=(0.25, 1.0), sigma_y=(0.25, 1.0)),
            RandScaleIntensityd("image", prob=chance, factors=0.25 * by, channel_wise=True),
            RandGaussianNoised("image", prob=chance, std=0.1 * by),
        ]
    )
    change.set_random_state(int(rng.integers(2**31)))
    out = change(both)
    return out["image"].as_tensor().float(), out["truth"].as_tensor().float()
