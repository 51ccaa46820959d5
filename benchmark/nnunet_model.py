"""A model's folder as nnU-Net v2 leaves it, with random weights: a residual-encoder U-Net; and the bundle made of it.

The weights are numbers that float16 holds, so that neither side rounds them. The plans ask for voxels RESAMPLED times
as large as the study's, so that both sides resample there and back.
"""

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.bundle.nnunet import UNetStage
from model.bundle.settings import Network
from model.networks.unet import build
from training.__main__ import main as training
from training.bundles.nnunet_state import their_name

WIDTHS = (32, 64, 128, 256, 320, 320)  # of ResEnc L, and its blocks
BLOCKS = (1, 3, 4, 6, 6, 6)
RESAMPLED = 1.05
FOLDER = "nnUNetTrainer__nnUNetPlans__3d_fullres"
KEYS = ("min", "max", "mean", "std", "percentile_00_5", "percentile_99_5")
INTENSITIES = {  # of CT and PET, as their names say
    "0": dict(zip(KEYS, (-1000.0, 3000.0, 20.0, 180.0, -900.0, 900.0), strict=True)),
    "1": dict(zip(KEYS, (0.0, 80.0, 5.0, 4.0, 0.1, 20.0), strict=True)),
}


def network_of(widths: tuple[int, ...]) -> Network:
    """ResEnc L's network, of other widths or of fewer stages if so asked."""
    stages = [
        UNetStage(kernel=(3, 3, 3), stride=(2, 2, 2) if number else (1, 1, 1), blocks=BLOCKS[min(number, 5)])
        for number in range(len(widths))
    ]
    return Network(fusion="residual_unet", widths=widths, stages=tuple(stages))


def write_model(folder: Path, network: Network, edge: int, folds: int, spacing_mm: tuple[float, ...]) -> Path:
    """The model's folder below `folder`. edge: of its patches, in voxels; spacing_mm: the study's, (x, y, z)."""
    model = folder / FOLDER
    model.mkdir(parents=True)
    (model / "plans.json").write_text(json.dumps(_plans(network, edge, spacing_mm)))
    names = {"channel_names": {"0": "CT", "1": "PET"}, "labels": {"background": 0, "tumor": 1}}
    (model / "dataset.json").write_text(json.dumps(names | {"numTraining": 1, "file_ending": ".mha"}))
    for fold in range(folds):
        torch.manual_seed(fold)
        state = build(network).state_dict()
        state["head.bias"] = torch.tensor([0.3, -0.3])  # so that most of a study is background
        (model / f"fold_{fold}").mkdir()
        torch.save(
            {
                "network_weights": _their_state(state, network),
                "init_args": {"configuration": "3d_fullres", "fold": fold},
                "trainer_name": "nnUNetTrainer",
                "inference_allowed_mirroring_axes": (0, 1, 2),
            },
            model / f"fold_{fold}" / "checkpoint_final.pth",
        )
    return model


def make_bundle_of(model: Path, folder: Path, name: str, mirroring: bool) -> Path:
    """The bundle of a model's folder, as `training import` makes it."""
    words = [] if mirroring else ["--no-mirroring"]
    command = ["import", str(model), "--name", name, "--output-folder", str(folder), "--licence", "MIT", *words]
    with contextlib.redirect_stdout(sys.stderr):
        if code := training(command):
            raise SystemExit(code)
    return folder / name


def _their_state(state: dict[str, Tensor], network: Network) -> dict[str, Tensor]:
    """Tensors by nnU-Net's names, in its order of axes, with those that it saves twice or does not use."""
    theirs = {}
    for name, tensor in state.items():
        turned = tensor.permute(0, 1, 4, 3, 2) if tensor.ndim == 5 else tensor
        theirs[their_name(name, network)] = turned.half().float().contiguous()
    out = dict(theirs)
    for name, tensor in theirs.items():
        for own, number in ((".conv.", 0), (".norm.", 1)):
            out[name.replace(own, f".all_modules.{number}.")] = tensor
    for name in [name for name in out if name.startswith("encoder.")]:
        out[f"decoder.{name}"] = out[name]
    for lower in range(len(network.widths) - 2):  # heads of deep supervision
        width = network.widths[-2 - lower]
        out[f"decoder.seg_layers.{lower}.weight"] = torch.zeros(network.classes, width, 1, 1, 1)
        out[f"decoder.seg_layers.{lower}.bias"] = torch.zeros(network.classes)
    return out


def _plans(network: Network, edge: int, spacing_mm: tuple[float, ...]) -> dict[str, Any]:
    """plans.json: isotropic kernels and strides need no turning."""
    count = len(network.widths)
    architecture = {
        "n_stages": count,
        "features_per_stage": list(network.widths),
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3]] * count,
        "strides": [[1, 1, 1]] + [[2, 2, 2]] * (count - 1),
        "n_blocks_per_stage": [stage.blocks for stage in network.stages],
        "n_conv_per_stage_decoder": [1] * (count - 1),
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    configuration: dict[str, Any] = {
        "preprocessor_name": "DefaultPreprocessor",
        "patch_size": [edge] * 3,
        "spacing": [RESAMPLED * mm for mm in reversed(spacing_mm)],
        "normalization_schemes": ["CTNormalization"] * 2,
        "use_mask_for_norm": [False, False],
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
            "arch_kwargs": architecture,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }
    for what, order in (("data", 3), ("seg", 1), ("probabilities", 1)):
        configuration[f"resampling_fn_{what}"] = "resample_data_or_seg_to_shape"
        own = {"is_seg": what == "seg", "order": order, "order_z": 0, "force_separate_z": None}
        configuration[f"resampling_fn_{what}_kwargs"] = own
    return {
        "dataset_name": "Dataset001_Random",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"3d_fullres": configuration},
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": INTENSITIES,
    }
