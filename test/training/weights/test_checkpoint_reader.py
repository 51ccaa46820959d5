"""training/weights/checkpoint_reader.py: tensors as torch.save wrote them; nothing in the file is ever run."""

import argparse
import builtins
import collections
import importlib
import io
import os
import pickle
import random
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.errors import WeightsError
from training.weights.checkpoint_reader import read_state_dict

GONE = '''
class EasyDict(dict):
    """Attributes are entries."""
    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        super().__setitem__(name, value)
class Callback:
    __slots__ = ("best", "paths")
    def __init__(self):
        self.best, self.paths = 0.7, ["a", "b"]
def touch(path):
    open(path, "w").close()
class Touching:
    def __init__(self, path):
        self.path = path
    def __setstate__(self, state):
        open(state["path"], "w").close()
'''


def equal(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert list(found) == list(wanted)
    for name in wanted:
        assert found[name].dtype == wanted[name].dtype
        torch.testing.assert_close(found[name], wanted[name].detach(), rtol=0, atol=0, equal_nan=True)


@pytest.fixture
def gone(tmp_path: Path) -> Any:
    """A module that can be imported now; `forget` makes it impossible."""
    (tmp_path / "module_that_goes.py").write_text(GONE)
    sys.path.insert(0, str(tmp_path))
    importlib.invalidate_caches()
    yield importlib.import_module("module_that_goes")
    forget(tmp_path)


def forget(tmp_path: Path) -> None:
    (tmp_path / "module_that_goes.py").unlink(missing_ok=True)
    sys.modules.pop("module_that_goes", None)
    if str(tmp_path) in sys.path:
        sys.path.remove(str(tmp_path))
    importlib.invalidate_caches()


def zipped(path: Path, program: bytes, entries: dict[str, bytes] | None = None, compression: int = 0) -> Path:
    """An archive as torch.save lays it out, with any pickle in it."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", program)
        for name, content in (entries or {}).items():
            file.writestr(f"archive/{name}", content)
    return path


class Fake:
    """Pickled as a call of any function with any arguments."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


class Pickler(pickle.Pickler):
    """Writes storages' identities as torch.save does; a storage is given as a list [type, key, numel]."""

    def persistent_id(self, thing: Any) -> Any:
        return ("storage", thing[0], thing[1], "cpu", thing[2]) if isinstance(thing, list) else None


def tensor_file(path: Path, content: bytes, numel: Any, offset: Any, size: Any, stride: Any) -> Path:
    """A checkpoint of one float32 tensor `w`, described as one likes."""
    tensor = Fake(torch._utils._rebuild_tensor_v2, [torch.FloatStorage, "0", numel], offset, size, stride, False, None)
    out = io.BytesIO()
    Pickler(out, 2).dump({"state_dict": {"w": tensor}})
    return zipped(path, out.getvalue(), {"data/0": content})


# what torch.save writes


def test_a_lightning_checkpoint_of_unknown_classes_gives_its_tensors(tmp_path: Path, gone: Any) -> None:
    network = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 3), torch.nn.InstanceNorm3d(2, affine=True))
    wanted = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.rand(1, 1, 5, 5, 5)).sum().backward()
    optimizer.step()
    settings = gone.EasyDict(lr=1e-4, sizes=[1, 2], inner=gone.EasyDict(name="x"))
    settings.added = argparse.Namespace(seed=3, folder=Path("a"))
    path = tmp_path / "c1.ckpt"
    torch.save(
        {
            "epoch": 999,
            "pytorch-lightning_version": "1.9.0",
            "state_dict": collections.OrderedDict(wanted),
            "hyper_parameters": settings,
            "hparams_type": gone.EasyDict,
            "options": argparse.Namespace(b={"c": {4}}),
            "scalars": [np.float64(0.5), np.float32(1), np.int64(3), np.arange(6.0).reshape(2, 3), np.dtype("int8")],
            "callbacks": {gone.Callback: gone.Callback(), "{'a': 1}": {"best": torch.tensor(0.7)}, ("x", 1): b"\0\xff"},
            "optimizer_states": [optimizer.state_dict()],
            "lr_schedulers": [],
            "loops": {1: None, 2.5: True},
            "sets": ({1, 2}, frozenset({3}), bytearray(b"x"), 1 << 70, complex(1, 2), slice(1, 2), range(3)),
            "untyped": torch.ones(2).untyped_storage(),
            "complex": torch.ones(2, dtype=torch.complex64),
        },
        path,
    )
    forget(tmp_path)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    with pytest.raises(ModuleNotFoundError):
        torch.load(path, weights_only=False)
    equal(read_state_dict(path), wanted)
    assert "module_that_goes" not in sys.modules


