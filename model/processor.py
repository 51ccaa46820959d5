"""What the processor can do, read without torch."""

import os
import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})  # as Linux names them
ISA_VARIABLES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")  # the second is the older name, and is still read
LESSER_ISAS = frozenset(
    {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"}
)  # values of these variables under which oneDNN, which computes torch's convolutions, does not multiply in bfloat16


def has_bfloat16() -> bool:
    """Whether this processor multiplies matrices in bfloat16, so that convolutions are faster in it than in float32.

    Linux on x86 alone: AVX512_BF16 (AMD since Zen 4, Intel since Cooper Lake) or AMX. With AVX512 alone oneDNN takes
    bfloat16, too, but imitates it with more work than float32. False everywhere else, also on 64-bit Arm: there some
    of torch's convolutions in bfloat16 run as oneDNN's reference code, which is a hundred times slower. False as well
    where oneDNN is told by ONEDNN_MAX_CPU_ISA to leave these instructions alone.
    Source: oneDNN's guide, "Data Types" and "CPU Dispatcher Control".
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    if any(os.environ.get(name, "").strip().upper() in LESSER_ISAS for name in ISA_VARIABLES):
        return False
    try:
        return bfloat16_in(CPUINFO.read_text(encoding="ascii", errors="replace"))
    except OSError:
        return False


def bfloat16_in(cpuinfo: str) -> bool:
    """Whether every processor of a text like /proc/cpuinfo's has bfloat16. False if it names no flags."""
    lines = [line.partition(":") for line in cpuinfo.splitlines()]
    flags = [set(values.split()) for key, _, values in lines if key.strip() == "flags"]
    return bool(flags) and all(BFLOAT16_FLAGS & one for one in flags)
