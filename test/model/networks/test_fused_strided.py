"""nnU-Net's networks on a GPU: the structure and the kernels' arithmetic on the CPU, then on a GPU."""

import copy

import pytest
import torch
from host_kernels import HostKernels
from nnunet_networks import network_of, res_enc_l, settings_of
from torch_kernels import TorchKernels

from benchmark.tensor_memory import MostBytes
from model.bundle.network import Network
from model.networks import for_device, slabs
from model.networks.fused_strided import FusedStrided, can_fuse_strided, most_bytes
from model.networks.kernels import kernels
from model.networks.nnunet import StridedUNet
from model.networks.strided import empty
from model.networks.unet import build

FUSIONS = ["plain_unet", "residual_unet"]
HALF = 2**-7  # 11 bits, through 12 convolutions


def fused(network, ours) -> FusedStrided:
    return FusedStrided(network, lambda: network, ours)


@torch.no_grad()
@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_logits_are_those_of_the_training_forward(fusion: str, bias: bool) -> None:
    network, image = network_of(settings_of(fusion, bias=bias)), torch.rand(2, 2, 24, 16, 10)
    lesion, organs = network.with_organs(image)
    before, ready = image.clone(), fused(network, TorchKernels())
    found = slabs.forward(ready, image, organs=True)
    assert found.dtype == torch.float32 and torch.equal(image, before)
    expected = torch.cat([lesion, organs], 1)
    assert (found - expected).abs().max() <= HALF * expected.abs().max()
    alone = slabs.forward(ready, image)  # to float32's rounding: torch may multiply fewer rows in another order
    assert (alone - found[:, :3]).abs().max() <= 2**-20 * expected.abs().max()


@torch.no_grad()
@pytest.mark.slow
@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_kernels_themselves_give_these_logits(fusion: str, tmp_path) -> None:
    """Compiled for the CPU."""
    network, image = network_of(settings_of(fusion)), torch.rand(2, 2, 12, 8, 6)
    expected = torch.cat(network.with_organs(image), 1)
    found = fused(network, HostKernels(tmp_path))(image, organs=True)
    assert (found - expected).abs().max() <= HALF * expected.abs().max()


def test_a_network_can_be_fused_if_the_kernels_take_its_channels() -> None:
    for widths, expected in (((8, 16, 24), True), ((32, 64, 320), True), ((8, 12, 16), False), ((24, 32, 40), False)):
        with torch.device("meta"):
            assert can_fuse_strided(build(settings_of("residual_unet", widths))) == expected, widths
    assert not can_fuse_strided(build(Network(fusion="early", widths=(8, 8))))


def test_what_cannot_be_run_is_refused() -> None:
    ready = fused(network_of(settings_of("plain_unet")), TorchKernels())
    with pytest.raises(ValueError, match=r"\[6, 4, 2\]"):
        ready(torch.rand(1, 2, 8, 8, 8))
    with pytest.raises(ValueError, match="organ head"):
        fused(network_of(res_enc_l((8,) * 6)), TorchKernels())(torch.rand(1, 2, 32, 32, 32), organs=True)


@torch.no_grad()
def test_the_largest_image_is_what_is_joined_at_full_resolution() -> None:
    ready = fused(network_of(settings_of("residual_unet")), TorchKernels())
    assert ready.joined_bytes(torch.empty(3, 2, 6, 8, 16)) == 3 * (2 * 8) * (6 * 8 * 16) * 2


@torch.no_grad()
@pytest.mark.parametrize(
    ("settings", "edge"),
    [
        *((settings_of(fusion, widths), 48) for fusion in FUSIONS for widths in ((8, 16, 24), (8, 64, 256))),
        (res_enc_l(), 192),
    ],
)
def test_a_forward_pass_holds_what_the_arithmetic_says(settings: Network, edge: int, monkeypatch) -> None:
    """Every tensor of a real pass is counted, on torch's device without memory; at its peak there are no logits yet."""

    def conv3d(image, weight, bias, stride, padding):
        size = [(n - 1) // step + 1 for n, step in zip(image.shape[2:], stride, strict=True)]
        return empty(image, len(weight), size)  # channels-last as of cuDNN, which torch's device does not know

    monkeypatch.setattr("model.networks.fused_strided.functional.conv3d", conv3d)
    with torch.device("meta"):
        ready = fused(StridedUNet(settings), _Sizes())
        image = torch.empty(1, 2, edge, edge, edge)
    with MostBytes() as counted:
        ready(image)
    assert 0.9 < counted.most / most_bytes(settings, edge**3, 2) <= 1


def test_a_window_of_192_of_res_enc_l_takes_a_tenth_of_a_t4() -> None:
    """Three images of 32 channels and one of 64 at half the edge, in float16, and the two channels that come in."""
    assert most_bytes(res_enc_l(), 192**3, 2) == (3 * 32 + 64 // 8 + 2) * 192**3 * 2 < 1.51e9


class _Sizes:
    """Kernels that give images of the right sizes, and take no memory of their own."""

    def factors(self, image, weight, bias, eps):
        return image.new_empty(len(image), 2, image.shape[1])

    def leaky(self, image, factors, slope, other=None, other_factors=None) -> None:
        pass

    def classify(self, image, factors, weight, bias, slope):
        return image.new_empty(0)

    def average(self, image, stride):
        return empty(image, image.shape[1], [edge // step for edge, step in zip(image.shape[2:], stride, strict=True)])

    def depth_to_space(self, values, out) -> None:
        pass


@pytest.fixture
def on_gpu():
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU here")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    assert kernels(torch.device("cuda")) is not None, "the kernels cannot be compiled or loaded on this GPU"
    return torch.device("cuda")


@pytest.mark.gpu
@torch.no_grad()
@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_gpu_gives_the_logits_of_the_training_forward(on_gpu, fusion: str) -> None:
    network, image = network_of(settings_of(fusion, (32, 64, 128))), torch.rand(2, 2, 24, 32, 40)
    expected = torch.cat(network.with_organs(image), 1)
    ready = for_device.prepared(copy.deepcopy(network), on_gpu, torch.float16)
    assert isinstance(ready, FusedStrided)
    with torch.autocast("cuda", dtype=torch.float16):
        found = slabs.forward(ready, image.cuda(), organs=True)
        again = slabs.forward(ready, image.cuda(), organs=True)
        by_torch = slabs.forward(ready.plain(), image.cuda(), organs=True)
    assert torch.equal(found, again)
    for one in (found, by_torch):
        assert (one.float().cpu() - expected).abs().max() <= HALF * expected.abs().max()


@pytest.mark.gpu
@torch.no_grad()
@pytest.mark.slow
def test_a_window_of_192_of_res_enc_l_takes_what_the_arithmetic_says(on_gpu) -> None:
    """Beside it, what cuDNN takes for itself: at most as much again."""
    settings = res_enc_l()
    ready = for_device.prepared(network_of(settings), on_gpu, torch.float16)
    image = torch.rand(1, 2, 192, 192, 192, device=on_gpu)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with torch.autocast("cuda", dtype=torch.float16):
        slabs.forward(ready, image)
    taken = torch.cuda.max_memory_allocated() - before
    assert taken < 2 * most_bytes(settings, 192**3, 2)
