"""Studies an hour of score.py: by itself, and with 1, 2 and 4 dask workers on the same machine.

    python -m benchmark.batches --studies STUDIES --weights eoa --workers 1 2 4

STUDIES: a folder of studies; test/helpers/make_dicom_studies.py makes some. Every run scores all of them into a folder
that is removed. The seconds include the start of Python, of the workers and of the networks. Memory is the peak of the
scoring processes. Each worker uses its share of the machine's cores.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmark.command import ROOT, parser_for_studies
from benchmark.record import figure, print_and_write, record, table


def main() -> None:
    parser = parser_for_studies(__doc__)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2, 4], help="dask workers (default 1 2 4)")
    options = parser.parse_args()
    measured = {"one machine": measure(options, [], 1)}
    for count in options.workers:
        with workers(count) as address:
            measured[f"{count} dask workers"] = measure(options, ["--cluster", address], count)
    rows, figures = [], {}
    for name, values in measured.items():
        rows.append(
            [
                name,
                str(values["studies"]),
                f"{values['seconds']:.0f}",
                f"{values['per_hour']:.1f}",
                f"{values['median_s']:.1f}",
                f"{values['peak_mb'] / 1e3:.2f}",
            ]
        )
        figures[f"{name}: studies an hour"] = figure([values["per_hour"]], "1/h", "more")
        figures[f"{name}: memory"] = figure([values["peak_mb"] / 1e3], "GB")
    head = ["processes", "studies", "seconds", "an hour", "median s a study", "peak GB of one"]
    title = f"Batches: score.py with {options.weights}"
    print_and_write(record(title, table(head, rows), figures), options.json)


def measure(options: argparse.Namespace, more: list[str], count: int) -> dict[str, float]:
    """Seconds of one batch, studies an hour, and the scoring processes' peak memory in MB."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            str(ROOT / "score.py"),
            str(options.studies),
            "--output",
            folder,
            "--device",
            options.device,
            "--weights",
            options.weights,
            *more,
        ]
        begun = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment(count))
        seconds = time.perf_counter() - begun
        reports = [json.loads(path.read_text()) for path in Path(folder).glob("studies/*/report.json")]
    return {
        "studies": len(reports),
        "seconds": seconds,
        "per_hour": 3600 * len(reports) / seconds,
        "peak_mb": max(report["peak_memory_bytes"] for report in reports) / 1e6,
        "median_s": statistics.median(sum(report["seconds"].values()) for report in reports),
    }


@contextmanager
def workers(count: int) -> Iterator[str]:
    """Start a dask scheduler and so many workers on this machine; gives the scheduler's address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started: list[subprocess.Popen[bytes]] = []
    address = f"tcp://127.0.0.1:{port}"
    common = ["--host", "127.0.0.1", "--no-dashboard"]
    with tempfile.TemporaryDirectory() as folder:
        kinds = [["scheduler", "--port", str(port)], *[["worker", address, "--nthreads", "1", "--no-nanny"]] * count]
        try:
            for kind, *rest in kinds:
                command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *rest, *common]
                null = subprocess.DEVNULL
                started.append(subprocess.Popen(command, cwd=folder, env=environment(count), stdout=null, stderr=null))
            wait_for(address, count)
            yield address
        finally:
            for child in reversed(started):
                child.terminate()
            for child in started:
                child.wait()


def wait_for(address: str, count: int) -> None:
    from distributed import Client

    with Client(address, timeout=120, set_as_default=False) as client:
        client.wait_for_workers(count, timeout=120)


def environment(count: int) -> dict[str, str]:
    """This process's environment, with this code on the path, and each of `count` processes' share of the cores."""
    threads = str(max(1, len(os.sched_getaffinity(0)) // count))
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": threads}


if __name__ == "__main__":
    main()
