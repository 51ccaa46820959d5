"""Find the studies below a folder or in a CSV: DICOM, and pairs of images.

The CSV has the columns pet and ct, each an image file or a folder with DICOM, and optionally truth (a mask on the PET's
grid), weight_kg (in place of the header's), patient and date (for --compare-dates); separated by comma, semicolon or
tab. Relative paths are relative to the CSV's folder. Where studies of PET alone are asked for, ct may be empty.
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
    identity_of_study,
    identity_with_patient,
    pick_ct,
    pick_pet,
    taken_of,
    warnings_of,
)
from model.hospital.find.drawn import drawn_files, matched, only_one
from model.hospital.find.entry import PET_ONLY_REMEDY, Entry, FoundStudies, Unusable
from model.hospital.find.image_pairs import find_images, identity_of_image, is_image
from model.hospital.find.scan import SeriesInfo, scan
from model.study.reading import SUFFIXES

NEEDED, KNOWN = ("pet", "ct"), ("pet", "ct", "truth", "weight_kg", "patient", "date")


def find_studies(
    root: Path,
    output: Path,
    named: bool = False,
    on_file: Callable[[int], None] = lambda number: None,
    pet_alone: bool = False,
) -> FoundStudies:
    """All studies below the folder `root`, except what lies in `output`, or all studies in the CSV `root`.

    named: notes may hold DICOM's descriptions of series. on_file: called with the number of files looked at so far.
    pet_alone: whether a PET without CT is a study, too.
    Raises ConfigError if `root` is not there, cannot be read, or lacks a column.
    """
    if root.is_file() and root.suffix.lower() == ".csv":
        return read_list(root, pet_alone)
    if not root.is_dir():
        raise ConfigError(f"'{root}' is neither a folder nor a CSV; give the folder that holds the studies")
    images, dicom, unusable, ignored = [], [], [], 0
    files, blocked = _files_below(root, output)
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
        on_file(number)
    unusable += [_unusable(path, root, why) for path, why in blocked.items()]
    rest = FoundStudies(unusable=tuple(unusable), ignored=ignored)
    return find_dicom(dicom, root, named, pet_alone) + find_images(images, root, pet_alone) + rest


def without_truth(found: FoundStudies) -> FoundStudies:
    """The studies, without the truths that lie beside them."""
    return replace(found, entries=tuple(replace(entry, truth=None) for entry in found.entries))


def with_truth(found: FoundStudies, root: Path, folder: Path) -> FoundStudies:
    """The studies with their truths from a folder. Raises ConfigError if the folder is not there.

    A study's truth has the same path below `folder` as the study's folder, or its CT or PET, has below `root`, with
    the ending of an image. Else it is the SEG or RTSTRUCT that refers to the study.
    """
    if not folder.is_dir():
        raise ConfigError(f"--truth '{folder}' is not a folder; give the one that holds the masks")

    sources = Counter(entry.source for entry in found.entries)
    drawn = {path: belonging for path, belonging in drawn_files(folder, "--truth").items() if belonging}
    by_uid, _ = matched(drawn, folder, found.entries, root)

    def with_own(number: int, entry: Entry) -> Entry:
        own = [entry.source] if sources[entry.source] == 1 else []  # several studies share this folder
        stems = [*own, *(_without_ending(p) for p in (*entry.ct[:1], *entry.pet[:1]) if entry.kind == "images")]
        inside = [path.relative_to(root) for path in stems if path.is_relative_to(root) and path != root]
        tried = [folder / f"{path}{suffix}" for path in inside for suffix in SUFFIXES]
        try:
            image = next((path for path in tried if path.is_file()), None)
            dicom = by_uid.get(number, [])
            truth = image or (only_one(dicom, "--truth", entry.source.name) if dicom else None)
            return replace(entry, truth=truth)
        except OSError as error:
            raise ConfigError(
                f"--truth '{folder}' cannot be searched: {error.strerror}; give this user the right to read it"
            ) from None

    return replace(found, entries=tuple(with_own(*numbered) for numbered in enumerate(found.entries)))


def read_list(path: Path, pet_alone: bool = False) -> FoundStudies:
    """The studies in a CSV; a bad row is an Unusable. Raises ConfigError if it cannot be read or lacks a column.

    pet_alone: whether a row, or the list, may have no CT.
    """
    content, separator = read_csv_text(path)
    rows = csv.DictReader(io.StringIO(content, newline=""), delimiter=separator)
    names = [name.strip().lower() for name in rows.fieldnames or []]
    needed = NEEDED[:1] if pet_alone else NEEDED
    if missing := [name for name in needed if name not in names]:
        raise ConfigError(
            f"'{path}' has no column {' and '.join(missing)}; it must have pet and ct, may have truth, weight_kg, "
            f"patient and date, and has {', '.join(names) or 'none'}"
        )
    rows.fieldnames = names
    entries: dict[str, Entry] = {}
    unusable = []
    for number, row in enumerate(rows, start=1):
        cells = {name: (row.get(name) or "").strip() for name in KNOWN}
        if not any(cells.values()):
            continue
        try:
            entry = _entry_of_row(cells, path, pet_alone)
            if entry.identity in entries:
                raise CaseError("an earlier line has the same study; remove one of them")
            entries[entry.identity] = entry
        except CaseError as error:
            paths = tuple(path.parent / cells[name] for name in ("pet", "ct", "truth") if cells[name])
            message = f"line {rows.line_num}: {error}"
            unusable.append(Unusable(identity=f"row:{number}", source=path, message=message, paths=paths))
    return FoundStudies() + FoundStudies(
        entries=_with_lasting_identities(list(entries.values()), path), unusable=tuple(unusable)
    )


def read_csv_text(path: Path) -> tuple[str, str]:
    """A CSV's text and its separator: comma, semicolon or tab. Raises ConfigError if it cannot be read."""
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot read '{path}': {why}; give a CSV in UTF-8") from None
    return content, max(",;\t", key=content.partition("\n")[0].count)


