"""The forward pass on a GPU: its structure on the CPU, with kernels of torch's operations; the kernels on a GPU."""

import copy
import ctypes
import importlib.util
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch_kernels import TorchKernels

from model.bundle.network import Network
from model.networks import for_device, slabs
from model.networks.fused import Fused, can_fuse
from model.networks.kernels import NAMES, compiled, kernels
from model.networks.unet import build

FUSIONS = ["early", "middle", "late", "late_features"]
HALF = 2**-7  # 11 bits, through 10 convolutions


def network_of(fusion: str, widths: tuple[int, ...] = (8, 8, 16), norm: str = "instance") -> nn.Module:
    torch.manual_seed(0)
    network = build(Network(fusion=fusion, widths=widths, norm=norm)).eval()
    for name, tensor in network.state_dict().items():
        if "norm" in name or name.endswith("bias"):  # new networks have 1 and 0 there
            tensor.copy_(torch.rand_like(tensor) + (0.5 if name.endswith("weight") else -0.5))
    return network


def image_for(norm: str, *size: int) -> torch.Tensor:
    """Two images, of the first hardly any body and of the second most of it."""
    image = torch.rand(2, 2 if norm == "instance" else 3, *size)
    if norm == "body":
        image[:, 2] = image[:, 2] > torch.tensor([0.95, 0.3])[:, None, None, None]
    return image


@torch.no_grad()
@pytest.mark.parametrize("norm", ["instance", "body"])
@pytest.mark.parametrize(("fusion", "widths"), [*((fusion, (8, 8, 16)) for fusion in FUSIONS), ("middle", (4, 12))])
def test_logits_are_those_of_the_training_forward(fusion: str, widths, norm: str) -> None:
    network, image = network_of(fusion, widths, norm), image_for(norm, 12, 20, 8)
    expected = network(image)
    before = image.clone()
    found = Fused(network, network, TorchKernels())(image)  # type: ignore[arg-type]
    assert found.dtype == torch.float32 and torch.equal(image, before)
    assert (found - expected).abs().max() <= HALF * expected.abs().max()


def test_an_edge_that_cannot_be_halved_is_refused() -> None:
    network = network_of("middle")
    with pytest.raises(ValueError, match="3 stages"):
        Fused(network, network, TorchKernels())(torch.rand(1, 2, 8, 10, 8))  # type: ignore[arg-type]


def test_a_network_can_be_fused_if_the_kernels_take_its_channels() -> None:
    """Multiples of 8; for the last convolution 8 times a power of two, at most one pack for each thread of a warp."""
    for fusion, widths, expected in (
        ("middle", (32, 32, 64, 128, 256), True),
        ("middle", (4, 4, 8), True),
        ("early", (4, 4, 8), False),
        ("late", (8, 12), False),
        ("middle", (12, 16), False),
        ("early", (24, 32), False),
        ("middle", (16, 20), True),
        ("middle", (256, 256), False),
        ("late_features", (8, 2056), False),
    ):
        with torch.device("meta"):
            for norm in ("instance", "body"):
                assert can_fuse(build(Network(fusion=fusion, widths=widths, norm=norm))) == expected, (fusion, widths)
    assert not can_fuse(nn.Conv3d(2, 2, 1))


def test_without_the_body_a_network_over_it_is_refused() -> None:
    network = network_of("middle", norm="body")
    with pytest.raises(ValueError, match="CT, PET and body, got 2 channels"):
        Fused(network, network, TorchKernels())(torch.rand(1, 2, 8, 8, 8))  # type: ignore[arg-type]


def test_the_largest_image_is_what_is_joined_at_full_resolution() -> None:
    network = network_of("middle")
    fused = Fused(network, network, TorchKernels())  # type: ignore[arg-type]
    assert fused.joined_bytes(torch.empty(3, 2, 4, 8, 16)) == 3 * (4 * 8) * (4 * 8 * 16) * 2


def test_without_a_gpu_there_are_no_kernels(monkeypatch) -> None:
    assert kernels(torch.device("cpu")) is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert kernels(torch.device("cuda")) is None


def test_without_the_library_there_are_no_kernels(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("model.networks.kernels.BINDING", tmp_path / "not_there.so")
    assert kernels(torch.device("cuda", 99)) is None


@pytest.mark.slow
@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (9, 0)], ids=["T4", "A100", "H100"])
def test_the_compiler_of_the_image_takes_the_kernels(capability: tuple[int, int]) -> None:
    """Of CUDA 12.6, as in the Dockerfile's base; it needs no GPU."""
    folder = Path(importlib.util.find_spec("nvidia.cuda_nvrtc").submodule_search_locations[0])  # type: ignore
    code = compiled(ctypes.CDLL(str(folder / "lib/libnvrtc.so.12")), *capability)
    assert code.startswith(b"\x7fELF") and all(name.encode() in code for name in NAMES)


@pytest.fixture
def on_gpu():
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU here")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    found = kernels(torch.device("cuda"))
    assert found is not None, "the kernels cannot be compiled or loaded on this GPU"
    return found


@pytest.mark.gpu
@torch.no_grad()
@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("widths", [(8, 8, 16), (4, 16, 32), (32, 32, 64)])
@pytest.mark.parametrize("norm", ["instance", "body"])
def test_a_gpu_gives_the_logits_of_the_training_forward(on_gpu, fusion: str, norm: str, widths) -> None:
    network, image = network_of(fusion, widths, norm), image_for(norm, 12, 20, 40)
    expected = network(image)
    ready = for_device.prepared(copy.deepcopy(network), torch.device("cuda"), torch.float16)
    assert isinstance(ready, Fused) == (fusion == "middle" or widths[0] % 8 == 0)
    with torch.autocast("cuda", dtype=torch.float16):
        found = slabs.forward(ready, image.cuda())
        again = slabs.forward(ready, image.cuda())
    assert torch.equal(found, again)
    assert (found.cpu() - expected).abs().max() <= HALF * expected.abs().max()


def test_a_network_with_batch_norm_cannot_be_fused() -> None:
    network = build(Network(fusion="middle", widths=(8, 8, 16), norm="batch"))
    assert not can_fuse(network) and not can_fuse(for_device.without_batch_norm(network))


@pytest.mark.gpu
def test_an_overflow_on_a_gpu_is_not_finite(on_gpu) -> None:
    network = network_of("middle")
    network.get_submodule("pet_encoder.layer1.0.conv").weight.data.mul_(1e6)
    ready = for_device.prepared(network, torch.device("cuda"), torch.float16)
    assert not slabs.forward(ready, torch.rand(1, 2, 8, 8, 8).cuda()).isfinite().all()


@pytest.mark.gpu
def test_an_image_too_large_to_be_computed_whole_is_computed_in_slabs(on_gpu, monkeypatch) -> None:
    network, image = network_of("middle"), torch.rand(1, 2, 16, 16, 16)
    with torch.no_grad():
        expected = network(image)
    ready = for_device.prepared(copy.deepcopy(network), torch.device("cuda"), torch.float16)
    monkeypatch.setitem(slabs.SLAB_BYTES, "cuda", ready.joined_bytes(image) - 1)
    monkeypatch.setattr(ready, "forward", lambda image: pytest.fail("it was computed whole"))
    found = slabs.forward(ready, image.cuda()).float().cpu()
    assert (found - expected).abs().max() <= HALF * expected.abs().max() and math.isfinite(float(found.sum()))
