"""Waits for the end of a process."""

import os
import time
from pathlib import Path

import pytest


def wait_until_gone(process: int) -> None:
    """Fails if a process that is no child of this one has not ended within ten seconds."""
    for _ in range(500):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return
        if "\nState:\tZ" in Path(f"/proc/{process}/status").read_text():
            return  # it ended, but its parent has not asked for its exit code yet
        time.sleep(0.02)
    pytest.fail(f"{process} still runs")
