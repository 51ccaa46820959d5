"""The device that trains or scores, the precision it computes in, and how images lie in its memory."""

import os
from dataclasses import replace

import torch

from model.inference.device import Device, choose_device, make_deterministic
from training.settings import Training

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def device_for(precision: str, wanted: str = "auto") -> Device:
    """The device to train on, computing in `precision`; on a CPU auto and float16 mean float32.

    On a GPU auto is bfloat16 if the card has it, since its range is float32's and nothing overflows; else float16.
    Under torchrun each process takes the GPU of its LOCAL_RANK.
    """
    device = choose_device(wanted)
    if device.torch_device.type == "cpu":
        return replace(device, precision=PRECISIONS["float32" if precision in ("auto", "float16") else precision])
    local = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    if precision == "auto":
        precision = "bfloat16" if torch.bfloat16 in device.wider else "float16"
    return replace(device, torch_device=local, precision=PRECISIONS[precision])


def choose_convolutions(settings: Training) -> None:
    """`deterministic`: cuDNN's ways that give the same bits twice; else it tries every way once for each size of crops.

    TF32, which keeps 10 bits of float32's 23, stays off in both: crops are augmented in float32.
    """
    make_deterministic()
    if settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # NVIDIA's condition for matrix products
    torch.backends.cudnn.deterministic = settings.deterministic
    torch.backends.cudnn.benchmark = not settings.deterministic


def scoring_device(wanted: str) -> Device:
    """The device to score and to choose on: as the container's, but float32 on every CPU.

    So neither a choice nor a published score depends on the processor that it was made on.
    """
    device = choose_device(wanted)
    return replace(device, precision=torch.float32) if device.torch_device.type == "cpu" else device


def layout_of(settings: Training) -> torch.memory_format:
    """How images, and weights that allow it, lie in memory."""
    if not settings.channels_last:
        return torch.contiguous_format
    return torch.channels_last if settings.network.kind == "slices" else torch.channels_last_3d
