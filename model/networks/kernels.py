"""Compile kernels.cu for the GPU at hand and run it on torch's tensors. Needs nothing but torch.

Every CUDA build of torch brings NVRTC, CUDA's compiler as a library, and one library that reaches both it and the
driver. torch's own wrapper of NVRTC is not used: it looks for CUDA's headers, which an image for inference lacks.
"""

import ctypes
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("kernels.cu")
BINDING = Path(torch.__file__).parent / "lib/libcaffe2_nvrtc.so"
NAMES = (
    "moments",
    "factors",
    "normalise",
    "leaky",
    "classify",
    "classify_leaky",
    "pool",
    "average",
    "depth_to_space",
)
PACK = 8  # channels that a thread reads at a time
MOST_CHANNELS = 2048  # a pack for each of 256 threads
THREADS = 256
BLOCKS = 16  # blocks of a kernel on each multiprocessor; more than this wait for each other
CLASSES_AT_A_TIME = 2  # of `classify`
LEAST_ROWS = 16  # least number of voxels for a thread of `moments`


class Kernels:
    """The kernels on one GPU. Images are float16, (B, C, X, Y, Z) channels-last, C a multiple of 8, at most 2048.

    sources: the CUDA files, compiled as one; names: their kernels; options: the compiler's.
    Raises RuntimeError if they cannot be compiled or loaded here.
    """

    def __init__(
        self,
        device: int,
        sources: Sequence[Path] = (SOURCE,),
        names: Sequence[str] = NAMES,
        options: Sequence[str] = (),
    ) -> None:
        self._library = ctypes.CDLL(str(BINDING))
        major, minor = torch.cuda.get_device_capability(device)
        self._blocks = BLOCKS * torch.cuda.get_device_properties(device).multi_processor_count
        code, module = compiled(self._library, major, minor, sources, options), ctypes.c_void_p()
        self._functions = {}
        with torch.cuda.device(device):
            torch.empty(1, device="cuda")  # makes torch's context, which the driver then uses
            self._check(self._library.cuModuleLoadData(ctypes.byref(module), code))
            for name in names:
                self._functions[name] = ctypes.c_void_p()
                self._check(
                    self._library.cuModuleGetFunction(ctypes.byref(self._functions[name]), module, name.encode())
                )

    def factors(self, image: Tensor, weight: Tensor, bias: Tensor, eps: float, body: Tensor | None = None) -> Tensor:
        """Instance normalisation as a factor and a summand of each channel: (B, 2, C) float32.

        body: bool (B, 1, X, Y, Z), contiguous, a voxel or more in each image: mean and deviation are over it alone.
        """
        images, channels, voxels = sizes_of(image)
        each, blocks = self._shares(channels, voxels)
        parts = torch.empty(images, blocks, 3, channels, device=image.device)
        self._run("moments", (blocks, images), THREADS, image, body, parts, voxels, channels, each)
        out = torch.empty(images, 2, channels, device=image.device)
        self._run("factors", (channels, images), 128, parts, weight, bias, out, channels, blocks, eps)
        return out

    def normalise(self, image: Tensor, factors: Tensor, out: Tensor) -> None:
        """Write SELU of the normalised image into `out`: `image` itself, or channels of a wider image."""
        images, channels, voxels = sizes_of(image)
        threads, grid = self._a_pack_each(images, channels, voxels)
        self._run("normalise", grid, threads, image, factors, out, voxels, channels, _pitch(out))

    def leaky(
        self, image: Tensor, factors: Tensor, slope: float, other: Tensor | None = None, other_factors: Any = None
    ) -> None:
        """LeakyReLU of the normalised image, in its place. other: is added before, normalised by its own factors if
        it has some.
        """
        images, channels, voxels = sizes_of(image)
        threads, grid = self._a_pack_each(images, channels, voxels)
        self._run("leaky", grid, threads, image, factors, other, other_factors, image, voxels, channels, slope)

    def classify(
        self, image: Tensor, factors: Tensor, weight: Tensor, bias: Tensor, slope: float | None = None
    ) -> Tensor:
        """SELU of the normalised image, or with a slope LeakyReLU, then a 1x1x1 convolution of `weight` (K, C):
        (B, K, X, Y, Z) float32.

        C / 8 must be a power of two, at most 32.
        """
        images, channels, voxels = sizes_of(image)
        out = torch.empty(images, len(weight), *image.shape[2:], device=image.device)
        grid = (self._grid(voxels * channels // PACK, THREADS), images)
        name, last = ("classify", []) if slope is None else ("classify_leaky", [slope])
        for first in range(0, len(weight), CLASSES_AT_A_TIME):
            some = slice(first, first + CLASSES_AT_A_TIME)
            sizes = voxels, channels, len(weight[some]), len(weight)
            self._run(name, grid, THREADS, image, factors, weight[some], bias[some], out[:, some], *sizes, *last)
        return out

    def pool(self, image: Tensor) -> Tensor:
        """Maxima of 2 x 2 x 2 voxels. The image may be channels of a wider one; its edges are even."""
        images, channels, voxels = sizes_of(image)
        size = [edge // 2 for edge in image.shape[2:]]
        out = torch.empty(
            (images, channels, *size), dtype=image.dtype, device=image.device, memory_format=torch.channels_last_3d
        )
        grid = (self._grid(voxels // 8 * channels // PACK, THREADS), images)
        self._run("pool", grid, THREADS, image, out, *image.shape[2:], channels, _pitch(image))
        return out

    def average(self, image: Tensor, stride: tuple[int, int, int]) -> Tensor:
        """Means of as many voxels along each axis as `stride` says, which divides the image's edges."""
        images, channels, voxels = sizes_of(image)
        size = [edge // step for edge, step in zip(image.shape[2:], stride, strict=True)]
        out = torch.empty(
            (images, channels, *size), dtype=image.dtype, device=image.device, memory_format=torch.channels_last_3d
        )
        grid = (self._grid(math.prod(size) * channels // PACK, THREADS), images)
        self._run("average", grid, THREADS, image, out, *image.shape[2:], *stride, channels)
        return out

    def depth_to_space(self, values: Tensor, out: Tensor) -> None:
        """Write the values of every voxel and channel, (B, X, Y, Z, a, b, c, C), as neighbours into `out`,
        (B, C, a X, b Y, c Z), which may be channels of a wider image.
        """
        images, x, y, z, *strides, channels = values.shape
        grid = (self._grid(x * y * z * strides[0] * strides[1] * channels // PACK, THREADS), images)
        self._run("depth_to_space", grid, THREADS, values, out, x, y, z, *strides, channels, _pitch(out))

    def _shares(self, channels: int, voxels: int) -> tuple[int, int]:
        """How many voxels a block of a kernel that sums takes, and how many blocks take them all."""
        rows = THREADS // (channels // PACK)
        each = math.ceil(max(voxels / self._blocks, rows * LEAST_ROWS))
        return each, math.ceil(voxels / each)

    def _a_pack_each(self, images: int, channels: int, voxels: int) -> tuple[int, tuple[int, int]]:
        """Threads and grid of a kernel whose threads stay with a pack of channels and go from voxel to voxel."""
        groups = channels // PACK
        threads = THREADS // groups * groups
        return threads, (self._grid(voxels * groups, threads), images)

    def _grid(self, items: int, threads: int) -> int:
        return min(math.ceil(items / threads), self._blocks)

    def _run(self, name: str, grid: tuple[int, int], threads: int, *values: Any) -> None:
        arguments = [_as_c(value) for value in values]
        pointers = [ctypes.cast(ctypes.byref(one), ctypes.c_void_p) for one in arguments]
        with torch.cuda.device(values[0].device):
            stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
            code = self._library.cuLaunchKernel(
                self._functions[name],
                *grid,
                1,
                threads,
                1,
                1,
                0,
                stream,
                (ctypes.c_void_p * len(pointers))(*pointers),
                None,
            )
        self._check(code)

    def _check(self, code: int) -> None:
        if code:
            message = ctypes.c_char_p()
            self._library.cuGetErrorString(code, ctypes.byref(message))
            raise RuntimeError(f"CUDA error: {(message.value or str(code).encode()).decode()}")


def kernels(device: torch.device) -> Kernels | None:
    """The kernels on a GPU (torch's current one if the device has no number); None where they are unavailable.

    Raises torch.OutOfMemoryError.
    """
    found = _kernels_or_reason(device)
    return found if isinstance(found, Kernels) else None


def why_unavailable(device: torch.device) -> str | None:
    """Why a GPU's kernels are unavailable; None if they are available, and where there is no GPU."""
    found = _kernels_or_reason(device)
    return found if isinstance(found, str) else None


def _kernels_or_reason(device: torch.device) -> Kernels | str | None:
    if device.type != "cuda" or not torch.cuda.is_available():
        return None
    return _compile_once(torch.cuda.current_device() if device.index is None else device.index)


@functools.cache
def _compile_once(device: int) -> Kernels | str:
    try:
        return Kernels(device)
    except torch.OutOfMemoryError:
        raise
    except (OSError, AttributeError, RuntimeError) as error:
        return (str(error).splitlines() or [type(error).__name__])[0]


def compiled(
    library: Any, major: int, minor: int, sources: Sequence[Path] = (SOURCE,), options: Sequence[str] = ()
) -> bytes:
    """CUDA files, as one, as machine code for a GPU. Raises RuntimeError with the compiler's message."""
    program, size, name = ctypes.c_void_p(), ctypes.c_size_t(), sources[-1].name
    text = b"\n".join(source.read_bytes() for source in sources)
    library.nvrtcCreateProgram(ctypes.byref(program), text, name.encode(), 0, None, None)
    words = [word.encode() for word in (f"--gpu-architecture=sm_{major}{minor}", *options)]
    if library.nvrtcCompileProgram(program, len(words), (ctypes.c_char_p * len(words))(*words)):
        library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        library.nvrtcGetProgramLog(program, log)
        raise RuntimeError(f"NVRTC could not compile {name}: {log.value.decode()}")
    library.nvrtcGetCUBINSize(program, ctypes.byref(size))
    code = ctypes.create_string_buffer(size.value)
    library.nvrtcGetCUBIN(program, code)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return code.raw


def sizes_of(image: Tensor) -> tuple[int, int, int]:
    """How many images, channels and voxels an image has."""
    return image.shape[0], image.shape[1], math.prod(image.shape[2:])


def _pitch(image: Tensor) -> int:
    """The channels in memory from one voxel's row to the next of a channels-last image, which may be part of a wider
    one. The stride of an axis of one voxel says nothing: torch leaves there what it likes.
    """
    return next((image.stride(axis) for axis in (4, 3, 2, 0) if image.shape[axis] > 1), image.shape[1])


def _as_c(value: Any) -> Any:
    if value is None or isinstance(value, Tensor):
        return ctypes.c_void_p(None if value is None else value.data_ptr())
    return ctypes.c_double(value) if isinstance(value, float) else ctypes.c_int(value)
