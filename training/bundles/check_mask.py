"""Run one case through process.py, and compare its mask with the one that the selected members give."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.bundle.settings import Crop
from model.errors import CaseError, WeightsError
from model.inference.preprocess import foreground_box
from model.study.geometry import las_view
from model.study.reading import read_volume
from training.data.table import Study

ROOT = Path(__file__).resolve().parent.parent.parent
LEAST_DICE = 0.99  # the cache rounds SUV, HU and logits: a few voxels may change sides


def run_process(study: Study, bundle: Path, output: Path, device: str) -> Path:
    """The mask that process.py writes for a study. Raises CaseError with its last line if it fails."""
    command = [sys.executable, str(ROOT / "process.py"), "--input", str(study.pet), str(study.ct)]
    command += ["--output", str(output), "--weights", str(bundle), "--device", device]
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("LESION_", "AUTOPET_"))}
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=clean, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1].removeprefix("error: ")
        raise CaseError(f"process.py fails on case {study.case} with the new bundle: {reason}")
    return next(output.glob("images/*/*.mha"))


def in_crop(mask: Path, study: Study, crop: Crop) -> tuple[NDArray[np.bool_], int]:
    """A mask on the PET's grid as (X, Y, Z) of the prepared study, and how many of its voxels lie outside."""
    pet = read_volume(study.pet, "PET")
    view = las_view(pet.grid)
    whole = view.to_las(read_volume(mask, "mask").array) != 0
    box = foreground_box(view.to_las(pet.array), crop.suv_above)
    assert box is not None  # a study without foreground cannot be prepared
    inside = whole[box].transpose(2, 1, 0)
    return inside, int(np.count_nonzero(whole)) - int(np.count_nonzero(inside))


def compare(case: str, found: NDArray[np.bool_], outside: int, expected: NDArray[np.bool_]) -> str:
    """How well the two masks of a case agree, as a line of text; two empty masks agree.

    outside: voxels of the first that lie outside the crop. Raises WeightsError if there are any, or for a Dice below
    LEAST_DICE.
    """
    first, second, both = (int(np.count_nonzero(mask)) for mask in (found, expected, found & expected))
    dice = 2 * both / (first + second) if first + second else 1.0
    message = (
        f"case {case}: the masks of process.py and of the selection have Dice {dice:.5f} "
        f"({first} and {second} voxels, {first + second - 2 * both} differ)"
    )
    if dice < LEAST_DICE or outside:
        beyond = f", and {outside} voxels outside the crop" if outside else ""
        raise WeightsError(f"{message}{beyond}; at least {LEAST_DICE} is needed: no bundle was written")
    return message
