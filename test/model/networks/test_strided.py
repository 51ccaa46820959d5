"""nnU-Net's networks slab by slab: the plain forward pass's logits, in less memory."""

import pytest
import torch
from nnunet_networks import network_of, res_enc_l, settings_of

from benchmark.tensor_memory import MostBytes
from model.networks import for_device, slabs

CPU = torch.device("cpu")


@torch.no_grad()
@pytest.mark.parametrize("fusion", ["plain_unet", "residual_unet"])
@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("slab_bytes", [1, 20_000, 60_000, 1 << 24])
def test_the_logits_are_those_of_the_training_forward(fusion: str, images: int, slab_bytes, monkeypatch) -> None:
    """Of both heads, in slabs of one row, of a few, and whole. The biases before the normalisations are left out."""
    monkeypatch.setitem(slabs.SLAB_BYTES, "cpu", slab_bytes)
    network, image = network_of(settings_of(fusion)), torch.rand(images, 2, 24, 16, 10)
    lesion, organs = network.with_organs(image)
    ready, before = for_device.prepared(network, CPU, torch.float32), image.clone()
    found = slabs.forward(ready, image, organs=True)
    torch.testing.assert_close(found, torch.cat([lesion, organs], 1), rtol=0, atol=1e-5 * float(lesion.abs().max()))
    torch.testing.assert_close(slabs.forward(ready, image), found[:, :3], rtol=0, atol=1e-6)
    assert torch.equal(image, before)


@torch.no_grad()
def test_a_bias_before_an_instance_normalisation_changes_nothing() -> None:
    """It moves every value of a channel and so their mean, which the normalisation takes off; deviations stay."""
    settings = settings_of("residual_unet")
    network, image = network_of(settings), torch.rand(1, 2, 24, 16, 10, dtype=torch.float64)
    network.double()
    expected = network(image)
    for name, tensor in network.state_dict().items():
        if name.endswith("conv.bias"):
            tensor.zero_()
    torch.testing.assert_close(network(image), expected, rtol=1e-9, atol=1e-9)


def test_what_cannot_be_run_is_refused() -> None:
    network = for_device.prepared(network_of(settings_of("plain_unet")), CPU, torch.float32)
    with pytest.raises(ValueError, match=r"\[6, 4, 2\]"):
        slabs.forward(network, torch.rand(1, 2, 8, 8, 8))
    with pytest.raises(ValueError, match="organ head"):
        slabs.forward(
            for_device.prepared(network_of(res_enc_l((2,) * 6)), CPU, torch.float32),
            torch.rand(1, 2, 32, 32, 32),
            organs=True,
        )


@torch.no_grad()
@pytest.mark.slow
@pytest.mark.parametrize("fusion", ["plain_unet", "residual_unet"])
def test_a_third_of_the_images_are_held_at_once(fusion: str, monkeypatch) -> None:
    """At full resolution: the input of a residual block and its output, beside slabs; of a plain stage one image."""
    monkeypatch.setitem(slabs.SLAB_BYTES, "cpu", 1 << 17)
    network, image = network_of(settings_of(fusion, (16, 16, 16))), torch.rand(1, 2, 36, 32, 24)
    ready = for_device.prepared(network, CPU, torch.float32)
    with MostBytes() as ours:
        slabs.forward(ready, image)
    with MostBytes() as plain:
        network(image)
    stage = 16 * 36 * 32 * 24 * 4
    assert ours.most < (2.7 if fusion == "residual_unet" else 2) * stage and ours.most < 0.45 * plain.most
