"""Training crops cut and augmented on the GPU that trains, where the studies lie; no other process draws them.

Crops are drawn as in training.batches.crops, with the same random numbers, then cut and augmented on the device, in
float32, all crops of a batch together. Studies beyond `share` of the device's free memory stay in their files, mapped;
their crops alone are copied, through pinned memory. A thread draws the next batch, and has the GPU make it in a stream
of its own, while the present one trains; at most one batch waits. The host may be ahead of the GPU, and then batches
lie there that no step has used yet: the thread waits until at most AHEAD of them do.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.background import prefetched
from model.bundle.settings import Intensity
from model.inference.device import free_bytes
from model.inference.view import with_body
from training.batches.batched import change_together, on
from training.batches.crops import CropDataset, CropPlan
from training.batches.misalign import moved, movement
from training.settings import Training

AHEAD = 4  # batches that the GPU was given and has not trained with
SHARE = 0.4  # of the memory that is free when training begins; the rest is for the network
Arrays = tuple[np.ndarray | Tensor, ...]  # HU unless the network sees PET alone, SUV, truth, (X, Y, Z)


@dataclass(frozen=True)
class Made:
    """A batch, and when the device has made it; None: now."""

    images: Tensor
    truths: Tensor
    ready: Any


class DeviceCrops(CropDataset):
    """CropDataset whose crops are tensors on `device`: image (2, *size) float32, of PET alone (1, *size), truth (1,
    *size) float32.

    On a GPU the values of single voxels, of noise and elastic deformation, are drawn there from a seed; all else is
    drawn as for workers. Wherever a study lies, its crops are the same.
    """

    def __init__(
        self, cache: Path, cases: Sequence[str], settings: Training, device: torch.device, share: float = SHARE
    ) -> None:
        super().__init__(cache, cases, settings)
        self.device, self.on_gpu = device, device.type != "cpu"
        left_bytes = free_bytes(device) * share
        self.arrays: dict[str, Arrays] = {}
        for study in self.studies:
            arrays: Arrays = (
                (study.suv, study.truth) if settings.network.pet_alone else (study.hu, study.suv, study.truth)
            )
            needed = sum(array.nbytes for array in arrays)
            if needed <= left_bytes:  # a smaller study may still find place
                left_bytes -= needed
                arrays = tuple(torch.from_numpy(np.array(array)).to(device) for array in arrays)
            self.arrays[study.case] = arrays

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        images, truths = self.batch([number])
        return images[0], truths[0]

    def batches(self, numbers: Sequence[int], ahead: bool | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """The crops of these numbers, `batch` of them at a time.

        ahead: make the next batch in a thread while one is used. Default: on a GPU; a CPU would only be shared.
        """
        batch = self.settings.batch
        groups = [numbers[first : first + batch] for first in range(0, len(numbers), batch)]
        if not (self.on_gpu if ahead is None else ahead):
            yield from map(self.batch, groups)
            return
        stream = torch.cuda.Stream(self.device) if self.on_gpu else None  # type: ignore[no-untyped-call]
        if stream is not None:
            stream.wait_stream(torch.cuda.current_stream(self.device))  # where the studies were copied
        used: deque[Any] = deque()  # of every batch, when the GPU is done with its step
        for made in prefetched(groups, lambda group: self._make(group, stream, used)):
            if made.ready is not None:
                here = torch.cuda.current_stream(self.device)
                here.wait_event(made.ready)
                for tensor in (made.images, made.truths):
                    tensor.record_stream(here)
            yield made.images, made.truths
            del made
            if stream is not None:
                event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
                used.append(torch.cuda.current_stream(self.device).record_event(event))

    @torch.no_grad()
    def batch(self, numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The crops of these numbers, padded with zeros to the largest of them: (B, C, *size) and (B, 1, *size)."""
        plans = [self.plan(number, seeded=self.on_gpu) for number in numbers]
        sizes = dict.fromkeys(plan.size for plan in plans)
        if len(sizes) == 1:
            return self.together_made(plans)
        crops: dict[int, tuple[Tensor, Tensor]] = {}
        for size in sizes:
            alike = [n for n, plan in enumerate(plans) if plan.size == size]
            crops |= zip(alike, zip(*self.together_made([plans[n] for n in alike]), strict=True), strict=True)
        return self.together([crops[n] for n in range(len(plans))])

    def together_made(self, plans: Sequence[CropPlan]) -> tuple[Tensor, Tensor]:
        """Crops of one size: (B, 2, *size), of PET alone (B, 1, *size), with norm body a channel more, and (B, 1,
        *size).
        """
        size, intensity, network = plans[0].size, self.settings.intensity, self.settings.network
        seen = len(network.channels)
        images = torch.zeros((len(plans), seen, *size), device=self.device)
        images[:, :-1].fill_(intensity.ct_low_hu)  # 0 in network units
        truths = torch.zeros((len(plans), 1, *size), device=self.device)
        for image, truth, plan in zip(images, truths, plans, strict=True):
            for part, array in zip((*image, *truth), self.arrays[plan.study.case], strict=True):
                part[place_of(plan)] = self._there(array[plan.box])
        to_network_units(images, intensity)
        torch._foreach_mul_([image[-1] for image in images], [intensity.suv_top / plan.suv_top for plan in plans])
        for image, plan in zip(images, plans, strict=True):
            if plan.nodes is not None:
                ct = image[:1][(slice(None), *place_of(plan))]
                ct.copy_(moved(ct, movement(on(plan.nodes, self.device), plan.edges)))
        changes = [plan.changes for plan in plans]
        if network.image_channels == seen:
            change_together(images, truths, changes)
            return images, truths
        labels = torch.cat([truths, torch.zeros_like(truths)], 1)  # the body is turned and bent as the truth is
        for image, label, plan in zip(images, labels, plans, strict=True):
            here = (slice(None), *place_of(plan))
            label[1:][here] = with_body(image[here], self.settings.part, plan.suv_top)[seen:]
        change_together(images, labels, changes)
        return torch.cat([images, labels[:, 1:]], 1), labels[:, :1].contiguous()

    def _make(self, numbers: Sequence[int], stream: torch.cuda.Stream | None, used: deque[Any]) -> Made:
        while len(used) >= AHEAD - 1:
            used.popleft().synchronize()
        with nullcontext() if stream is None else torch.cuda.stream(stream):
            images, truths = self.batch(numbers)
            return Made(images, truths, None if stream is None else stream.record_event())

    def _there(self, part: np.ndarray | Tensor) -> Tensor:
        if isinstance(part, Tensor):
            return part
        if not self.on_gpu:
            return torch.from_numpy(np.array(part))
        kind = torch.from_numpy(np.empty(0, part.dtype)).dtype
        pinned = torch.empty(part.shape, dtype=kind, pin_memory=True)  # torch takes it back when it has been copied
        pinned.numpy()[...] = part
        return pinned.to(self.device, non_blocking=True)


def place_of(plan: CropPlan) -> tuple[slice, ...]:
    """Where the study's voxels lie in their crop."""
    return tuple(slice(first, first + edge) for first, edge in zip(plan.before, plan.edges, strict=True))


def to_network_units(images: Tensor, settings: Intensity) -> None:
    """HU and SUV, channels 0 and 1 of (B, 2, X, Y, Z), to network units in place, as preprocess.py does. Of PET alone,
    (B, 1, X, Y, Z), there is no HU.
    """
    ct, pet = images[:, :-1], images[:, -1]
    ct.sub_(settings.ct_low_hu).div_(settings.ct_high_hu - settings.ct_low_hu)
    pet.div_(settings.suv_top)
    for channel, clip in ((ct, settings.ct_clip), (pet, settings.suv_clip)):
        if clip:
            channel.clamp_(0, 1)
