"""The training loops that benchmark.training compares, each run in a process of its own."""

import json
import os
import signal
import subprocess
import time
from dataclasses import asdict, dataclass
from subprocess import PIPE
from typing import Any

from benchmark.command import ROOT
from benchmark.contenders.training_task import TrainingTask


@dataclass(frozen=True, kw_only=True)
class TrainingLoop:
    """A contender: its name in the table, its module, and what differs in its task."""

    name: str
    module: str
    changes: dict[str, Any]


LOOPS = {  # by the names that --only takes
    "ours": TrainingLoop(name="ours", module="training_ours", changes={}),
    "unfused": TrainingLoop(name="ours, torch's layers", module="training_ours", changes={"fused_norm": False}),
    "compile": TrainingLoop(name="ours, torch.compile", module="training_ours", changes={"compile": True}),
    "monai": TrainingLoop(name="plain MONAI", module="training_monai", changes={}),
    "nnunet": TrainingLoop(name="nnU-Net's trainer", module="training_nnunet", changes={}),
}


def measured(one: TrainingLoop, task: TrainingTask, python: str, end: float) -> dict[str, Any] | str:
    """What a contender's process printed, or why it did not. It is stopped, with its workers, at `end`."""
    left = end - time.monotonic()
    if left <= 0:
        return "not begun: the time of --minutes was over"
    command = [python, "-m", f"benchmark.contenders.{one.module}", json.dumps(asdict(task))]
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": path}
    try:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, start_new_session=True, stdout=PIPE, stderr=PIPE, text=True
        )
    except OSError as error:
        return f"'{python}': {error.strerror}; benchmark/requirements.txt says how to make it"
    try:
        out, err = process.communicate(timeout=left)
    except subprocess.TimeoutExpired:
        return "stopped: the time of --minutes was over"
    finally:
        end_all(process)
    lines = [line for line in out.splitlines() if line.startswith("{")]
    if process.returncode or not lines:
        return (err.strip().splitlines() or [f"it ended with code {process.returncode}"])[-1]
    printed: dict[str, Any] = json.loads(lines[-1])
    return printed


def end_all(process: subprocess.Popen[str]) -> None:
    """Stop a contender and the workers that it may have left."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()