def test_what_nnunet_keeps_beside_its_weights_does_not_matter(tmp_path: Path, gone: Any) -> None:
    """The entries of a checkpoint_final.pth of nnU-Net v2: numpy scalars among the logs, any object of the trainer."""
    network = torch.nn.Conv3d(2, 4, 3)
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.99, nesterov=True)
    network(torch.rand(1, 2, 4, 4, 4)).sum().backward()
    optimizer.step()
    beside = {
        "optimizer_state": optimizer.state_dict(),
        "grad_scaler_state": torch.amp.GradScaler("cpu").state_dict(),
        "logging": {"mean_fg_dice": [np.float64(0.5)] * 3, "lrs": [0.01], "per_class": [[np.float32(0.1)]]},
        "_best_ema": np.float64(0.7),
        "init_args": {"plans": {"patch": (128, 128, 128)}, "trainer": gone.Callback(), "device": torch.device("cpu")},
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    torch.save({"state_dict": network.state_dict(), **beside}, tmp_path / "a")
    torch.save({"network_weights": network.state_dict(), **beside}, tmp_path / "b")
    forget(tmp_path)
    equal(read_state_dict(tmp_path / "a"), network.state_dict())
    with pytest.raises(WeightsError, match="has no state_dict but network_weights, optimizer_state"):
        read_state_dict(tmp_path / "b")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_is_read(tmp_path: Path, protocol: int) -> None:
    wanted = {"a": torch.rand(2, 3), "b": torch.arange(4)}
    torch.save({"state_dict": wanted, "x": [{1}, argparse.Namespace(a=1)]}, tmp_path / "a", pickle_protocol=protocol)
    equal(read_state_dict(tmp_path / "a"), wanted)


def test_a_file_that_is_nothing_but_a_state_dict_is_read(tmp_path: Path) -> None:
    wanted = collections.OrderedDict(a=torch.rand(3), b=torch.nn.Parameter(torch.rand(2)))
    torch.save(wanted, tmp_path / "a")
    equal(read_state_dict(tmp_path / "a"), wanted)


def test_views_of_one_storage_and_transposed_tensors_keep_their_values(tmp_path: Path) -> None:
    base = torch.arange(24.0)
    wanted = {
        "all": base,
        "part": base[5:11],
        "even": base[::2],
        "turned": base.view(2, 3, 4).permute(2, 0, 1),
        "one": base[7],
        "thin": base.view(4, 6)[:, 2:3],
        "last": torch.rand(1, 2, 3, 4, 5).to(memory_format=torch.channels_last_3d),
        "none": torch.empty(0, 3),
        "parameter": torch.nn.Parameter(torch.rand(2, 2).t()),
    }
    torch.save({"state_dict": wanted}, tmp_path / "a")
    found = read_state_dict(tmp_path / "a")
    equal(found, wanted)
    found["all"].zero_()
    assert found["part"].tolist() == [5, 6, 7, 8, 9, 10]


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool]
)
def test_values_keep_their_type(tmp_path: Path, dtype: torch.dtype) -> None:
    wanted = {"w": (torch.randn(3, 4) * 9).to(dtype)}
    torch.save({"state_dict": wanted}, tmp_path / "a")
    equal(read_state_dict(tmp_path / "a"), wanted)


# what a file may try to have run


