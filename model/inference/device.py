"""Which device the networks run on, in which precision, and what counts as running out of memory."""

import ctypes
import gc
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from threading import Lock

import torch

from model.bundle.choice_options import PRECISIONS
from model.driver import gpu_is_there
from model.errors import ConfigError
from model.processor import has_bfloat16

M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1
DEVICES = ("auto", "cuda", "cpu")
_DRIVER_LOCK = Lock()
_driver_warnings: list[str] = []  # kept: torch warns of a driver only once in a process
OUT_OF_MEMORY = (  # parts of messages that mean out of memory, of errors that are no OutOfMemoryError
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


@dataclass(frozen=True, kw_only=True)
class Device:
    """Where to compute. precision: of the convolutions; sums are always float32. wider: the precisions to try, in turn,
    if it overflows.
    """

    torch_device: torch.device
    precision: torch.dtype
    name: str
    wider: tuple[torch.dtype, ...] = (torch.float32,)
    warning: str | None = None


def choose_device(wanted: str, precision: str = "auto") -> Device:
    """The device and the precision that were asked for. If there is a GPU that does not work, a warning says why.

    wanted auto: CUDA if it works. precision auto: on CUDA float16, as the authors' submission did: after instance
    normalisation values need no larger range, and float16 has 11 significant bits, bfloat16 8. On a CPU bfloat16 if
    the processor multiplies in it, else float32. What overflows is computed again in a wider precision.
    Raises ConfigError if CUDA is asked for and cannot be used, or if the device has no such precision.
    """
    if wanted not in DEVICES:
        raise ConfigError(f"--device must be one of {', '.join(DEVICES)}, got {wanted!r}")
    if precision not in PRECISIONS:
        raise ConfigError(f"--precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    reason = None if wanted == "cpu" else why_no_cuda()
    if wanted == "cuda" and reason:
        raise ConfigError(f"--device cuda: {reason}; use --device auto or cpu, or run on a machine with a GPU")
    if wanted == "cpu" or reason:
        return _cpu(precision, f"{reason}; the CPU is used instead" if reason and gpu_is_there() else None)
    return _gpu(precision)


def _cpu(precision: str, warning: str | None) -> Device:
    if precision == "float16":
        raise ConfigError(
            "--precision float16: a CPU does not compute in float16 here; use --precision bfloat16, float32 or auto, "
            "or run on a machine with a GPU"
        )
    _keep_freed_memory()
    here = has_bfloat16()
    if precision == "bfloat16" and not here:
        slow = (
            "--precision bfloat16: this processor does not multiply in bfloat16 (AVX512_BF16 or AMX would), so the "
            "same values are computed in float32 and rounded, which is slower than --precision float32"
        )
        warning = f"{warning}; {slow}" if warning else slow
    narrow = precision == "bfloat16" or (precision == "auto" and here)
    return Device(
        torch_device=torch.device("cpu"),
        precision=torch.bfloat16 if narrow else torch.float32,
        name=f"CPU, {torch.get_num_threads()} threads",
        warning=warning,
    )


def _gpu(precision: str) -> Device:
    in_hardware = torch.cuda.get_device_capability() >= (8, 0)  # bfloat16, from Ampere on
    if precision == "bfloat16" and not in_hardware:
        raise ConfigError(
            f"--precision bfloat16: the GPU {torch.cuda.get_device_name()} does not compute in bfloat16 (Ampere and "
            "later do); use --precision float16, float32 or auto"
        )
    wider = (torch.bfloat16, torch.float32) if in_hardware and precision in ("auto", "float16") else (torch.float32,)
    return Device(
        torch_device=torch.device("cuda"),
        precision=torch.float16 if precision == "auto" else getattr(torch, precision),
        name=torch.cuda.get_device_name(),
        wider=wider,
    )


def why_no_cuda() -> str | None:
    """Why CUDA cannot be used, for a user to act on; None if it can."""
    if torch.version.cuda is None:
        return "this build of torch has no CUDA"
    with _DRIVER_LOCK:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            available = torch.cuda.is_available()
        _driver_warnings.extend(str(item.message) for item in caught)
        message = " ".join(dict.fromkeys(_driver_warnings))
    if not available and "driver" in message and "too old" in message:
        version = message.split("found version ")[-1].split(")")[0] if "found version" in message else "unknown"
        return (
            f"the NVIDIA driver is too old (it supports CUDA {_cuda_version(version)}) for the CUDA "
            f"{torch.version.cuda} this was built with: update the driver"
        )
    if not available:
        return (
            message.splitlines()[0] if message else "no usable NVIDIA GPU was found (was it started with --gpus all?)"
        )
    major, minor = torch.cuda.get_device_capability()
    built = [a.removeprefix("sm_") for a in torch.cuda.get_arch_list() if a.startswith("sm_")]
    if built and not any(int(a[:-1]) == major and int(a[-1]) <= minor for a in built if a.isdigit()):
        return f"this build of torch holds no code for the GPU {torch.cuda.get_device_name()} (sm_{major}{minor})"
    return None


def make_deterministic() -> None:
    """The same input on the same device gives the same mask, bit for bit. Devices differ in the last digits."""
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


@contextmanager
def computing(device: Device) -> Iterator[None]:
    """No gradients; on a GPU autocast if it computes in another precision than float32.

    On a CPU the networks of `networks.for_device.prepared` know themselves which of their layers compute in bfloat16:
    autocast would take the first and the last convolution with it, and torch's slow ones where there is no hardware.
    """
    reduced = device.torch_device.type != "cpu" and device.precision != torch.float32
    with torch.no_grad(), torch.autocast("cuda", device.precision) if reduced else nullcontext():
        yield


def free_bytes(device: torch.device | None = None) -> float:
    """Bytes of a GPU's memory (default: the current GPU's) that this process may still take: what is free and what
    torch holds unused, but no more than torch.cuda.set_per_process_memory_fraction leaves it. Infinite for the CPU.
    """
    if device is not None and device.type == "cpu":
        return math.inf
    here = torch.cuda.current_device() if device is None or device.index is None else device.index
    free, total = torch.cuda.mem_get_info(here)
    allocated, reserved = torch.cuda.memory_allocated(here), torch.cuda.memory_reserved(here)
    allowed = int(total * torch.cuda.get_per_process_memory_fraction(here))
    return min(int(free) + reserved - allocated, allowed - allocated)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on the GPU or on the host."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in OUT_OF_MEMORY)


def give_back_memory() -> None:
    """Return what torch keeps of a GPU's memory without using it, so that other processes can have it."""
    gc.collect()
    torch.cuda.empty_cache()  # does nothing where no GPU was used


def give_back_freed_memory() -> None:
    """Return the memory kept by `_keep_freed_memory` to the kernel, so that the next study sees how much is free.

    Does nothing without glibc.
    """
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _keep_freed_memory() -> None:
    """Let glibc keep freed blocks for the next window: the kernel would have to zero new pages every time.

    Does nothing without glibc. M_MMAP_THRESHOLD and M_TRIM_THRESHOLD are those of malloc.h.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def _cuda_version(number: str) -> str:
    """12.2 for 12020, the way CUDA's driver API writes versions."""
    return f"{int(number) // 1000}.{int(number) % 1000 // 10}" if number.isdigit() else number
