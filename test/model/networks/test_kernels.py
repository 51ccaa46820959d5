"""Each kernel of kernels.cu is torch's operation: compiled for the CPU by g++ everywhere, and on a GPU as it is."""

import pytest
import torch
from host_kernels import HostKernels
from torch import Tensor
from torch.nn import functional
from torch_kernels import TorchKernels

from model.networks.kernels import _pitch, kernels

LAST = torch.channels_last_3d
THEIRS = TorchKernels()


@pytest.fixture(
    scope="module", params=[pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=pytest.mark.gpu)]
)
def ours(request, tmp_path_factory):
    """The kernels; `device`: where their images lie."""
    if request.param == "cpu":
        found = HostKernels(tmp_path_factory.mktemp("kernels"))
    elif not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU here")
    else:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        found = kernels(torch.device("cuda"))
        assert found is not None, "the kernels cannot be compiled or loaded on this GPU"
    found.device = request.param
    return found


def image_of(device: str, images: int, channels: int, *size: int) -> Tensor:
    """Channels of different means and deviations, some far from 0."""
    torch.manual_seed(1)
    deviation = torch.logspace(-1, 1, channels)[:, None, None, None]
    image = torch.randn(images, channels, *size) * deviation + 20 * deviation * torch.randn(channels, 1, 1, 1)
    return image.half().to(device).contiguous(memory_format=LAST)


def factors_of(ours, image: Tensor) -> Tensor:
    weight, bias = torch.rand(2, image.shape[1], device=ours.device)
    return ours.factors(image, weight + 0.5, bias - 0.5, 1e-5)


@pytest.mark.parametrize("size", [(1, 1, 1), (1, 1, 3), (2, 1, 1), (3, 2, 1), (2, 2, 2)])
def test_the_pitch_is_that_of_the_memory_whatever_the_strides_of_an_axis_of_one_voxel_say(size) -> None:
    wide = torch.empty(2, 48, *size, memory_format=LAST)
    plain = torch.empty(2, 16, *size).contiguous(memory_format=LAST)
    assert _pitch(wide) == _pitch(wide[:, 16:32]) == 48 and _pitch(plain) == 16
    assert _pitch(plain[:1]) == 16


@pytest.mark.parametrize(
    ("images", "channels", "size"),
    [(1, 64, (48, 40, 32)), (3, 24, (5, 6, 7)), (2, 320, (3, 4, 5)), (2, 2048, (3, 2, 2)), (1, 8, (1, 1, 2))],
)
def test_normalisation_is_that_of_float64(ours, images: int, channels: int, size) -> None:
    image = image_of(ours.device, images, channels, *size)
    weight, bias = torch.rand(2, channels, device=ours.device)
    expected = THEIRS.factors(image, weight.double(), bias.double(), 1e-5)
    found = ours.factors(image, weight, bias, 1e-5)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(found, ours.factors(image, weight, bias, 1e-5))
    wide = torch.zeros(images, 2 * channels, *size, device=ours.device, dtype=torch.float16)
    wide = wide.contiguous(memory_format=LAST)
    THEIRS.normalise(image, found, wide[:, channels:])
    out = torch.zeros_like(wide)
    ours.normalise(image, found, out[:, channels:])
    torch.testing.assert_close(out, wide, rtol=2**-9, atol=1e-5)
    ours.normalise(image, found, image)
    assert torch.equal(image, out[:, channels:])