def _with_lasting_identities(entries: list[Entry], table: Path) -> tuple[Entry, ...]:
    """The rows of a CSV with the identities that their studies have when they are found in a folder.

    A row keeps the identity made of its paths beside that, as an earlier result may be named by it. Rows that share a
    study (with other series, say) have only that one.
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


def _entry_of_row(cells: dict[str, str], table: Path, pet_alone: bool) -> Entry:
    """The study in a row of a CSV. Raises CaseError that says what is wrong."""
    paths = _paths_of_row(cells, table, pet_alone)
    ct = paths.get("ct")
    row = Entry(
        identity=f"csv:{cells['pet']} | {cells['ct']}",
        source=_without_ending(ct or paths["pet"]),
        kind="images",
        pet=(paths["pet"],),
        ct=(ct,) if ct else (),
        truth=paths.get("truth"),
        weight_kg=_weight_of_row(cells["weight_kg"]),
        patient=cells["patient"],
        date=cells["date"],
    )
    if ct and paths["pet"].is_dir() != ct.is_dir():
        raise CaseError("one of PET and CT is a folder (DICOM) and the other a file (image); give two of one kind")
    return _with_series(row, paths) if paths["pet"].is_dir() else row


def _paths_of_row(cells: dict[str, str], table: Path, pet_alone: bool) -> dict[str, Path]:
    """The paths in the columns pet, ct and truth. Raises CaseError if one is missing or not there."""
    may_lack = ("ct", "truth") if pet_alone else ("truth",)
    paths = {}
    for name in ("pet", "ct", "truth"):
        if cells[name]:
            paths[name] = table.parent / cells[name]  # an absolute path stays as it is
        elif name not in may_lack:
            remedy = PET_ONLY_REMEDY if name == "ct" else ""
            raise CaseError(f"no path in column {name}; enter the {name.upper()}'s file or folder{remedy}")
    for name, path in paths.items():
        try:
            there = path.exists()
        except OSError as error:  # no access, a name too long, a share that is gone
            raise CaseError(f"{name} '{path}' cannot be looked at: {error.strerror}; correct the path") from None
        if not there:
            raise CaseError(f"{name} '{path}' is not there; correct the path")
    return paths


def _weight_of_row(cell: str) -> float | None:
    """The weight in kg, None for an empty cell. Raises CaseError."""
    if not cell:
        return None
    try:
        weight_kg = float(cell.replace(",", "."))
    except ValueError:  # the message does not repeat the cell: it may hold a name
        raise CaseError("weight_kg is not a number; give it in kg, or leave it empty") from None
    low, high = WEIGHT_KG
    if not low <= weight_kg <= high:  # also refuses NaN
        raise CaseError(f"weight_kg is {weight_kg:g}; it must be {low:g} to {high:g}, in kg, or empty")
    return weight_kg


def _with_series(row: Entry, paths: dict[str, Path]) -> Entry:
    """A row's study with the series that are picked in its two DICOM folders. Raises CaseError if there is none."""
    pets, cts = (
        [s for s in _series_in(paths[name]) if s.modality == modality] if name in paths else []
        for name, modality in (("pet", "PT"), ("ct", "CT"))
    )
    if not pets or ("ct" in paths and not cts):
        empty = "pet" if not pets else "ct"
        raise CaseError(f"folder '{paths[empty]}' holds no DICOM series of a {empty.upper()}; correct the path")
    pet = pick_pet(pets)
    ct = pick_ct(cts, pet) if cts else None
    ct_files = ct.files if ct else ()
    return replace(
        row,
        kind="dicom",
        source=common_folder((*pet.files, *ct_files)),
        pet=pet.files,
        ct=ct_files,
        warnings=warnings_of(pet, ct, pets, cts),
        taken=taken_of(pet, ct, named=False),
        person=pet.person,
        study_uid=pet.study,
    )


