"""What a benchmark leaves: its tables as printed, its figures for benchmark.compare, and the machine they are of."""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from training.commit import commit

ROOT = Path(__file__).resolve().parent.parent
FORMAT = 2
LEAST = 0.10  # a change of a figure below this share is none, however steady the runs


def figure(values: Sequence[float], unit: str, better: str = "less", least: float = LEAST) -> dict[str, Any]:
    """One thing that was measured, every run of it; better: less or more; least: share below which a change is none."""
    return {"unit": unit, "better": better, "least": least, "values": [float(value) for value in values]}


def record(title: str, printed: Sequence[str], figures: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The whole result of this command, which is read from sys.argv."""
    name = Path(sys.argv[0]).stem
    return {
        "format": FORMAT,
        "benchmark": name,
        "title": title,
        "command": " ".join([f"python -m benchmark.{name}", *shown(sys.argv[1:])]),
        "date": time.strftime("%Y-%m-%d"),
        "commit": os.environ.get("COMMIT") or commit(digits=7),
        "machine": machine(),
        "printed": list(printed),
        "figures": figures,
    }


def shown(words: Sequence[str]) -> list[str]:
    """A command's words without where it writes to; paths of this machine by their last part."""
    pairs = zip(["", *words], words, strict=False)
    out = [word for before, word in pairs if before != "--json" and word.partition("=")[0] != "--json"]
    return [Path(word).name if Path(word).is_absolute() else word for word in out]


def child(*words: object) -> dict[str, Any]:
    """Run this command again with more words in its own process, for its own peak memory. Returns its last line."""
    command = [sys.executable, "-m", f"benchmark.{Path(sys.argv[0]).stem}", *sys.argv[1:], *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def told(result: dict[str, Any], path: Path | None) -> None:
    """Print the tables, and write the result where asked."""
    print("\n".join(result["printed"]))
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table of Markdown."""
    return ["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *rows)]


def machine() -> dict[str, Any]:
    """The machine and what is installed, as far as results depend on them."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "gpu": gpu,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def machine_text(found: dict[str, Any]) -> str:
    """The machine in a line."""
    gpu = found["gpu"] or "no GPU"
    return (
        f"{found['cpu']}, {found['cores']} cores, {found['threads']} threads used, {found['memory_gb']:g} GB, {gpu}; "
        f"Python {found['python']}, torch {found['torch']}"
    )


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
