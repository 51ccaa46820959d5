"""The tensors of a checkpoint's state_dict, read without running anything that the file asks for.

A checkpoint of torch.save is a zip archive: data.pkl, a pickle that describes a tree of objects (read by
`training.weights.inert_pickle`), and one entry a storage below data/. Besides torch's tensors only plain values are
kept: whatever else the file holds (hyper-parameters of any class, trainers, callbacks) is read as inert classes.
"""

import errno
import math
import pickle
import struct
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.errors import WeightsError
from training.weights.inert_pickle import Inert, Storage, TensorRecord, read_pickle

ROOTS = ("state_dict", "model")  # where Ahn and Park, and Zhong et al., keep the tensors
PICKLE_LIMIT_BYTES = 32 * 2**20  # of data.pkl; a checkpoint's has well under 1 MiB
START_BYTES = 64  # of a file, which tell what it is
MOST_AXES = 8
MOST_SHARED = 10  # all tensors together to the file: several tensors may share a storage, such as tied weights
DTYPES = {
    "torch DoubleStorage": torch.float64,
    "torch FloatStorage": torch.float32,
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
    "torch LongStorage": torch.int64,
    "torch IntStorage": torch.int32,
    "torch ShortStorage": torch.int16,
    "torch CharStorage": torch.int8,
    "torch ByteStorage": torch.uint8,
    "torch BoolStorage": torch.bool,
}
DAMAGE = (  # what zipfile, pickletools, pickle and `check_program` raise at bytes that make no sense
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    EOFError,
    OverflowError,
    RuntimeError,
    struct.error,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors under the checkpoint's `state_dict` or `model`, or of a file that is nothing but a state dict.

    Each has its own memory, in the file's dtype. Raises WeightsError if the file is not there, is no
    zip archive of torch.save, is damaged or lies about sizes, or if an entry is not a tensor.
    """
    return {name: view.clone(memory_format=torch.contiguous_format) for name, view in read_checkpoint(path)[0].items()}


def read_checkpoint(path: Path, roots: tuple[str, ...] = ROOTS) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors under the first of `roots` that the checkpoint has, and its other entries, of which only plain values
    (text, numbers, lists, dictionaries) are of use.

    Tensors that share memory in the file share it here. Raises WeightsError as `read_state_dict`.
    """
    try:
        with zipfile.ZipFile(path) as file:
            archive = _archive(path, file)
            state, others = _state_of(archive, roots)
            views = {name: _view(archive, name, value) for name, value in state.items()}
            if sum(view.nbytes for view in views.values()) > MOST_SHARED * path.stat().st_size:
                raise WeightsError(_damaged(path, f"its tensors have over {MOST_SHARED} times the file's size"))
            return views, others
    except OSError as error:
        if error.errno == errno.EINVAL:  # a position before the file's beginning
            raise WeightsError(_damaged(path, "places outside the file")) from None
        raise WeightsError(f"cannot read '{path}': {error.strerror or error}; is it there, and readable?") from None
    except DAMAGE as error:
        with path.open("rb") as file:
            start = file.read(START_BYTES)
        raise WeightsError(why_not_zip(start, str(path)) or _damaged(path, str(error)[:200])) from None
    except MemoryError:
        raise WeightsError(f"'{path}' does not fit into memory; use a machine with more") from None


@dataclass(frozen=True, kw_only=True)
class Archive:
    """An open checkpoint; `prefix` is what every entry's name begins with."""

    path: Path
    file: zipfile.ZipFile
    prefix: str
    storages: dict[str, bytearray] = field(default_factory=dict, repr=False)  # each is read once

    def storage(self, key: str) -> bytearray:
        if key not in self.storages:
            self.storages[key] = bytearray(self.file.read(f"{self.prefix}data/{key}"))
        return self.storages[key]


def _archive(path: Path, file: zipfile.ZipFile) -> Archive:
    """Check that the entries are as torch.save writes them: not compressed, little-endian. Raises WeightsError."""
    entries = file.infolist()
    names = [entry.filename for entry in entries]
    programs = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(programs) != 1:
        raise WeightsError(
            f"'{path}' is a zip archive with {len(programs)} entries */data.pkl, a checkpoint has 1; it holds "
            f"{', '.join(names[:4])}: if these are checkpoints, unpack it and give them"
        )
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise WeightsError(
                f"'{path}': its entry {entry.filename} is compressed or encrypted, which torch.save never does; "
                "take the file as it was published"
            )
    if len(set(names)) < len(names) or sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise WeightsError(_damaged(path, "entries that overlap, or two of one name"))
    prefix = programs[0].removesuffix("data.pkl")
    if f"{prefix}byteorder" in names and file.read(f"{prefix}byteorder") != b"little":
        raise WeightsError(f"'{path}' was written on a big-endian machine; load and save it on a little-endian one")
    return Archive(path=path, file=file, prefix=prefix)


def _state_of(archive: Archive, roots: tuple[str, ...]) -> tuple[dict[str, TensorRecord], dict[str, Any]]:
    """The dictionary of the checkpoint that holds its tensors, and its other entries."""
    path, program = archive.path, f"{archive.prefix}data.pkl"
    size = archive.file.getinfo(program).file_size
    if size > PICKLE_LIMIT_BYTES:
        raise WeightsError(
            f"'{path}': {program} has {size} bytes, the limit is {PICKLE_LIMIT_BYTES}: it is not the checkpoint "
            "of a network; give the file as it was published"
        )
    root = read_pickle(archive.file.read(program))
    if not isinstance(root, dict):
        raise WeightsError(f"'{path}' holds {_describe(root)}; a checkpoint is a dictionary with {' or '.join(roots)}")
    key = next((key for key in roots if key in root), None)
    if key is None and not all(isinstance(value, TensorRecord) for value in root.values()):
        holds = ", ".join(key[:40] for key in root if isinstance(key, str))
        raise WeightsError(f"'{path}' has no {roots[0]} but {holds[:200] or 'nothing'}; give a network's checkpoint")
    others = {name: value for name, value in root.items() if name != key} if key else {}
    state, key = (root[key], key) if key else (root, roots[0])
    if not isinstance(state, dict):
        raise WeightsError(f"'{path}': {key} is not a dictionary of names and tensors but {_describe(state)}")
    for name, value in state.items():
        if not isinstance(name, str):
            raise WeightsError(f"'{path}': {key} has a name that is not text; is the file damaged?")
        if not isinstance(value, TensorRecord):
            raise WeightsError(
                f"'{path}': {key}['{name}'] is not a plain tensor but {_describe(value)}; only tensors are read: "
                "save the network's state_dict alone"
            )
    return state, others


def _view(archive: Archive, name: str, stored: TensorRecord) -> Tensor:
    """One tensor, a view of its storage, after checking that it lies within it and the storage fills its entry."""
    storage, offset, size, stride = stored.storage, stored.offset, stored.size, stored.stride
    where = f"'{archive.path}': {name}"
    if not isinstance(storage, Storage) or storage.kind not in DTYPES:
        raise WeightsError(
            f"{where} is stored as {_describe(storage)}; read are {', '.join(k.split()[1] for k in DTYPES)}"
        )
    dtype = DTYPES[storage.kind]
    try:
        found = archive.file.getinfo(f"{archive.prefix}data/{storage.key}").file_size
    except KeyError:
        raise WeightsError(_damaged(archive.path, f"{name}: its storage data/{storage.key} is missing")) from None
    if found != storage.numel * dtype.itemsize:
        sizes = f"{found} bytes, not {storage.numel} values of {dtype.itemsize}"
        raise WeightsError(_damaged(archive.path, f"{name}: its storage has {sizes}"))
    if not _are_sizes(offset, size, stride) or len(size) != len(stride) or len(size) > MOST_AXES:
        raise WeightsError(_damaged(archive.path, f"{name}: size, stride or offset make no sense"))
    if 0 in size:
        return torch.empty(size, dtype=dtype)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if math.prod(size) > storage.numel or last >= storage.numel:
        raise WeightsError(
            f"{where}: size {size!r:.60}, stride {stride!r:.60} and offset {offset!r:.20} reach beyond its storage of "
            f"{storage.numel} values (or repeat them); take the file as it was published"
        )
    flat = torch.frombuffer(archive.storage(storage.key), dtype=dtype)
    steps = [step if n > 1 else 1 for n, step in zip(size, stride, strict=True)]
    return flat.as_strided(size, steps, offset)


def _are_sizes(offset: Any, size: Any, stride: Any) -> bool:
    """Whether size and stride are tuples and all numbers whole and at least 0."""
    if not isinstance(size, tuple) or not isinstance(stride, tuple):
        return False
    return all(type(number) is int and number >= 0 for number in (offset, *size, *stride))


def _describe(value: Any) -> str:
    """A value in a message: its kind, never its repr, which a file can make endless."""
    if isinstance(value, type) and issubclass(value, Inert):
        return f"'{value.name[:80]}'"
    return f"'{value.kind[:80]}'" if isinstance(value, Storage) else type(value).__name__


def why_not_zip(start: bytes, path: str) -> str | None:
    """The message for a file, by its first bytes, that does not begin as a zip archive; None for one that does."""
    if start.startswith(b"PK\x03\x04"):
        return None
    if start.lstrip().startswith(b"<"):
        return f"'{path}' is a web page, not a checkpoint: the download did not work; fetch it again with a browser"
    if start.startswith(b"version https://git-lfs"):
        return f"'{path}' is a pointer of Git LFS, not the checkpoint itself; fetch that by: git lfs pull"
    return (
        f"'{path}' is not a zip archive, as torch.save has written since PyTorch 1.6: it is an older or another "
        "kind of file; fetch it again, or, where you trust it, load it with torch.load and save it with torch.save"
    )


def _damaged(path: Path, what: str) -> str:
    return f"'{path}' is damaged or was cut short ({what}); fetch it again"
