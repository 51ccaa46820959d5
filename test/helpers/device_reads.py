"""Counts how often the host would wait for a GPU: whenever it asks for a tensor's value."""

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode

READS = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "masked_select")
METHODS = ("tolist", "numpy", "cpu")  # which no operation shows where the tensor lies on the host


class DeviceReads(TorchDispatchMode):
    """While it is entered, `found` gathers the operations that read values: .item(), bool(), and the like.

    On a CPU such an operation waits for nothing, but it is the same one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in READS or "unique" in name:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def reads_of(work: Callable[[], object]) -> list[str]:
    """The operations by which this function reads values."""
    reads = DeviceReads()

    def counted(method: str) -> Any:
        original = getattr(torch.Tensor, method)

        def call(tensor: torch.Tensor, *rest: Any, **named: Any) -> Any:
            reads.found.append(method)
            return original(tensor, *rest, **named)

        return patch.object(torch.Tensor, method, call)

    with counted(METHODS[0]), counted(METHODS[1]), counted(METHODS[2]), reads:
        work()
    return reads.found
