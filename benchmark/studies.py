"""Several studies in one process: how busy the networks are, with the next study prefetched and without.

    python -m benchmark.studies                                      # ten of 400 x 400 x 326, four full networks: a GPU
    python -m benchmark.studies --size 200 200 160 --widths 4 16 32 48 64 --window 96
    python -m benchmark.studies --size 48 40 44 --widths 2 4 --window 32 --studies 3 --json toy.json

prefetched: a thread reads, resamples and scales the next study meanwhile (model.inference.several); in turn: one after
the other. busy: the networks' seconds (windows to the device, convolutions, sums, threshold) over all seconds from the
end of the first study's reading to the last mask. On a GPU each of these steps is waited for. On a CPU the thread that
reads takes cores from the networks, so only the seconds can be compared there. Every run is a process of its own; the
two ways run in turn. Seconds are medians; memory is the most of any run, at the end and after the first three studies.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmark.command import joined, parser_for, run_child
from benchmark.record import figure, print_and_write, record, table
from benchmark.synthetic import ct_size_for, make_bundle, make_study
from model.bundle.manifest import load_bundle
from model.bundle.network import Network
from model.bundle.settings import Limits
from model.files import peak_memory_bytes
from model.inference.device import choose_device, make_deterministic
from model.inference.options import SegmentOptions
from model.inference.segment import segment
from model.inference.several import segment_each
from model.networks.weights import load_now, voters
from model.stopwatch import Stopwatch
from model.study.reading import read_case

BUSY_STAGES = ("to device", "network", "sums", "argmax")
WAYS = ("prefetched", "in turn")
FIRST = 3  # studies: as many as are in memory at a time


def main() -> None:
    parser = parser_for(__doc__, "size", "widths", "device")
    add = parser.add_argument
    add("--window", type=int, default=192, help="window edge in voxels (default 192)")
    add("--studies", type=int, default=10, help="studies (default 10)")
    add("--runs", type=int, default=3, help="runs of each way (default 3)")
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        make_study(Path(folder) / "study", tuple(options.size), ct_size_for(options.size), compressed=True)
        make_bundle(Path(folder) / "bundle", Network(fusion="middle", widths=tuple(options.widths)), options.window)
        runs = [{way: run_child(way, "--folder", folder) for way in WAYS} for _ in range(options.runs)]
    rows, figures = [], {}
    for way in WAYS:
        total_s, busy_s, peak_gb, early_gb = (
            [run[way][key] for run in runs] for key in ("total_s", "busy_s", "peak_gb", "early_gb")
        )
        busy = [part / whole for part, whole in zip(busy_s, total_s, strict=True)]
        seconds = [f"{statistics.median(values):.2f}" for values in (total_s, busy_s)]
        memory = [f"{max(values):.2f}" for values in (peak_gb, early_gb)]
        rows.append([way, *seconds, f"{100 * statistics.median(busy):.1f} %", *memory])
        figures[f"{way}: seconds"] = figure(total_s, "s")
        figures[f"{way}: busy"] = figure(busy, "", "more")
        figures[f"{way}: memory"] = figure(peak_gb, "GB")
    title = (
        f"{options.studies} studies of {joined(options.size, ' x ')} voxels in one process, four networks of widths "
        f"{joined(options.widths)}, windows of {options.window}^3, {choose_device(options.device).name}"
    )
    head = ["reading", "seconds", "networks, s", "busy", "host GB", f"host GB after {FIRST} studies"]
    printed = [f"Medians of {options.runs}", "", *table(head, rows)]
    print_and_write(record(title, printed, figures), options.json)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds from the end of the first study's reading, seconds of the networks, peak memory, also after FIRST."""
    make_deterministic()
    device, bundle = choose_device(options.device), load_bundle(options.folder / "bundle")
    watch = Stopwatch(wait=torch.cuda.synchronize if device.torch_device.type == "cuda" else lambda: None)
    networks = load_now(voters(bundle), device.torch_device)
    how = SegmentOptions(bundle=bundle, device=device, voters=networks)
    studies = [options.folder / "study"] * options.studies
    read_at: list[float] = []

    def read(study: Path) -> Any:
        case = read_case([study], Limits())
        read_at.append(time.perf_counter())
        return case

    masks: Iterator[Any]
    if options.child == "prefetched":
        masks = iter(segment_each(studies, read, how, watch))
    else:
        masks = (segment(read(study), how, watch) for study in studies)
    peaks = [peak_memory_bytes() / 1e9 for _ in masks]
    total_s = time.perf_counter() - read_at[0]
    busy_s = sum(watch.seconds.get(stage, 0.0) for stage in BUSY_STAGES)
    return {"total_s": total_s, "busy_s": busy_s, "peak_gb": peaks[-1], "early_gb": peaks[:FIRST][-1]}


if __name__ == "__main__":
    main()
