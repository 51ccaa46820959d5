"""A benchmark's results as a file."""

import json

from benchmark.record import FORMAT


def result(folder, name: str, benchmark: str = "inference", **figures) -> str:
    machine = {"cpu": "c", "cores": 2, "threads": 2, "memory_gb": 8, "gpu": None, "python": "3", "torch": "2"}
    path = folder / f"{name}.json"
    path.write_text(
        json.dumps(
            {
                "format": FORMAT,
                "benchmark": benchmark,
                "title": "",
                "command": "c",
                "date": "",
                "commit": "",
                "machine": machine,
                "printed": [],
                "figures": figures,
            }
        )
    )
    return str(path)