def _series_in(folder: Path) -> list[SeriesInfo]:
    try:
        return scan([path for path in folder.rglob("*") if path.is_file() and looks_like_dicom(path)])[0]
    except OSError as error:
        raise CaseError(f"folder '{folder}' cannot be searched: {error.strerror}; check access to it") from None


def _files_below(root: Path, output: Path) -> tuple[list[Path], dict[Path, str]]:
    """Files below a folder, sorted, except in `output`; and what cannot be read, each path with the reason."""
    files, blocked = [], {}
    results = output.resolve()

    def on_error(error: OSError) -> None:
        path = Path(os.fsdecode(error.filename or root))
        if path == root:
            raise ConfigError(f"cannot read '{root}': {error.strerror}; give a folder that this user may read")
        blocked[path] = f"folder '{path}' cannot be read: {error.strerror}; give this user the right to read it"

    for folder, folders, names in os.walk(root, onerror=on_error):
        here = Path(folder)
        folders[:] = sorted(name for name in folders if (here / name).resolve() != results)
        for name in sorted(names):
            try:
                if (here / name).is_file():
                    files.append(here / name)
                elif is_image(here / name) and (here / name).is_symlink():
                    blocked[here / name] = f"'{here / name}' is a link to nothing; fetch the file, or remove the link"
                elif is_image(here / name):
                    blocked[here / name] = f"'{here / name}' is no regular file; put the image there, or remove it"
            except OSError as error:  # in a folder that may be listed, but not entered
                blocked[here / name] = (
                    f"'{here / name}' cannot be looked at: {error.strerror}; give this user the right to read it"
                )
    return files, blocked


def _unusable(path: Path, root: Path, why: str) -> Unusable:
    return Unusable(identity=f"file:{path.relative_to(root).as_posix()}", source=path, message=why)


def _without_ending(path: Path) -> Path:
    ending = next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), path.suffix)
    return path.with_name(path.name[: len(path.name) - len(ending)])
