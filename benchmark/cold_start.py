"""Seconds from `python process.py` to the first byte of input read, in fresh processes.

    python -m benchmark.cold_start                  # median of 5, files in the page cache
    python -m benchmark.cold_start --drop-caches    # as after a boot (root, Linux)

The child notes the time at which Python first opens a file below the input folder; nothing else is changed.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmark.record import figure, record, table, told

ROOT = Path(__file__).resolve().parent.parent
CHILD = """
import runpy, sys, time
folder, script = sys.argv[1:3]
told = False
def hook(event, arguments):
    global told
    if event == "open" and not told and str(arguments[0]).startswith(folder) and str(arguments[0]).endswith(".mha"):
        told = True
        print("first byte", time.time(), flush=True)
sys.addaudithook(hook)
sys.argv = [script, *sys.argv[3:]]
runpy.run_path(script, run_name="__main__")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="processes to start; the median is printed (default 5)")
    parser.add_argument("--drop-caches", action="store_true", help="empty the page cache first (root, Linux)")
    parser.add_argument("--input", type=Path, default=ROOT / "test/input", help="study (default: sample)")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    seconds = [one_start(options.input.resolve(), options.drop_caches) for _ in range(options.runs)]
    state = "empty" if options.drop_caches else "warm"
    rows = [[state, f"{statistics.median(seconds):.2f}", ", ".join(f"{s:.2f}" for s in sorted(seconds))]]
    printed = table(["page cache", "seconds, median", "all"], rows)
    figures = {f"first byte of input, page cache {state}": figure(seconds, "s")}
    told(record("Cold start: from `python process.py` to the first byte of input", printed, figures), options.json)


def one_start(study: Path, drop_caches: bool) -> float:
    """Start process.py once, take the time, and stop it."""
    if drop_caches:
        subprocess.run(["sync"], check=True)
        Path("/proc/sys/vm/drop_caches").write_text("3")
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, "-c", CHILD, str(study), str(ROOT / "process.py")]
        begun = time.time()
        process = subprocess.Popen(
            [*command, "--input", str(study), "--output", output],
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
    raise SystemExit("process.py never opened its input; run it by hand to see why")


if __name__ == "__main__":
    main()
