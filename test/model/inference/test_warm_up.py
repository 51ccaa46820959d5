import pytest
import torch
from msgspec.structs import replace
from torch import nn

from model.bundle.format import Manifest
from model.bundle.manifest import load_bundle
from model.bundle.network import Network
from model.inference.device import Device, choose_device
from model.inference.warm_up import warm_up


@pytest.fixture(scope="module")
def manifest(tiny_bundle) -> Manifest:
    return load_bundle(tiny_bundle).manifest


def test_on_a_cpu_nothing_is_run(manifest, cpu, monkeypatch) -> None:
    monkeypatch.setattr("model.inference.warm_up.skeleton", lambda network: pytest.fail("a network was built"))
    warm_up(manifest, cpu)


def test_a_gpu_runs_the_study_s_window_and_no_memory_is_no_error(manifest, monkeypatch) -> None:
    gpu = Device(torch_device=torch.device("cuda"), precision=torch.float16, name="a GPU")
    shapes, freed = [], []
    monkeypatch.setattr("model.inference.warm_up.windows_at_a_time", lambda device, parts, shape: 3)
    monkeypatch.setattr("model.inference.warm_up.torch.zeros", lambda *shape, device=None: torch.empty(*shape))
    monkeypatch.setattr("model.inference.warm_up.for_device.prepared", lambda network, device, precision: network)
    monkeypatch.setattr(
        "model.inference.warm_up.slabs.forward", lambda network, image: shapes.append(tuple(image.shape))
    )
    monkeypatch.setattr("torch.cuda.synchronize", lambda: None)
    monkeypatch.setattr("torch.cuda.empty_cache", lambda: freed.append(True))
    warm_up(manifest, gpu)
    over_body = Network(fusion="middle", widths=(2, 2, 4), norm="body")
    warm_up(replace(manifest, network=over_body), gpu)
    assert shapes == [(3, channels, *manifest.window.size) for channels in (2, 3)] and not freed

    def full(network: nn.Module, image: torch.Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("model.inference.warm_up.slabs.forward", full)
    warm_up(manifest, gpu)
    assert freed


@pytest.mark.gpu
def test_a_gpu_warms_up_without_torch_s_compiler(manifest) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU here")
    warm_up(manifest, choose_device("cuda"))
    assert torch.cuda.max_memory_allocated() > 0
