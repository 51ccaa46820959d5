"""Batch statistics of averaged weights: the mean of several networks' statistics fits none, so they are computed anew.

Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", UAI 2018, section 3.2.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, Subset

from model.bundle.network import Network
from model.inference.device import Device
from training.batches.crops import CropDataset
from training.batches.slices import SliceDataset
from training.settings import Training

BATCHES = 32  # of training slices or crops; their mean and variance become the statistics


def keeps_statistics(network: Network) -> bool:
    """Whether a network normalises by statistics that it keeps: networks for slices and U-Nets with norm batch do."""
    return network.kind == "slices" or network.norm == "batch"


def refreshed(network: nn.Module, settings: Training, cache: Path, cases: Sequence[str], device: Device) -> nn.Module:
    """The network with the statistics that its weights have on training slices or crops, in evaluation mode.

    The network is left as it is if it keeps none, or if training never changed them (fixed_statistics): then they are
    the same in every term of an average. Augmentation is off, and every call gives the same result.
    """
    if not keeps_statistics(settings.network) or settings.fixed_statistics:
        return network.eval() if settings.fixed_statistics else network
    plain = settings.changed_to(augmentation="none")
    if settings.network.kind == "slices":
        slices = SliceDataset(cache, cases, plain)
        some, together = Subset(slices, range(min(BATCHES * settings.batch, slices.an_epoch))), None
    else:
        some = Subset(CropDataset(cache, cases, plain), range(BATCHES * settings.batch))
        together = CropDataset.together
    with torch.random.fork_rng(devices=[]):
        batches = DataLoader(some, batch_size=settings.batch, collate_fn=together)
        update_bn(batches, network.to(device.torch_device), device.torch_device)
    return network.eval()
