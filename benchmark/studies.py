"""Several studies in one process: how much of the time the networks run, with reading ahead and without.

    python -m benchmark.studies                                      # ten of 400 x 400 x 326, four full networks: a GPU
    python -m benchmark.studies --size 200 200 160 --widths 4 16 32 48 64 --window 96
    python -m benchmark.studies --size 48 40 44 --widths 2 4 --window 32 --studies 3 --json toy.json

busy: the networks' seconds (windows to the device, convolutions, sums, threshold) over all seconds from the end of the
first study's reading to the last mask; on a GPU each is waited for. ahead: the next study is read, resampled and scaled
in a thread meanwhile (model.several); in turn: one after the other.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmark.floor import PAPER_WIDTHS
from benchmark.inference import CT_SIZE, make_bundle
from benchmark.record import figure, record, table, told
from benchmark.road import make_study
from model.config import Limits, Network
from model.device import Device, choose_device, make_deterministic
from model.manifest import Bundle, load_bundle
from model.reading import read_case
from model.segment import segment
from model.several import segment_each
from model.stopwatch import Stopwatch
from model.weights import keep, voters

BUSY = ("to device", "network", "sums", "argmax")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--size", type=int, nargs=3, default=(400, 400, 326), help="PET voxels x y z (default 400 400 326)")
    add("--widths", type=int, nargs="+", default=PAPER_WIDTHS, help="channels of the stages (default 32 32 64 128 256)")
    add("--window", type=int, default=192, help="window edge in voxels (default 192)")
    add("--studies", type=int, default=10, help="studies (default 10)")
    add("--device", default="auto", help="auto, cuda or cpu (default auto)")
    add("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    make_deterministic()
    device = choose_device(options.device)
    rows, figures = [], {}
    with tempfile.TemporaryDirectory() as place:
        study = Path(place) / "study"
        ct = tuple(round(n * factor) for n, factor in zip(options.size, CT_SIZE, strict=True))
        make_study(study, tuple(options.size), ct, compressed=True)
        network = Network(fusion="middle", widths=tuple(options.widths))
        bundle = load_bundle(make_bundle(Path(place) / "bundle", network, options.window))
        for way in ("ahead", "in turn"):
            total_s, seconds = measure(way, [study] * options.studies, bundle, device)
            busy = sum(seconds.get(stage, 0.0) for stage in BUSY)
            rows.append([way, f"{total_s:.2f}", f"{busy:.2f}", f"{100 * busy / total_s:.1f} %"])
            figures[f"{way}: seconds"] = figure([total_s], "s")
            figures[f"{way}: busy"] = figure([busy / total_s], "", "more")
    size = " x ".join(map(str, options.size))
    title = f"{options.studies} studies of {size} voxels in one process, four networks of widths "
    title += f"{' '.join(map(str, options.widths))}, windows of {options.window}^3, {device.name}"
    told(record(title, table(["reading", "seconds", "networks, s", "busy"], rows), figures), options.json)


def measure(way: str, studies: list[Path], bundle: Bundle, device: Device) -> tuple[float, dict[str, Any]]:
    """Seconds from the end of the first study's reading, and those of each stage."""
    gpu = device.torch_device.type == "cuda"
    watch = Stopwatch(wait=torch.cuda.synchronize if gpu else lambda: None)
    those = keep(voters(bundle), device.torch_device)
    begun: list[float] = []

    def read(study: Path) -> Any:
        case = read_case([study], Limits())
        begun.append(time.perf_counter())
        return case

    if way == "ahead":
        for _ in segment_each(studies, read, bundle, device, watch, those):
            pass
    else:
        for study in studies:
            segment(read(study), bundle, device, watch, those=those)
    return time.perf_counter() - begun[0], watch.seconds


if __name__ == "__main__":
    main()
