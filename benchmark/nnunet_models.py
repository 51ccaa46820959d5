"""Models of nnU-Net v2 with random weights, as its trainer leaves them, and a made-up study. Needs no nnU-Net.

python -m benchmark.nnunet_models FOLDER --kind resenc_l --organs 11   # 0.4 GB a fold; its masks mean nothing
python -m training import FOLDER --check                               # what such a model costs to run
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from model.networks.unet import skeleton
from training.bundles.nnunet_plans import describe
from training.bundles.nnunet_state import ORGAN_HEADS, their_name, turned

FOLDER = "nnUNetTrainer__nnUNetPlans__3d_fullres"
Three = tuple[int, int, int]
SIZE: Three = (30, 26, 22)  # voxels (x, y, z) of the study
SPACING_MM = (4.0, 4.0, 3.0)
KEYS = ("min", "max", "mean", "std", "percentile_00_5", "percentile_99_5")
INTENSITIES = {  # of the channels, in the plans
    "0": dict(zip(KEYS, (-1000.0, 3000.0, 20.0, 180.0, -900.0, 900.0), strict=True)),
    "1": dict(zip(KEYS, (0.0, 80.0, 5.0, 4.0, 0.1, 20.0), strict=True)),
}


RESENC_L: dict[str, Any] = {  # as LesionTracer and GLOW-FDG have it
    "residual": True,
    "widths": [32, 64, 128, 256, 320, 320],
    "blocks": [1, 3, 4, 6, 6, 6],
    "patch_size": [192, 192, 192],
    "spacing": [3.0, 2.0364, 2.0364],
}
PLAIN: dict[str, Any] = {  # a plain U-Net of nnU-Net's usual size
    "widths": [32, 64, 128, 256, 320, 320],
    "blocks": [2, 2, 2, 2, 2, 2],
    "strides": [[1, 1, 1], *[[2, 2, 2]] * 4, [1, 2, 2]],
    "patch_size": [112, 160, 128],
    "spacing": [3.0, 2.0364, 2.0364],
}


RESAMPLED = 1.05  # so that a benchmark's study is resampled there and back
KINDS: dict[str, dict[str, Any]] = {"resenc_l": RESENC_L, "plain": PLAIN, "tiny": {}}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("folder", type=Path, help="where the model's folder goes; it must not be there")
    add("--kind", choices=KINDS, default="resenc_l", help="which network (default resenc_l, 0.4 GB a fold)")
    add("--folds", type=int, default=1, help="how many folds, 1 to 5 (default 1)")
    add("--organs", type=int, default=0, help="classes of a second head, 11 as GLOW-FDG's (default 0: none)")
    options = parser.parse_args()
    folder, plans = options.folder, plans_of(**KINDS[options.kind])
    if (folder / FOLDER).exists():
        parser.error(f"'{folder / FOLDER}' is there already; name another folder")
    print(f"wrote '{write_model(folder, plans, dataset_of(), range(options.folds), options.organs)}'")


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


def residual_plans(widths: Sequence[int], edge: int, spacing_mm: Sequence[float]) -> dict[str, Any]:
    """Plans of ResEnc L's network, of other widths or fewer stages if so asked. edge: of its patches, in voxels;
    spacing_mm: a study's (x, y, z), which is resampled to voxels RESAMPLED times as large.
    """
    blocks = [RESENC_L["blocks"][min(number, 5)] for number in range(len(widths))]
    spacing = [RESAMPLED * mm for mm in reversed(spacing_mm)]
    return plans_of(residual=True, widths=list(widths), blocks=blocks, patch_size=[edge] * 3, spacing=spacing)


def dataset_of(
    labels: dict[str, Any] | None = None, regions: list[int] | None = None, names: Sequence[str] = ("CT", "PET")
) -> dict[str, Any]:
    """dataset.json."""
    found: dict[str, Any] = {
        "channel_names": dict(zip("01", names, strict=False)),
        "labels": labels or {"background": 0, "tumor": 1},
    }
    return found | {"numTraining": 1, "file_ending": ".nii.gz"} | ({"regions_class_order": regions} if regions else {})


def random_state(
    plans: dict[str, Any], dataset: dict[str, Any], organs: int = 0, seed: int = 7, background: float = 0.3
) -> dict[str, Tensor]:
    """network_weights of a checkpoint: nnU-Net's names, its doubled ones too, and its axes, with random values.

    organs: classes of an organ head. background: the bias of its logit, so that most of a study is background.
    """
    label = next(name for name in dataset["labels"] if name not in ("background", "ignore"))
    channels = ("CT", "PET") if len(dataset["channel_names"]) == 2 else ("PET",)
    described = describe(plans, dataset, "3d_fullres", channels=channels, lesion=label, organs=organs)
    network, random = described.network, torch.Generator().manual_seed(seed)
    x, y, z = (described.axes.index(axis) for axis in range(3))  # which of (x, y, z) the network's axes are
    kept: dict[str, Tensor] = {}
    for name, shape in ((name, tensor.shape) for name, tensor in skeleton(network).state_dict().items()):
        value = torch.zeros(shape)
        if len(shape) > 1:
            value = torch.randn(shape, generator=random) * (2 / shape[1:].numel()) ** 0.5
        elif name.endswith("norm.weight"):
            value = torch.ones(shape)
        kept[their_name(name, network)] = turned(value, (x, y, z)).contiguous()
    for number, width in enumerate(reversed(network.widths[1:-1])):  # heads of deep supervision
        for head, count in (("decoder.seg_layers.", network.classes), *([(ORGAN_HEADS, organs)] if organs else [])):
            kept[f"{head}{number}.weight"] = torch.randn((count, width, 1, 1, 1), generator=random)
            kept[f"{head}{number}.bias"] = torch.zeros(count)
    last = kept[f"decoder.seg_layers.{len(network.widths) - 2}.bias"]
    last[:] = -0.3 if network.regions else 0
    last[0] = -0.3 if network.regions else background
    return with_repeats(kept)


def with_repeats(kept: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state with what nnU-Net's modules say twice: ...all_modules.* and decoder.encoder.*."""
    state = dict(kept)
    for name, tensor in kept.items():
        unit, _, rest = name.rpartition(".")
        parent, _, kind = unit.rpartition(".")
        if kind in ("conv", "norm"):
            state[f"{parent}.all_modules.{int(kind == 'norm')}.{rest}"] = tensor
    return state | {f"decoder.{name}": tensor for name, tensor in state.items() if name.startswith("encoder.")}


def write_model(
    folder: Path,
    plans: dict[str, Any],
    dataset: dict[str, Any],
    folds: Sequence[int | str] = (0,),
    organs: int = 0,
    prefix: str = "",
    mirrored: tuple[int, ...] = (0, 1, 2),
    background: float = 0.3,
    half: bool = False,
) -> Path:
    """A model's folder below `folder`. organs: classes of an organ head; prefix: before every tensor's name; half:
    weights are numbers that float16 holds, so that nobody rounds them.
    """
    model = folder / FOLDER
    model.mkdir(parents=True)
    (model / "plans.json").write_text(json.dumps(plans))
    (model / "dataset.json").write_text(json.dumps(dataset))
    for fold in folds:
        state = random_state(plans, dataset, organs, 7 if fold == "all" else int(fold), background)
        state = {name: tensor.half().float() for name, tensor in state.items()} if half else state
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


def study(
    size: Three = SIZE, spacing: tuple[float, float, float] = SPACING_MM, empty: int = 0
) -> tuple[sitk.Image, sitk.Image]:
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


if __name__ == "__main__":
    main()
