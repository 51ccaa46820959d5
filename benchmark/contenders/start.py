"""Which contenders can take part, and their runs in turn, each in a process of its own."""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from benchmark.command import ROOT
from benchmark.contenders.monai import Task

MODULES = {
    "ours": "benchmark.contenders.ours",
    "monai": "benchmark.contenders.monai",
    "nnunet": "benchmark.contenders.nnunet",
}  # by the names that --only takes
OF_FOLDER = "benchmark.contenders.nnunet_folder"  # nnU-Net's whole predictor
NNUNET_PYTHON = ROOT / ".nnunet/bin/python"
Runs = dict[str, list[dict[str, Any]]]  # by contender, what each of its runs measured


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A way to run an ensemble: its module, what that imports, its Python, and its passes over the study."""

    name: str
    module: str
    needs: str
    python: str = sys.executable
    passes: int = 4
    precision: str = "auto"


def find_contenders(
    only: list[str], nnunet: str | None, of_folder: bool = False, float32: bool = False
) -> tuple[list[Contender], list[str]]:
    """Those who take part, with their imports in the page cache now; and for each absent one a line that says why.

    only: keys of MODULES; ours always takes part. nnunet: the Python with nnU-Net, which is an error if it is absent.
    of_folder: for a model's folder of nnU-Net's kind, on which its whole predictor runs, and MONAI not. float32: ours
    takes part in float32, too.
    """
    python = nnunet or str(NNUNET_PYTHON)
    monai, predictor = "monai.inferers", "nnunetv2.inference.predict_from_raw_data"
    ours = Contender(name="ours", module=MODULES["ours"], needs="model.inference.segment")
    every = {"ours": [ours, replace(ours, name="ours, float32", precision="float32")] if float32 else [ours]}
    if of_folder:
        every["nnunet"] = [Contender(name="nnU-Net v2", module=OF_FOLDER, needs=predictor, python=python)]
    else:
        every["monai"] = [
            Contender(name=f"MONAI, {passes} passes", module=MODULES["monai"], needs=monai, passes=passes)
            for passes in (4, 5)
        ]
        every["nnunet"] = [Contender(name="nnU-Net v2", module=MODULES["nnunet"], needs=predictor, python=python)]
    found, absent = [], []
    for one in [one for key, some in every.items() for one in some if key in ("ours", *only)]:
        if error := import_error(one):
            absent.append(f"{one.name} took no part: {error} (benchmark/requirements.txt says how to install it).")
            print(absent[-1], file=sys.stderr)
        else:
            found.append(one)
    if nnunet and "nnunet" in only and found[-1].python != nnunet:
        raise SystemExit(f"error: '{nnunet}' was asked for with --nnunet")
    return found, absent


def import_error(one: Contender) -> str | None:
    """Why a contender cannot be imported; None if it can."""
    command = [one.python, "-c", f"import {one.module}, {one.needs}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    except OSError as error:
        return f"'{one.python}': {error.strerror}"
    return (done.stderr.splitlines() or ["it ended without a message"])[-1] if done.returncode else None


def run_in_turn(contenders: list[Contender], task: Task, runs: int, folder: Path) -> Runs:
    """Run every contender `runs` times, in turn, another one first each time: what was measured, with the masks."""
    found: Runs = {one.name: [] for one in contenders}
    for number in range(runs):
        first = number % len(contenders)
        for one in contenders[first:] + contenders[:first]:
            mask = folder / f"{task.window}-{number}-{one.name.replace(' ', '-')}" / "mask.mha"
            mask.parent.mkdir()
            measured = run_once(one, replace(task, mask=str(mask), passes=one.passes, precision=one.precision))
            measured["mask"] = sitk.GetArrayFromImage(sitk.ReadImage(str(mask))) != 0
            found[one.name].append(measured)
            line = f"{one.name}, window {task.window}, run {number + 1} of {runs}: {measured['total_s']:.1f} s"
            print(line, file=sys.stderr, flush=True)
    return found


def run_once(one: Contender, task: Task) -> dict[str, Any]:
    """One run in a process of its own: what the process printed, and its seconds from start to end."""
    command = [one.python, "-m", one.module, json.dumps(asdict(task))]
    begun = time.perf_counter()
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": path})
    total_s = time.perf_counter() - begun
    if done.returncode:
        raise SystemExit(f"error: {one.name} failed:\n{done.stderr[-2000:]}")
    printed = next(line for line in reversed(done.stdout.splitlines()) if line.startswith("{"))
    return {**json.loads(printed), "total_s": total_s}
