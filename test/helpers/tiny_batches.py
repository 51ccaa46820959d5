"""Folders of tiny studies, and score.py on them in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import SimpleITK as sitk
from conftest import ROOT
from dicom_writer import write_study as write_dicom
from tiny_studies import tiny_images
from warm import WarmProcess

from model.hospital.job import Job, Setup, job_from, setup_from, to_json
from model.hospital.options import arguments
from model.hospital.run import run
from model.hospital.worker import Scorer

VENDORS = ("ge", "siemens", "philips")


def small(seed: int = 0) -> tuple[sitk.Image, sitk.Image]:
    """PET and CT of 20 x 18 x 9 and 40 x 36 x 14 voxels; the seed makes the PET another one."""
    pet, ct = tiny_images()
    return pet[4:24, 4:22, 5:14] * (1 + 0.1 * seed), ct[:50, :46, 4:20]


def dicom_studies(root: Path, count: int = 3) -> Path:
    """`count` studies of as many patients, with names that are easy to find if they leak."""
    for number in range(count):
        write_dicom(
            root / f"Smith_John_{number}",
            *small(number),
            VENDORS[number % 3],
            number + 1,
            PatientName=f"Smith^John^{number}",
            SeriesDescription="Smith whole body",
        )
    return root


def image_study(folder: Path, seed: int = 0) -> Path:
    """One study as a pair of MHA files; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for image, what in zip(small(seed), ("pet", "ct"), strict=True):
        sitk.WriteImage(image, str(folder / f"{folder.name}_{what}.mha"), True)
    return folder


def command(*arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / "score.py"), *map(str, arguments), "--device", "cpu"]


def environment() -> dict[str, str]:
    """This process's environment, in which Python ends every process that uses the network, children too."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("LESION_")}
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "test" / "offline"), "LESION_PRECISION": "float32"}
    return clean | own


def score(*arguments: object, timeout: float = 600, **options: object) -> subprocess.CompletedProcess[str]:
    """Run score.py to its end. options: those of WarmProcess."""
    return started(*arguments, **options).wait(timeout)


def started(*arguments: object, **options: object) -> WarmProcess:
    """score.py, which goes on until it ends."""
    return WarmProcess(*command(*arguments)[1:], **{"env": environment(), **options})


class WorkerHere:
    """Stands for the scoring process: it scores in this one, from the same JSON."""

    def __init__(self, setup: Setup, inherited: int | None = None, on_estimate: object = None) -> None:
        self._setup, self._scorer = setup_from(json.loads(to_json(setup))), None

    def __enter__(self) -> "WorkerHere":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def start(self) -> None:
        self._scorer = self._scorer or Scorer(self._setup)

    def ask(self, job: Job, following: Job | None) -> dict:
        self.start()
        return self._scorer.answer(job_from(json.loads(to_json(job))), None)


def score_here(*words: object) -> None:
    """Run score.py's room in this process, which is faster than a process of its own. Raises its errors."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("model.hospital.run.WorkerProcess", WorkerHere)
        run(arguments(list(map(str, words))))


def contents(output: Path, *but: str) -> dict[str, bytes]:
    """All files of a results folder that do not depend on the time, by their path."""
    timed = (
        "report.json",
        "seg.dcm",
        "rtstruct.dcm",
        "report.html",
        "journal.jsonl",
        "keys.csv",
        ".lock",
        ".last-run",
        ".salt",
        *but,
    )
    return {
        str(path.relative_to(output)): path.read_bytes()
        for path in sorted(output.rglob("*"))
        if path.is_file() and path.name not in timed
    }
