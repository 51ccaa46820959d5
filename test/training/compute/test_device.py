import pytest
import torch

from model.inference.device import Device
from training.compute.device import device_for


@pytest.mark.parametrize(
    ("wider", "precision"), [((torch.bfloat16, torch.float32), torch.bfloat16), ((torch.float32,), torch.float16)]
)
def test_auto_is_bfloat16_on_a_gpu_that_has_it_else_float16(wider: tuple, precision, monkeypatch) -> None:
    gpu = Device(torch_device=torch.device("cuda"), precision=torch.float16, name="a GPU", wider=wider)
    monkeypatch.setattr("training.compute.device.choose_device", lambda wanted: gpu)
    assert device_for("auto").precision == precision
    assert device_for("float32").precision == torch.float32 and device_for("float16").precision == torch.float16


def test_half_precision_is_single_precision_on_a_cpu() -> None:
    assert device_for("auto", "cpu").precision == torch.float32
    assert device_for("float16", "cpu").precision == torch.float32
    assert device_for("bfloat16", "cpu").precision == torch.bfloat16
