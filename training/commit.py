"""Which commit of this code runs."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def commit(digits: int = 40) -> str:
    """The commit of this code, with "-dirty" if files were changed since; "unknown" outside a checkout.

    digits: of its hash, or more where so few are not unique.
    """
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", f"--abbrev={digits}", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() or "unknown"
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
