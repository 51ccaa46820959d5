"""kernels.cu compiled for the CPU by g++, and run by the project's own calls: a test of the kernels without a GPU."""

import ctypes
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from model.networks.kernels import NAMES, SOURCE, Kernels, _as_c
from training.compute.norm_operations import GRADIENT_NAMES, OPTIONS, SOURCES, NormKernels

SHIM = Path(__file__).with_name("host_kernels.h")
TO_FLOAT = 'asm("cvt.f32.f16 %0, %1;" : "=f"(out.at[i]) : "h"(one));', "out.at[i] = _cvtsh_ss(one);"
TO_HALF = 'asm("cvt.rn.f16.f32 %0, %1;" : "=h"(one) : "f"(values.at[i]));', "one = _cvtss_sh(values.at[i], 0);"


class HostKernels(Kernels):
    """The kernels on torch's tensors in the host's memory; few blocks, so that each thread takes several turns."""

    def __init__(self, folder: Path, blocks: int = 3) -> None:
        self._blocks = blocks
        self._host = ctypes.CDLL(str(built(folder)))

    def _run(self, name: str, grid: tuple[int, int], threads: int, *values: Any) -> None:
        assert all(edge > 0 for edge in (*grid, threads)) and threads <= 1024
        arguments = [_as_c(value) for value in values]
        pointers = [ctypes.cast(ctypes.byref(one), ctypes.c_void_p) for one in arguments]
        getattr(self._host, f"host_{name}")(*grid, threads, (ctypes.c_void_p * len(pointers))(*pointers))


class HostNormKernels(NormKernels):
    """The kernels of training, likewise, for images of one precision."""

    _run = HostKernels._run

    def __init__(self, folder: Path, dtype: torch.dtype, blocks: int = 3) -> None:
        self._blocks = blocks
        self._host = ctypes.CDLL(str(built(folder, SOURCES, (*NAMES, *GRADIENT_NAMES), OPTIONS[dtype])))


def built(
    folder: Path, sources: Sequence[Path] = (SOURCE,), names: Sequence[str] = NAMES, options: Sequence[str] = ()
) -> Path:
    """The library; skips the test where there is no g++, or no float16 in the processor."""
    compiler = shutil.which("g++")
    if compiler is None or "f16c" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("needs g++ and a processor with F16C")
    text = "\n".join(source.read_text() for source in sources)
    for theirs, ours in (TO_FLOAT, TO_HALF):
        assert text.count(theirs) == 1
        text = text.replace(theirs, ours)
    calls = []
    for name in names:
        found = re.search(rf'extern "C" __global__ void {name}\((.*?)\)', text, re.DOTALL)
        assert found is not None
        types = [re.sub(r"\w+$", "", one.strip()) for one in found[1].split(",")]
        words = ", ".join(f"*({kind}*)v[{number}]" for number, kind in enumerate(types))
        calls.append(
            f'extern "C" void host_{name}(unsigned x, unsigned y, unsigned threads, void** values) {{\n'
            f"  launch([](void** v) {{ {name}({words}); }}, x, y, threads, values);\n}}\n"
        )
    source, library = folder / "kernels.cpp", folder / "kernels.so"
    source.write_text(f'#include "{SHIM}"\n{text}\n{"".join(calls)}')
    command = [compiler, "-std=c++17", "-O1", "-mf16c", "-ffp-contract=off", "-shared", "-fPIC", "-w", *options]
    subprocess.run([*command, str(source), "-o", str(library)], check=True)
    return library
