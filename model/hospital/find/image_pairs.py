"""Find pairs of PET and CT among image files (MHA, MHD, NRRD, NIfTI), by the words in the names of files and folders.

PET: suv, else pet or pt. CT: ctres (on the PET's grid), else ct. Truth: seg, truth, mask, label, gt, or anything in a
folder with such a name. nnU-Net: <case>_0000 is CT and <case>_0001 PET. Two files belong to one study if their names
and folders are the same without these words, or if they are the only PET and the only CT of a folder. A PET without CT
is a study only where that is asked for.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from model.hospital.find.entry import FIND, NO_PET, PET_ONLY_REMEDY, Entry, FoundStudies, Unusable
from model.study.reading import SUFFIXES, stem

PET, CT, TRUTH = "PET", "CT", "truth"
WORDS = {  # word -> role and rank; the lowest rank is taken
    "suv": (PET, 0),
    "pet": (PET, 1),
    "pt": (PET, 1),
    "0001": (PET, 1),
    "ctres": (CT, 0),
    "ct": (CT, 1),
    "0000": (CT, 1),
    "seg": (TRUTH, 0),
    "truth": (TRUTH, 0),
    "mask": (TRUTH, 0),
    "label": (TRUTH, 0),
    "gt": (TRUTH, 0),
    "segmentation": (TRUTH, 0),
}
FOLDERS = {
    "pet": PET,
    "pt": PET,
    "suv": PET,
    "ct": CT,
    "truth": TRUTH,
    "labels": TRUTH,
    "labelstr": TRUTH,
    "masks": TRUTH,
    "seg": TRUTH,
    "images": "",
    "imagestr": "",
    "imagests": "",
}  # names of folders -> role, or ""; these folders do not separate studies


@dataclass(frozen=True, kw_only=True)
class Image:
    """One image file: its role and rank, and the folder and key that it shares with the others of its study."""

    path: Path
    role: str
    rank: int
    folder: Path
    key: str


def is_image(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".")


def find_images(files: Iterable[Path], root: Path, pet_alone: bool = False) -> FoundStudies:
    """The studies among image files below a folder. pet_alone: whether a PET without CT is one."""
    images = [_image(path, root) for path in sorted(files)]
    known = [image for image in images if image is not None]
    groups: dict[tuple[Path, str], list[Image]] = {}
    for image in known:
        groups.setdefault((image.folder, image.key), []).append(image)
    groups = _joined(groups)
    entries: list[Entry] = []
    unusable: list[Unusable] = []
    for (folder, key), members in sorted(groups.items()):
        if all(image.role == TRUTH for image in members):
            continue
        made = _entry(_identity(folder, key), members, root, pet_alone)
        (entries if isinstance(made, Entry) else unusable).append(made)  # type: ignore[arg-type]
    return FoundStudies(entries=tuple(entries), unusable=tuple(unusable), ignored=len(images) - len(known))


def identity_of_image(pet: Path, root: Path) -> str | None:
    """The identity of the study of a PET image; None if the file does not lie below `root` or has no name of a PET."""
    path = Path(os.path.abspath(pet))
    image = _image(path, root) if path.is_relative_to(root) else None
    return _identity(image.folder, image.key) if image is not None and image.role == PET else None


def _identity(folder: Path, key: str) -> str:
    return f"images:{folder.as_posix()}:{key}"


def _image(path: Path, root: Path) -> Image | None:
    folders = path.relative_to(root).parent.parts
    words = re.split(r"[^a-z0-9]+", stem(path).lower())
    found = [WORDS[word] for word in words if word in WORDS]
    above = [FOLDERS[name.lower()] for name in folders if FOLDERS.get(name.lower())]
    role, rank = found[-1] if found else ("", 1)
    if TRUTH in above or not role:
        role, rank = (above[-1], 1) if above else ("", 1)
    if not role:
        return None
    return Image(
        path=path,
        role=role,
        rank=rank,
        folder=Path(*(f for f in folders if f.lower() not in FOLDERS)),
        key="_".join(word for word in words if word not in WORDS),
    )


def _joined(groups: dict[tuple[Path, str], list[Image]]) -> dict[tuple[Path, str], list[Image]]:
    """The groups, where a folder's only PET and only CT are one group even if their names differ."""
    by_folder: dict[Path, list[tuple[Path, str]]] = {}
    for group in groups:
        by_folder.setdefault(group[0], []).append(group)
    for names in by_folder.values():
        roles = {name: {image.role for image in groups[name]} for name in names}
        pets = [name for name in names if PET in roles[name]]
        cts = [name for name in names if CT in roles[name]]
        if len(pets) == len(cts) == 1 and pets != cts:
            truths = [name for name in names if roles[name] == {TRUTH} and len(groups[name]) == 1]
            for name in cts + (truths if len(truths) == 1 else []):
                groups[pets[0]] += groups.pop(name)
    return groups


def _entry(identity: str, members: list[Image], root: Path, pet_alone: bool) -> Entry | Unusable:
    taken: dict[str, Path] = {}
    picks: list[str] = []
    source = root / members[0].folder / members[0].key
    for role in (PET, CT, TRUTH):
        images = sorted((image for image in members if image.role == role), key=lambda image: (image.rank, image.path))
        best = [image for image in images if image.rank == images[0].rank]
        if len(best) > 1:
            names = ", ".join(f"'{image.path}'" for image in best)
            message = f"{len(best)} files could be the {role} of one study: {names}; keep one, or name them in a CSV"
            return Unusable(identity=identity, source=source, message=message)
        if best:
            taken[role] = best[0].path
            if len(images) > 1 and role != TRUTH:
                picks.append(f"{role}: took '{images[0].path}', not " + ", ".join(f"'{i.path}'" for i in images[1:]))
    missing = next((role for role in (PET, CT) if role not in taken), None)
    if missing == PET or (missing and not pet_alone):
        alone = next(iter(taken.values()))
        message = (
            f"'{alone}' has no {missing} beside it; add the {missing}, with {missing.lower()} in its name, or leave "
            f"this file out{PET_ONLY_REMEDY if missing == CT else ''}"
        )
        return Unusable(identity=identity, source=alone, message=message, stage=NO_PET if missing == PET else FIND)
    return Entry(
        identity=identity,
        source=source,
        kind="images",
        pet=(taken[PET],),
        ct=(taken[CT],) if CT in taken else (),
        picks=tuple(picks),
        truth=taken.get(TRUTH),
    )
