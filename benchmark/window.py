"""One window through one network: seconds and peak memory of the plain forward pass and of the one that inference uses.

    python -m benchmark.window                                       # the paper's network at 160^3: minutes on a CPU
    python -m benchmark.window --widths 4 16 32 48 64 --windows 64 --runs 5
    python -m benchmark.window --device cuda --windows 192 160 --batch 2 --graph --compile --grouped

plain: the network as it is trained, as MONAI and nnU-Net run it. ours: model.networks.slabs. With --torch also ours by
torch's operations alone, without model.networks.kernels on a GPU; with --grouped the same with both encoders as one of
grouped convolutions; with --graph, on a GPU, ours replayed as a CUDA graph; with --compile the plain forward pass by
torch.compile. Seconds are medians after one run that is not counted. `first` is the time of that run: first - seconds
is the cost of warming up. Each way is a process of its own. Its peak is the memory above the weights on a CPU, and all
memory on a GPU.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmark.command import joined, parser_for, run_child
from benchmark.record import figure, print_and_write, record, table
from model.bundle.network import Network
from model.files import peak_memory_bytes
from model.inference.device import Device, choose_device, computing, make_deterministic, why_no_cuda
from model.networks import for_device, slabs
from model.networks.fused import Fused
from model.networks.unet import MiddleFusion, build

Step = Callable[[Tensor], Tensor]


def main() -> None:
    options = arguments()
    if options.child:
        print(json.dumps(measure(options)))
        return
    wanted = [*options.ways, *(way for way in ("torch", "graph", "compile", "grouped") if getattr(options, way))]
    printed: list[str] = []
    figures: dict[str, Any] = {}
    for edge in options.windows:
        measured = {way: run_child(way, "--edge", edge) for way in wanted}
        plain = measured.get("plain")
        rows = []
        for way, values in measured.items():
            figures[f"{way} at {edge}^3"] = figure(values["seconds"], "s")
            figures[f"{way} at {edge}^3: memory"] = figure([values["peak_bytes"] / 1e9], "GB")
            share = f"{values['peak_bytes'] / plain['peak_bytes']:.2f}" if plain else ""
            middle = statistics.median(values["seconds"])
            rows.append([way, f"{middle:.3f}", f"{values['first']:.3f}", f"{values['peak_bytes'] / 1e9:.2f}", share])
            if options.check:
                rows[-1].append(f"{values['difference']:.1e}")
        head = ["way", "seconds", "first", "peak GB", "of plain"]
        head += ["largest difference from plain in float32"] * options.check
        printed += [f"{edge}^3, {options.batch} at a time, medians of {options.runs}", "", *table(head, rows), ""]
    title = f"One window through one network of widths {joined(options.widths)}, {options.fusion} fusion"
    print_and_write(record(title, printed, figures), options.json)


def arguments() -> argparse.Namespace:
    parser = parser_for(__doc__, "fusion", "widths", "device")
    add = parser.add_argument
    add("--windows", type=int, nargs="+", default=(160,), help="edges in voxels (default 160)")
    add("--batch", type=int, default=1, help="windows at a time (default 1)")
    add("--runs", type=int, default=3, help="runs that are counted (default 3)")
    add("--ways", nargs="+", default=("plain", "ours"), help="plain, ours (default both)")
    for way, what in (
        ("torch", "ours without the project's own kernels"),
        ("graph", "ours as a CUDA graph"),
        ("compile", "plain by torch.compile, which needs a compiler"),
        ("grouped", "both encoders as one of grouped convolutions, for middle fusion"),
    ):
        add(f"--{way}", action="store_true", help=f"also {what} (default: no)")
    add("--check", action="store_true", help="compare logits with the plain forward in float32 (default: no)")
    add("--edge", type=int, help=argparse.SUPPRESS)  # the window of a child process
    return parser.parse_args()


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of the runs and of the first, peak memory, and the largest difference from plain in float32."""
    make_deterministic()
    device = device_of(options.child, options.device)
    gpu = device.torch_device.type == "cuda"
    torch.manual_seed(0)
    network = build(Network(fusion=options.fusion, widths=tuple(options.widths))).eval()
    image = torch.rand(options.batch, 2, *(options.edge,) * 3)
    before = 0 if gpu else peak_memory_bytes()
    with computing(device):
        step = step_of(options.child, network, device)
        image = image.to(device.torch_device)
        seconds = []
        for _ in range(options.runs + 1):
            begun = time.perf_counter()
            out = step(image)
            if gpu:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - begun)
        peak = torch.cuda.max_memory_allocated() if gpu else peak_memory_bytes() - before
    difference = float("nan")
    if options.check:
        torch.manual_seed(0)
        plain = build(Network(fusion=options.fusion, widths=tuple(options.widths))).eval()
        with torch.no_grad():
            difference = float((out.float().cpu() - plain(image.cpu())).abs().max())
    return {"first": seconds[0], "seconds": seconds[1:], "peak_bytes": peak, "difference": difference}


