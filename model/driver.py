"""Whether there is an NVIDIA GPU, found out without torch."""

import os

TRACES = ("/proc/driver/nvidia/version", "/dev/nvidia0", "/dev/dxg")


def gpu_is_there() -> bool:
    """Whether this machine has an NVIDIA driver or device node, even if torch cannot use it."""
    return any(map(os.path.exists, TRACES))
