"""Comparisons of two dates in the results: where they lie, what they depend on, and what is read of a scored study.

A comparison depends on the images and lesions of both dates. Only its own `pair.json` says that it is complete.
"""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.bundle.manifest import Bundle
from model.errors import CaseError
from model.hospital.dates.matching import Match
from model.hospital.dates.studies import DatePair
from model.hospital.folder import COMPARISONS, STUDIES
from model.hospital.job import PairJob
from model.hospital.names import digest_in
from model.hospital.plan import folders_by_digest
from model.hospital.stored_results import read_report
from model.schema import to_plain
from model.study.geometry import Grid
from model.study.masks import check_grid, read_mask

PAIR, PICTURE, SMALL_PICTURE = "pair.json", "two-dates.png", "thumbnail.png"
METHOD = 1  # of registration and matching: another number has every pair compared anew
LESIONS = "lesions.json"


def pair_job(pair: DatePair, bundle: Bundle) -> PairJob:
    """What is to be compared. Raises CaseError if a study's results are not what score.py wrote."""
    first, second = pair.first.job, pair.second.job
    return PairJob(
        name=f"{digest_in(first.name)}-{digest_in(second.name)}",
        key=pair_key(first.output, first.name, second.name),
        patient=pair.first.patient,
        days=pair.days,
        first=first,
        second=second,
        limits=to_plain(bundle.manifest.limits),
    )


def pair_key(output: Path, first: str, second: str) -> str:
    """A hash of all that a comparison of two scored studies depends on. Raises CaseError."""
    return hashlib.sha256(
        json.dumps([METHOD, *(_depends(output, one) for one in (first, second))]).encode()
    ).hexdigest()


def earlier_pairs(output: Path) -> dict[str, tuple[dict[str, Any], str, str]]:
    """By folder, the comparisons that hold for the results that are there: what they found, and both studies' names."""
    found = {}
    studies = {digest: names[0] for digest, names in folders_by_digest(output).items()}
    with suppress(OSError):
        for path in sorted((output / COMPARISONS).iterdir()):
            content = read_pair(output, path.name)
            with suppress(CaseError, KeyError, TypeError):
                first, second = (studies[digest_in(content[side])] for side in ("first", "second"))  # type: ignore[index]
                if content is not None and content["key"] == pair_key(output, first, second):
                    found[path.name] = (content, first, second)
    return found


def lesions_of(output: Path, study: str) -> dict[str, Any]:
    """The lesion table of a scored study: lesions.json. Raises CaseError."""
    path = output / STUDIES / study / LESIONS
    with suppress(OSError, ValueError):
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content.get("lesions"), list) and isinstance(content.get("totals"), dict):
            return content
    raise CaseError(f"'{path}' cannot be read, or is no lesion table; remove the study's folder and run again")


def mask_of(output: Path, study: str, grid: Grid) -> NDArray[np.bool_]:
    """The mask of a scored study that its lesion table is of, bool (z, y, x) on the PET's grid. Raises CaseError."""
    report = read_report(output, study)
    if report is None:
        raise CaseError(f"'{output / STUDIES / study}' has no report; remove the study's folder and run again")
    path = output / STUDIES / study / f"mask{report['batch']['options']['mask_ending']}"
    mask, found = read_mask(path, "mask")
    check_grid(found, f"mask '{path}'", grid, "its PET")
    return mask


def read_pair(output: Path, name: str) -> dict[str, Any] | None:
    """What a comparison found; None if it is not there, or not whole."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        content: dict[str, Any] = json.loads((output / COMPARISONS / name / PAIR).read_text(encoding="utf-8"))
        matches_in(content)
        return content
    return None


def is_compared(job: PairJob, output: Path) -> bool:
    """Whether the pair's comparison is there: of these images and lesions, and with the days and the patient that its
    picture names, which a list's columns may correct.
    """
    content = read_pair(output, job.name) or {}
    stated = ("key", "days", "patient")
    return all(content.get(name) == getattr(job, name) for name in stated)


def matches_in(content: Mapping[str, Any]) -> tuple[Match, ...]:
    """The matches in what `plain_matches` made. Raises KeyError or TypeError."""
    return tuple(
        Match(**one | {side: tuple(map(int, one[side])) for side in ("first", "second")}) for one in content["matches"]
    )


def plain_matches(matches: tuple[Match, ...]) -> list[dict[str, Any]]:
    return [asdict(match) for match in matches]


def _depends(output: Path, study: str) -> list[Any]:
    """What a comparison depends on of one study: its images, and number, volume and centre of each lesion."""
    report = read_report(output, study)
    rows = lesions_of(output, study)["lesions"]
    names = ("number", "volume_ml", "centroid_x_mm", "centroid_y_mm", "centroid_z_mm")
    try:
        return [(report or {})["batch"]["images_sha256"], [[row[name] for name in names] for row in rows]]
    except (KeyError, TypeError):
        path = output / STUDIES / study
        raise CaseError(f"'{path}' was written by an older version; remove the study's folder and run again") from None
