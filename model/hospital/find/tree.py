"""The studies below a folder, or those that a CSV names: DICOM, and pairs of images.

The CSV has the columns pet and ct, each an image file or a folder with DICOM, and, if it likes, truth (a mask on the
PET's grid) and weight_kg (in place of the header's); separated by comma, semicolon or tab. Relative paths are relative
to the CSV.
"""

import csv
import io
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from model.dicom.headers import looks_like_dicom
from model.dicom.weight_and_dose import WEIGHT_KG
from model.errors import CaseError, ConfigError
from model.hospital.find.dicom_series import (
    common_folder,
    find_dicom,
    identity_with_patient,
    pick_ct,
    pick_pet,
    taken_of,
    warnings_of,
)
from model.hospital.find.dicom_series import identity_of as identity_of_study
from model.hospital.find.entry import Entry, Found, Unusable
from model.hospital.find.image_pairs import find_images, is_image
from model.hospital.find.image_pairs import identity_of as identity_of_image
from model.hospital.find.scan import SeriesInfo, scan
from model.study.reading import SUFFIXES

NEEDED, KNOWN = ("pet", "ct"), ("pet", "ct", "truth", "weight_kg")


def find_studies(
    root: Path, output: Path, named: bool = False, told: Callable[[int], None] = lambda files: None
) -> Found:
    """All studies below `root`, or in the CSV `root`; what lies in `output` is passed over.

    named: notes may hold what DICOM calls a series. told: hears how many files were looked at. Raises ConfigError if
    `root` is not there, cannot be read, or is no such CSV.
    """
    if root.is_file() and root.suffix.lower() == ".csv":
        return read_list(root)
    if not root.is_dir():
        raise ConfigError(f"'{root}' is neither a folder nor a CSV; give the folder that holds the studies")
    images, dicom, unusable, ignored = [], [], [], 0
    files, blocked = _walk(root, output)
    for number, path in enumerate(files, start=1):
        if is_image(path):
            images.append(path)
            continue
        try:
            if looks_like_dicom(path):
                dicom.append(path)
            else:
                ignored += 1
        except CaseError as error:
            unusable.append(_unusable(path, root, str(error)))
        told(number)
    unusable += [_unusable(path, root, why) for path, why in blocked.items()]
    rest = Found(unusable=tuple(unusable), ignored=ignored)
    return find_dicom(dicom, root, named) + find_images(images, root) + rest


def without_truth(found: Found) -> Found:
    """The studies without the masks that lie beside them."""
    return replace(found, entries=tuple(replace(entry, truth=None) for entry in found.entries))


def with_truth(found: Found, root: Path, folder: Path) -> Found:
    """The studies with the masks to compare with, from a folder. Raises ConfigError if it is not there.

    A study's mask has there the path of its folder below `root`, or of its CT or PET, with the ending of an image.
    """
    if not folder.is_dir():
        raise ConfigError(f"--truth '{folder}' is not a folder; give the one that holds the masks")

    sources = Counter(entry.source for entry in found.entries)

    def matched(entry: Entry) -> Entry:
        own = [entry.source] if sources[entry.source] == 1 else []  # of several in a folder, a mask is of none
        stems = [*own, *(_without_ending(p) for p in (*entry.ct[:1], *entry.pet[:1]) if entry.kind == "images")]
        inside = [path.relative_to(root) for path in stems if path.is_relative_to(root) and path != root]
        tried = [folder / f"{path}{suffix}" for path in inside for suffix in SUFFIXES]
        try:
            return replace(entry, truth=next((path for path in tried if path.is_file()), None))
        except OSError as error:
            raise ConfigError(
                f"--truth '{folder}' cannot be looked through: {error.strerror}; give this user the right to read it"
            ) from None

    return replace(found, entries=tuple(matched(entry) for entry in found.entries))


