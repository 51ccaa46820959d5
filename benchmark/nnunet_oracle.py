"""The mask of nnU-Net's own predictor, in an environment that has it (benchmark/requirements.txt)."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray


def nnunet_mask(
    model: Path,
    channels: Sequence[sitk.Image],
    folder: Path,
    folds: Sequence[int | str],
    mirrored: bool = True,
    float32: bool = True,
) -> NDArray[np.integer[Any]]:
    """The label map (z, y, x) of nnU-Net's predictor on the CPU, without the organ head.

    channels: the images in the model's order; folder: for the files that it reads. float32: its sums of logits and of
    window weights are float32; otherwise they are in half precision, as it is published.
    """
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ.setdefault(name, str(folder))
    os.environ.setdefault("nnUNet_def_n_proc", "1")  # its threads; by default 8, however few cores there are
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor  # type: ignore[import-not-found]

    files = [str(folder / f"study_{number:04d}.nii.gz") for number in range(len(channels))]
    for file, image in zip(files, channels, strict=True):
        sitk.WriteImage(image, file)
    predictor = nnUNetPredictor(
        use_mirroring=mirrored, perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False
    )
    with _plain_weights(), _sums_in_float32() if float32 else nullcontext():
        predictor.initialize_from_trained_model_folder(str(model), list(folds), "checkpoint_final.pth")
        found = predictor.predict_from_files_sequential([files], None)
    return np.asarray(found[0])


@contextmanager
def _sums_in_float32() -> Iterator[None]:
    import nnunetv2.inference.predict_from_raw_data as module  # type: ignore[import-not-found]

    half, original = torch.half, module.compute_gaussian

    def in_float32(*words: Any, **named: Any) -> torch.Tensor:
        found: torch.Tensor = original(*words, **(named | {"dtype": torch.float32}))
        return found

    in_float32.cache_clear = original.cache_clear  # type: ignore[attr-defined]
    torch.half, module.compute_gaussian = torch.float32, in_float32
    try:
        yield
    finally:
        torch.half, module.compute_gaussian = half, original


@contextmanager
def _plain_weights() -> Iterator[None]:
    """torch.load as nnU-Net calls it, without the tensors of the organ head, which its own network lacks."""
    original = torch.load

    def load(*words: Any, **named: Any) -> Any:
        found = original(*words, **named)
        found["network_weights"] = {k: t for k, t in found["network_weights"].items() if "organ" not in k}
        return found

    torch.load = load
    try:
        yield
    finally:
        torch.load = original
