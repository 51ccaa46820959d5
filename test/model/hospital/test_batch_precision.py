"""Which precision a batch has, on one machine and on a cluster."""

import pytest

from model.bundle.choice_options import PRECISIONS
from model.errors import ConfigError
from model.hospital import batch_precision, cluster
from model.hospital.batch_precision import auto_precision, common_precision
from model.inference import device


def test_the_names_are_those_of_the_device() -> None:
    assert device.PRECISIONS == PRECISIONS


@pytest.mark.parametrize(("multiplies", "precision"), [(False, "float32"), (True, "bfloat16")])
def test_a_machine_without_a_gpu_is_judged_by_its_processor_and_without_torch(
    multiplies: bool, precision: str, monkeypatch
) -> None:
    def forbidden(*what: object, **named: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(batch_precision, "has_bfloat16", lambda: multiplies)
    monkeypatch.setattr(batch_precision.subprocess, "run", forbidden)
    monkeypatch.setattr(batch_precision, "gpu_is_there", lambda: False)
    assert auto_precision("auto") == precision
    monkeypatch.setattr(batch_precision, "gpu_is_there", lambda: True)
    assert auto_precision("cpu") == precision


@pytest.mark.slow
def test_where_a_gpu_may_be_a_process_of_its_own_looks(monkeypatch) -> None:
    monkeypatch.setattr(batch_precision, "gpu_is_there", lambda: True)
    expected = str(device.choose_device("auto").precision).removeprefix("torch.")
    assert auto_precision("auto") == expected
    if device.why_no_cuda():
        with pytest.raises(ConfigError, match="--device cuda: .*; use --device auto or cpu"):
            auto_precision("cuda")


def test_workers_that_differ_compute_in_float32() -> None:
    assert common_precision(["float16", "float16"]) == "float16"
    assert common_precision(["bfloat16", "float32"]) == "float32"
    assert common_precision(["float16", "bfloat16"]) == "float32"


class Workers:
    """A client whose workers answer so."""

    def __init__(self, *answers: object) -> None:
        self.answers = answers

    def run(self, what, device: str, on_error: str) -> dict:
        assert what is auto_precision and on_error == "return"
        return dict(enumerate(self.answers))


def test_workers_are_asked_and_one_that_cannot_is_an_error() -> None:
    assert cluster.precision_of_workers(Workers("float16", "float32"), "auto") == "float32"
    with pytest.raises(ConfigError, match="--device cuda: no GPU"):
        cluster.precision_of_workers(Workers("float16", ConfigError("--device cuda: no GPU")), "cuda")
    with pytest.raises(ConfigError, match=r"a worker did not say .*\(ModuleNotFoundError\); give all workers"):
        cluster.precision_of_workers(Workers(ModuleNotFoundError("model.driver")), "auto")
