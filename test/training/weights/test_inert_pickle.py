"""training/weights/inert_pickle.py: nothing that a pickle names is run; a small one takes little memory."""

import collections
import copyreg
import pickle
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from training.weights import inert_pickle
from training.weights.inert_pickle import Entries, Inert, Storage, TensorRecord, check_program, read_pickle

SYSTEM = b"\x8c\x05posix\x8c\x06system\x93"  # STACK_GLOBAL, protocol 4
TOUCH = b"\x8c\x0etouch SENTINEL"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"
ORDERED = b"ccollections\nOrderedDict\n"
LONG = b"\x8b" + struct.pack("<I", 2**20) + b"\x7f" * 2**20  # LONG4


def names_of(value: Any) -> str:
    assert isinstance(value, type) and issubclass(value, Inert)
    return value.name


@pytest.mark.parametrize(
    ("program", "name"),
    [
        (b"\x80\x04" + SYSTEM + TOUCH + b"\x85R.", "posix system"),  # REDUCE
        (b"\x80\x04" + SYSTEM + b")R" + TOUCH + b"\x85R.", "posix system"),  # REDUCE of what a REDUCE gave
        (b"\x80\x04" + SYSTEM + TOUCH + b"\x85\x81.", "posix system"),  # NEWOBJ
        (b"\x80\x04" + SYSTEM + b")" + b"}\x8c\x07command" + TOUCH + b"s\x92.", "posix system"),  # NEWOBJ_EX
        (b"(S'touch SENTINEL'\niposix\nsystem\n.", "posix system"),  # INST
        (b"(cposix\nsystem\nS'touch SENTINEL'\no.", "posix system"),  # OBJ
        (b"\x80\x04" + SYSTEM + b")R}" + b"\x8c\x0c__setstate__" + SYSTEM + b"sb.", "posix system"),  # BUILD
        (b"\x80\x04" + SYSTEM + b"N}\x8c\x07__new__" + SYSTEM + b"s\x86b)R.", "posix system"),  # BUILD of slots
        (b"\x80\x04" + SYSTEM + b")RK\x01a.", "posix system"),  # APPEND
        (b"\x80\x04" + SYSTEM + b")R(K\x01K\x02e.", "posix system"),  # APPENDS
        (b"\x80\x04" + SYSTEM + b")RK\x01K\x02s.", "posix system"),  # SETITEM
        (b"\x80\x04" + SYSTEM + b")R(K\x01K\x02u.", "posix system"),  # SETITEMS
        (b"\x80\x04" + SYSTEM + b")R(K\x01\x90.", "posix system"),  # ADDITEMS
        (b"\x80\x04\x8c\x02os\x8c\x09os.system\x93.", "os os.system"),
        (b"\x80\x04\x8c\x0bcollections\x8c\x20OrderedDict.__init__.__globals__\x93.", None),
        (b"ccollections\nOrderedDict.fromkeys.__self__\n.", None),
        (b"\x80\x04\x8c\x20training.weights.inert_pickle.os\x8c\x06system\x93.", None),
        (b"c__builtin__\neval\n(S\"open('SENTINEL', 'w')\"\ntR.", "__builtin__ eval"),
        (b"cbuiltins\ngetattr\n(cos\n_wrap_close\nS'close'\ntR.", "builtins getattr"),
        (b"Pos.system\n.", "persistent id"),
    ],
)
def test_every_name_and_everything_made_with_it_is_inert(
    program: bytes, name: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = names_of(read_pickle(program))
    assert name in (found, None)
    assert not list(tmp_path.iterdir())


def test_a_nested_class_of_protocol_2_is_inert() -> None:
    """Protocol 2 writes Outer.Inner as getattr(Outer, 'Inner'), and makes instances of what that returns."""
    assert names_of(read_pickle(b"\x80\x02c__builtin__\ngetattr\ncm\nOuter\nX\x05\0\0\0Inner\x86R)\x81}b.")) == (
        "__builtin__ getattr"
    )


def test_build_changes_nothing_of_the_classes_that_are_handed_out() -> None:
    """On an object without __setstate__ BUILD sets attributes, and may replace a function's defaults."""
    changes = b"N}(U\x07__new__NU\x0c__setstate__NU\x04nameNU\x04sizeNu\x86b"
    for name in (TENSOR, ORDERED, b"ctorch._utils\n_rebuild_parameter\n", b"cother\nname\n"):
        read_pickle(b"\x80\x02" + name + changes + b".")
        read_pickle(b"\x80\x02" + name + b")R" + changes + b".")
    stored = read_pickle(b"\x80\x02" + TENSOR + b"(K\x01K\x02K\x03K\x04tR" + changes + b".")
    assert (stored.storage, stored.offset, stored.size, stored.stride) == (1, 2, 3, 4)
    assert type(read_pickle(b"\x80\x02" + ORDERED + b")R.")) is Entries


def test_build_changes_no_storage() -> None:
    program = b"\x80\x02(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x04tQ}U\x05numelK\x63sb."
    found = read_pickle(program)
    assert isinstance(found, Storage) and (found.kind, found.key, found.numel) == ("torch FloatStorage", "0", 4)


def test_only_an_empty_dictionary_is_made() -> None:
    """OrderedDict((key, value), ...) would hash what check_program does not see."""
    assert names_of(read_pickle(b"\x80\x02" + ORDERED + b"]]K\x01aK\x02aa\x85R.")) == "collections OrderedDict"
    assert read_pickle(pickle.dumps(collections.OrderedDict(a=1, b=(2,)))) == {"a": 1, "b": (2,)}


def test_a_tensor_is_described_not_made() -> None:
    found = read_pickle(b"\x80\x02" + TENSOR + b"(NK\x00))\x89NtR.")
    assert isinstance(found, TensorRecord) and (found.offset, found.size) == (0, ())


def test_registered_extensions_are_not_looked_up() -> None:
    copyreg.add_extension("posix", "system", 200)
    try:
        assert pickle.loads(b"\x80\x02\x82\xc8.").__name__ == "system"
        for program in (b"\x82\xc8.", b"\x83\xc8\x00.", b"\x84\xc8\x00\x00\x00."):
            with pytest.raises(ValueError, match="instruction EXT"):
                read_pickle(b"\x80\x02" + program)
    finally:
        copyreg.remove_extension("posix", "system", 200)
        copyreg.clear_extension_cache()


# files that ask for more memory or time than they have bytes

DOUBLED = b")" + b"2\x86" * 60  # 2 ** 60 empty tuples, if each is visited
DEEP = b")" + b"\x85" * 20_000  # a million of them overflow the C stack when they are hashed


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"}" + DOUBLED + b"Ns.", "a key of more than 1000 items"),
        (b"}(" + DOUBLED + b"Nu.", "a key of more"),
        (b"}(NN" + DOUBLED + b"Nu.", "a key of more"),
        (b"(" + DOUBLED + b"Nd.", "a key of more"),
        (b"\x8f(" + DOUBLED + b"\x90.", "a key of more"),
        (b"(" + DOUBLED + b"\x91.", "a key of more"),
        (b"}" + DEEP + b"Ns.", "a key of more"),
        (b"}(" + b"N" * 1001 + b"tNs.", "a key of more"),
        (b"}" + DOUBLED + b"q\x00h\x00Ns.", "a key of more"),
        (b"}" + DOUBLED + b"\x94h\x00Ns.", "a key of more"),
        (b"}" + DOUBLED + b"p0\n0g0\nNs.", "a key of more"),
        (b"Nr\xff\xff\xff\xff.", "memo number 4294967295"),
        (b"Np99999999999\n.", "memo number 99999999999"),
        (LONG + b".", "8,388,607 bits"),
        (b"\x8b\xff\xff\xff\x7f.", "not enough data|expected|remain"),  # LONG4 of 2 GB
        (b"\x8b\xff\xff\xff\xff.", "count < 0"),
        (b"\x96" + struct.pack("<Q", 2**40) + b".", "expected 1099511627776 bytes"),  # BYTEARRAY8
        (b"\x8e" + struct.pack("<Q", 2**62) + b".", "expected 4611686018427387904 bytes"),  # BINBYTES8
        (b"\x8d" + struct.pack("<Q", 2**64 - 1) + b".", "expected|maxsize"),  # BINUNICODE8
        (b"B\xff\xff\xff\xff.", "expected 4294967295 bytes"),
        (b"T\xff\xff\xff\x7f.", "expected 2147483647 bytes"),
        (b"\x97.", "instruction NEXT_BUFFER"),
        (b"]\x98.", "instruction READONLY_BUFFER"),
        (b"\x85.", "nothing to take for instruction TUPLE1"),
        (b"N(\x86.", "nothing to take"),
    ],
)
def test_a_program_that_asks_for_too_much_is_refused_before_it_is_followed(program: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_program(b"\x80\x05" + program)


@pytest.mark.slow
def test_frames_and_nesting_take_no_more_memory_than_the_file() -> None:
    """In a process with 1 GiB of address space beyond what is in use."""
    script = """
import resource, struct, sys
from training.weights.inert_pickle import read_pickle
used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**30,) * 2)
for program in (
    b'\\x80\\x04\\x95' + struct.pack('<Q', 2**62) + b'N.',
    b'\\x80\\x04' + b']' * 50_000 + b'a' * 49_999 + b'.',
    b'\\x80\\x04)' + b'\\x85' * 50_000 + b'.',
    b'\\x80\\x04}' + b'K\\x01}' * 50_000 + b's' * 50_000 + b'.',
    b'\\x80\\x04cm\\nn\\n' + b')R' * 50_000 + b'.',
):
    try:
        read_pickle(program)
    except Exception as error:
        print(type(error).__name__)
    else:
        print('read')
"""
    out = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert out.stdout.split() == ["UnpicklingError", "read", "read", "read", "read"]


def test_instructions_and_names_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inert_pickle, "MOST_INSTRUCTIONS", 100)
    read_pickle(b"]" + b"Na" * 49 + b".")
    with pytest.raises(ValueError, match="the limit is 100"):
        read_pickle(b"]" + b"Na" * 50 + b".")
    monkeypatch.setattr(inert_pickle, "MOST_NAMES", 5)
    assert read_pickle(b"ca\nb\n0ca\nb\n0cc\nd\n.").name == "c d"
    with pytest.raises(ValueError, match="more than 5 names"):
        read_pickle(b"ca\nb\n0cc\nd\n0ce\nf\n.")


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_of_every_protocol_are_as_pickle_reads_them(protocol: int) -> None:
    value = {"a": [1, -2.5, None, True, "\u00e4", 1 << 100], ("k", 3): ((), (1,), (1, 2, 3, 4)), 7: {"b": []}}
    shared = [value, value, "text", "text"]
    assert read_pickle(pickle.dumps(shared, protocol)) == shared


@pytest.mark.parametrize("program", [b"", b".", b"N", b"\x80\xffN.", b"h\x05.", b"\xff", b"(.", b"NNR."])
def test_bytes_that_are_no_pickle_raise_the_errors_of_pickle(program: bytes) -> None:
    with pytest.raises((ValueError, IndexError, EOFError, TypeError, pickle.UnpicklingError)):
        read_pickle(program)


def test_large_whole_numbers_as_keys_that_share_a_hash_are_refused() -> None:
    same_hash = {number * (2**61 - 1): None for number in range(8, 4008)}  # CPython's hash of each is 0
    with pytest.raises(ValueError, match="whole numbers of more than 64 bits"):
        read_pickle(pickle.dumps(same_hash))
