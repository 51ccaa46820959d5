"""torch.compile in training: the same values and names, and a clear refusal where it cannot work."""

import functools

import pytest
import torch
from safetensors.torch import load_file
from tiny_settings import tiny_training

from model.errors import ConfigError
from model.networks.unet import Block, build
from training.compute import compiling
from training.compute.compiling import check_compile, compiled_network, why_no_compile
from training.data.folds import Fold
from training.runs.train import train_run

FOLD = Fold(name="0", train=("case0", "case1", "case3"), validate=("case2",), test=())


@pytest.fixture
def compiler() -> None:
    if why := why_no_compile("cpu"):
        pytest.skip(f"needs {why}")


def test_what_is_lacking_is_named(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"compile: true needs a C\+\+ compiler \('g\+\+'\), which is not here"):
        check_compile("cpu")
    monkeypatch.setattr(compiling.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs the Python package triton"):
        check_compile("cuda")
    monkeypatch.setattr(compiling.importlib.util, "find_spec", lambda name: name)
    with pytest.raises(ConfigError, match=r"needs a C compiler \(gcc, clang, cc\)"):
        check_compile("cuda")
    (tmp_path / "gcc").touch(mode=0o755)
    check_compile("cuda")


def test_a_run_is_refused_before_its_folder_is_made(monkeypatch, tmp_path, tiny_cache) -> None:
    monkeypatch.setenv("CXX", "no_such_compiler")
    with pytest.raises(ConfigError, match="no_such_compiler"):
        train_run(tmp_path / "run", tiny_training(compile=True), tiny_cache, FOLD, wanted="cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_compiled_network_has_the_gradients_of_the_plain_one(compiler) -> None:
    """One block, since the C++ compiler takes a while for each."""
    torch.manual_seed(0)
    block, image = Block(2, 4), torch.rand(1, 2, 8, 8, 8)
    block(image).square().mean().backward()
    wanted = [one.grad for one in block.parameters()]
    block.zero_grad(set_to_none=True)
    compiled_network(block)(image).square().mean().backward()
    for found, one in zip(block.parameters(), wanted, strict=True):
        torch.testing.assert_close(found.grad, one, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("recompute", [False, True])
def test_a_compiled_run_leaves_the_weights_of_a_plain_one(monkeypatch, tmp_path, tiny_cache, recompute: bool) -> None:
    """The same names and values. The network is traced as for a compiler, and then run by torch: that is quick."""
    monkeypatch.setattr(compiling, "check_compile", lambda device: None)
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    changes = {"schedule": {"epochs": 1, "warmup_epochs": 0, "steps_per_epoch": 2}, "recompute": recompute}
    found = []
    for compile_it in (False, True):
        folder = tmp_path / str(compile_it)
        train_run(folder, tiny_training(compile=compile_it, **changes), tiny_cache, FOLD, wanted="cpu")
        found.append(load_file(folder / "last.safetensors"))
        state = torch.load(folder / "checkpoint.pt")["network"]
        assert list(state) == list(build(tiny_training().network).state_dict())
    assert list(found[0]) == list(found[1])
    for name, one in found[0].items():
        torch.testing.assert_close(found[1][name], one, rtol=1e-3, atol=1e-5)
