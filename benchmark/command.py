"""What the benchmarks' commands share: their options, and child processes that measure."""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAPER_WIDTHS = (32, 32, 64, 128, 256)
OPTIONS: dict[str, dict[str, Any]] = {
    "size": {
        "type": int,
        "nargs": 3,
        "default": (400, 400, 326),
        "help": "PET voxels x y z (default 400 400 326)",
    },
    "fusion": {"default": "middle", "help": "early, middle, late or late_features (default middle)"},
    "widths": {
        "type": int,
        "nargs": "+",
        "default": PAPER_WIDTHS,
        "help": "channels of the stages (default 32 32 64 128 256)",
    },
    "device": {"default": "auto", "help": "auto, cuda or cpu (default auto)"},
}


def parser_for(description: str | None, *names: str) -> argparse.ArgumentParser:
    """A parser with the named options of OPTIONS, --json, and the options of a child process.

    description: the module's docstring; its first line is shown.
    """
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    for name in names:
        parser.add_argument(f"--{name}", **OPTIONS[name])
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--child", help=argparse.SUPPRESS)  # the way that a child process measures
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # where it finds its inputs
    return parser


def parser_for_studies(description: str | None) -> argparse.ArgumentParser:
    """A parser for what score.py is measured on. description: as for `parser_for`."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    add = parser.add_argument
    add("--studies", type=Path, required=True, help="a folder of studies")
    add("--weights", default="eoa", help="a bundle's folder or name (default eoa)")
    add("--device", default="cpu", help="auto, cuda or cpu (default cpu)")
    add("--json", type=Path, help="also write the figures here")
    return parser


def run_child(way: str, *words: object) -> dict[str, Any]:
    """Run this command again with --child, in a process with a peak memory of its own. Returns its last line."""
    module = f"benchmark.{Path(sys.argv[0]).stem}"
    command = [sys.executable, "-m", module, *sys.argv[1:], "--child", way, *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, check=True)
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def joined(values: Any, separator: str = " ") -> str:
    """Numbers as text: "32 32 64", or with " x " a size."""
    return separator.join(map(str, values))
