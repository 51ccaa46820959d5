"""A benchmark's result: its tables as printed, its figures for benchmark.compare, and the machine they are of."""

import json
import os
import platform
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from training.commit import commit

FORMAT = 2
LEAST = 0.10  # a smaller change of a figure does not count, however steady the runs
RENAMED = (
    ("benchmark.cold_start", "benchmark.pipeline --start"),
    ("cold_start", "pipeline"),
    ("road", "pipeline"),
    ("floor", "roofline"),
    ("ahead", "prefetched"),
)  # words in older results, and what they are called today


def figure(values: Sequence[float], unit: str, better: str = "less", least: float = LEAST) -> dict[str, Any]:
    """One measured quantity with the values of every run.

    better: "less" or "more". least: a change by a smaller share than this does not count.
    """
    return {"unit": unit, "better": better, "least": least, "values": [float(value) for value in values]}


def record(title: str, printed: Sequence[str], figures: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The whole result of this command, whose name and options come from sys.argv."""
    name = Path(sys.argv[0]).stem
    return {
        "format": FORMAT,
        "benchmark": name,
        "title": title,
        "command": " ".join([f"python -m benchmark.{name}", *shown_words(sys.argv[1:])]),
        "date": time.strftime("%Y-%m-%d"),
        "commit": os.environ.get("COMMIT") or commit(digits=7),
        "machine": machine(),
        "printed": list(printed),
        "figures": figures,
    }


def read(path: Path) -> dict[str, Any]:
    """A result that --json wrote, with the names of today. Raises ValueError naming the file if it is not one."""
    try:
        text = path.read_text(encoding="utf-8")
        for old, new in RENAMED:
            text = re.sub(rf"\b{re.escape(old)}\b", new, text)
        found = json.loads(text)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read '{path}': {error}; give a file that a benchmark's --json wrote") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError(f"'{path}' is not a result of this version; run its benchmark again with --json")
    return found


def print_and_write(result: dict[str, Any], path: Path | None, quiet: bool = False) -> None:
    """Print the tables unless `quiet`, and write the result to `path` if one is given."""
    if not quiet:
        print("\n".join(result["printed"]))
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def shown_words(words: Sequence[str]) -> list[str]:
    """A command's words without --json and its file; of paths of this machine only the last part."""
    pairs = zip(["", *words], words, strict=False)
    kept = [word for before, word in pairs if before != "--json" and word.partition("=")[0] != "--json"]
    return [Path(word).name if Path(word).is_absolute() else word for word in kept]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown."""
    return ["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *rows)]


def machine() -> dict[str, Any]:
    """The machine and its software, as far as results depend on them."""
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
    """The machine in one line."""
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
