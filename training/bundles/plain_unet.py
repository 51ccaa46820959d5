"""A plain MONAI BasicUNet, trained by a plain loop: what anybody gets from the library in the same time.

Its transforms, loss and sliding window are MONAI's, its optimizer is torch's AdamW on a cosine. Nothing of this project
is in it but the reading of studies: no averaging, no ensemble, no phantoms but those among the cases.
"""

import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.bundle.settings import Limits
from model.errors import ConfigError
from model.inference.device import Device
from model.inference.preprocess import Placed, place, put_back
from model.stopwatch import Stopwatch
from model.study.reading import Case
from training.bundles.field_of_view import Masking
from training.bundles.study_views import read_study
from training.data.table import Study

CROP_SUV = 0.2  # the box around PET above it is what the network sees
HU_LOW, HU_HIGH, SUV_TOP = -1000.0, 1000.0, 20.0
FEATURES = (32, 32, 64, 128, 256, 32)  # BasicUNet's own
RATE, DECAY = 1e-3, 1e-2
DIVISOR = 16  # BasicUNet halves its image four times
WINDOWS_AT_A_TIME = 4


@dataclass(frozen=True, kw_only=True)
class PlainTraining:
    """How long to train: minutes or steps, the other is 0. crop: edge in voxels; workers: processes that cut crops."""

    minutes: float = 0.0
    steps: int = 0
    crop: int = 64
    batch: int = 4
    seed: int = 0
    workers: int = 0

    def __post_init__(self) -> None:
        if (self.minutes > 0) == (self.steps > 0) or self.minutes < 0 or self.steps < 0:
            raise ConfigError(
                f"give a plain U-Net either --unet-minutes or --unet-steps, got {self.minutes:g} and {self.steps}"
            )
        if self.crop < 2 * DIVISOR or self.crop % DIVISOR:
            raise ConfigError(f"--unet-crop must be a multiple of {DIVISOR} from {2 * DIVISOR} on, got {self.crop}")
        if self.batch < 1 or self.workers < 0:
            raise ConfigError(f"--unet-batch must be 1 or more, --workers 0 or more, got {self.batch}, {self.workers}")


def fresh() -> nn.Module:
    """MONAI's BasicUNet with its own widths, random weights."""
    from monai.networks.nets import BasicUNet

    network: nn.Module = BasicUNet(spatial_dims=3, in_channels=2, out_channels=2, features=FEATURES)
    return network


def train_plain(studies: Sequence[Study], settings: PlainTraining, device: Device) -> tuple[nn.Module, int, float]:
    """Train one on all of these studies. Returns the network, steps, and seconds of the loop. Raises CaseError."""
    from monai.data import DataLoader, Dataset
    from monai.losses import DiceCELoss
    from monai.utils import set_determinism

    set_determinism(settings.seed)
    data = Dataset([sample_of(study) for study in studies], transforms(settings.crop))
    batches = DataLoader(data, batch_size=settings.batch, shuffle=True, drop_last=False, num_workers=settings.workers)
    network = fresh().to(device.torch_device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
    loss_of = DiceCELoss(softmax=True, to_onehot_y=True, batch=True)
    scaler = torch.amp.GradScaler(device.torch_device.type, enabled=device.precision == torch.float16)
    with warnings.catch_warnings():  # of studies without lesion: they are cropped anywhere, as they should be
        warnings.filterwarnings("ignore", "Num foregrounds 0")
        begun, step, waiting = time.perf_counter(), 0, iter(batches)
        while (done := share_done(settings, step, time.perf_counter() - begun)) < 1:
            batch = next(waiting, None)
            if batch is None:
                waiting = iter(batches)
                batch = next(waiting)
            for group in optimizer.param_groups:
                group["lr"] = RATE * (0.5 + 0.5 * math.cos(math.pi * done))
            image, truth = (batch[key].to(device.torch_device) for key in ("image", "truth"))
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device.torch_device.type, device.precision, device.precision != torch.float32):
                out = network(image)
            scaler.scale(loss_of(out.float(), truth)).backward()
            scaler.step(optimizer)
            scaler.update()
            step += 1
    return network.eval(), step, time.perf_counter() - begun