CALLS: list[Callable[[str], Fake]] = [
    lambda path: Fake(os.system, f"touch '{path}'"),
    lambda path: Fake(subprocess.call, ["touch", path]),
    lambda path: Fake(builtins.exec, f"open({path!r}, 'w').close()"),
    lambda path: Fake(builtins.eval, f"open({path!r}, 'w').close()"),
    lambda path: Fake(builtins.open, path, "w"),
    lambda path: Fake(getattr(importlib.import_module("module_that_goes"), "touch"), path),  # noqa: B009
    lambda path: importlib.import_module("module_that_goes").Touching(path),  # BUILD: __setstate__
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("protocol", [2, 4])
def test_no_call_is_made(tmp_path: Path, gone: Any, call: Callable[[str], Any], protocol: int) -> None:
    sentinel = tmp_path / "sentinel"
    bad = call(str(sentinel))
    pickle.loads(pickle.dumps(bad, protocol))
    assert sentinel.exists()  # so the file below is really dangerous
    sentinel.unlink()
    wanted = {"w": torch.rand(2)}
    places = {bad: [bad, {bad: {(1, bad): bad}}], "first": bad, "last": (bad, [bad], {"x": bad})}
    torch.save({**places, "state_dict": wanted, "then": bad}, tmp_path / "a", pickle_protocol=protocol)
    equal(read_state_dict(tmp_path / "a"), wanted)
    for state in ({"w": bad}, {bad: torch.rand(2)}, bad):
        torch.save({"state_dict": state}, tmp_path / "b", pickle_protocol=protocol)
        with pytest.raises(WeightsError, match="state_dict"):
            read_state_dict(tmp_path / "b")
    assert not sentinel.exists()


@pytest.mark.parametrize(
    "program",
    [
        b"cos\nsystem\n(S'touch SENTINEL'\ntR.",  # REDUCE, protocol 0
        b"(S'touch SENTINEL'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nS'touch SENTINEL'\no.",  # OBJ
        b"\x80\x02cos\nsystem\nU\x0etouch SENTINEL\x85\x81.",  # NEWOBJ
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0etouch SENTINEL\x85}\x92.",  # NEWOBJ_EX
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}U\x0c__defaults__cos\nsystem\ns\x86b.",  # BUILD on a function
    ],
)
def test_the_other_ways_to_call_are_inert_too(tmp_path: Path, monkeypatch: Any, program: bytes) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError):
        read_state_dict(zipped(tmp_path / "a", program))
    assert not (tmp_path / "SENTINEL").exists()


def test_no_module_is_imported(tmp_path: Path) -> None:
    state = b"U\nstate_dict}U\x01wK\x01ss"
    program = b"\x80\x02}U\x01xcwave\nopen\n)R" + b"s" + state + b"."
    sys.modules.pop("wave", None)
    with pytest.raises(WeightsError, match=r"state_dict\['w'\] is not a plain tensor but int"):
        read_state_dict(zipped(tmp_path / "a", program))
    assert "wave" not in sys.modules


def test_nested_doublings_take_no_memory(tmp_path: Path) -> None:
    program = b"\x80\x02}U\nstate_dict}U\x01w)" + b"2\x86" * 200 + b"ss."  # 2 ** 200 empty tuples, if written out
    with pytest.raises(WeightsError, match="not a plain tensor but tuple"):
        read_state_dict(zipped(tmp_path / "a", program))


def test_a_memo_number_of_four_thousand_million_takes_no_memory(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="memo number 4294967295"):
        read_state_dict(zipped(tmp_path / "a", b"\x80\x02K\x01r\xff\xff\xff\xff}U\x01xK\x01s."))


def test_names_that_share_one_storage_take_no_more_memory_than_ten_files(tmp_path: Path) -> None:
    values = torch.zeros(100_000)
    torch.save({"state_dict": {str(number): values for number in range(9)}}, tmp_path / "a")
    assert len(read_state_dict(tmp_path / "a")) == 9
    torch.save({"state_dict": {str(number): values for number in range(100)}}, tmp_path / "b")
    with pytest.raises(WeightsError, match="over 10 times the file's size"):
        read_state_dict(tmp_path / "b")


# files that are not right


