import pytest
import torch
from msgspec.structs import replace
from nnunet_networks import res_enc_l

from model.bundle.manifest import load_bundle
from model.bundle.network import Network
from model.bundle.settings import Intensity, Part, Window
from model.inference.device import Device
from model.inference.windows import windows_at_a_time


@pytest.fixture(scope="module")
def part(tiny_bundle) -> Part:
    manifest = load_bundle(tiny_bundle).manifest
    return manifest.part(manifest.members[0])


def test_a_gpu_takes_as_many_windows_as_its_free_memory_holds(part, monkeypatch) -> None:
    """Widths 2, 2, 4, middle fusion: 4 channels of 32^3 in half precision are 256 KiB, and a window five times that; a
    study of 64^3 is 8 MiB in eight float32 values.
    """
    gpu = Device(torch_device=torch.device("cuda"), precision=torch.float16, name="a GPU")
    window, study = 5 * (4 * 32**3 * 2), 8 * 4 * 64**3
    for windows, expected in ((0.5, 1), (1.1, 1), (3.9, 2), (4.1, 4), (1000, 16)):
        monkeypatch.setattr("model.inference.windows.free_bytes", lambda n=windows: (study + n * window) / 0.8)
        assert windows_at_a_time(gpu, [part], (64, 64, 64)) == expected


def test_the_body_of_windows_and_study_is_counted(part, monkeypatch) -> None:
    """One more float32 a voxel of the study, and three a voxel of a window."""
    gpu = Device(torch_device=torch.device("cuda"), precision=torch.float16, name="a GPU")
    part = replace(part, network=replace(part.network, norm="body"))
    window, study = 5 * (4 * 32**3 * 2) + 3 * 4 * 32**3, 9 * 4 * 64**3
    for windows, expected in ((1.9, 1), (2.1, 2), (3.9, 2), (4.1, 4)):
        monkeypatch.setattr("model.inference.windows.free_bytes", lambda n=windows: (study + n * window) / 0.8)
        assert windows_at_a_time(gpu, [part], (64, 64, 64)) == expected


def test_one_window_at_a_time_on_a_cpu_and_two_of_a_network_of_unknown_memory(part, cpu) -> None:
    swin = replace(part, network=Network(fusion="swin_unetr", widths=(12,)), window=Window(size=(64, 64, 64)))
    slices = Part(
        network=Network(fusion="regnety_002", widths=(8, 8, 4, 4, 4)),
        intensity=part.intensity,
        window=Window(size=(64, 64, 1)),
    )
    for parts, windows in (([part], 1), ([part, swin], 2), ([slices], 2), ([slices, part], 1)):
        assert windows_at_a_time(cpu, parts, (64, 64, 64)) == windows


T4_BYTES, CARD_AND_CONTEXT = 15.8e9, 0.8e9  # what a T4 shows as its memory, and what CUDA takes of it


@pytest.mark.parametrize(("organs", "expected"), [(0, 4), (11, 2)])
def test_a_t4_holds_windows_of_192_of_res_enc_l(organs: int, expected: int, monkeypatch) -> None:
    """A study of 400 x 400 x 326 beside them. A window takes 1.5 GB of images (test_fused_strided.py) and 0.2 GB of
    float32: its cut and its mirrored image, two channels each, and twice its two logits; organs add 0.6 GB to it, and
    22 values a voxel, 4.6 GB, to the study.
    """
    network = replace(res_enc_l(), organs=organs)
    part = Part(network=network, intensity=Intensity(), window=Window(size=(192, 192, 192)))
    gpu = Device(torch_device=torch.device("cuda"), precision=torch.float16, name="a T4")
    monkeypatch.setattr("model.inference.windows.free_bytes", lambda: T4_BYTES - CARD_AND_CONTEXT)
    assert windows_at_a_time(gpu, [part], (400, 400, 326), with_organs=organs > 0) == expected