def share_done(settings: PlainTraining, step: int, seconds: float) -> float:
    """How much of the training is done, from 0 to 1 and beyond."""
    return step / settings.steps if settings.steps else seconds / (60 * settings.minutes)


def sample_of(study: Study) -> dict[str, Any]:
    """A study as MONAI's transforms take it: image (2, X, Y, Z) in float16, truth (1, X, Y, Z)."""
    case, truth = read_study(study, Limits())
    placed = place(case, CROP_SUV, Stopwatch())
    if placed.box is None:
        raise ConfigError(f"{study.case}: PET '{study.pet}' has no voxel above SUV {CROP_SUV:g}: leave the study out")
    mask = np.ascontiguousarray(placed.view.to_las(truth)[placed.box].transpose(2, 1, 0))
    return {"image": image_of(placed).half(), "truth": torch.from_numpy(mask[None].astype(np.uint8))}


def image_of(placed: Placed) -> Tensor:
    """CT and SUV of a cropped study in [0, 1], (2, X, Y, Z) float32."""
    hu = (np.clip(placed.ct_hu, HU_LOW, HU_HIGH) - HU_LOW) / (HU_HIGH - HU_LOW)
    suv = np.clip(placed.suv, 0, SUV_TOP) / SUV_TOP
    return torch.from_numpy(np.stack([hu, suv]).astype(np.float32).transpose(0, 3, 2, 1).copy())


def transforms(crop: int) -> Any:
    """A crop, as often around lesion as elsewhere, flips, rotation and scale, and intensity."""
    from monai import transforms as mt

    both, size = ("image", "truth"), (crop,) * 3
    return mt.Compose(
        [
            mt.SpatialPadd(both, size),
            mt.RandCropByPosNegLabeld(both, "truth", size, pos=1, neg=1, num_samples=1),
            mt.SelectItemsd(both),
            mt.CastToTyped(both, (torch.float32, torch.float32)),
            *(mt.RandFlipd(both, prob=0.5, spatial_axis=axis) for axis in range(3)),
            mt.RandAffined(
                both,
                prob=0.3,
                rotate_range=(0.26,) * 3,
                scale_range=(0.15,) * 3,
                mode=("bilinear", "nearest"),
                padding_mode="zeros",
            ),
            mt.RandScaleIntensityd("image", factors=0.2, prob=0.3),
            mt.RandShiftIntensityd("image", offsets=0.05, prob=0.3),
            mt.RandGaussianNoised("image", prob=0.2, std=0.02),
            mt.ToTensord(both, track_meta=False),
        ]
    )


def plain_masking(network: nn.Module, crop: int, device: Device) -> Masking:
    """The network's masks, by MONAI's sliding window of its training crop."""

    def mask(case: Case, voxels: int = 0) -> NDArray[np.bool_]:
        placed = place(case, CROP_SUV, Stopwatch())
        if placed.box is None:
            return np.zeros(case.pet.grid.shape, bool)
        padded = nn.functional.pad(image_of(placed), (voxels,) * 6)  # zero is air in both channels
        found = marked(network, padded, crop, device)
        inner = tuple(slice(voxels, edge - voxels) for edge in found.shape)
        back: NDArray[np.bool_] = put_back(placed, found[inner])
        return back

    return Masking(mask=mask, in_air=mask)


def marked(network: nn.Module, image: Tensor, crop: int, device: Device) -> NDArray[np.bool_]:
    """Where the network sees lesion in an image (2, X, Y, Z), bool (X, Y, Z)."""
    from monai.inferers import sliding_window_inference

    kind = device.torch_device.type
    with torch.no_grad(), torch.autocast(kind, device.precision, device.precision != torch.float32):
        logits: Any = sliding_window_inference(
            image[None].to(device.torch_device), (crop,) * 3, WINDOWS_AT_A_TIME, network, overlap=0.5, mode="gaussian"
        )
    lesion: NDArray[np.bool_] = (logits[0, 1] > logits[0, 0]).cpu().numpy()
    return lesion
