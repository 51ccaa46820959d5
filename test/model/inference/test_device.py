import warnings

import pytest
import torch
from torch.cuda._utils import _get_device_index

from model.errors import ConfigError
from model.inference import device as module
from model.inference.device import choose_device, is_out_of_memory, why_no_cuda

OLD_DRIVER = (
    "CUDA initialization: The NVIDIA driver on your system is too old (found version 11040). "
    "Please update your GPU driver"
)


@pytest.fixture
def cuda_build(monkeypatch) -> None:
    """A build of torch for CUDA 12.6 on a machine where no GPU answers."""
    monkeypatch.setattr(module, "_driver_warnings", [])
    monkeypatch.setattr(torch.version, "cuda", "12.6")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize(("has_bfloat16", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_the_cpu_computes_in_bfloat16_where_it_has_it(has_bfloat16: bool, expected, monkeypatch) -> None:
    monkeypatch.setattr(module, "has_bfloat16", lambda: has_bfloat16)
    device = choose_device("cpu")
    assert (device.torch_device.type, device.precision, device.warning) == ("cpu", expected, None)
    assert device.wider == (torch.float32,)
    single = choose_device("cpu", "float32")
    assert (single.precision, single.warning) == (torch.float32, None)


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_bfloat16_asked_for_runs_with_a_warning_where_it_is_slower(has_bfloat16: bool, monkeypatch) -> None:
    monkeypatch.setattr(module, "has_bfloat16", lambda: has_bfloat16)
    device = choose_device("cpu", "bfloat16")
    assert device.precision == torch.bfloat16
    assert device.warning is None if has_bfloat16 else "slower than --precision float32" in str(device.warning)


def test_a_gpu_that_does_not_work_and_bfloat16_without_hardware_are_both_warned_of(cuda_build, monkeypatch) -> None:
    monkeypatch.setattr(module, "has_bfloat16", lambda: False)
    monkeypatch.setattr(module, "gpu_is_there", lambda: True)
    warning = str(choose_device("auto", "bfloat16").warning)
    assert "no usable NVIDIA GPU" in warning and "slower than --precision float32" in warning


def test_float16_on_a_cpu_and_an_unknown_precision_are_refused() -> None:
    with pytest.raises(ConfigError, match="a CPU does not compute in float16 here; use --precision bfloat16"):
        choose_device("cpu", "float16")
    with pytest.raises(ConfigError, match="auto, float32, bfloat16, float16, got 'half'"):
        choose_device("cpu", "half")


@pytest.mark.parametrize(
    ("capability", "precision", "expected", "wider"),
    [
        ((8, 6), "auto", torch.float16, (torch.bfloat16, torch.float32)),
        ((7, 5), "auto", torch.float16, (torch.float32,)),
        ((8, 6), "float16", torch.float16, (torch.bfloat16, torch.float32)),
        ((8, 6), "bfloat16", torch.bfloat16, (torch.float32,)),
        ((7, 5), "float32", torch.float32, (torch.float32,)),
        ((7, 5), "bfloat16", None, ()),
    ],
)
def test_a_gpu_computes_as_asked_for_if_it_can(capability, precision, expected, wider, monkeypatch) -> None:
    monkeypatch.setattr(module, "why_no_cuda", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    if expected is None:
        with pytest.raises(ConfigError, match="Some GPU does not compute in bfloat16"):
            choose_device("cuda", precision)
    else:
        device = choose_device("cuda", precision)
        assert (device.precision, device.wider) == (expected, wider)


def test_cuda_asked_for_and_absent_is_refused(cuda_build) -> None:
    with pytest.raises(ConfigError, match="--device cuda: no usable NVIDIA GPU"):
        choose_device("cuda")


def test_auto_without_a_gpu_is_the_cpu_without_a_warning(cuda_build, monkeypatch) -> None:
    monkeypatch.setattr(module, "gpu_is_there", lambda: False)
    assert choose_device("auto").warning is None


def test_a_driver_too_old_is_named_before_the_cpu_is_used(cuda_build, monkeypatch) -> None:
    calls = []

    def too_old() -> bool:
        if not calls:  # as torch does: once in a process
            warnings.warn(OLD_DRIVER, stacklevel=1)
        calls.append(True)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", too_old)
    monkeypatch.setattr(module, "gpu_is_there", lambda: True)
    device = choose_device("auto")
    assert device.torch_device.type == "cpu"
    assert device.warning is not None and "supports CUDA 11.4" in device.warning and "12.6" in device.warning
    with pytest.raises(ConfigError, match="driver is too old"):
        choose_device("cuda")


@pytest.mark.parametrize(
    ("capability", "works"), [((7, 5), True), ((8, 6), True), ((9, 0), True), ((6, 1), False), ((10, 0), False)]
)
def test_a_gpu_that_the_build_holds_no_code_for_is_named(capability, works, cuda_build, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80", "sm_86", "sm_90", "sm_90a"])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    assert (why_no_cuda() is None) == works


def test_a_gpu_s_free_memory_counts_what_torch_holds_unused_and_stays_below_the_allowed_share(monkeypatch) -> None:
    """torch's get_per_process_memory_fraction refuses a device without a number; so do all of these."""

    def set_value(name: str, value: object) -> None:
        monkeypatch.setattr(torch.cuda, name, lambda here: (_get_device_index(here), value)[1])

    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    for name, value in {"mem_get_info": (50, 100), "memory_allocated": 10, "memory_reserved": 30}.items():
        set_value(name, value)
    for share, expected in ((1.0, 50 + 30 - 10), (0.4, 40 - 10)):
        set_value("get_per_process_memory_fraction", share)
        assert module.free_bytes() == module.free_bytes(torch.device("cuda:0")) == expected
    assert module.free_bytes(torch.device("cpu")) == float("inf")


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(ConfigError, match="auto, cuda, cpu"):
        choose_device("tpu")


def test_only_real_memory_errors_count() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory")) and is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be ..."))
    assert not is_out_of_memory(RuntimeError("out of memory, wrote somebody"))
    assert not is_out_of_memory(ValueError("DefaultCPUAllocator: not enough memory"))


@pytest.mark.gpu
def test_the_gpu_agrees_with_the_cpu(make_bundle, tmp_path, cpu) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU here")
    from study_views import view_of_image

    from model.bundle.manifest import load_bundle
    from model.inference.ensemble import vote
    from model.inference.options import SegmentOptions
    from model.networks.weights import voters

    bundle = load_bundle(make_bundle(tmp_path / "gpu"))
    image = torch.rand(2, 70, 50, 60)
    masks = [
        vote(view_of_image(image), voters(bundle), SegmentOptions(bundle=bundle, device=device)).margin.cpu() > 0
        for device in (cpu, choose_device("cuda"))
    ]
    assert 0.01 < masks[0].float().mean() < 0.99
    assert 2 * (masks[0] & masks[1]).sum() / (masks[0].sum() + masks[1].sum()) > 0.99