def read_list(path: Path) -> Found:
    """The studies of a CSV. Raises ConfigError if it cannot be read or lacks a column; a bad row is an Unusable."""
    content, separator = read_csv_text(path)
    rows = csv.DictReader(io.StringIO(content, newline=""), delimiter=separator)
    names = [name.strip().lower() for name in rows.fieldnames or []]
    if missing := [name for name in NEEDED if name not in names]:
        raise ConfigError(
            f"'{path}' has no column {' and '.join(missing)}; it must have pet and ct, may have truth and weight_kg, "
            f"and has {', '.join(names) or 'none'}"
        )
    rows.fieldnames = names
    entries: dict[str, Entry] = {}
    unusable = []
    for number, row in enumerate(rows, start=1):
        cells = {name: (row.get(name) or "").strip() for name in KNOWN}
        if not any(cells.values()):
            continue
        try:
            entry = _listed(cells, path)
            if entry.identity in entries:
                raise CaseError("its study stands in a line above; remove one of them")
            entries[entry.identity] = entry
        except CaseError as error:
            named = tuple(path.parent / cells[name] for name in ("pet", "ct", "truth") if cells[name])
            said = f"line {rows.line_num}: {error}"
            unusable.append(Unusable(identity=f"row:{number}", source=path, message=said, paths=named))
    return Found() + Found(entries=_named_by_what_they_are(list(entries.values()), path), unusable=tuple(unusable))


def read_csv_text(path: Path) -> tuple[str, str]:
    """A CSV's text, and what separates its cells: comma, semicolon or tab. Raises ConfigError if it cannot be read."""
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot read '{path}': {why}; give a CSV in UTF-8") from None
    return content, max(",;\t", key=content.partition("\n")[0].count)


def _named_by_what_they_are(entries: list[Entry], table: Path) -> tuple[Entry, ...]:
    """Rows of a CSV under the identities that their studies have where they are found in a folder.

    Rows that share a study (of other series, say) keep those of their paths, which others have beside: a result may
    bear it.
    """
    patients = Counter((entry.study_uid, entry.person[1:]) for entry in entries if entry.kind == "dicom")
    uids = Counter(uid for uid, _ in patients)
    root = Path(os.path.abspath(table.parent))
    images = {entry.identity: identity_of_image(entry.pet[0], root) for entry in entries if entry.kind != "dicom"}
    shared = Counter(images.values())

    def identified(entry: Entry) -> Entry:
        if entry.kind != "dicom":
            own = images[entry.identity]
            return replace(entry, identity=own, also=(entry.identity,)) if own and shared[own] == 1 else entry
        plain = identity_of_study(entry.study_uid)
        whole = identity_with_patient(entry.study_uid, entry.person[1])
        if patients[entry.study_uid, entry.person[1:]] > 1:
            return entry
        if uids[entry.study_uid] > 1:
            return replace(entry, identity=whole, also=(entry.identity,))
        return replace(entry, identity=plain, also=(whole, entry.identity))

    return tuple(map(identified, entries))


