"""Normalisation and SELU in one: torch's own values and gradients, by torch's operations and by the kernels.

The kernels are compiled for the CPU by g++ everywhere, and run on a GPU as they are.
"""

import copy
import ctypes
import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from host_kernels import HostNormKernels
from torch import Tensor, distributed, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import update_bn

from model.bundle.network import Network
from model.inference.device import Device
from model.networks.kernels import NAMES, compiled
from model.networks.unet import Block, build
from training.compute import fused_norm
from training.compute.fused_norm import BatchNormSelu, fuse_norms, norm_selu, put_into
from training.compute.norm_operations import (
    GRADIENT_NAMES,
    OPTIONS,
    SOURCES,
    TORCH,
    agrees_with_torch,
    kernels_or_reason,
)
from training.compute.recompute import recompute_stages
from training.settings import Training, settings_from

LAST = torch.channels_last_3d
DTYPES = [torch.float16, torch.bfloat16]
UNIT = {torch.float16: 2**-11, torch.bfloat16: 2**-8}  # half of the last digit's share
CHANNELS = [
    ((2, 64), (7, 6, 5)),
    ((3, 24), (5, 6, 7)),
    ((1, 320), (3, 4, 5)),
    ((1, 1024), (2, 2, 2)),
    ((1, 8), (1, 1, 2)),
]


@pytest.fixture(
    scope="module", params=[pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=pytest.mark.gpu)]
)
def kernels(request, tmp_path_factory):
    """The kernels for each precision, and the device of their images."""
    if request.param == "cpu":
        found = {dtype: HostNormKernels(tmp_path_factory.mktemp("kernels"), dtype) for dtype in DTYPES}
    elif not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU here")
    else:
        found = {dtype: kernels_or_reason(0, dtype) for dtype in DTYPES}
        assert not any(isinstance(one, str) for one in found.values()), found
    return found, request.param


