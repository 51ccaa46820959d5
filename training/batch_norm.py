"""Batch statistics of averaged weights: the mean of networks' statistics belongs to no network, so they are made anew.

Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", UAI 2018, section 3.2.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, Subset

from model.device import Device
from training.settings import Training
from training.slice_sampling import SliceDataset

BATCHES = 32  # of training slices, whose mean and variance the statistics become


def refreshed(network: nn.Module, settings: Training, cache: Path, cases: Sequence[str], device: Device) -> nn.Module:
    """The network with the statistics that its weights have on training slices, in evaluation mode.

    As it is for networks for volumes, which keep none. Augmentation is off, and every call gives the same.
    """
    if settings.network.kind != "slices":
        return network
    plain = settings.changed_to(augmentation="none")
    data = SliceDataset(cache, cases, plain)
    some = Subset(data, range(min(BATCHES * settings.batch, data.an_epoch)))
    with torch.random.fork_rng(devices=[]):
        update_bn(DataLoader(some, batch_size=settings.batch), network.to(device.torch_device), device.torch_device)
    return network.eval()
