"""One window through one network: seconds and peak memory of the plain forward pass and of the one that inference uses.

    python -m benchmark.window                                       # the paper's network at 160^3: minutes on a CPU
    python -m benchmark.window --widths 4 16 32 48 64 --windows 64 --runs 5
    python -m benchmark.window --device cuda --windows 192 160 --batch 2 --graph --compile --grouped

plain: the network as it is trained, as MONAI and nnU-Net run it. ours: model.networks.slabs. Also, --torch: ours by
torch's operations alone, without model.networks.kernels on a GPU; --grouped: that, the two encoders as one of grouped
convolutions; on a GPU --graph: ours replayed as a CUDA graph; --compile: the plain forward by torch.compile. Seconds
are medians after one run that is not counted; `first` is that one, so first - seconds is what warming up costs, and,
over what a window then saves, how many windows pay for it. Each is a process of its own; its peak is what it holds
above the weights on a CPU, and all of it on a GPU.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmark.floor import PAPER_WIDTHS
from benchmark.record import child, figure, record, table, told
from model.bundle.settings import Network
from model.files import peak_memory_bytes
from model.inference.device import Device, choose_device, computing, make_deterministic, why_no_cuda
from model.networks import slabs
from model.networks.fused import Fused
from model.networks.unet import MiddleFusion, build

Step = Callable[[Tensor], Tensor]


def main() -> None:
    options = arguments()
    if options.one:
        print(json.dumps(one(options)))
        return
    wanted = [*options.ways, *(way for way in ("torch", "graph", "compile", "grouped") if getattr(options, way))]
    printed: list[str] = []
    figures: dict[str, Any] = {}
    for edge in options.windows:
        found = {way: child("--one", way, "--edge", edge) for way in wanted}
        plain = found.get("plain")
        rows = []
        for way, said in found.items():
            figures[f"{way} at {edge}^3"] = figure(said["seconds"], "s")
            figures[f"{way} at {edge}^3: memory"] = figure([said["peak_bytes"] / 1e9], "GB")
            share = f"{said['peak_bytes'] / plain['peak_bytes']:.2f}" if plain else ""
            middle = statistics.median(said["seconds"])
            rows.append([way, f"{middle:.3f}", f"{said['first']:.3f}", f"{said['peak_bytes'] / 1e9:.2f}", share])
            if options.check:
                rows[-1].append(f"{said['off']:.1e}")
        head = ["way", "seconds", "first", "peak GB", "of plain"]
        head += ["largest difference from plain in float32"] * options.check
        printed += [f"{edge}^3, {options.batch} at a time, medians of {options.runs}", "", *table(head, rows), ""]
    widths = " ".join(map(str, options.widths))
    told(
        record(f"One window through one network of widths {widths}, {options.fusion} fusion", printed, figures),
        options.json,
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--fusion", default="middle", help="early, middle, late or late_features (default middle)")
    add("--widths", type=int, nargs="+", default=PAPER_WIDTHS, help="channels of the stages (default 32 32 64 128 256)")
    add("--windows", type=int, nargs="+", default=(160,), help="edges in voxels (default 160)")
    add("--batch", type=int, default=1, help="windows at a time (default 1)")
    add("--runs", type=int, default=3, help="runs that are counted (default 3)")
    add("--ways", nargs="+", default=("plain", "ours"), help="plain, ours (default both)")
    add("--device", default="auto", help="auto, cuda or cpu (default auto)")
    for way, what in (
        ("torch", "ours without the project's own kernels"),
        ("graph", "ours as a CUDA graph"),
        ("compile", "plain by torch.compile, which needs a compiler"),
        ("grouped", "both encoders as one of grouped convolutions, for middle fusion"),
    ):
        add(f"--{way}", action="store_true", help=f"also {what} (default: no)")
    add("--check", action="store_true", help="compare logits with the plain forward in float32 (default: no)")
    add("--json", type=Path, help="also write the figures here")
    add("--one", help=argparse.SUPPRESS)  # what a child process runs
    add("--edge", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def one(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of the runs and of the first, peak memory above what the process held before, and the difference."""
    make_deterministic()
    device = device_of(options.one, options.device)
    gpu = device.torch_device.type == "cuda"
    torch.manual_seed(0)
    network = build(Network(fusion=options.fusion, widths=tuple(options.widths))).eval()
    image = torch.rand(options.batch, 2, *(options.edge,) * 3)
    before = 0 if gpu else peak_memory_bytes()
    with computing(device):
        step = way_to_run(options.one, network, device)
        image = image.to(device.torch_device)
        seconds = []
        for _ in range(options.runs + 1):
            begun = time.perf_counter()
            out = step(image)
            if gpu:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - begun)
        peak = torch.cuda.max_memory_allocated() if gpu else peak_memory_bytes() - before
    off = float("nan")
    if options.check:
        torch.manual_seed(0)
        plain = build(Network(fusion=options.fusion, widths=tuple(options.widths))).eval()
        with torch.no_grad():
            off = float((out.float().cpu() - plain(image.cpu())).abs().max())
    return {"first": seconds[0], "seconds": seconds[1:], "peak_bytes": peak, "off": off}