@pytest.mark.parametrize(
    ("content", "numel", "offset", "size", "stride", "message"),
    [
        (bytes(16), 5, 0, (5,), (1,), "16 bytes, not 5 values of 4"),
        (bytes(16), 3, 0, (3,), (1,), "16 bytes, not 3 values of 4"),
        (bytes(16), 10**12, 0, (10**12,), (1,), "16 bytes, not 1000000000000 values"),
        (bytes(16), -4, 0, (4,), (1,), "16 bytes, not -4 values"),
        (bytes(16), 4, 0, (5,), (1,), "beyond its storage of 4"),
        (bytes(16), 4, 1, (4,), (1,), "beyond its storage of 4"),
        (bytes(16), 4, 0, (2, 2), (3, 1), "beyond its storage of 4"),
        (bytes(16), 4, 2**62, (1,), (1,), "beyond its storage of 4"),
        (bytes(16), 4, 0, (2, 2), (2**63, 1), "beyond its storage of 4"),
        (bytes(16), 4, 0, (10**6, 10**6), (0, 0), "repeat them"),
        (bytes(16), 4, 0, (3, 3), (0, 1), "repeat them"),
        (bytes(16), 4, -1, (2,), (1,), "make no sense"),
        (bytes(16), 4, 0, (-2,), (1,), "make no sense"),
        (bytes(16), 4, 3, (2,), (-1,), "make no sense"),
        (bytes(16), 4, 0, (2,), (1, 1), "make no sense"),
        (bytes(16), 4, 0, (1,) * 9, (1,) * 9, "make no sense"),
        (bytes(16), 4, 0.0, (2,), (1,), "make no sense"),
        (bytes(16), 4, 0, ("2",), (1,), "make no sense"),
        (bytes(16), 4, 0, 4, 1, "make no sense"),
        (bytes(16), "4", 0, (4,), (1,), "stored as"),
    ],
)
def test_a_tensor_that_does_not_match_its_storage_is_refused(
    tmp_path: Path, content: bytes, numel: Any, offset: Any, size: Any, stride: Any, message: str
) -> None:
    with pytest.raises(WeightsError, match=message):
        read_state_dict(tensor_file(tmp_path / "a", content, numel, offset, size, stride))


def test_a_tensor_within_its_storage_is_read(tmp_path: Path) -> None:
    content = struct.pack("<4f", 1, 2, 3, 4)
    found = read_state_dict(tensor_file(tmp_path / "a", content, 4, 1, (2, 1), (2, 2**63)))
    assert found["w"].tolist() == [[2], [4]]  # an axis of one voxel may have any stride


def test_a_storage_that_is_missing_is_named(tmp_path: Path) -> None:
    path = tensor_file(tmp_path / "a", bytes(16), 4, 0, (4,), (1,))
    with zipfile.ZipFile(path) as file:
        program = file.read("archive/data.pkl")
    with pytest.raises(WeightsError, match="w: its storage data/0 is missing"):
        read_state_dict(zipped(tmp_path / "b", program))


