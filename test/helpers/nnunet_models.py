"""Models of nnU-Net v2 with random weights, as its trainer leaves them, and the mask of its own predictor.

`write_model` needs dynamic-network-architectures, `nnunet_mask` nnunetv2 (benchmark/requirements.txt has both): a test
calls `pytest.importorskip` first.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

FOLDER = "nnUNetTrainer__nnUNetPlans__3d_fullres"
SIZE = (30, 26, 22)  # voxels (x, y, z) of the study
SPACING_MM = (4.0, 4.0, 3.0)
KEYS = ("min", "max", "mean", "std", "percentile_00_5", "percentile_99_5")
INTENSITIES = {  # of the channels, in the plans
    "0": dict(zip(KEYS, (-1000.0, 3000.0, 20.0, 180.0, -900.0, 900.0), strict=True)),
    "1": dict(zip(KEYS, (0.0, 80.0, 5.0, 4.0, 0.1, 20.0), strict=True)),
}


def plans_of(**changes: Any) -> dict[str, Any]:
    """plans.json of a small network. changes: residual, old (the plans of 2023), torch_resampling, widths, blocks, and
    any key of the configuration or of the plans.
    """
    residual, widths = changes.pop("residual", False), changes.pop("widths", [4, 8, 12])
    blocks = changes.pop("blocks", [1, 2, 2] if residual else [2, 2, 2])
    kernels = changes.pop("kernel_sizes", [[3, 3, 3]] * len(widths))
    strides = changes.pop("strides", [[1, 1, 1]] + [[2, 2, 2]] * (len(widths) - 1))
    network = {
        "n_stages": len(widths),
        "features_per_stage": widths,
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": kernels,
        "strides": strides,
        "n_blocks_per_stage" if residual else "n_conv_per_stage": blocks,
        "n_conv_per_stage_decoder": [1] * (len(widths) - 1),
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    name = "ResidualEncoderUNet" if residual else "PlainConvUNet"
    of_torch = changes.pop("torch_resampling", False)
    resampler = "resample_torch_fornnunet" if of_torch else "resample_data_or_seg_to_shape"
    other = {"is_seg": False, "force_separate_z": False, "memefficient_seg_resampling": False}
    configuration: dict[str, Any] = {
        "preprocessor_name": "DefaultPreprocessor",
        "patch_size": [16, 16, 16],
        "spacing": [3.0, 5.0, 4.5],
        "normalization_schemes": ["CTNormalization", "CTNormalization"],
        "use_mask_for_norm": [False, False],
    }
    for what, order in (("data", 3), ("seg", 1), ("probabilities", 1)):
        configuration[f"resampling_fn_{what}"] = resampler
        own = {"is_seg": False, "order": order, "order_z": 0, "force_separate_z": None}
        configuration[f"resampling_fn_{what}_kwargs"] = other if of_torch else own
    if changes.pop("old", False):
        configuration |= {
            "UNet_class_name": name,
            "UNet_base_num_features": widths[0],
            "unet_max_num_features": max(widths),
            "n_conv_per_stage_encoder": blocks,
            "n_conv_per_stage_decoder": [1] * (len(widths) - 1),
            "num_pool_per_axis": [2, 2, 2],
            "pool_op_kernel_sizes": strides,
            "conv_kernel_sizes": kernels,
        }
    else:
        configuration["architecture"] = {
            "network_class_name": f"dynamic_network_architectures.architectures.unet.{name}",
            "arch_kwargs": network,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        }
    forward = changes.pop("transpose_forward", [0, 1, 2])
    configuration |= changes
    return {
        "dataset_name": "Dataset777_Fdg",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": forward,
        "transpose_backward": [forward.index(axis) for axis in range(3)],
        "configurations": {"3d_fullres": configuration},
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": INTENSITIES,
    }


def dataset_of(labels: dict[str, Any] | None = None, regions: list[int] | None = None, names=("CT", "PET")) -> dict:
    """dataset.json."""
    found = {"channel_names": dict(zip("01", names, strict=True)), "labels": labels or {"background": 0, "tumor": 1}}
    return found | {"numTraining": 1, "file_ending": ".nii.gz"} | ({"regions_class_order": regions} if regions else {})


def theirs(plans: dict[str, Any], classes: int) -> nn.Module:
    """nnU-Net's network of the plans of today."""
    from dynamic_network_architectures.architectures import unet

    architecture = plans["configurations"]["3d_fullres"]["architecture"]
    kind = getattr(unet, architecture["network_class_name"].rsplit(".", 1)[-1])
    types = {"conv_op": nn.Conv3d, "norm_op": nn.InstanceNorm3d, "nonlin": nn.LeakyReLU}
    network: nn.Module = kind(2, num_classes=classes, deep_supervision=True, **(architecture["arch_kwargs"] | types))
    for parameter in network.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=(2 / parameter[0].numel()) ** 0.5)
    return network


