"""Find masks that somebody drew below a folder, and the studies that they are of.

An image (MHA, NIfTI, NRRD) is known by its place or its name, a SEG or an RTSTRUCT by the series or the study that it
refers to, else like an image.
"""

import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from model.dicom.derived import MODEL
from model.dicom.drawn import Belonging, belonging_of
from model.dicom.headers import looks_like_dicom
from model.errors import CaseError, ConfigError
from model.hospital.find.entry import Entry
from model.hospital.find.image_pairs import is_image
from model.study.reading import stem
from model.terminal import say

OUR_IMAGES = ("mask", "network-mask", "edited-mask", "disagreement", "organs")  # the names of what score.py writes
OUR_OTHERS = (
    "before-edit",
    "dropped-lesions.csv",
    "lesions.csv",
    "lesions.json",
    "picture.dcm",
    "preview.png",
    "report.json",
    "report.pdf",
    "rtstruct.dcm",
    "seg-organs.dcm",
    "seg.dcm",
    "sr.dcm",
    "thumbnail.png",
)
NAME_IN_PATH = re.compile(r"\w+-([0-9a-f]{12})(?![0-9a-f])")  # a study's name in the results, and its hash


def drawn_files(folder: Path, option: str) -> dict[Path, Belonging | None]:
    """The masks below a folder, sorted: what a SEG or an RTSTRUCT belongs to; None for an image.

    Other files are passed over. option: names the folder in messages. Raises ConfigError if it cannot be searched.
    """

    def on_error(error: OSError) -> None:
        raise ConfigError(
            f"{option} '{folder}' cannot be searched: {error.strerror}; give a folder that this user may read"
        )

    found: dict[Path, Belonging | None] = {}
    for place, folders, names in os.walk(folder, onerror=on_error):
        folders.sort()
        for path in (Path(place) / name for name in sorted(names)):
            if path.is_file() and is_image(path):
                found[path] = None
            elif path.is_file() and (belonging := drawn_dicom(path, name_others=True)):
                found[path] = belonging
    return found


def drawn_dicom(path: Path, name_others: bool = False) -> Belonging | None:
    """What a SEG or an RTSTRUCT belongs to; None for any other file, and for one that cannot be read.

    name_others: name others' objects without pixels on standard output, such as the SR that a viewer stores
    measurements in.
    """
    try:
        belonging = belonging_of(path) if looks_like_dicom(path) else None
    except CaseError:
        return None
    if name_others and belonging and not (belonging.kind or belonging.pixels or belonging.made_by == MODEL):
        what = f"a DICOM {belonging.modality}" if belonging.modality else "DICOM of another kind"
        say(f"passed over, since only SEG, RTSTRUCT and images hold masks: '{path}' is {what}", sys.stdout)
    return belonging if belonging and belonging.kind else None


def foreign_masks(folder: Path, name_others: bool = False) -> Iterator[Path]:
    """The masks, SEG and RTSTRUCT that another program put into a study's folder of the results, sorted.

    name_others: see `drawn_dicom`. Raises OSError.
    """
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_file():
            continue
        if is_image(path):
            if stem(path) not in OUR_IMAGES:
                yield path
        elif (belonging := drawn_dicom(path, name_others)) and belonging.made_by != MODEL:
            yield path


def foreign_files(folder: Path) -> Iterator[Path]:
    """All files and folders that another program put into a study's folder of the results, sorted. Raises OSError."""
    masks = set(foreign_masks(folder))
    for path in sorted(folder.iterdir()):
        ours = path.name in OUR_OTHERS or stem(path) in OUR_IMAGES
        if path in masks or not (ours or path.name.startswith(".")):
            yield path


def matched(
    files: Mapping[Path, Belonging | None],
    folder: Path,
    entries: Sequence[Entry],
    root: Path,
    digests: Sequence[str] = (),
) -> tuple[dict[int, list[Path]], list[Path]]:
    """Which files below `folder` are of which study, by its place in `entries`; and the files that are of none.

    root: the folder of studies. digests: the hashes in the studies' names in the results, in the order of `entries`.
    """
    of_study: dict[int, list[Path]] = {}
    unmatched = []
    series = [_series_of(entry) for entry in entries] if any(files.values()) else []
    stems = _stems(entries, root)
    for path, belonging in files.items():
        numbers = _by_uid(belonging, entries, series) if belonging else []
        inside = path.relative_to(folder)
        if not numbers:
            named = {found[1] for found in NAME_IN_PATH.finditer(str(inside))}
            own = {str(inside.with_name(one)) for one in (stem(path), stem(path).removesuffix(".seg"))}
            numbers = [number for number, digest in enumerate(digests) if digest in named]
            numbers = numbers or [number for number, names in enumerate(stems) if names & own]
        for number in numbers:
            of_study.setdefault(number, []).append(path)
        unmatched += [] if numbers else [path]
    return of_study, unmatched


def only_one(files: Sequence[Path], option: str, study: str) -> Path:
    """The one mask of a study. Raises ConfigError if there are several."""
    if len(files) > 1:
        names = ", ".join(f"'{path}'" for path in files)
        raise ConfigError(f"{option}: {len(files)} masks are of study '{study}': {names}; keep one of them there")
    return files[0]


def _stems(entries: Sequence[Entry], root: Path) -> list[set[str]]:
    """For each study, the paths that its mask may have below a folder, without endings: its own folder's below `root`,
    unless other studies lie there, or those of its images.
    """
    sources = Counter(entry.source for entry in entries)
    folders = Counter(entry.pet[0].parent for entry in entries)
    found = []
    for entry in entries:
        paths = [entry.source] if sources[entry.source] == 1 else []
        if entry.kind == "images":
            paths += [path.with_name(stem(path)) for path in (*entry.ct, *entry.pet)]
            paths += [entry.pet[0].parent] if folders[entry.pet[0].parent] == 1 else []
        found.append({str(path.relative_to(root)) for path in paths if path.is_relative_to(root) and path != root})
    return found


def _by_uid(belonging: Belonging, entries: Sequence[Entry], series: Sequence[frozenset[str]]) -> list[int]:
    """The studies of an object's patient whose series it refers to, else those in whose study it lies."""
    same = [number for number, entry in enumerate(entries) if _same_patient(belonging, entry)]
    referred = [number for number in same if belonging.series & series[number]]
    return referred or [
        number for number in same if belonging.study_uid and belonging.study_uid == entries[number].study_uid
    ]


def _same_patient(belonging: Belonging, entry: Entry) -> bool:
    own = entry.person[1] if len(entry.person) > 1 else ""
    return entry.kind == "dicom" and (not own or not belonging.patient_id or own == belonging.patient_id)


def _series_of(entry: Entry) -> frozenset[str]:
    """The UIDs of a study's series; none for images."""
    if entry.kind != "dicom":
        return frozenset()
    files = dict.fromkeys((entry.pet[0], entry.pet[-1], *entry.ct[:1], *entry.ct[-1:]))
    found: set[str] = set()
    for path in files:
        try:
            found |= belonging_of(path).series
        except CaseError:
            continue  # whoever reads the study says what is wrong
    return frozenset(found)
