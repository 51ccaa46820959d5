"""The precision of a batch: one for all its studies, found out before the first is scored.

`python -m model.hospital.batch_precision DEVICE` prints what --precision auto is on a machine with a GPU: torch is
imported in a process of its own, which ends.
"""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable

from model.driver import gpu_is_there
from model.errors import ConfigError, LesionError
from model.hospital.worker_process import ROOT
from model.processor import has_bfloat16

LONGEST_WAIT_S = 300.0  # for torch and the GPU's driver to start


def auto_precision(device: str) -> str:
    """What --precision auto is on this machine. Raises ConfigError if the device that is asked for cannot be used."""
    if device == "cpu" or not (device == "cuda" or gpu_is_there()):
        return "bfloat16" if has_bfloat16() else "float32"
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", __name__, device]
    try:
        asked = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LONGEST_WAIT_S,
            env=os.environ | {"PYTHONPATH": path},
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(
            f"the GPU did not answer within {LONGEST_WAIT_S:g} s; use --device cpu, or give --precision"
        ) from None
    if asked.returncode == ConfigError.exit_code:
        raise ConfigError(asked.stdout.strip())
    if asked.returncode:
        raise ConfigError(
            f"the process that looked for a GPU ended with exit code {asked.returncode}; use --device cpu, or give "
            "--precision"
        )
    return asked.stdout.strip()


def common_precision(precisions: Iterable[str]) -> str:
    """The precision that all workers of a cluster take: what auto is on each, or float32 if it is not the same."""
    found = Counter(precisions)
    return next(iter(found)) if len(found) == 1 else "float32"


def main() -> int:
    from model.inference.device import choose_device

    try:
        precision = choose_device(sys.argv[1]).precision
    except LesionError as error:
        print(error)
        return error.exit_code
    print(str(precision).removeprefix("torch."))
    return 0


if __name__ == "__main__":
    sys.exit(main())
