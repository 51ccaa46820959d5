"""Normalisation over the body: the arithmetic, its gradients, and that air around a body changes nothing."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from model.bundle.network import Network
from model.networks.body import LEAST_VOXELS, BodyNorm, body_moments, body_of_stages
from model.networks.unet import Block, build

FUSIONS = ["early", "middle", "late", "late_features"]
LAYOUTS = [torch.contiguous_format, torch.channels_last_3d]


def norm_of(channels: int, kind: torch.dtype = torch.float32) -> BodyNorm:
    norm = BodyNorm(channels).to(kind)
    norm.weight.data, norm.bias.data = torch.rand(2, channels, dtype=kind) + torch.tensor([[0.5], [-0.5]], dtype=kind)
    return norm


def naive(image: Tensor, body: Tensor, norm: BodyNorm) -> Tensor:
    """The same by autograd's own operations."""
    count = body.sum((2, 3, 4), keepdim=True)
    mean = (image * body).sum((2, 3, 4), keepdim=True) / count
    variance = ((image - mean).square() * body).sum((2, 3, 4), keepdim=True) / count
    scale, shift = (part[:, None, None, None] for part in (norm.weight, norm.bias))
    return (image - mean) / (variance + norm.eps).sqrt() * scale + shift


def study(edge: int, body: slice) -> Tensor:
    """An image (1, 3, edge, edge, edge) of tissue in a cube of body, air around it."""
    image = torch.zeros(1, 3, edge, edge, edge)
    inside = image[:, :, body, body, body]
    inside[:, :2], inside[:, 2] = torch.rand(inside[:, :2].shape) + 0.3, 1
    return image


def with_air(image: Tensor, voxels: int) -> Tensor:
    return functional.pad(image, [voxels] * 6)


