"""bfloat16 has 8 significant bits: a rounded number is off by at most 2**-9 of itself (half of the last bit)."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from model.bundle.network import Network
from model.bundle.nnunet import UNetStage
from model.networks import bfloat16, for_device, slabs
from model.networks.bfloat16 import narrowed
from model.networks.body import BodyNorm
from model.networks.strided import moments
from model.networks.unet import build

CPU = torch.device("cpu")
LAST = torch.channels_last_3d
HALF_BIT = 2.0**-9
STAGES = [UNetStage(kernel=(3, 3, 3), stride=s, blocks=2, decoder_blocks=1) for s in ((1, 1, 1), (2, 2, 2), (1, 2, 2))]
NETWORKS = {
    **{fusion: Network(fusion=fusion, widths=(32, 32, 64)) for fusion in ("early", "middle", "late", "late_features")},
    "batch norm": Network(fusion="middle", widths=(32, 32, 64), norm="batch"),
    "body norm": Network(fusion="middle", widths=(32, 32, 64), norm="body"),
    "plain_unet": Network(fusion="plain_unet", widths=(32, 32, 64), stages=tuple(STAGES), bias=True),
    "residual_unet": Network(fusion="residual_unet", widths=(32, 32, 64), stages=tuple(STAGES)),
    "regnety_002": Network(fusion="regnety_002", widths=(64, 64, 32, 32, 32)),
}


def network_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    network = build(NETWORKS[name])
    for module in network.modules():  # a trained network's statistics, and blocks that pass on more than their shortcut
        if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm3d)):
            for tensor, low, high in ((module.weight, 0.5, 1.0), (module.running_mean, -0.1, 0.1)):
                tensor.data.uniform_(low, high)
    return network.eval()


def image_of(network: nn.Module) -> Tensor:
    flat = any(isinstance(module, nn.Conv2d) for module in network.modules())
    image = torch.randn(2, 2, 64, 64) if flat else torch.randn(2, 2, 8, 12, 12)
    over_body = any(isinstance(module, BodyNorm) for module in network.modules())
    return torch.cat([image, (image[:, :1] > -0.5).float()], 1) if over_body else image


def rounded(tensor: Tensor) -> Tensor:
    return tensor.bfloat16().double()


@pytest.mark.parametrize("kind", ["3-D", "strided", "grouped 2-D", "transposed", "linear"])
def test_a_layer_multiplies_rounded_numbers_and_rounds_their_sum(kind: str) -> None:
    """Beside float64, in which products and sums of rounded numbers are all but exact: the sum in float32 may move a
    value over the middle of two bfloat16 numbers, but to no number further.
    """
    torch.manual_seed(0)
    layer, shape = {
        "3-D": (nn.Conv3d(32, 48, 3, padding=1, bias=False), (2, 32, 6, 8, 10)),
        "strided": (nn.Conv3d(32, 32, 3, stride=2, padding=1), (2, 32, 6, 8, 10)),
        "grouped 2-D": (nn.Conv2d(64, 64, 3, padding=1, groups=2), (2, 64, 10, 12)),
        "transposed": (nn.ConvTranspose3d(32, 32, 2, stride=2), (2, 32, 3, 4, 5)),
        "linear": (nn.Linear(32, 40), (2, 5, 32)),
    }[kind]
    image = torch.randn(shape)
    exact = copy.deepcopy(layer).double()
    exact.weight.data = rounded(layer.weight)
    if layer.bias is not None:
        exact.bias.data = rounded(layer.bias)
    ready = narrowed(nn.Sequential(layer))
    with torch.no_grad():
        found, expected = ready(image), exact(rounded(image))
    assert found.dtype == torch.bfloat16 and ready[0].weight.dtype == torch.bfloat16
    assert layer.weight.dtype == torch.float32
    assert ((found - expected).abs() <= 2 * HALF_BIT * expected.abs() + 1e-5).all()
    assert (found == expected.bfloat16()).double().mean() > 0.99


@pytest.mark.slow
@pytest.mark.parametrize("slab_bytes", [1 << 24, 1 << 14], ids=["one slab", "slabs"])
@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_those_of_float32_to_its_digits(name: str, slab_bytes: int, monkeypatch) -> None:
    """A rounded value is off by up to 2**-9 of itself, evenly spread: 2**-9 / sqrt(3) in the root mean square.

    n independent errors make sqrt(n) times one. A layer rounds its input, weights and output, so l layers are off by
    sqrt(l) * 2**-9. A normalisation takes the mean off the values and not off their errors, and residual sums round
    once more: up to twice that. Nor is it nothing: else nothing was rounded.
    """
    monkeypatch.setitem(slabs.SLAB_BYTES, "cpu", slab_bytes)
    network = network_of(name)
    image = image_of(network)
    ready = for_device.prepared(network, CPU, torch.bfloat16)
    layers = sum(tensor.dtype == torch.bfloat16 and tensor.ndim > 1 for tensor in ready.state_dict().values())
    assert layers >= 5
    with torch.no_grad():
        expected, found = network(image), slabs.forward(ready, image.clone())
    assert found.dtype == torch.float32 and found.shape == expected.shape
    off, spread = (found - expected).square().mean().sqrt(), expected.std()
    assert 0.01 < off / (layers**0.5 * HALF_BIT * spread) < 2


@pytest.mark.slow
def test_a_swin_unetr_s_logits_are_those_of_float32_to_its_digits() -> None:
    torch.manual_seed(0)
    network, image = build(Network(fusion="swin_unetr", widths=(24,))).eval(), torch.randn(1, 2, 64, 64, 64)
    ready = for_device.prepared(network, CPU, torch.bfloat16)
    layers = sum(tensor.dtype == torch.bfloat16 and tensor.ndim > 1 for tensor in ready.state_dict().values())
    with torch.no_grad():
        expected, found = network(image), slabs.forward(ready, image)
    off, spread = (found - expected).square().mean().sqrt(), expected.std()
    assert 0.01 < off / (layers**0.5 * HALF_BIT * spread) < 2


@pytest.mark.parametrize("name", NETWORKS)
def test_the_layers_at_both_ends_stay_float32_and_the_network_as_it_was(name: str) -> None:
    network = network_of(name)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    ready = for_device.prepared(network, CPU, torch.bfloat16)
    assert all(torch.equal(before[key], tensor) for key, tensor in network.state_dict().items())
    convs = [module for module in ready.modules() if isinstance(module, (nn.Conv2d, nn.Conv3d))]
    reading = [conv.weight.dtype for conv in convs if conv.in_channels <= 2]
    giving = [conv.weight.dtype for conv in convs if conv.out_channels <= 2]
    assert reading and giving and {*reading, *giving} == {torch.float32}


def test_layers_of_few_channels_stay_float32() -> None:
    layers = nn.Sequential(
        nn.Conv3d(32, 31, 1), nn.Conv3d(31, 32, 1), nn.Conv3d(32, 32, 1), nn.Conv3d(64, 64, 1, groups=4)
    )
    kinds = [layer.weight.dtype for layer in narrowed(layers)]
    assert kinds == [torch.float32, torch.float32, torch.bfloat16, torch.float32]


def test_the_buffers_take_half_of_the_memory() -> None:
    network = network_of("middle")
    image = image_of(network)
    sizes = []
    for precision in (torch.float32, torch.bfloat16):
        buffers: slabs.Buffers = {}
        slabs.forward(for_device.prepared(network, CPU, precision), image, buffers)
        sizes.append(sum(buffer.nbytes for buffer in buffers.values()))
    assert sizes[1] * 2 == sizes[0]


def test_instance_normalisation_takes_float32_moments_of_bfloat16_values() -> None:
    """Mean 100 and deviation 1: in bfloat16 the mean would be off by up to 0.25, and the variance would be lost."""
    image = (100 + torch.randn(1, 3, 8, 8, 8)).contiguous(memory_format=LAST).bfloat16()
    mean, variance = moments(image)
    torch.testing.assert_close(mean, image.double().mean((2, 3, 4)), rtol=1e-6, atol=0)
    torch.testing.assert_close(variance, image.double().var((2, 3, 4), correction=0), rtol=1e-4, atol=0)


def test_a_mean_over_blocks_of_bfloat16_values_is_that_of_float32_rounded() -> None:
    image = torch.randn(1, 20, 4, 4, 4).bfloat16()
    found = narrowed(nn.Sequential(nn.AvgPool3d((1, 2, 2), (1, 2, 2))))(image)
    assert torch.equal(found, functional.avg_pool3d(image.float(), (1, 2, 2)).bfloat16())


def test_where_the_processor_has_bfloat16_torch_computes_in_it(monkeypatch) -> None:
    """Its convolution gets bfloat16 numbers; elsewhere it gets the same numbers as float32."""
    seen = []
    monkeypatch.setattr(functional, "linear", lambda image, weight, bias: (seen.append(weight.dtype), image)[1])
    layer = narrowed(nn.Sequential(nn.Linear(32, 32)))
    for here in (True, False):
        monkeypatch.setattr(bfloat16, "in_hardware", lambda here=here: here)
        assert layer(torch.ones(1, 32)).dtype == torch.bfloat16
    assert seen == [torch.bfloat16, torch.float32]