def write_model(
    folder: Path,
    plans: dict[str, Any],
    dataset: dict[str, Any],
    folds: Sequence[int | str] = (0,),
    organs: int = 0,
    prefix: str = "",
    mirrored: tuple[int, ...] = (0, 1, 2),
) -> Path:
    """A model's folder below `folder`. organs: classes of an organ head; prefix: before every tensor's name."""
    model = folder / FOLDER
    model.mkdir(parents=True)
    (model / "plans.json").write_text(json.dumps(plans))
    (model / "dataset.json").write_text(json.dumps(dataset))
    labels = dataset["labels"]
    regions = dataset.get("regions_class_order")
    classes = len(regions) if regions else max(value for name, value in labels.items() if name != "ignore") + 1
    today = plans if "architecture" in plans["configurations"]["3d_fullres"] else _of_today(plans)
    for fold in folds:
        torch.manual_seed(7 if fold == "all" else int(fold))
        network = theirs(today, classes)
        bias = network.decoder.seg_layers[-1].bias.data
        bias[:] = -0.3 if regions else 0
        bias[0] = -0.3 if regions else 0.3  # so that most of a study is background
        state = network.state_dict()
        for number, layer in enumerate(network.decoder.seg_layers if organs else []):
            state[f"decoder.organ_seg_layers.{number}.weight"] = torch.randn(organs, layer.in_channels, 1, 1, 1)
            state[f"decoder.organ_seg_layers.{number}.bias"] = torch.zeros(organs)
        (model / f"fold_{fold}").mkdir()
        torch.save(
            {
                "network_weights": {prefix + name: tensor for name, tensor in state.items()},
                "optimizer_state": {"state": {0: torch.zeros(3)}},
                "logging": {"dice": [np.float64(0.5)]},
                "init_args": {"configuration": "3d_fullres", "fold": fold},
                "trainer_name": "nnUNetTrainer",
                "inference_allowed_mirroring_axes": mirrored,
            },
            model / f"fold_{fold}" / "checkpoint_final.pth",
        )
    return model


def study(size=SIZE, spacing=SPACING_MM, empty: int = 0) -> tuple[sitk.Image, sitk.Image]:
    """PET and CT of a made-up body, in LAS; empty: voxels of zeros at every face."""
    rng = np.random.default_rng(5)
    shape = size[::-1]
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    body = y**2 / 0.7 + x**2 / 0.9 < 1
    suv = (np.abs(gaussian_filter(rng.normal(size=shape), 1.5)) * 8 + 0.3) * body
    suv += 10 * np.exp(-((x - 0.2) ** 2 + y**2 + z**2) / 0.05)
    hu = np.where(body, gaussian_filter(rng.normal(size=shape), 1) * 200 + 30, -1000)
    images = []
    for array in (suv, hu):
        if empty:
            inner = tuple(slice(empty, n - empty) for n in shape)
            padded = np.zeros(shape)
            padded[inner] = array[inner]
            array = padded
        image = sitk.GetImageFromArray(array.astype(np.float32))
        image.SetSpacing(spacing)
        images.append(sitk.DICOMOrient(image, "LAS"))
    return images[0], images[1]


def nnunet_mask(
    model: Path, images: tuple[sitk.Image, sitk.Image], folder: Path, folds: Sequence[int | str], mirrored: bool = True
) -> np.ndarray:
    """The label map (z, y, x) of nnU-Net's predictor with its sums in float32, and without the organ head."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ.setdefault(name, str(folder))
    os.environ.setdefault("nnUNet_def_n_proc", "1")  # its threads; by default 8, however few cores there are
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    files = [folder / "study_0000.nii.gz", folder / "study_0001.nii.gz"]
    for file, image in zip(files, images[::-1], strict=True):
        sitk.WriteImage(image, str(file))
    predictor = nnUNetPredictor(
        use_mirroring=mirrored, perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False
    )
    with _plain_weights(), _sums_in_float32():
        predictor.initialize_from_trained_model_folder(str(model), list(folds), "checkpoint_final.pth")
        found = predictor.predict_from_files_sequential([[str(file) for file in files]], None)
    return np.asarray(found[0])


@contextmanager
def _sums_in_float32() -> Iterator[None]:
    import nnunetv2.inference.predict_from_raw_data as module

    half, original = torch.half, module.compute_gaussian

    def in_float32(*words: Any, **named: Any) -> torch.Tensor:
        return original(*words, **(named | {"dtype": torch.float32}))

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


def _of_today(plans: dict[str, Any]) -> dict[str, Any]:
    old = plans["configurations"]["3d_fullres"]
    widths = [
        min(old["UNet_base_num_features"] * 2**stage, old["unet_max_num_features"])
        for stage in range(len(old["n_conv_per_stage_encoder"]))
    ]
    return plans_of(widths=widths, residual=old["UNet_class_name"] == "ResidualEncoderUNet")
