"""process.py in a process of its own."""

import os
import subprocess
from pathlib import Path

import warm

ROOT = Path(__file__).resolve().parents[2]


def run_process(*arguments: object, timeout: float = 300, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run process.py in a process of its own, with this environment added."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("LESION_", "AUTOPET_"))}
    env = clean | {"LESION_PRECISION": "float32"} | environment
    return warm.run(ROOT / "process.py", *arguments, timeout=timeout, env=env)