def _listed(cells: dict[str, str], table: Path) -> Entry:
    """A row of a CSV. Raises CaseError naming what is wrong."""
    paths = {}
    for name in ("pet", "ct", "truth"):
        if cells[name]:
            paths[name] = table.parent / cells[name]  # an absolute path stays as it is
        elif name != "truth":
            raise CaseError(f"no path in column {name}; enter the {name.upper()}'s file or folder")
    for name, path in paths.items():
        try:
            there = path.exists()
        except OSError as error:  # no right to look, a name too long, a share that is gone
            raise CaseError(f"{name} '{path}' cannot be looked at: {error.strerror}; correct the path") from None
        if not there:
            raise CaseError(f"{name} '{path}' is not there; correct the path")
    weight_kg = None
    if cells["weight_kg"]:
        try:
            weight_kg = float(cells["weight_kg"].replace(",", "."))
        except ValueError:  # what it is instead may be a name
            raise CaseError("weight_kg is not a number; give it in kg, or leave it empty") from None
        low, high = WEIGHT_KG
        if not low <= weight_kg <= high:  # nor NaN
            raise CaseError(f"weight_kg is {weight_kg:g}; it must be {low:g} to {high:g}, in kg, or empty")
    kind = "dicom" if paths["pet"].is_dir() else "images"
    if paths["pet"].is_dir() != paths["ct"].is_dir():
        raise CaseError("one of PET and CT is a folder (DICOM) and the other a file (image); give two of one kind")
    warnings: tuple[str, ...] = ()
    series = ""
    pet: tuple[Path, ...] = (paths["pet"],)
    ct: tuple[Path, ...] = (paths["ct"],)
    person: tuple[str, ...] = ()
    study_uid = ""
    if kind == "dicom":
        pets, cts = (
            [s for s in _series(paths[name]) if s.modality == modality]
            for name, modality in (("pet", "PT"), ("ct", "CT"))
        )
        if not pets or not cts:
            empty = "pet" if not pets else "ct"
            raise CaseError(f"folder '{paths[empty]}' holds no DICOM series of a {empty.upper()}; correct the path")
        warnings = warnings_of(pick_pet(pets), pick_ct(cts, pick_pet(pets)), pets, cts)
        series = taken_of(pick_pet(pets), pick_ct(cts, pick_pet(pets)), named=False)
        taken = pick_pet(pets)
        pet, ct, person = taken.files, pick_ct(cts, taken).files, taken.person
        study_uid = taken.study
    source = common_folder((*pet, *ct)) if kind == "dicom" else _without_ending(paths["ct"])
    return Entry(
        warnings=warnings,
        taken=series,
        identity=f"csv:{cells['pet']} | {cells['ct']}",
        source=source,
        kind=kind,
        pet=pet,
        ct=ct,
        truth=paths.get("truth"),
        weight_kg=weight_kg,
        person=person,
        study_uid=study_uid,
    )


def _series(folder: Path) -> list[SeriesInfo]:
    try:
        return scan([path for path in folder.rglob("*") if path.is_file() and looks_like_dicom(path)])[0]
    except OSError as error:
        raise CaseError(f"folder '{folder}' cannot be looked through: {error.strerror}; check access to it") from None


def _walk(root: Path, output: Path) -> tuple[list[Path], dict[Path, str]]:
    """Files below a folder, sorted, without those in `output`; and the folders that cannot be read, with the reason."""
    files, blocked = [], {}
    whole = output.resolve()

    def refused(error: OSError) -> None:
        path = Path(os.fsdecode(error.filename or root))
        if path == root:
            raise ConfigError(f"cannot read '{root}': {error.strerror}; give a folder that this user may read")
        blocked[path] = f"folder '{path}' cannot be read: {error.strerror}; give this user the right to read it"

    for folder, folders, names in os.walk(root, onerror=refused):
        here = Path(folder)
        folders[:] = sorted(name for name in folders if (here / name).resolve() != whole)
        for name in sorted(names):
            try:
                if (here / name).is_file():
                    files.append(here / name)
                elif is_image(here / name) and (here / name).is_symlink():
                    blocked[here / name] = f"'{here / name}' is a link to nothing; fetch the file, or remove the link"
                elif is_image(here / name):
                    blocked[here / name] = f"'{here / name}' is no regular file; put the image there, or remove it"
            except OSError as error:  # a folder that may be listed, and not entered
                blocked[here / name] = (
                    f"'{here / name}' cannot be looked at: {error.strerror}; give this user the right to read it"
                )
    return files, blocked


def _unusable(path: Path, root: Path, why: str) -> Unusable:
    return Unusable(identity=f"file:{path.relative_to(root).as_posix()}", source=path, message=why)


def _without_ending(path: Path) -> Path:
    ending = next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), path.suffix)
    return path.with_name(path.name[: len(path.name) - len(ending)])
