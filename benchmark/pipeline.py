"""Seconds and memory of everything but the network: from opening the inputs to the renamed mask.

    python -m benchmark.pipeline                        # 400 x 400 x 326 PET, 512 x 512 x 600 CT
    python -m benchmark.pipeline --pet 100 100 80 --ct 128 128 150 --runs 3
    python -m benchmark.pipeline --start                # from `python process.py` to the first byte of input

Makes a synthetic study, runs it once so that the page cache is warm, then --runs times, each in a process of its own,
uncompressed and compressed. Imports, weights and the network are not counted: a threshold makes the mask in the
network's place. Memory is the process's peak before the network would start.

--start instead times how long process.py takes until Python first opens a file of the sample study.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmark.command import ROOT, joined, parser_for, run_child
from benchmark.record import figure, print_and_write, record, table
from benchmark.synthetic import make_study, manifest_of
from model.bundle.format import Member
from model.bundle.manifest import Bundle
from model.bundle.network import Network
from model.bundle.settings import Limits
from model.files import peak_memory_bytes
from model.inference.preprocess import place, put_back
from model.inference.view import image_of
from model.results.writing import mask_path, write_mask
from model.stopwatch import Stopwatch
from model.study.reading import read_case
from model.whole import Staging

KINDS = ("uncompressed", "compressed")
STAGES = ("read", "resample", "crop", "intensity", "paste", "write")
SAMPLE = ROOT / "test/input"
WATCHED_START = """
import runpy, sys, time
folder, script = sys.argv[1:3]
opened = False
def hook(event, arguments):
    global opened
    if event == "open" and not opened and str(arguments[0]).startswith(folder) and str(arguments[0]).endswith(".mha"):
        opened = True
        print("first byte", time.time(), flush=True)
sys.addaudithook(hook)
sys.argv = [script, *sys.argv[3:]]
runpy.run_path(script, run_name="__main__")
"""  # runs process.py and prints when it first opens an image


def main() -> None:
    parser = parser_for(__doc__)
    add = parser.add_argument
    add("--pet", type=int, nargs=3, default=(400, 400, 326), help="PET voxels x y z (default 400 400 326)")
    add("--ct", type=int, nargs=3, default=(512, 512, 600), help="CT voxels x y z (default 512 512 600)")
    add("--runs", type=int, default=5, help="runs of each kind; the median is printed (default 5)")
    add("--start", action="store_true", help="time the start of process.py instead (default: no)")
    add(
        "--drop-caches", action="store_true", help="with --start: empty the page cache first (root, Linux; default: no)"
    )
    options = parser.parse_args()
    if options.child:
        print(json.dumps(one_run(options.folder)))
    elif options.start:
        print_and_write(record_of_starts(options.runs, options.drop_caches), options.json)
    else:
        print_and_write(record_of_runs(tuple(options.pet), tuple(options.ct), options.runs), options.json)


def record_of_runs(pet_size: tuple[int, ...], ct_size: tuple[int, ...], count: int) -> dict[str, Any]:
    """Stage by stage, `count` runs of both kinds of study."""
    rows: list[list[str]] = []
    figures: dict[str, Any] = {}
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            make_study(Path(folder) / "study", pet_size, ct_size, kind == "compressed")
            runs = [run_child(kind, "--folder", Path(folder) / "study") for _ in range(count + 1)][1:]
        stages = {name: [run["stages"][name] for run in runs] for name in ("total", *STAGES)}
        peak_gb = [run["peak_bytes"] / 1e9 for run in runs]
        rows.append([kind, *(f"{statistics.median(values):.2f}" for values in stages.values()), f"{max(peak_gb):.2f}"])
        figures |= {f"{kind}: {name}": figure(values, "s") for name, values in stages.items()}
        figures[f"{kind}: memory"] = figure(peak_gb, "GB")
    sizes = f"PET of {joined(pet_size, ' x ')} voxels, CT of {joined(ct_size, ' x ')}"
    head = ["input", "total, s", *STAGES, "peak GB before the network"]
    return record(f"Everything but the network: {sizes}", [f"Medians of {count}", "", *table(head, rows)], figures)


def one_run(folder: Path) -> dict[str, object]:
    """One study from file to file, with a threshold in the network's place."""
    watch = Stopwatch()
    bundle = stand_in()
    begun = time.perf_counter()
    with watch.stage("read"):
        case = read_case([folder], Limits())
    ready = place(case, bundle.manifest.crop.suv_above, watch)
    with watch.stage("intensity"):
        image = image_of(ready.hu, ready.suv, bundle.manifest.part(bundle.manifest.members[0]))
    peak_bytes = peak_memory_bytes()
    paused = time.perf_counter()
    margin = (image[1] > 0.1).numpy()  # the network would run here
    resumed = time.perf_counter()
    with watch.stage("paste"):
        mask = put_back(ready, margin)
    with watch.stage("write"), Staging() as staging:
        target = mask_path(folder / "output", case.name, 2)
        write_mask(mask, case.pet.grid, target, staging)
        staging.commit()
    total = time.perf_counter() - begun - (resumed - paused)
    return {"stages": watch.seconds | {"total": total}, "peak_bytes": peak_bytes}


def stand_in() -> Bundle:
    """A bundle of the default settings, whose network is never built."""
    members = (Member(file="none.safetensors", sha256="0" * 64),)
    manifest = manifest_of("stand-in", Network(fusion="middle", widths=(4, 4)), 64, members)
    return Bundle(folder=Path("."), manifest=manifest, sha256="")


def record_of_starts(count: int, drop_caches: bool) -> dict[str, Any]:
    """Seconds of `count` starts of process.py, in fresh processes."""
    seconds = [one_start(drop_caches) for _ in range(count)]
    cache = "empty" if drop_caches else "warm"
    rows = [[cache, f"{statistics.median(seconds):.2f}", ", ".join(f"{s:.2f}" for s in sorted(seconds))]]
    figures = {f"first byte of input, page cache {cache}": figure(seconds, "s")}
    title = "Cold start: from `python process.py` to the first byte of input"
    return record(title, table(["page cache", "seconds, median", "all"], rows), figures)


def one_start(drop_caches: bool) -> float:
    """Start process.py once, stop it when it opens an image, and return the seconds until then."""
    if drop_caches:
        subprocess.run(["sync"], check=True)
        Path("/proc/sys/vm/drop_caches").write_text("3")
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, "-c", WATCHED_START, str(SAMPLE), str(ROOT / "process.py")]
        begun = time.time()
        process = subprocess.Popen(
            [*command, "--input", str(SAMPLE), "--output", output],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
        )
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("first byte"):
                process.kill()
                process.wait()
                return float(line.split()[-1]) - begun
    raise SystemExit("error: process.py never opened its input; run it by hand to see why")


if __name__ == "__main__":
    main()
