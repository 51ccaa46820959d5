"""The cache of prepared studies: one folder a case, written whole or not at all, read as memory-mapped arrays.

A folder holds hu.npy (int16), suv.npy (float16), truth.npy (bool), all (X, Y, Z) in network order, points.npz (where
crops may be drawn) and study.json.
"""

import errno
import fcntl
import hashlib
import json
import resource
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache as once
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from model.bundle.settings import Crop, Limits
from model.errors import ConfigError
from model.files import sha256_of
from model.schema import to_plain
from model.whole import locked, remove_left_behind, whole_folder
from training.data.table import Study

FORMAT = 5
UPTAKE_SUV = 2.5  # physiological uptake above this can be mistaken for a lesion
MOST_POINTS = 20_000  # kept of each kind: crops are drawn around them
POINTS = ("lesion", "uptake", "lesion_parts", "uptake_parts")  # in points.npz
OPEN_FILES = 3  # the arrays of a study, mapped from their files


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A study in network order (X, Y, Z), LAS, cropped; the arrays are memory-mapped.

    lesion, uptake: int16 (n, 3) voxels of the truth, and of PET above UPTAKE_SUV outside it, at most MOST_POINTS.
    lesion_parts, uptake_parts: int16 (n, 4), the same by 18-connected component, whose number comes first.
    lost_ml: truth outside the crop, which no prediction can find; of it missed_ml in lost_lesions components that lie
    wholly outside.
    body: the patient whose body a tumour was put into, if any (training blend).
    sha256: of study.json, which names the study's files by their own, the crop and the format: equal studies are
    equal wherever their cache lies. Of a study that was computed (Study.made) it is of how it was made and of the crop
    alone, so that a run goes on on a machine whose processor rounds otherwise.
    """

    case: str
    patient: str
    sha256: str
    hu: np.ndarray
    suv: np.ndarray
    truth: np.ndarray
    lesion: np.ndarray
    uptake: np.ndarray
    lesion_parts: np.ndarray
    uptake_parts: np.ndarray
    spacing_mm: tuple[float, float, float]
    lost_ml: float = 0.0
    lost_lesions: int = 0
    missed_ml: float = 0.0
    body: str = ""

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(np.prod(self.spacing_mm)) / 1000


def load(cache: Path, case: str) -> Prepared:
    """A prepared study. Raises ConfigError if it is not in the cache."""
    _allow_open_files()
    folder = cache / case
    facts = facts_of(folder)
    if facts is None or facts.get("format") != FORMAT:
        raise ConfigError(f"'{folder}' holds no prepared study of this version; run training prepare")
    try:
        hu, suv, truth = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("hu", "suv", "truth"))
        with np.load(folder / "points.npz") as file:
            points = {name: file[name] for name in POINTS}
        x, y, z = facts["spacing_mm"]
        lost = {name: facts[name] for name in ("lost_ml", "lost_lesions", "missed_ml")}
        digest, patient, body = identity(folder, facts), facts["patient"], facts.get("body", "")
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        if isinstance(error, OSError) and error.errno == errno.EMFILE:
            limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            raise ConfigError(
                f"too many files are open: a prepared study takes {OPEN_FILES} while it is used, and this system "
                f"allows {limit} a process; raise its hard limit (ulimit -Hn, or nofile in /etc/security/limits.conf)"
            ) from None
        raise ConfigError(f"'{folder}' is damaged: {error}; delete it and run training prepare again") from None
    return Prepared(
        case=case,
        patient=patient,
        body=body,
        sha256=digest,
        hu=hu,
        suv=suv,
        truth=truth,
        **points,
        spacing_mm=(x, y, z),
        **lost,
    )


def identity(folder: Path, facts: Mapping[str, Any]) -> str:
    """The sha256 that names a prepared study, see Prepared. facts: of its study.json. Raises OSError, KeyError."""
    if not facts.get("made"):
        return sha256_of(folder / "study.json")
    said = {key: facts.get(key) for key in ("format", "case", "patient", "body", "made", "crop")}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


@once
def _allow_open_files() -> None:
    """Raise this process's limit of open files to the most allowed: a common 1024 is too few for 350 studies."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def digest_of(studies: Iterable[Prepared]) -> str:
    """One sha256 for these studies: the same for equal studies, wherever their cache lies."""
    return hashlib.sha256("".join(study.sha256 for study in studies).encode()).hexdigest()


