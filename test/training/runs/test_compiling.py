"""torch.compile in training: the same values and names, and a clear refusal where it cannot work."""

import json

import pytest
import torch
from safetensors.torch import load_file
from tiny_settings import TINY

from model.bundle.settings import Network
from model.errors import ConfigError
from model.networks.unet import build
from training.runs import compiling
from training.runs.compiling import check_compile, compiled_network, why_no_compile