def device_of(way: str, wanted: str) -> Device:
    """As process.py chooses it; but the plain forward on a CPU without what process.py asks of glibc, which is ours."""
    if way in ("plain", "compile") and wanted != "cuda" and (wanted == "cpu" or why_no_cuda()):
        return Device(torch_device=torch.device("cpu"), precision=torch.float32, name="CPU")
    return choose_device(wanted)


def way_to_run(way: str, network: nn.Module, device: Any) -> Step:
    """The function that runs a window."""
    if way in ("plain", "compile"):
        network = network.to(device.torch_device)
        return torch.compile(network) if way == "compile" else network
    ready = slabs.prepared(network, device.torch_device, device.precision)
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
    """A step on a GPU that is recorded when it is first run, and then replayed; every image must have one shape."""
    recorded: list[Any] = []

    def run(image: Tensor) -> Tensor:
        if not recorded:
            still, graph = image.clone(), torch.cuda.CUDAGraph()
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):  # libraries take their workspaces before anything is recorded
                step(still)
            torch.cuda.current_stream().wait_stream(aside)
            with torch.cuda.graph(graph):
                out = step(still)
            recorded.extend((still, graph, out))
        still, graph, out = recorded
        still.copy_(image)
        graph.replay()
        return out.clone()

    return run


def grouped(network: nn.Module, image: Tensor) -> Tensor:
    """Middle fusion whose encoders are one, of convolutions in two groups, PET's and CT's."""
    assert isinstance(network, MiddleFusion)
    pet, ct = network.pet_encoder, network.ct_encoder
    image = image.flip(1).to(pet.layer1[0].conv.weight.dtype).contiguous(memory_format=slabs.LAST)  # type: ignore
    skips = []
    for number in range(1, pet.stages + 1):
        if number > 1:
            image = functional.max_pool3d(image, 2)
        layers: tuple[Any, Any] = pet.get_submodule(f"layer{number}"), ct.get_submodule(f"layer{number}")
        for one_, other in zip(*layers, strict=True):
            weight, scale, shift = (
                torch.cat([a, b])
                for a, b in (
                    (one_.conv.weight, other.conv.weight),
                    (one_.norm.weight, other.norm.weight),
                    (one_.norm.bias, other.norm.bias),
                )
            )
            image = functional.conv3d(image, weight.contiguous(memory_format=slabs.LAST), padding=1, groups=2)
            parts = [
                functional.batch_norm(part, None, None, scale, shift, training=True, eps=one_.norm.eps)
                for part in image.split(1)
            ]
            image = functional.selu_(torch.cat(parts))
        skips.append(image)
    return slabs.decoded(network.decoder, skips)


if __name__ == "__main__":
    main()