def crop_of(cache: Path, case: str) -> Crop:
    """The crop a case was prepared with. Raises ConfigError if it is not in the cache."""
    facts = facts_of(cache / case)
    if facts is None:
        raise ConfigError(f"'{cache / case}' holds no prepared study; run training prepare")
    return Crop(**facts["crop"])


def one_crop(cache: Path, cases: Sequence[str]) -> Crop:
    """The crop that all cases were prepared with. Raises ConfigError if there are several, or no cases."""
    crops = {crop_of(cache, case) for case in cases}
    if len(crops) != 1:
        what = "was prepared with several crops; run training prepare again" if crops else "has no validation case"
        raise ConfigError(f"the fold, in '{cache}', {what}")
    return crops.pop()


def patients_of(cache: Path, case: str) -> set[str]:
    """Whose study a prepared case is: its patient, and whose body it shows if that is another's; none if not there."""
    facts = facts_of(cache / case) or {}
    return {facts[key] for key in ("patient", "body") if facts.get(key)}


def warnings_of(cache: Path, case: str, limits: Limits) -> list[str]:
    """Warnings about a prepared case: those of the container, and truth that the crop cuts off."""
    facts = facts_of(cache / case) or {}
    warnings: list[str] = list(facts.get("warnings", ()))
    if (share := facts.get("ct_share", 1.0)) < limits.ct_coverage_warn:
        warnings.append(f"its CT covers {100 * share:.1f} % of the PET's uptake; air was assumed in the rest")
    if (lost := facts.get("lost_ml", 0.0)) > 0:
        warnings.append(f"{lost:.2f} ml of its truth lie outside the crop")
    return warnings


def is_current(study: Study, cache: Path, crop: Crop) -> bool:
    """Whether the cache holds this study, prepared from the files of the index with the same settings."""
    facts = facts_of(cache / study.case)
    return facts is not None and all(facts.get(key) == value for key, value in key_of(study, crop).items())


def remove_unfinished(cache: Path) -> None:
    """Remove what killed processes left in the cache, unless another process is writing into it."""
    with locked(cache, fcntl.LOCK_EX | fcntl.LOCK_NB) as alone:
        if alone:
            remove_left_behind(cache, alone=True)


def store(
    target: Path, arrays: Mapping[str, np.ndarray], points: Mapping[str, np.ndarray], facts: Mapping[str, Any]
) -> None:
    """Write a prepared study whole, in the place of an older one. Raises OSError."""
    cache = target.parent
    cache.mkdir(parents=True, exist_ok=True)
    with locked(cache, fcntl.LOCK_SH), whole_folder(target) as folder:  # the lock keeps `remove_unfinished` out
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)
        lesion, uptake, lesion_parts, uptake_parts = (points[name] for name in POINTS)
        np.savez(
            folder / "points.npz", lesion=lesion, uptake=uptake, lesion_parts=lesion_parts, uptake_parts=uptake_parts
        )
        (folder / "study.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def key_of(study: Study, crop: Crop) -> dict[str, Any]:
    """What must be the same for a prepared study to be current: its files, its crop and the format of the cache."""
    about = {"case": study.case, "patient": study.patient, "sha256": study.sha256}
    about |= {key: value for key in ("body", "made") if (value := getattr(study, key))}
    return {"format": FORMAT, **about, "crop": to_plain(crop)}


def facts_of(folder: Path) -> dict[str, Any] | None:
    """The content of study.json in a case's folder; None if it cannot be read."""
    try:
        facts = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return facts if isinstance(facts, dict) else None
