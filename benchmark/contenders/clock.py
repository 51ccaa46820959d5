"""The age of this process: the time that the interpreter and imports take before its first line runs."""

import os
import time
from pathlib import Path


def age_s() -> float:
    """Seconds since this process was started, to a hundredth (Linux: /proc/self/stat, field 22)."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
