"""process.py in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run_process(*arguments: object, timeout: float = 300, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run process.py in a process of its own, with this environment added."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("LESION_", "AUTOPET_"))}
    return subprocess.run(
        [sys.executable, str(ROOT / "process.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=clean | {"LESION_PRECISION": "float32"} | environment,
    )
