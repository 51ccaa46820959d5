"""torch.compile of the network that trains: only the steps' forward and backward passes run compiled."""

import importlib.util
import os
import shutil
from typing import cast

import torch
from torch import nn

from model.errors import ConfigError

C_COMPILERS = ("gcc", "clang", "cc")  # that Triton looks for; CC comes before them


def compiled_network(network: nn.Module) -> nn.Module:
    """The network's forward pass, compiled at its first call for each size of crops, by the same parameters.

    `network` itself stays as it was: checkpoints and averages take its state, whose names are as without compiling, and
    validation runs it.
    """
    return cast(nn.Module, torch.compile(network, dynamic=False))


def check_compile(device: str) -> None:
    """Raise ConfigError if torch.compile cannot work for this type of device."""
    if lacking := why_no_compile(device):
        raise ConfigError(f"compile: true needs {lacking}, which is not here; install it, or leave compile out")


def why_no_compile(device: str) -> str | None:
    """What torch.compile lacks here; None if nothing."""
    if device == "cpu":
        cxx = os.environ.get("CXX", "g++")
        return None if shutil.which(cxx) else f"a C++ compiler ('{cxx}')"
    if importlib.util.find_spec("triton") is None:
        return "the Python package triton, which comes with torch's builds for CUDA"
    names = [os.environ["CC"]] if os.environ.get("CC") else list(C_COMPILERS)
    return None if any(shutil.which(name) for name in names) else f"a C compiler ({', '.join(names)})"