def device_of(way: str, wanted: str) -> Device:
    """The device that process.py chooses; on a CPU the plain forward pass runs without our settings of glibc."""
    if way in ("plain", "compile") and wanted != "cuda" and (wanted == "cpu" or why_no_cuda()):
        return Device(torch_device=torch.device("cpu"), precision=torch.float32, name="CPU")
    return choose_device(wanted)


def step_of(way: str, network: nn.Module, device: Any) -> Step:
    """The function that runs a window in this way."""
    if way in ("plain", "compile"):
        network = network.to(device.torch_device)
        return torch.compile(network) if way == "compile" else network
    ready = for_device.prepared(network, device.torch_device, device.precision)
    if way in ("grouped", "torch") and isinstance(ready, Fused):
        ready = ready.plain
    if way == "grouped":
        return lambda image: grouped(ready, image)
    kept: slabs.Buffers = {}
    gpu = device.torch_device.type == "cuda"
    if way == "graph":
        return graphed(lambda image: slabs.forward(ready, image))
    return lambda image: slabs.forward(ready, image, None if gpu else kept)


def graphed(step: Step) -> Step:
    """A step that is recorded on the GPU in its first run, and then replayed; all images must have one shape."""
    recorded: list[Any] = []

    def run(image: Tensor) -> Tensor:
        if not recorded:
            fixed, graph = image.clone(), torch.cuda.CUDAGraph()
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):  # libraries allocate their workspaces before the recording
                step(fixed)
            torch.cuda.current_stream().wait_stream(stream)
            with torch.cuda.graph(graph):
                out = step(fixed)
            recorded.extend((fixed, graph, out))
        fixed, graph, out = recorded
        fixed.copy_(image)
        graph.replay()
        copy: Tensor = out.clone()
        return copy

    return run


def grouped(network: nn.Module, image: Tensor) -> Tensor:
    """Middle fusion with both encoders as one, of convolutions in two groups, PET's and CT's."""
    assert isinstance(network, MiddleFusion)
    pet, ct = network.pet_encoder, network.ct_encoder
    image = image.flip(1).to(pet.layer1[0].conv.weight.dtype).contiguous(memory_format=slabs.LAST)  # type: ignore
    skips = []
    for number in range(1, pet.stages + 1):
        if number > 1:
            image = functional.max_pool3d(image, 2)
        layers: tuple[Any, Any] = pet.get_submodule(f"layer{number}"), ct.get_submodule(f"layer{number}")
        for pet_block, ct_block in zip(*layers, strict=True):
            weight, scale, shift = (
                torch.cat([a, b])
                for a, b in (
                    (pet_block.conv.weight, ct_block.conv.weight),
                    (pet_block.norm.weight, ct_block.norm.weight),
                    (pet_block.norm.bias, ct_block.norm.bias),
                )
            )
            image = functional.conv3d(image, weight.contiguous(memory_format=slabs.LAST), padding=1, groups=2)
            parts = [
                functional.batch_norm(part, None, None, scale, shift, training=True, eps=pet_block.norm.eps)
                for part in torch.split(image, 1)
            ]
            image = functional.selu_(torch.cat(parts))
        skips.append(image)
    return slabs.decoded(network.decoder, skips, [None] * len(skips))


if __name__ == "__main__":
    main()
