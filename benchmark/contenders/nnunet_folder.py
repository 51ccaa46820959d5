"""nnU-Net v2's predictor on a model's folder, in a process of its own; benchmark.inference starts it.

All folds of the folder, its defaults otherwise: step half a patch, Gaussian weights, sums in half precision, all on the
device. SimpleITK reads the study, brings it to LAS and CT to the PET's voxels, as nnU-Net expects them; preprocessing,
networks and the way back are its own.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from benchmark.contenders.monai import AIR_HU, begin, orientation, read
from model.files import peak_memory_bytes
from model.stopwatch import Stopwatch

for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
    os.environ.setdefault(name, "/nowhere")  # unused, but nnU-Net complains where they are not set
os.environ.setdefault("nnUNet_def_n_proc", str(os.cpu_count()))  # the most threads that its networks get; else 8


def main() -> None:
    """One study from the command line's task; prints what was measured as JSON."""
    task, device, watch = begin()
    gpu = device.type == "cuda"
    with watch.stage("import"):
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor  # type: ignore[import-not-found]
    predictor = nnUNetPredictor(
        use_mirroring=task.mirroring, perform_everything_on_device=True, device=device, allow_tqdm=False
    )
    with watch.stage("weights"):
        folds = [int(path.name.removeprefix("fold_")) for path in sorted(Path(task.model).glob("fold_*"))]
        predictor.initialize_from_trained_model_folder(task.model, folds, "checkpoint_final.pth")
    counted = timed(predictor.network, watch)
    with watch.stage("read"):
        pet, ct = (read(Path(task.study) / "images" / what) for what in ("pet", "ct"))
    with watch.stage("resample"):
        las = sitk.DICOMOrient(pet, "LAS")
        moved = sitk.Resample(ct, las, sitk.Transform(), sitk.sitkLinear, AIR_HU, sitk.sitkFloat32)
        image = np.stack([sitk.GetArrayFromImage(moved), sitk.GetArrayFromImage(las)])
    spacing = [abs(mm) for mm in reversed(las.GetSpacing())]
    with watch.stage("sums"):  # and its own preprocessing and resampling
        found = predictor.predict_single_npy_array(image, {"spacing": spacing})
    with watch.stage("paste"):
        mask = sitk.GetImageFromArray(np.ascontiguousarray(np.asarray(found) == 1).astype(np.uint8))
        mask.CopyInformation(las)
        mask = sitk.DICOMOrient(mask, orientation(pet))
    with watch.stage("write"):
        sitk.WriteImage(mask, task.mask, True)
    measured = {
        "seconds": watch.seconds,
        "peak_bytes": peak_memory_bytes(),
        "peak_gpu_bytes": torch.cuda.max_memory_allocated() if gpu else None,
        "windows": len(counted) // (8 if task.mirroring else 1),
        "threads": torch.get_num_threads(),
        "precision": "float16" if gpu else "float32",
    }
    print(json.dumps(measured))


def timed(network: Any, watch: Stopwatch) -> list[int]:
    """Let the network time itself; the list grows by one with every pass."""
    passes: list[int] = []
    running: list[Any] = []

    def begin(*_: Any) -> None:
        running.append(watch.stage("network"))
        running[-1].__enter__()

    def end(*_: Any) -> None:
        running.pop().__exit__(None, None, None)
        passes.append(1)

    network.register_forward_pre_hook(begin)
    network.register_forward_hook(end)
    return passes


if __name__ == "__main__":
    main()
