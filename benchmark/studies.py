"""Several studies in one process: how much of the time the networks run, with reading ahead and without.

    python -m benchmark.studies                                      # ten of 400 x 400 x 326, four full networks: a GPU
    python -m benchmark.studies --size 200 200 160 --widths 4 16 32 48 64 --window 96
    python -m benchmark.studies --size 48 40 44 --widths 2 4 --window 32 --studies 3 --json toy.json

busy: the networks' seconds (windows to the device, convolutions, sums, threshold) over all seconds from the end of the
first study's reading to the last mask; on a GPU each is waited for. On a CPU the thread that reads takes cores from the
networks: there only the seconds of both ways tell. ahead: the next study is read, resampled and scaled in a thread
meanwhile (model.inference.several); in turn: one after the other. Every run is a process of its own, both ways in turn;
seconds are medians, memory is the most of any run, at the end and after the first three studies.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmark.floor import PAPER_WIDTHS
from benchmark.inference import CT_SIZE, make_bundle
from benchmark.record import child, figure, record, table, told
from benchmark.road import make_study
from model.bundle.manifest import load_bundle
from model.bundle.settings import Limits, Network
from model.files import peak_memory_bytes
from model.inference.device import choose_device, make_deterministic
from model.inference.options import SegmentOptions
from model.inference.segment import segment
from model.inference.several import segment_each
from model.networks.weights import load_now, voters
from model.stopwatch import Stopwatch
from model.study.reading import read_case

BUSY = ("to device", "network", "sums", "argmax")
WAYS = ("ahead", "in turn")
FIRST = 3  # studies: as many as are in memory at a time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--size", type=int, nargs=3, default=(400, 400, 326), help="PET voxels x y z (default 400 400 326)")
    add("--widths", type=int, nargs="+", default=PAPER_WIDTHS, help="channels of the stages (default 32 32 64 128 256)")
    add("--window", type=int, default=192, help="window edge in voxels (default 192)")
    add("--studies", type=int, default=10, help="studies (default 10)")
    add("--runs", type=int, default=3, help="runs of each way (default 3)")
    add("--device", default="auto", help="auto, cuda or cpu (default auto)")
    add("--json", type=Path, help="also write the figures here")
    add("--one", choices=WAYS, help=argparse.SUPPRESS)  # what a child process runs
    add("--place", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options)))
        return
    rows, figures = [], {}
    with tempfile.TemporaryDirectory() as place:
        study = Path(place) / "study"
        ct = tuple(round(n * factor) for n, factor in zip(options.size, CT_SIZE, strict=True))
        make_study(study, tuple(options.size), ct, compressed=True)
        network = Network(fusion="middle", widths=tuple(options.widths))
        make_bundle(Path(place) / "bundle", network, options.window)
        turns = [{way: child("--one", way, "--place", place) for way in WAYS} for _ in range(options.runs)]
    for way in WAYS:
        total_s, busy_s, peak, early = (
            [turn[way][key] for turn in turns] for key in ("total_s", "busy_s", "peak", "early")
        )
        busy = [part / whole for part, whole in zip(busy_s, total_s, strict=True)]
        rows.append(
            [
                way,
                f"{statistics.median(total_s):.2f}",
                f"{statistics.median(busy_s):.2f}",
                f"{100 * statistics.median(busy):.1f} %",
                f"{max(peak) / 1e9:.2f}",
                f"{max(early) / 1e9:.2f}",
            ]
        )
        figures[f"{way}: seconds"] = figure(total_s, "s")
        figures[f"{way}: busy"] = figure(busy, "", "more")
        figures[f"{way}: memory"] = figure([value / 1e9 for value in peak], "GB")
    size = " x ".join(map(str, options.size))
    title = f"{options.studies} studies of {size} voxels in one process, four networks of widths "
    title += f"{' '.join(map(str, options.widths))}, windows of {options.window}^3, "
    title += choose_device(options.device).name
    head = ["reading", "seconds", "networks, s", "busy", "host GB", f"host GB after {FIRST} studies"]
    printed = [f"Medians of {options.runs}", "", *table(head, rows)]
    told(record(title, printed, figures), options.json)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds from the end of the first study's reading, those of the networks, peak memory, and that after FIRST."""
    make_deterministic()
    device, bundle = choose_device(options.device), load_bundle(options.place / "bundle")
    watch = Stopwatch(wait=torch.cuda.synchronize if device.torch_device.type == "cuda" else lambda: None)
    networks = load_now(voters(bundle), device.torch_device)
    how = SegmentOptions(bundle=bundle, device=device, voters=networks)
    studies = [options.place / "study"] * options.studies
    begun: list[float] = []

    def read(study: Path) -> Any:
        case = read_case([study], Limits())
        begun.append(time.perf_counter())
        return case

    if options.one == "ahead":
        done = segment_each(studies, read, how, watch)
    else:
        done = ((None, segment(read(study), how, watch)) for study in studies)
    peaks = [peak_memory_bytes() for _ in done]
    total_s = time.perf_counter() - begun[0]
    busy_s = sum(watch.seconds.get(stage, 0.0) for stage in BUSY)
    return {"total_s": total_s, "busy_s": busy_s, "peak": peaks[-1], "early": peaks[:FIRST][-1]}


if __name__ == "__main__":
    main()
