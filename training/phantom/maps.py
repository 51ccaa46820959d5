"""Organ maps of real patients, on which phantoms are built: which there are, and which may serve for what.

A folder of maps holds `NAME.nii.gz`, uint8 label maps of ORGANS, and organs.csv, which names each map's patient. The
five in training/phantom/maps are of autoPET's patients (NOTICE beside them). A map stays on one side of every split:
its number modulo 20 decides (`part_of`), and the five are of the training side.
"""

import csv
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from model.errors import ConfigError

OWN_MAPS = Path(__file__).with_name("maps")
ORGANS = (  # label 1 is the first
    "spleen",
    "kidneys",
    "liver",
    "bladder",
    "lungs",
    "brain",
    "heart",
    "stomach",
    "prostate",
    "glands",
)
NEEDED = ("kidneys", "liver", "lungs", "heart")  # a body cannot be fitted without them
LEAST_ML = 50.0  # of each of them
MAP_ENDING = ".nii.gz"


@dataclass(frozen=True)
class MapFile:
    """One map of a folder: its name, its patient's pseudonym, and the file."""

    name: str
    patient: str
    path: Path


@dataclass(frozen=True)
class OrganMap:
    """A map's labels (z, y, x), LPS with z upwards, and its voxels' spacing (x, y, z) in mm."""

    name: str
    patient: str
    labels: np.ndarray
    spacing_mm: tuple[float, float, float]

    def mask(self, organ: str) -> np.ndarray:
        """Where an organ of ORGANS is, bool (z, y, x)."""
        found: np.ndarray = self.labels == 1 + ORGANS.index(organ)
        return found


def part_of(name: str) -> str:
    """The side of every split that a map belongs to: train (14 of 20), validate (2 of 20) or test (4 of 20).

    Raises ConfigError for a name that ends in no number.
    """
    digits = name.rsplit("_", 1)[-1]
    if not digits.isdigit():
        raise ConfigError(f"organ map '{name}' must end in its number, as organs_012 does: the number decides its side")
    place = int(digits) % 20
    return "train" if place < 14 else "validate" if place < 16 else "test"


def find_maps(folder: Path, part: str) -> list[MapFile]:
    """The maps of a folder that belong to one side, by name. Raises ConfigError for none, or a map without a row."""
    table = folder / "organs.csv"
    try:
        with table.open(newline="", encoding="utf-8") as file:
            patients = {row["name"]: row["source"] for row in csv.DictReader(file)}
    except (OSError, KeyError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(
            f"cannot read '{table}' with the columns name and source: {error}; name a folder of organ maps"
        ) from None
    names = sorted(path.name.removesuffix(MAP_ENDING) for path in folder.glob(f"*{MAP_ENDING}"))
    unknown = [name for name in names if name not in patients]
    if unknown:
        raise ConfigError(
            f"'{table}' has no row for {unknown[:3]}: a map without its patient cannot be kept on one side"
        )
    found = [MapFile(name, patients[name], folder / f"{name}{MAP_ENDING}") for name in names if part_of(name) == part]
    if not found:
        raise ConfigError(
            f"'{folder}' holds no organ map for {part} ({len(names)} maps for others); name another folder"
        )
    return found


@lru_cache(maxsize=4)
def read_map(file: MapFile) -> OrganMap:
    """A map. Raises ConfigError if it cannot be read, is no label map, or lacks an organ that a body is fitted by."""
    try:
        image = sitk.DICOMOrient(sitk.ReadImage(str(file.path)), "LPS")
    except RuntimeError as error:
        raise ConfigError(f"cannot read the organ map '{file.path}': {error}; copy it again") from None
    labels = sitk.GetArrayFromImage(image)
    x, y, z = image.GetSpacing()
    if labels.ndim != 3 or labels.max() > len(ORGANS):
        raise ConfigError(f"'{file.path}' is no organ map: labels go to {labels.max()}, known are 0 to {len(ORGANS)}")
    found = OrganMap(file.name, file.patient, labels.astype(np.uint8), (x, y, z))
    for organ in NEEDED:
        volume = float(found.mask(organ).sum()) * x * y * z / 1000
        if volume < LEAST_ML:
            raise ConfigError(
                f"organ map '{file.path}' holds {volume:.0f} ml of {organ}, {LEAST_ML:g} ml at least are needed to fit "
                "a body around it; take it out of the folder"
            )
    return found
