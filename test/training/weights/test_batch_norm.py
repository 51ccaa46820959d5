import numpy as np
import torch
from tiny_settings import tiny_slices, tiny_training

from model.inference.device import choose_device
from model.networks.unet import build
from training.batches.crops import CropDataset
from training.batches.slices import SliceDataset
from training.weights.batch_norm import BATCHES, refreshed

CASES = ("case0", "case1")


def test_statistics_are_the_mean_over_batches_under_these_weights(tiny_cache) -> None:
    settings = tiny_slices(augmentation="strong")
    torch.manual_seed(0)
    network = build(settings.network)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.fill_(7.0)
    found = refreshed(network, settings, tiny_cache, CASES, choose_device("cpu", "float32"))
    assert not found.training
    data = SliceDataset(tiny_cache, CASES, settings.changed_to(augmentation="none"))
    images = torch.stack([data[number][0] for number in range(data.an_epoch)])
    with torch.no_grad():  # the first convolution of every batch, by hand
        parts = [found.encoder.stem.conv(part) for part in images.split(settings.batch)]
    mean = np.mean([part.mean((0, 2, 3)).numpy() for part in parts], 0)
    np.testing.assert_allclose(found.encoder.stem.bn.running_mean, mean, rtol=1e-4, atol=1e-6)


def test_crops_give_the_statistics_of_a_u_net_with_batch_norm(tiny_cache) -> None:
    settings = tiny_training(network={"fusion": "middle", "widths": [2, 2, 4], "norm": "batch"}, batch=2)
    network = build(settings.network)
    found = refreshed(network, settings, tiny_cache, CASES, choose_device("cpu", "float32"))
    data = CropDataset(tiny_cache, CASES, settings.changed_to(augmentation="none"))
    with torch.no_grad():
        means = [
            found.ct_encoder.layer1[0].conv(data.together([data[2 * n], data[2 * n + 1]])[0][:, :1]).mean((0, 2, 3, 4))
            for n in range(BATCHES)
        ]
    np.testing.assert_allclose(found.ct_encoder.layer1[0].norm.running_mean, np.mean(means, 0), rtol=1e-3, atol=1e-5)


def test_fixed_statistics_stay_as_they_are(tiny_cache) -> None:
    network = {"fusion": "middle", "widths": [2, 2, 4], "norm": "batch"}
    settings = tiny_training(network=network, fixed_statistics=True)
    module = build(settings.network)
    module.ct_encoder.layer1[0].norm.running_mean.fill_(7.0)
    found = refreshed(module, settings, tiny_cache, CASES, choose_device("cpu", "float32"))
    assert not found.training and (found.ct_encoder.layer1[0].norm.running_mean == 7).all()


def test_networks_without_statistics_stay_as_they_are(tiny_cache) -> None:
    settings = tiny_training()
    network = build(settings.network)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    after = refreshed(network, settings, tiny_cache, CASES, choose_device("cpu", "float32")).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