def layer_inputs(shape: tuple[int, ...], size: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Image, weight, bias and the gradient after the layer, float64; means of up to 20 deviations."""
    generator = torch.Generator().manual_seed(1)
    deviation = torch.logspace(-1, 1, shape[1], dtype=torch.float64)[:, None, None, None]
    image, gradient = (torch.randn(*shape, *size, dtype=torch.float64, generator=generator) for _ in range(2))
    offset = torch.randn(shape[1], 1, 1, 1, dtype=torch.float64, generator=generator)
    weight, bias = torch.rand(2, shape[1], dtype=torch.float64, generator=generator)
    return image * deviation + 20 * deviation * offset, weight + 0.5, bias - 0.5, gradient


def by_torch(image: Tensor, weight: Tensor, bias: Tensor, gradient: Tensor, eps: float = 1e-5) -> list[Tensor]:
    """SELU of torch's instance normalisation, and the gradients of image, weight and bias, by torch's autograd.

    All contiguous: for one image and a channels-last gradient torch 2.13 gives a wrong one on a CPU.
    """
    leaves = [one.clone(memory_format=torch.contiguous_format).requires_grad_() for one in (image, weight, bias)]
    out = functional.selu(functional.instance_norm(leaves[0], weight=leaves[1], bias=leaves[2], eps=eps))
    out.backward(gradient.contiguous())
    return [out.detach(), *(one.grad for one in leaves)]


def test_gradients_by_torch_are_those_of_finite_differences() -> None:
    image, weight, bias, _ = layer_inputs((2, 3), (4, 3, 2))
    other = TORCH.normal(image + 1, 1e-5)
    leaves = [one.requires_grad_() for one in (image, weight, bias)]
    assert torch.autograd.gradcheck(lambda *of: norm_selu(*of, TORCH.normal(of[0].detach(), 1e-5), True, TORCH), leaves)
    assert torch.autograd.gradcheck(lambda *of: norm_selu(*of, other, False, TORCH), leaves)


def test_values_and_gradients_by_torch_are_those_of_torch_s_own_layers_and_stay_channels_last() -> None:
    inputs = layer_inputs((2, 5), (4, 3, 6))
    leaves = [one.contiguous(memory_format=LAST) if one.dim() == 5 else one for one in inputs]
    image, weight, bias = (one.clone().requires_grad_() for one in leaves[:3])
    out = norm_selu(image, weight, bias, TORCH.normal(image.detach(), 1e-5), True, TORCH)
    out.backward(leaves[3])
    for found, wanted in zip((out, image.grad, weight.grad, bias.grad), by_torch(*inputs), strict=True):
        torch.testing.assert_close(found, wanted)
    assert out.is_contiguous(memory_format=LAST) and image.grad.is_contiguous(memory_format=LAST)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "size"), CHANNELS)
def test_the_kernels_give_the_values_and_gradients_of_float64(kernels, dtype, shape, size) -> None:
    by, device = kernels[0][dtype], kernels[1]
    image, weight, bias, gradient = layer_inputs(shape, size)
    image, gradient = (one.to(dtype).to(device).contiguous(memory_format=LAST) for one in (image, gradient))
    weight, bias = (one.float().to(device) for one in (weight, bias))
    out = by_torch(image.double(), weight.double(), bias.double(), gradient.double())[0]
    gradient[out.abs() < 1e-3] = 0  # SELU's slope jumps at 0, and float32 may lie on its other side
    wanted = by_torch(image.double(), weight.double(), bias.double(), gradient.double())
    leaves = [one.clone(memory_format=torch.preserve_format).requires_grad_() for one in (image, weight, bias)]
    out = norm_selu(*leaves, by.normal(image, 1e-5), True, by)
    out.backward(gradient)
    assert out.dtype == leaves[0].grad.dtype == dtype and leaves[0].grad.is_contiguous(memory_format=LAST)
    close = {"rtol": 2 * UNIT[dtype], "atol": 1e-3}
    torch.testing.assert_close(out.double(), wanted[0], **close)
    torch.testing.assert_close(
        leaves[0].grad.double(), wanted[1], rtol=close["rtol"], atol=UNIT[dtype] + 2e-3 * float(wanted[1].abs().max())
    )
    for found, sums in ((leaves[1].grad, wanted[2]), (leaves[2].grad, wanted[3])):
        torch.testing.assert_close(found.double(), sums, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("size", [(5, 4, 3), (1, 1, 1)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_with_fixed_statistics_the_kernels_give_the_gradients_of_float64(kernels, dtype, size) -> None:
    by, device = kernels[0][dtype], kernels[1]
    image, weight, bias, gradient = layer_inputs((2, 16), size)
    image, gradient = (one.to(dtype).to(device).contiguous(memory_format=LAST) for one in (image, gradient))
    mean, variance = image.double().mean((0, 2, 3, 4)) + 0.1, image.double().var((0, 2, 3, 4)) * 1.5
    wide = [one.detach().double().to(device).clone().requires_grad_() for one in (image, weight, bias)]
    wanted = functional.selu(functional.batch_norm(wide[0], mean, variance, wide[1], wide[2], training=False))
    wanted.backward(gradient.double())
    normal = torch.stack([(variance + 1e-5).rsqrt(), -mean * (variance + 1e-5).rsqrt()]).float().expand(2, -1, -1)
    leaves = [image.clone(memory_format=torch.preserve_format), weight.float().to(device), bias.float().to(device)]
    leaves = [one.detach().requires_grad_() for one in leaves]
    out = norm_selu(*leaves, normal.contiguous(), False, by)
    out.backward(gradient)
    torch.testing.assert_close(out.double(), wanted.detach(), rtol=2 * UNIT[dtype], atol=1e-3)
    for found, exact in zip(leaves, wide, strict=True):
        torch.testing.assert_close(found.grad.double(), exact.grad, rtol=2 * UNIT[dtype], atol=2e-3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_bits_come_twice_and_nan_stays_nan(kernels, dtype) -> None:
    by, device = kernels[0][dtype], kernels[1]
    image, weight, bias, gradient = layer_inputs((2, 32), (6, 5, 4))
    image, gradient = (one.to(dtype).to(device).contiguous(memory_format=LAST) for one in (image, gradient))
    weight, bias = (one.float().to(device) for one in (weight, bias))
    normal = by.normal(image, 1e-5)
    sums = by.sums(image, gradient, normal, weight, bias)
    assert torch.equal(sums, by.sums(image, gradient, normal, weight, bias))
    gradient[1, 7, 2, 2, 2] = float("nan")
    found = by.image_gradient(image, gradient, normal, weight, bias, sums)
    assert found.isnan().nonzero().tolist() == [[1, 7, 2, 2, 2]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_kernels_that_give_other_values_than_torch_are_found_out(kernels, monkeypatch, dtype) -> None:
    by, device = kernels[0][dtype], torch.device(kernels[1])
    assert agrees_with_torch(by, device, dtype)
    run = type(by)._run
    for name, place in (("gradient_image", 6), ("gradient_sums", 1), ("normalise", 2)):

        def wrong(name_run, *rest, name=name, place=place):
            run(by, name_run, *rest)
            if name_run == name:
                rest[2 + place].mul_(1.1)

        monkeypatch.setattr(by, "_run", wrong)
        assert not agrees_with_torch(by, device, dtype), name


def network_of(norm: str) -> nn.Module:
    torch.manual_seed(2)
    network = build(Network(fusion="middle", widths=(4, 8), norm=norm))
    for name, tensor in network.state_dict().items():
        if "norm" in name and tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.5)
    return network


def gradients(network: nn.Module) -> list[Tensor]:
    network.zero_grad(set_to_none=True)
    image = torch.rand(2, 2, 8, 12, 8, generator=torch.Generator().manual_seed(0))
    network(image.contiguous(memory_format=LAST)).square().mean().backward()
    return [one.grad for one in network.parameters()]


@pytest.mark.parametrize("norm", ["instance", "batch", "fixed"])
def test_a_network_keeps_names_parameters_and_gradients(norm: str) -> None:
    plain = network_of("instance" if norm == "instance" else "batch")
    for module in plain.modules():
        if norm == "fixed" and isinstance(module, nn.BatchNorm3d):
            module.eval()
    network = copy.deepcopy(plain)
    before = dict(network.named_parameters())
    for block in [one for one in network.modules() if isinstance(one, Block)]:
        put_into(block)
    after = dict(network.named_parameters())
    assert list(after) == list(before) and all(after[name] is before[name] for name in before)
    for _ in range(2):
        wanted = gradients(plain)
        for found, one in zip(gradients(network), wanted, strict=True):
            torch.testing.assert_close(found, one, rtol=1e-3, atol=1e-6)
    assert list(network.state_dict()) == list(plain.state_dict())
    for name, one in plain.state_dict().items():  # batch statistics went on, or stayed
        torch.testing.assert_close(network.state_dict()[name], one)


def test_statistics_that_are_computed_anew_are_torch_s() -> None:
    """As training.weights.batch_norm does for averaged weights: the mean over the batches, without a momentum."""
    plain = network_of("batch")
    network, batches = copy.deepcopy(plain), [torch.rand(2, 2, 8, 8, 8) for _ in range(3)]
    for block in [one for one in network.modules() if isinstance(one, Block)]:
        put_into(block)
    for one in (plain, network):
        update_bn(batches, one)
    for name, wanted in plain.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], wanted, rtol=1e-4, atol=1e-6)


def test_stages_that_are_computed_again_give_the_same_bits() -> None:
    network = network_of("instance")
    for block in [one for one in network.modules() if isinstance(one, Block)]:
        put_into(block)
    wanted = gradients(network)
    recompute_stages(network)
    assert all(torch.equal(found, one) for found, one in zip(gradients(network), wanted, strict=True))


@pytest.mark.slow
def test_several_processes_and_a_scaled_loss_give_the_same_gradients(tmp_path) -> None:
    """DistributedDataParallel of a single process, and GradScaler: what the loop puts around a network."""
    network = network_of("instance")
    for block in [one for one in network.modules() if isinstance(one, Block)]:
        put_into(block)
    recompute_stages(network)
    wanted = gradients(network)
    image = torch.rand(2, 2, 8, 12, 8, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=LAST)
    optimizer, scaler = torch.optim.SGD(network.parameters()), torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer.zero_grad(set_to_none=True)
    distributed.init_process_group(
        "gloo", store=distributed.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1
    )
    try:
        loss = DistributedDataParallel(network)(image).square().mean()
        scaler.scale(loss).backward()
    finally:
        distributed.destroy_process_group()
    scaler.unscale_(optimizer)
    for found, one in zip(network.parameters(), wanted, strict=True):
        torch.testing.assert_close(found.grad, one)


def on(kind: str) -> Device:
    return Device(torch_device=torch.device(kind, 0), precision=torch.bfloat16, name=kind)


def test_it_is_put_in_on_a_gpu_alone_and_not_where_the_settings_say_so(monkeypatch, capsys) -> None:
    monkeypatch.setattr(fused_norm, "kernels_or_reason", lambda device, dtype: "no compiler")
    assert fuse_norms(network_of("instance"), Training(), on("cpu")) == 0
    for words in ({"fused_norm": False}, {"compile": True}):
        assert fuse_norms(network_of("instance"), settings_from(words), on("cuda")) == 0
    assert capsys.readouterr().err == ""
    network = network_of("batch")
    assert fuse_norms(network, Training(), on("cuda")) == 10  # two encoders of two stages, one stage of the decoder
    assert capsys.readouterr().err.startswith(
        "warning: the project's own kernels of training do not run on this GPU (no"
    )
    assert sum(isinstance(one, BatchNormSelu) for one in network.modules()) == 10
    assert fuse_norms(network, Training(), on("cuda")) == 0  # it is there already


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (9, 0)], ids=["T4", "A100", "H100"])
def test_the_compiler_of_the_image_takes_the_kernels(capability: tuple[int, int], dtype) -> None:
    """Of CUDA 12.6, as in the Dockerfile's base; it needs no GPU."""
    folder = Path(importlib.util.find_spec("nvidia.cuda_nvrtc").submodule_search_locations[0])  # type: ignore
    code = compiled(ctypes.CDLL(str(folder / "lib/libnvrtc.so.12")), *capability, SOURCES, OPTIONS[dtype])
    assert code.startswith(b"\x7fELF") and all(name.encode() in code for name in (*NAMES, *GRADIENT_NAMES))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_nvcc_takes_the_kernels_where_it_is(dtype, tmp_path) -> None:
    """A newer compiler than the image's, which knows the B200. The image's own takes them for older GPUs, above."""
    architecture = "sm_100"
    if shutil.which("nvcc") is None:
        pytest.skip("no nvcc here")
    source = tmp_path / "all.cu"
    source.write_text("\n".join(one.read_text() for one in SOURCES))
    command = [
        "nvcc",
        "-cubin",
        f"-arch={architecture}",
        *OPTIONS[dtype],
        str(source),
        "-o",
        str(tmp_path / "all.cubin"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if "Unsupported gpu architecture" in done.stderr:
        pytest.skip(f"this nvcc does not know {architecture}")
    assert done.returncode == 0, done.stderr


@pytest.mark.gpu
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_gpu_trains_a_network_by_them_no_less_exactly_than_by_torch(dtype, recompute: bool) -> None:
    """The error of each gradient in half precision, beside that of torch's own layers in the same precision."""
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU here")
    torch.manual_seed(3)
    plain, image = build(Network(fusion="middle", widths=(8, 16, 32))), torch.rand(2, 2, 16, 24, 16)
    plain(image).square().mean().backward()
    networks = [copy.deepcopy(plain).cuda().to(memory_format=LAST) for _ in range(2)]
    device = Device(torch_device=torch.device("cuda"), precision=dtype, name="")
    assert fuse_norms(networks[0], Training(), device) == 16  # two encoders of three stages, two stages of the decoder
    for network in networks:
        network.zero_grad()
        if recompute:
            recompute_stages(network)
        with torch.autocast("cuda", dtype):
            out = network(image.cuda().contiguous(memory_format=LAST))
        (1024 * out.float().square().mean()).backward()
    for (name, exact), ours, theirs in zip(plain.named_parameters(), *(n.parameters() for n in networks), strict=True):
        errors = [float((one.grad.cpu() / 1024 - exact.grad).norm() / exact.grad.norm()) for one in (ours, theirs)]
        if exact.grad.norm() > 1e-6:
            assert errors[0] < 2 * errors[1] + 4 * UNIT[dtype], (name, errors)
