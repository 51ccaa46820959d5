"""Training crops cut and augmented on the GPU that trains, where the studies lie; no other process draws them.

Crops are drawn as in training.batches.crops, with the same random numbers, then cut and augmented on the device, in
float32. Studies beyond `share` of the device's free memory stay in their files, mapped, and only their crops are copied
to the device.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model.bundle.settings import Intensity
from model.inference.device import free_bytes
from model.inference.view import with_body
from training.batches.crops import Box, CropDataset, padded_and_augmented
from training.batches.misalign import misaligned
from training.data.prepared import Prepared
from training.settings import Training

SHARE = 0.4  # of the memory that is free when training begins; the rest is for the network
Arrays = tuple[np.ndarray | Tensor, np.ndarray | Tensor, np.ndarray | Tensor]  # HU, SUV, truth, (X, Y, Z)


class DeviceCrops(CropDataset):
    """CropDataset whose crops are tensors on `device`: image (2 or 3, *size) float32, truth (1, *size) float32."""

    def __init__(
        self, cache: Path, cases: Sequence[str], settings: Training, device: torch.device, share: float = SHARE
    ) -> None:
        super().__init__(cache, cases, settings)
        self.device = device
        left_bytes = free_bytes(device) * share
        self.arrays: dict[str, Arrays] = {}
        for study in self.studies:
            arrays: Arrays = (study.hu, study.suv, study.truth)
            needed = sum(array.nbytes for array in arrays)
            if needed <= left_bytes:  # a smaller study may still find place
                left_bytes -= needed
                hu, suv, truth = (torch.from_numpy(np.array(array)).to(device) for array in arrays)
                arrays = hu, suv, truth
            self.arrays[study.case] = arrays

    def cut(self, study: Prepared, box: Box, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """The crop of a box, in network units, padded and augmented, as training.batches.crops does."""
        hu, suv, truth = (self._there(array[box]) for array in self.arrays[study.case])
        image, suv_top = scaled(hu, suv, self.settings.intensity), float(rng.choice(self.settings.suv_tops))
        image[1] *= self.settings.intensity.suv_top / suv_top
        image = misaligned(image, study.spacing_mm, self.settings.misalignment, rng)
        image = with_body(image, self.settings.part, suv_top)
        return padded_and_augmented(image, truth.float()[None], self.settings, rng)

    def batches(self, numbers: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """The crops of these numbers, `batch` of them at a time."""
        batch = self.settings.batch
        for first in range(0, len(numbers), batch):
            yield self.together([self[number] for number in numbers[first : first + batch]])

    def _there(self, part: np.ndarray | Tensor) -> Tensor:
        return part if isinstance(part, Tensor) else torch.from_numpy(np.array(part)).to(self.device)


def scaled(hu: Tensor, suv: Tensor, settings: Intensity) -> Tensor:
    """HU and SUV (X, Y, Z) in network units, float32 (2, X, Y, Z), as model.inference.preprocess has it for arrays."""
    ct = (hu.float() - settings.ct_low_hu) / (settings.ct_high_hu - settings.ct_low_hu)
    pet = suv.float() / settings.suv_top
    return torch.stack([ct.clamp(0, 1) if settings.ct_clip else ct, pet.clamp(0, 1) if settings.suv_clip else pet])