def test_mean_and_deviation_are_the_body_s_and_all_voxels_are_normalised() -> None:
    """1, 3 and 5 are body: mean 3, variance 8 / 3; 100 is air."""
    image, body = torch.tensor([1.0, 3, 5, 100]).reshape(1, 1, 4, 1, 1), torch.tensor([1.0, 1, 1, 0])
    norm = BodyNorm(1)
    norm.weight.data, norm.bias.data = torch.tensor([2.0]), torch.tensor([0.5])
    deviation = (8 / 3 + 1e-5) ** 0.5
    expected = [2 * (value - 3) / deviation + 0.5 for value in (1, 3, 5, 100)]
    found = norm(image, body.reshape(1, 1, 4, 1, 1)).flatten()
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels last"])
def test_values_are_those_of_numpy_and_the_layout_stays(layout: torch.memory_format) -> None:
    """Each image by its own body, whose mean is 100 times the deviation."""
    torch.manual_seed(0)
    image = (torch.randn(2, 3, 6, 5, 7) + 100).to(memory_format=layout)
    body = (torch.rand(2, 1, 6, 5, 7) < torch.tensor([0.2, 0.9]).reshape(2, 1, 1, 1, 1)).float()
    norm = norm_of(3)
    found = norm(image, body)
    assert found.is_contiguous(memory_format=layout)
    for one, inside, out in zip(image.double().numpy(), body.bool().numpy(), found.detach(), strict=True):
        values = one[:, inside[0]]
        centred = (one - values.mean(1).reshape(3, 1, 1, 1)) / np.sqrt(values.var(1) + 1e-5).reshape(3, 1, 1, 1)
        scale, shift = (part.detach().numpy().reshape(3, 1, 1, 1) for part in (norm.weight, norm.bias))
        np.testing.assert_allclose(out, centred * scale + shift, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels last"])
def test_gradients_are_autograd_s(layout: torch.memory_format) -> None:
    """In float64 beside differences, and beside the same arithmetic left to autograd."""
    torch.manual_seed(0)
    norm, body = norm_of(2, torch.float64), (torch.rand(2, 1, 2, 3, 4) > 0.5).double()
    image = (torch.randn(2, 2, 2, 3, 4, dtype=torch.float64) + 2).to(memory_format=layout).requires_grad_()
    assert torch.autograd.gradcheck(lambda image, *_: norm(image, body), (image, norm.weight, norm.bias))
    wanted = torch.randn(2, 2, 2, 3, 4, dtype=torch.float64)
    found, expected = (
        torch.autograd.grad((out * wanted).sum(), (image, norm.weight, norm.bias))
        for out in (norm(image, body), naive(image, body, norm))
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    assert found[0].is_contiguous(memory_format=layout)


def test_a_step_of_training_has_the_gradients_of_the_naive_norm(monkeypatch) -> None:
    torch.manual_seed(0)
    network, image = build(Network(fusion="middle", widths=(4, 6, 8), norm="body")), study(24, slice(4, 19))
    gradients = []
    for forward in (BodyNorm.forward, lambda norm, image, body: naive(image, body, norm)):
        monkeypatch.setattr(BodyNorm, "forward", forward)
        network.zero_grad(set_to_none=True)
        network(image.to(memory_format=torch.channels_last_3d)).square().mean().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    for found, expected in zip(*gradients, strict=True):
        assert (found - expected).abs().max() <= 1e-4 * expected.abs().max() + 1e-8


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(kind: torch.dtype) -> None:
    """Mean 100 and deviation 1, as float64 has them; the result has the image's type, and so has its gradient."""
    torch.manual_seed(0)
    image, body = (100 + torch.randn(1, 3, 8, 8, 8)).to(kind), (torch.rand(1, 1, 8, 8, 8) > 0.3).float()
    inside = image.double()[0][:, body[0, 0] > 0]
    count, mean, variance = body_moments(image, body)
    assert int(count) == inside.shape[1]
    torch.testing.assert_close(mean[0], inside.mean(1), rtol=1e-6, atol=0)
    torch.testing.assert_close(variance[0], inside.var(1, correction=0), rtol=1e-4, atol=0)
    out = BodyNorm(3)(image.requires_grad_(), body)
    out.float().square().sum().backward()
    assert out.dtype == image.grad.dtype == kind and image.grad.isfinite().all()


def test_the_body_of_a_stage_is_where_any_of_its_voxels_is_body() -> None:
    body = (torch.rand(2, 1, 16, 8, 16) > 0.9).float()
    whole, half, quarter = body_of_stages(body, 3)
    assert torch.equal(whole, body)
    assert torch.equal(half, functional.max_pool3d(body, 2)) and torch.equal(quarter, functional.max_pool3d(body, 4))


def test_with_too_few_voxels_of_body_the_whole_stage_counts() -> None:
    """Image by image, and stage by stage: 8 voxels next to each other are one voxel of the next stage."""
    body = torch.zeros(3, 1, 8, 8, 8)
    body[0, :, :2, :2, :2] = 1
    body[1].flatten()[: LEAST_VOXELS - 1] = 1
    first, second = body_of_stages(body, 2)
    assert torch.equal(first[0], body[0]) and first[1:].all() and second.all()


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("voxels", [0, 1, 2, 7, 8, 20])
def test_logits_of_a_window_with_hardly_any_body_are_finite_and_no_larger(voxels: int, fusion: str) -> None:
    """A single voxel's deviation is 0: divided by it, other values would reach 1e34 in this network."""
    torch.manual_seed(voxels)
    network = build(Network(fusion=fusion, widths=(4, 8, 8, 16, 16), norm="body")).eval()
    image = torch.rand(1, 3, 32, 32, 32) * torch.tensor([0.01, 0.001, 0])[:, None, None, None]
    x, y, z = (int(n) for n in torch.randint(4, 25, (3,)))
    block = torch.zeros(27)
    block[:voxels] = 1
    near = image[0, :, x : x + 3, y : y + 3, z : z + 3]
    near += torch.tensor([0.5, 0.1, 1.0]).reshape(3, 1, 1, 1) * block.reshape(3, 3, 3)
    largest = []
    for module in network.modules():
        if isinstance(module, Block):
            module.register_forward_hook(lambda _, inputs, out: largest.append(float(out.detach().abs().max())))
    with torch.no_grad():
        assert network(image).isfinite().all()
    assert max(largest) < 200


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("fusion", FUSIONS)
def test_air_around_an_image_changes_nothing(fusion: str) -> None:
    """12 voxels of air lie around the body already, further than two stages reach: 2 + 2 * 2 in the encoder, 2 in the
    decoder. More of it changes the sums' last digits; to instance normalisation the same tissue looks different.
    """
    image, differs = study(32, slice(12, 20)), {}
    for norm in ("body", "instance"):
        torch.manual_seed(0)
        network = build(Network(fusion=fusion, widths=(4, 8), norm=norm)).eval()
        seen = image if norm == "body" else image[:, :2]
        logits = [network(with_air(seen, air)) for air in (0, 8, 16)]
        in_body = [
            one[..., 12 + air : 20 + air, 12 + air : 20 + air, 12 + air : 20 + air]
            for one, air in zip(logits, (0, 8, 16), strict=True)
        ]
        differs[norm] = [float((one - in_body[0]).abs().max()) for one in in_body[1:]]
    assert max(differs["body"]) < 1e-4 and min(differs["instance"]) > 0.05


@torch.no_grad()
def test_the_first_norm_gives_the_same_values_with_any_air_around() -> None:
    torch.manual_seed(0)
    block = build(Network(fusion="early", widths=(4, 8), norm="body")).encoder.layer1[0]
    image = study(16, slice(0, 16))  # up to the border: a convolution takes zeros beyond it for what air is here
    alone = block(image[:, :2], image[:, 2:])
    for air in (16, 32):
        wide = with_air(image, air)
        found = block(wide[:, :2], wide[:, 2:])[:, :, air:-air, air:-air, air:-air]
        torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_an_image_without_the_body_is_refused(fusion: str) -> None:
    with pytest.raises(ValueError, match="CT, PET and body, got 2 channels"):
        build(Network(fusion=fusion, widths=(2, 3), norm="body"))(torch.rand(1, 2, 8, 8, 8))


def test_weights_have_the_names_of_instance_normalisation() -> None:
    """So that a network can be trained on from weights of the other."""
    states = [build(Network(fusion="middle", widths=(2, 3), norm=norm)).state_dict() for norm in ("body", "instance")]
    assert {name: tensor.shape for name, tensor in states[0].items()} == {
        name: tensor.shape for name, tensor in states[1].items()
    }
