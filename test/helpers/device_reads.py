"""Counts how often the host would wait for a GPU: whenever it asks for a tensor's value."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

READS = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "masked_select", "unique")


class DeviceReads(TorchDispatchMode):
    """While it is entered, `found` gathers the operations that read values: .item(), bool(), .tolist() and the like.

    On a CPU such an operation waits for nothing, but it is the same one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in READS or name.startswith("unique"):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def reads_of(work: Any) -> list[str]:
    """The operations by which this function reads values."""
    with DeviceReads() as reads, torch.no_grad():
        work()
    return reads.found
