import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from model.bundle.network import Network
from model.networks import for_device, slabs
from model.networks.unet import build

CPU = torch.device("cpu")
FUSIONS = ["early", "middle", "late", "late_features"]


def network_of(fusion: str, norm: str = "instance") -> nn.Module:
    torch.manual_seed(0)
    return build(Network(fusion=fusion, widths=(4, 4, 8), norm=norm)).eval()


def image_for(norm: str, images: int = 2) -> torch.Tensor:
    """With norm body a third channel: of the first image its two ends, so that slabs lack it; of others most of it."""
    image = torch.rand(images, 2 if norm == "instance" else 3, 12, 20, 24)
    if norm == "body":
        image[:, 2] = image[:, 2] > 0.2
        image[0, 2, 2:10] = 0
    return image


@pytest.mark.parametrize("slab_bytes", [1 << 24, 1 << 14], ids=["one slab", "slabs"])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_batch_normalisation_goes_into_the_convolutions(fusion: str, slab_bytes: int, monkeypatch) -> None:
    """Logits are those of the network whose statistics were made by two batches; the network itself stays as it is."""
    monkeypatch.setitem(slabs.SLAB_BYTES, "cpu", slab_bytes)
    network, image = network_of(fusion, "batch"), torch.rand(2, 2, 12, 20, 24)
    network.train()
    for _ in range(2):
        network(3 * torch.rand(2, 2, 12, 20, 24) + 1)
    network.eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    ready = for_device.prepared(network, CPU, torch.float32)
    assert not any(isinstance(module, nn.BatchNorm3d) for module in ready.modules())
    with torch.no_grad():
        expected, found = network(image), slabs.forward(ready, image.clone())
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_with_batch_norm_logits_do_not_depend_on_the_rest_of_the_window() -> None:
    """Far from the change, more than the stages' reach away: instance normalisation would not."""
    image = torch.rand(1, 2, 64, 12, 12)
    other = image.clone()
    other[:, :, 48:] = 0
    differs = {}
    for norm in ("batch", "instance"):
        network = network_of("middle", norm)
        with torch.no_grad():
            differs[norm] = (network(image) - network(other))[:, :, :12].abs().max()
    assert differs["batch"] == 0 and differs["instance"] > 1e-4


@pytest.mark.parametrize("slab_bytes", [1 << 24, 1 << 14, 1], ids=["one slab", "slabs", "slabs of two rows"])
@pytest.mark.parametrize("norm", ["instance", "body"])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_logits_are_those_of_the_training_forward(fusion: str, norm: str, slab_bytes: int, monkeypatch) -> None:
    monkeypatch.setitem(slabs.SLAB_BYTES, "cpu", slab_bytes)
    network, image = network_of(fusion, norm), image_for(norm)
    with torch.no_grad():
        expected = network(image)
        found = slabs.forward(for_device.prepared(copy.deepcopy(network), CPU, torch.float32), image.clone())
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("fusion", FUSIONS)
def test_buffers_of_another_window_change_nothing(fusion: str, monkeypatch) -> None:
    monkeypatch.setitem(slabs.SLAB_BYTES, "cpu", 1 << 14)
    network, images = for_device.prepared(network_of(fusion), CPU, torch.float32), torch.rand(2, 1, 2, 8, 8, 12)
    buffers: slabs.Buffers = {}
    with torch.no_grad():
        alone = [slabs.forward(network, image) for image in images]
        in_turn = [slabs.forward(network, image, buffers) for image in (images[0], images[1], images[0])]
    assert len(buffers) == 3  # one a stage
    for found, number in zip(in_turn, (0, 1, 0), strict=True):
        assert torch.equal(found, alone[number])


def test_the_image_stays_as_it_is() -> None:
    image = torch.rand(1, 2, 8, 8, 8)
    before = image.clone()
    with torch.no_grad():
        slabs.forward(for_device.prepared(network_of("middle"), CPU, torch.float32), image)
    assert torch.equal(image, before)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_preparing_changes_no_name_and_no_value_of_the_network(precision: torch.dtype) -> None:
    network = network_of("middle")
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    ready = for_device.prepared(network, CPU, precision)
    assert list(ready.state_dict()) == list(before)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]) and tensor.dtype == torch.float32