@pytest.mark.parametrize(
    ("images", "channels", "size"), [(2, 64, (24, 20, 16)), (3, 24, (5, 6, 7)), (2, 320, (3, 4, 5)), (1, 8, (1, 1, 2))]
)
@pytest.mark.parametrize("share", [1.0, 0.5, 0.03], ids=["all", "half", "little"])
def test_normalisation_over_a_body_is_that_of_float64(ours, images: int, channels: int, size, share: float) -> None:
    """Of each image its own voxels, most of them in one half, so that some blocks of threads see none; NaN in the air
    does not count.
    """
    image = image_of(ours.device, images, channels, *size)
    body = torch.rand(images, 1, *size) < share
    body[:, :, : size[0] // 2] &= torch.rand(images, 1, size[0] // 2, *size[1:]) < share
    body.flatten(1)[:, -1] = True
    body = body.to(ours.device)
    weight, bias = torch.rand(2, channels, device=ours.device)
    expected = THEIRS.factors(image, weight.double(), bias.double(), 1e-5, body)
    image.masked_fill_(~body, float("nan"))
    found = ours.factors(image, weight, bias, 1e-5, body)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(found, ours.factors(image, weight, bias, 1e-5, body))


@pytest.mark.parametrize("channels", [8, 64, 320])
@pytest.mark.parametrize("other", ["none", "as it is", "normalised"])
@pytest.mark.parametrize("size", [(17, 9, 11), (1, 1, 2)])
def test_normalisation_sum_and_leaky_relu_are_those_of_torch(ours, channels: int, other: str, size) -> None:
    image = image_of(ours.device, 2, channels, *size)
    factors = factors_of(ours, image)
    more = image_of(ours.device, 2, channels, *size).flip(2).contiguous(memory_format=LAST)
    rest = {"none": (), "as it is": (more,), "normalised": (more, factors_of(ours, more))}[other]
    expected = image.clone(memory_format=torch.preserve_format)
    THEIRS.leaky(expected, factors, 0.01, *rest)
    ours.leaky(image, factors, 0.01, *rest)
    torch.testing.assert_close(image, expected, rtol=2**-9, atol=1e-5)


def test_leaky_relu_keeps_nan(ours) -> None:
    image = image_of(ours.device, 1, 8, 3, 3, 3)
    factors = factors_of(ours, image)
    image[0, 3, 1, 1, 1] = float("nan")
    ours.leaky(image, factors, 0.01)
    assert image.isnan().nonzero().tolist() == [[0, 3, 1, 1, 1]]


@pytest.mark.parametrize("channels", [8, 32, 64, 256])
@pytest.mark.parametrize("classes", [1, 2, 3, 13])
@pytest.mark.parametrize("slope", [None, 0.01], ids=["SELU", "LeakyReLU"])
def test_the_last_convolution_is_that_of_torch(ours, channels: int, classes: int, slope) -> None:
    image = image_of(ours.device, 2, channels, 17, 9, 11)
    weight, bias = torch.randn(classes, channels, device=ours.device), torch.randn(classes, device=ours.device)
    factors = factors_of(ours, image)
    expected = THEIRS.classify(image, factors, weight, bias, slope)
    found = ours.classify(image, factors, weight, bias, slope)
    assert found.is_contiguous() and (found - expected).abs().max() < 1e-5 * channels


def test_pooling_is_that_of_torch(ours) -> None:
    image = image_of(ours.device, 2, 48, 10, 6, 8)
    expected = functional.max_pool3d(image[:, 16:40].float(), 2).half()
    assert torch.equal(ours.pool(image[:, 16:40]), expected)
    image[1, 20, 3, 2, 1] = float("nan")
    assert ours.pool(image)[1, 20, 1, 1, 0].isnan()


@pytest.mark.parametrize("stride", [(2, 2, 2), (1, 2, 2), (3, 1, 2)])
def test_means_of_blocks_are_those_of_torch(ours, stride) -> None:
    image = image_of(ours.device, 2, 24, 6, 4, 8)
    found = ours.average(image, stride)
    expected = functional.avg_pool3d(image.float(), stride).half()
    assert found.is_contiguous(memory_format=LAST)
    torch.testing.assert_close(found, expected, rtol=2**-10, atol=1e-6)


@pytest.mark.parametrize("stride", [(2, 2, 2), (1, 2, 2), (2, 2, 1), (3, 1, 3)])
def test_values_become_their_neighbouring_voxels(ours, stride) -> None:
    values = torch.randn(2, 3, 4, 5, *stride, 24, device=ours.device).half()
    size = [edge * step for edge, step in zip((3, 4, 5), stride, strict=True)]
    wide = torch.zeros(2, 40, *size, device=ours.device, dtype=torch.float16).contiguous(memory_format=LAST)
    expected = wide.clone(memory_format=torch.preserve_format)
    ours.depth_to_space(values, wide[:, 8:32])
    THEIRS.depth_to_space(values, expected[:, 8:32])
    assert torch.equal(wide, expected)