def test_a_legacy_file_is_refused_with_a_remedy(tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": torch.ones(2)}}, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    with pytest.raises(WeightsError, match=r"old\.ckpt' is not a zip archive.*since PyTorch 1\.6.*torch\.save"):
        read_state_dict(tmp_path / "old.ckpt")


def test_a_web_page_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("<!DOCTYPE html><title>Quota exceeded</title>")
    with pytest.raises(WeightsError, match="is a web page"):
        read_state_dict(tmp_path / "a")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.ckpt", tmp_path):
        with pytest.raises(WeightsError, match=f"cannot read '{path}'"):
            read_state_dict(path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    torch.save({"state_dict": {"w": torch.rand(100, 100)}}, tmp_path / "a")
    whole = (tmp_path / "a").read_bytes()
    (tmp_path / "b").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(WeightsError, match="damaged or was cut short|not a zip archive"):
        read_state_dict(tmp_path / "b")


def test_the_message_for_a_zip_of_checkpoints_says_to_unpack_it(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "ckpt.zip", "w") as file:
        file.writestr("ckpt/c1.ckpt", b"x")
    with pytest.raises(WeightsError, match=r"holds ckpt/c1\.ckpt: if these are checkpoints, unpack it"):
        read_state_dict(tmp_path / "ckpt.zip")


def test_compressed_entries_are_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a", pickle.dumps({}), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(WeightsError, match=r"data\.pkl is compressed or encrypted"):
        read_state_dict(path)


def test_big_endian_values_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="big-endian"):
        read_state_dict(zipped(tmp_path / "a", pickle.dumps({}), {"byteorder": b"big"}))


def test_two_entries_of_one_name_are_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a", pickle.dumps({"state_dict": {}}), {"data/0": bytes(8), "data/1": bytes(8)})
    path.write_bytes(path.read_bytes().replace(b"data/1", b"data/0"))
    with pytest.raises(WeightsError, match="two of one name"):
        read_state_dict(path)


def test_entries_that_share_bytes_are_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a", pickle.dumps({}), {f"data/{key}": bytes(1000) for key in range(9)})
    whole = path.read_bytes()
    first = struct.pack("<I", whole.index(b"PK\x03\x04", 1))  # where data/0 begins
    directory = whole.index(b"PK\x01\x02")
    for _ in range(8):  # every later entry is made to be 100 kB and to begin where data/0 does
        directory = whole.index(b"PK\x01\x02", directory + 1)
        whole = whole[: directory + 20] + struct.pack("<II", 10**5, 10**5) + whole[directory + 28 :]
        whole = whole[: directory + 42] + first + whole[directory + 46 :]
    path.write_bytes(whole)
    with pytest.raises(WeightsError, match="damaged"):
        read_state_dict(path)


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ([1, 2], "holds list; a checkpoint is a dictionary"),
        ({"net": {"w": 1}, "epoch": 3}, "has no state_dict but net, epoch"),
        ({"model": {"w": 1}, "epoch": 3}, r"model\['w'\] is not a plain tensor but int"),
        ({"state_dict": [1]}, "state_dict is not a dictionary"),
        ({"state_dict": {"w": 1.0}}, r"state_dict\['w'\] is not a plain tensor but float"),
        ({"state_dict": {"w": None}}, r"state_dict\['w'\] is not a plain tensor"),
        ({"state_dict": {"w": np.zeros(2)}}, r"not a plain tensor but '(_codecs|numpy)"),
        ({"state_dict": {3: 1.0}}, "name that is not text"),
        ({"state_dict": {("a",): 1.0}}, "name that is not text"),
        ({"state_dict": {b"w": 1.0}}, "name that is not text"),
        ({"state_dict": {"w": torch.ones(2, dtype=torch.complex64)}}, "stored as 'torch ComplexFloatStorage'"),
        ({"state_dict": {"w": torch.ones(2).to_sparse()}}, "not a plain tensor but 'torch._utils _rebuild_sparse"),
        ({"state_dict": {"w": torch.ones(1).expand(3)}}, "repeat them"),
        ({"state_dict": {"w": torch._neg_view(torch.ones(2))}}, "not a plain tensor but 'torch._utils _rebuild_tensor"),
    ],
)
def test_a_checkpoint_of_another_kind_is_refused(tmp_path: Path, root: Any, message: str) -> None:
    torch.save(root, tmp_path / "a")
    with pytest.raises(WeightsError, match=message):
        read_state_dict(tmp_path / "a")


def test_an_enormous_pickle_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("training.weights.checkpoint_reader.PICKLE_LIMIT_BYTES", 1000)
    torch.save({"state_dict": {"w": torch.ones(2)}, "text": "x" * 2000}, tmp_path / "a")
    with pytest.raises(WeightsError, match="the limit is 1000"):
        read_state_dict(tmp_path / "a")


def test_random_damage_gives_weights_error_or_tensors(tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": torch.rand(3, 4).t()}, "x": [{1: (2, None)}, np.float64(1)]}, tmp_path / "a")
    with zipfile.ZipFile(tmp_path / "a") as file:
        program = file.read("a/data.pkl")
    whole, draw, refused = (tmp_path / "a").read_bytes(), random.Random(7), 0
    for number in range(600):
        broken = bytearray(program if number % 2 else whole)
        for _ in range(draw.choice((1, 2, 8))):
            broken[draw.randrange(len(broken))] = draw.randrange(256)
        if number % 2:
            zipped(tmp_path / "b", bytes(broken), {"data/0": bytes(48)})
        else:
            (tmp_path / "b").write_bytes(broken)
        try:
            assert all(isinstance(tensor, torch.Tensor) for tensor in read_state_dict(tmp_path / "b").values())
        except WeightsError:
            refused += 1
    assert 100 < refused < 600
