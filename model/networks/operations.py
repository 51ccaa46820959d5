"""How many floating-point operations a network takes, counted without running it."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from model.bundle.network import Network
from model.networks.unet import skeleton


def operations(network: Network, window: tuple[int, int, int]) -> int:
    """Multiplications and additions of one window (x, y, z) through one network."""
    with torch.device("meta"):
        image = torch.empty(1, network.image_channels, *window)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        skeleton(network).to("meta").eval()(image)
    return int(counter.get_total_flops())
