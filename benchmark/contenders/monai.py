"""The authors' way to run the ensemble, in a process of its own; benchmark.inference starts it.

SimpleITK reads and resamples, MONAI's sliding_window_inference runs one network after the other, in half precision on a
GPU and float32 on a CPU, and softmax and argmax are taken of the full volume. Of model/ only the networks, the readers
of weights and the stopwatch are used. benchmark.contenders.nnunet shares the steps before and after the networks.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmark.contenders.clock import age_s
from model.bundle.manifest import load_bundle
from model.files import peak_memory_bytes
from model.networks.weights import voters
from model.stopwatch import Stopwatch

AIR_HU = -1024.0
WINDOWS_AT_A_TIME = {"cpu": 1, "cuda": 2}


@dataclass(frozen=True)
class Task:
    """What benchmark.inference asks of a contender, as JSON on the command line."""

    study: str
    bundle: str
    mask: str
    window: int
    passes: int  # 4: a network of weight 2 runs once and counts twice; 5: it runs twice, as in the authors' container
    device: str
    gpu_gb: float | None = None  # of the GPU's memory that a process may take
    model: str = ""  # a model's folder, for nnU-Net's whole predictor
    mirroring: bool = False  # along all axes, there
    precision: str = "auto"  # of ours


def main() -> None:
    run(predict_by_monai)


class Timed(nn.Module):
    """A network that times itself and counts its windows."""

    def __init__(self, network: nn.Module, watch: Stopwatch) -> None:
        super().__init__()
        self.network, self.watch, self.windows = network, watch, 0

    def forward(self, image: Tensor) -> Tensor:
        self.windows += len(image)
        with self.watch.stage("network"):
            out: Tensor = self.network(image)
            return out


def begin() -> tuple[Task, torch.device, Stopwatch]:
    """The command line's task, its device, and a stopwatch that has counted the imports. Limits the GPU's memory."""
    task = Task(**json.loads(sys.argv[1]))
    device = torch.device(task.device)
    watch = Stopwatch(wait=torch.cuda.synchronize if device.type == "cuda" else lambda: None)
    watch.seconds["import"] = age_s()
    limit_gpu(task.gpu_gb)
    return task, device, watch


def run(predict: Callable[[list[tuple[float, Timed]], Tensor, Task, Stopwatch], Tensor]) -> None:
    """One study from the command line's task; prints what was measured as JSON.

    predict: (weighted networks, image (2, X, Y, Z) on the device, task, watch) -> weighted logits (2, X, Y, Z).
    """
    task, device, watch = begin()
    gpu = device.type == "cuda"
    with watch.stage("weights"):
        bundle = load_bundle(Path(task.bundle))
        networks = [(one.weight, Timed(one.load().to(device), watch)) for one in voters(bundle)]
        if task.passes > len(networks):
            networks = [(1.0, network) for weight, network in networks for _ in range(round(weight))]
    with watch.stage("read"):
        pet, ct = (read(Path(task.study) / "images" / what) for what in ("pet", "ct"))
    with watch.stage("resample"):
        las = sitk.DICOMOrient(pet, "LAS")
        moved = sitk.Resample(ct, las, sitk.Transform(), sitk.sitkLinear, AIR_HU, sitk.sitkFloat32)
    with watch.stage("crop"):
        suv, hu = (sitk.GetArrayFromImage(image).transpose(2, 1, 0) for image in (las, moved))
        box = bounding_box(suv > bundle.manifest.crop.suv_above)
    with watch.stage("intensity"):
        image = torch.from_numpy(np.stack([scaled_hu(hu[box], bundle), scaled_suv(suv[box], bundle)]))
    with watch.stage("to device"):
        image = image.to(device)
    total = predict(networks, image, task, watch)
    with watch.stage("argmax"):
        cropped = total.softmax(0).argmax(0).cpu().numpy().astype(np.uint8)
    with watch.stage("paste"):
        whole = np.zeros(suv.shape, np.uint8)
        whole[box] = cropped
        mask = sitk.GetImageFromArray(np.ascontiguousarray(whole.transpose(2, 1, 0)))
        mask.CopyInformation(las)
        mask = sitk.DICOMOrient(mask, orientation(pet))
    with watch.stage("write"):
        sitk.WriteImage(mask, task.mask, True)
    print(
        json.dumps(
            {
                "seconds": watch.seconds,
                "peak_bytes": peak_memory_bytes(),
                "peak_gpu_bytes": torch.cuda.max_memory_allocated() if gpu else None,
                "windows": sum(network.windows for network in {network for _, network in networks}),
                "threads": torch.get_num_threads(),
                "precision": "float16" if gpu else "float32",
            }
        )
    )


def limit_gpu(gb: float | None) -> None:
    """Let this process take at most so many GB of the GPU's memory."""
    if gb is not None:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(gb * 1e9 / total, 1.0))


def predict_by_monai(networks: list[tuple[float, Timed]], image: Tensor, task: Task, watch: Stopwatch) -> Tensor:
    """The weighted sum of the networks' logits, by MONAI's sliding window."""
    with watch.stage("import"):
        from monai.inferers import sliding_window_inference
    total: Any = 0
    half = torch.autocast("cuda", torch.float16, enabled=image.is_cuda)
    for weight, network in networks:
        with watch.stage("sums"), torch.no_grad(), half:
            out = sliding_window_inference(
                image[None], (task.window,) * 3, WINDOWS_AT_A_TIME[image.device.type], network, overlap=0.5
            )
            total = total + weight * out[0].float()
    mean: Tensor = total / sum(weight for weight, _ in networks)
    return mean


def read(folder: Path) -> Any:
    return sitk.ReadImage(str(next(folder.glob("*.mha"))), sitk.sitkFloat32)


def orientation(image: Any) -> str:
    code: str = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection())
    return code


def bounding_box(inside: NDArray[np.bool_]) -> tuple[slice, ...]:
    indices = [np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    return tuple(slice(int(found[0]), int(found[-1]) + 1) for found in indices)


def scaled_hu(hu: NDArray[Any], bundle: Any) -> NDArray[np.float32]:
    settings = bundle.manifest.intensity
    out: NDArray[Any] = (hu - settings.ct_low_hu) / (settings.ct_high_hu - settings.ct_low_hu)
    return (np.clip(out, 0, 1) if settings.ct_clip else out).astype(np.float32)


def scaled_suv(suv: NDArray[Any], bundle: Any) -> NDArray[np.float32]:
    settings = bundle.manifest.intensity
    out: NDArray[Any] = suv / settings.suv_top
    return (np.clip(out, 0, 1) if settings.suv_clip else out).astype(np.float32)


if __name__ == "__main__":
    main()
