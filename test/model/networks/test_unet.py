import pytest
import torch

from model.bundle.network import Network
from model.networks.unet import build


@pytest.mark.parametrize(
    ("fusion", "widths", "count"),
    [
        ("early", (32, 32, 64, 128, 256), 5_748_738),
        ("middle", (32, 32, 64, 128, 256), 15_849_794),
        ("late", (32, 32, 64, 128, 256), 11_495_748),
        ("late_features", (32, 32, 64, 128, 256), 11_495_746),
        ("early", (64, 64, 128, 256, 256), 15_381_506),
        ("late", (32, 64, 128, 128, 256), 15_890_436),
        ("swin_unetr", (24,), 15_703_868),
    ],
)
def test_parameter_counts_are_the_published_ones(fusion: str, widths: tuple[int, ...], count: int) -> None:
    network = build(Network(fusion=fusion, widths=widths))
    assert sum(parameter.numel() for parameter in network.parameters()) == count


def test_middle_fusion_is_two_encoders_and_one_decoder_of_the_published_sizes() -> None:
    network = build(Network(fusion="middle", widths=(32, 32, 64, 128, 256)))
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in network.named_children()}
    assert sizes == {"pet_encoder": 3_569_504, "ct_encoder": 3_569_504, "decoder": 8_710_786}


@pytest.mark.parametrize("fusion", ["early", "middle", "late", "late_features"])
def test_logits_have_two_classes_and_the_size_of_the_input(fusion: str) -> None:
    network = build(Network(fusion=fusion, widths=(2, 3, 4)))
    assert network(torch.rand(2, 2, 8, 12, 16)).shape == (2, 2, 8, 12, 16)


def test_swin_unetr_gives_logits_of_the_size_of_the_input() -> None:
    with torch.no_grad():
        logits = build(Network(fusion="swin_unetr", widths=(12,))).eval()(torch.rand(1, 2, 64, 32, 32))
    assert logits.shape == (1, 2, 64, 32, 32)


def test_late_fusion_is_the_mean_of_two_networks_of_one_modality_each() -> None:
    network = build(Network(fusion="late", widths=(2, 3)))
    image = torch.rand(1, 2, 8, 8, 8)
    expected = torch.stack([network.ct(image[:, :1]), network.pet(image[:, 1:])]).mean(0)
    torch.testing.assert_close(network(image), expected)


def test_each_encoder_of_middle_fusion_sees_its_own_channel() -> None:
    network = build(Network(fusion="middle", widths=(2, 3)))
    seen = {}
    network.pet_encoder.register_forward_pre_hook(lambda _, inputs: seen.update(pet=inputs[0]))
    network.ct_encoder.register_forward_pre_hook(lambda _, inputs: seen.update(ct=inputs[0]))
    image = torch.rand(1, 2, 8, 8, 8)
    network(image)
    assert torch.equal(seen["ct"], image[:, :1]) and torch.equal(seen["pet"], image[:, 1:])


def test_a_block_is_convolution_instance_norm_selu() -> None:
    block = build(Network(fusion="early", widths=(2, 3))).encoder.layer1[0]
    image = torch.rand(1, 2, 6, 6, 6)
    convolved = torch.nn.functional.conv3d(image, block.conv.weight, padding=1)
    centred = convolved - convolved.mean((2, 3, 4), keepdim=True)
    normed = centred / (convolved.var((2, 3, 4), unbiased=False, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(block(image), torch.selu(normed))


def test_an_image_with_its_channels_last_is_normed_alike_and_stays_so() -> None:
    norm = build(Network(fusion="early", widths=(2, 3))).encoder.layer1[0].norm
    norm.weight.data, norm.bias.data = torch.tensor([2.0, -1.0]), torch.tensor([0.5, 3.0])
    image = torch.rand(3, 2, 4, 6, 8) * torch.tensor([1.0, 50.0])[:, None, None, None]
    there, last = image.clone().requires_grad_(), image.to(memory_format=torch.channels_last_3d).requires_grad_()
    expected = torch.nn.functional.instance_norm(there, weight=norm.weight, bias=norm.bias)
    out = norm(last)
    assert out.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    (expected**3).sum().backward()
    (out**3).sum().backward()
    torch.testing.assert_close(last.grad, there.grad, rtol=1e-3, atol=1e-4)