def test_batch_normalisation_of_one_image_is_instance_normalisation() -> None:
    norm = network_of("early").encoder.layer1[0].norm
    norm.weight.data, norm.bias.data = torch.tensor([2.0, -1.0, 1.0, 0.5]), torch.tensor([0.5, 3.0, 0.0, -1.0])
    image = torch.rand(1, 4, 6, 8, 10) * torch.tensor([1.0, 50.0, 3.0, 0.1])[:, None, None, None]
    for laid in (image, image.contiguous(memory_format=slabs.LAST)):
        found = slabs.normed_as_batch(norm, laid)
        expected = functional.instance_norm(image, weight=norm.weight, bias=norm.bias)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("slab_bytes", [1 << 24, 1], ids=["one slab", "slabs of two rows"])
@pytest.mark.parametrize("size", [(10, 12, 12), (12, 13, 12), (12, 12, 6)])
def test_a_size_that_three_stages_cannot_halve_is_refused(size, slab_bytes: int, monkeypatch) -> None:
    monkeypatch.setitem(slabs.SLAB_BYTES, "cpu", slab_bytes)
    with pytest.raises(ValueError, match="3 stages cannot halve"):
        slabs.forward(network_of("middle"), torch.rand(1, 2, *size))


@pytest.mark.parametrize("slab_bytes", [1 << 24, 1], ids=["one slab", "slabs of two rows"])
def test_without_the_body_a_network_over_it_is_refused(slab_bytes: int, monkeypatch) -> None:
    monkeypatch.setitem(slabs.SLAB_BYTES, "cpu", slab_bytes)
    for fusion in FUSIONS:
        with pytest.raises(ValueError, match="CT, PET and body, got 2 channels"):
            slabs.forward(
                for_device.prepared(network_of(fusion, "body"), CPU, torch.float32), torch.rand(1, 2, 8, 8, 8)
            )


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_network_in_training_and_another_memory_layout_give_the_same_logits(fusion: str, monkeypatch) -> None:
    monkeypatch.setitem(slabs.SLAB_BYTES, "cpu", 1 << 14)
    network = network_of(fusion)
    image = torch.rand(1, 8, 20, 12, 2).permute(0, 4, 3, 1, 2).requires_grad_()
    expected = network(image).detach()
    found = slabs.forward(for_device.prepared(network.train(), CPU, torch.float32), image)
    assert not found.requires_grad and (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_what_is_no_u_net_runs_as_it_is() -> None:
    image = torch.rand(1, 2, 4, 4, 4)
    network = nn.Conv3d(2, 2, 1)
    assert for_device.prepared(network, CPU, torch.float32) is network
    assert torch.equal(slabs.forward(network, image), network(image))


def test_a_network_for_slices_becomes_channels_last_with_the_same_logits() -> None:
    torch.manual_seed(0)
    network, image = build(Network(fusion="regnety_002", widths=(8, 8, 4, 4, 4))).eval(), torch.rand(2, 2, 64, 64)
    with torch.no_grad():
        expected = network(image)
        ready = for_device.prepared(network, CPU, torch.float32)
        found = slabs.forward(ready, image)
    assert ready.encoder.stem.conv.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("slab_bytes", [1 << 30, 1 << 14], ids=["one slab", "slabs"])
@pytest.mark.parametrize("precision", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("norm", ["instance", "body"])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_gpu_gives_the_logits_of_the_training_forward(
    fusion: str, norm: str, precision, slab_bytes: int, monkeypatch
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU here")
    torch.backends.cudnn.allow_tf32 = False
    monkeypatch.setitem(slabs.SLAB_BYTES, "cuda", slab_bytes)
    network, image = network_of(fusion, norm), image_for(norm)
    with torch.no_grad():
        expected = network(image)
        ready = for_device.prepared(copy.deepcopy(network), torch.device("cuda"), precision)
        with torch.autocast("cuda", dtype=precision, enabled=precision != torch.float32):
            found = slabs.forward(ready, image.cuda()).float().cpu()
    most = 1e-4 if precision == torch.float32 else 2**-7  # 11 bits, through 10 convolutions
    assert (found - expected).abs().max() <= most * expected.abs().max()
