"""Find the studies of a data set, and what its names and tables say of them. No image is read here.

Five layouts, as distributed:

autopet   `PETCT_<id>/<study>/{SUV,CTres,CT,SEG}.nii.gz` (autoPET I and II, TCIA's FDG-PET-CT-Lesions), below the
          folder, one level deeper, or both. CTres, which is on the PET grid, is taken; CT where there is none.
nnunet    `imagesTr/<case>_0000` (CT) and `_0001` (PET), `labelsTr/<case>` (autoPET III). Cases named
          fdg_<patient>_<study> and psma_<patient>_<date> give tracer and patient. A patient's studies stay together,
          under the patient's name in TCIA's tables (PETCT_<patient>, PSMA_<patient>).
folders   `<case>/{SUV,CTres,CT,SEG}.nii.gz`; the folder is both case and patient.
phantoms  a folder with studies.csv, as training phantoms writes it.
csv       a CSV file with the columns case, pet, ct, truth and, optionally, patient (else the case), diagnosis,
          tracer, site, body (whose body a tumour was put into), made (what computed it). Relative paths
          are relative to the CSV.

A note names each folder that is not used.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from model.errors import ConfigError
from model.study.reading import SUFFIXES, stem
from training.data.metadata import csv_rows, diagnosis_of, safe_name
from training.phantom.table import TABLE

LAYOUTS = ("autopet", "nnunet", "folders", "phantoms", "csv")
CSV_NEEDS = ("case", "pet", "ct", "truth")
CSV_MAY = ("patient", "diagnosis", "tracer", "site", "body", "made")
PATIENT = "PETCT_"  # what the names of autopet's patients begin with
FDG, PSMA = "FDG", "PSMA"
SITES = {FDG: "UKT", PSMA: "LMU"}  # autoPET: FDG from Tuebingen, PSMA from Munich


@dataclass(frozen=True, kw_only=True)
class StudyFiles:
    """A study by the place and names of its files, which need not be there. An empty text means: not given."""

    case: str
    patient: str
    pet: Path
    ct: Path
    truth: Path
    study: str = ""  # its name among the patient's studies in the data set's table
    diagnosis: str = ""
    tracer: str = ""
    site: str = ""
    body: str = ""
    made: str = ""


def find(root: Path, layout: str = "auto") -> tuple[str, list[StudyFiles], list[str]]:
    """The layout of a folder (or CSV), its studies sorted by case, and notes on what is not used.

    Raises ConfigError if no study is found, or if more than one layout matches.
    """
    if not root.exists():
        raise ConfigError(f"'{root}' is not there; give a data set's folder, or a CSV")
    layout = _layout_of(root) if layout == "auto" else layout
    finder = {"autopet": _autopet, "nnunet": _nnunet, "folders": _folders, "phantoms": _phantoms, "csv": read_csv}
    found, notes = finder[layout](root)
    if not found:
        raise ConfigError(f"'{root}' holds no study in layout {layout}; the layouts are: {_wanted()}")
    return layout, sorted(found, key=lambda study: study.case), notes


def table_folders(root: Path, layout: str) -> list[Path]:
    """Folders whose CSV files may be a data set's tables: its own and, of autopet, those that its patients lie in."""
    return sorted({root, *(_places(root) if layout == "autopet" else ())})


def read_csv(path: Path) -> tuple[list[StudyFiles], list[str]]:
    """The studies of a CSV of one's own (columns above; separated by comma, semicolon or tab).

    Raises ConfigError naming the file, the line and the column.
    """
    names, rows = csv_rows(path)
    missing = [name for name in CSV_NEEDS if name not in names]
    if missing:
        raise ConfigError(
            f"'{path}' has no column {', '.join(missing)}; it must have {', '.join(CSV_NEEDS)} and may have "
            f"{', '.join(CSV_MAY)}; it has {', '.join(names) or 'none at all'}"
        )
    found = []
    for line, row in enumerate(rows, start=2):
        empty = [name for name in CSV_NEEDS if not row[name]]
        if empty:
            raise ConfigError(f"'{path}', line {line}: no value for {', '.join(empty)}; fill it in")
        pet, ct, truth = (path.parent / row[name] for name in ("pet", "ct", "truth"))  # an absolute path stays as it is
        found.append(
            StudyFiles(
                case=safe_name(row["case"]),
                patient=row.get("patient") or row["case"],
                pet=pet,
                ct=ct,
                truth=truth,
                diagnosis=diagnosis_of(row.get("diagnosis", "")),
                tracer=row.get("tracer", ""),
                site=row.get("site", ""),
                body=row.get("body", ""),
                made=row.get("made", ""),
            )
        )
    unused = [name for name in names if name not in CSV_NEEDS + CSV_MAY]
    return found, [f"'{path}': columns not used: {', '.join(unused)}"] if unused else []


def _layout_of(root: Path) -> str:
    if root.is_file():
        return "csv"
    matches = {
        "phantoms": (root / TABLE).is_file(),
        "nnunet": (root / "imagesTr").is_dir(),
        "autopet": bool(_places(root)),
    }
    matches["folders"] = not matches["autopet"] and any(_image(folder, "SUV").is_file() for folder in _subfolders(root))
    names = [name for name, matched in matches.items() if matched]
    if len(names) != 1:
        raise ConfigError(
            f"'{root}' looks like {' and '.join(names) or 'none of the layouts'}; name one with --layout: {_wanted()}"
        )
    return names[0]


def _autopet(root: Path) -> tuple[list[StudyFiles], list[str]]:
    places = _places(root)
    patients = [patient for place in places.values() for patient in place]
    found, notes = [], _unused(root, places, {*places, *patients})
    for patient in patients:
        studies = _subfolders(patient)
        if not studies or _image(patient, "SUV").is_file():
            notes.append(f"'{patient}' holds no folder of a study, or images outside one, which are not used")
        for folder in studies:
            study = _found(folder, f"{patient.name}_{folder.name}", patient.name)
            found.append(replace(study, study=folder.name, tracer=FDG, site=SITES[FDG]))
    return found, notes


def _nnunet(root: Path) -> tuple[list[StudyFiles], list[str]]:
    channels: dict[str, dict[str, Path]] = {}
    others = [folder for folder in _subfolders(root) if folder.name not in ("imagesTr", "labelsTr")]
    notes = [f"'{folder}' is not used: only imagesTr and labelsTr are" for folder in others]
    for path in _files(root / "imagesTr"):
        match = re.fullmatch(r"(.+)_(\d{4})", stem(path))
        if match and match[2] in ("0000", "0001"):
            channels.setdefault(match[1], {})[match[2]] = path
        else:
            notes.append(f"'{path}' is not used: only <case>_0000 (CT) and <case>_0001 (PET) are")
    labels = {stem(path): path for path in _files(root / "labelsTr")}
    found = []
    for case in sorted(channels.keys() | labels.keys()):
        ct, pet = (channels.get(case, {}).get(n, root / "imagesTr" / f"{case}_{n}.nii.gz") for n in ("0000", "0001"))
        truth = labels.get(case, root / "labelsTr" / f"{case}.nii.gz")
        match = re.fullmatch(r"(fdg|psma)_([^_]+)_(.+)", case, re.IGNORECASE)
        study = StudyFiles(case=safe_name(case), patient=case, pet=pet, ct=ct, truth=truth)
        if match:
            tracer = match[1].upper()
            patient = f"{'PETCT' if tracer == FDG else 'PSMA'}_{match[2]}"
            study = replace(study, patient=patient, study=match[3], tracer=tracer, site=SITES[tracer])
        else:
            notes.append(f"{case}: not named fdg_<patient>_<study> or psma_<patient>_<date>, taken as its own patient")
        found.append(study)
    return found, notes


def _folders(root: Path) -> tuple[list[StudyFiles], list[str]]:
    folders = _subfolders(root)
    return [_found(folder, folder.name, folder.name) for folder in folders], []


def _phantoms(root: Path) -> tuple[list[StudyFiles], list[str]]:
    return read_csv(root / TABLE)


def _places(root: Path) -> dict[Path, list[Path]]:
    """The patients' folders PETCT_<id>, by the folder they lie in: the root, or one below it.

    If every PETCT_<id> in a folder holds images itself, these are studies, not patients.
    """
    places = {}
    for place in (root, *(folder for folder in _subfolders(root) if not folder.name.startswith(PATIENT))):
        patients = [folder for folder in _subfolders(place) if folder.name.startswith(PATIENT)]
        if not all(_image(folder, "SUV").is_file() for folder in patients):
            places[place] = patients
    return places


def _unused(root: Path, places: Iterable[Path], used: set[Path]) -> list[str]:
    """Notes on the folders in the root, and where patients lie, that are not used."""
    return [
        f"'{folder}' is not used: neither it nor a folder in it is a patient's ({PATIENT}<id>/<study>/SUV.nii.gz); if "
        "it holds studies, give it as a ROOT of its own"
        for place in sorted({root, *places})
        for folder in _subfolders(place)
        if folder not in used
    ]


def _found(folder: Path, case: str, patient: str) -> StudyFiles:
    """The study whose images lie in a folder: SUV, CTres (or CT where there is none) and SEG."""
    ct = _image(folder, "CTres")
    if not ct.is_file() and _image(folder, "CT").is_file():
        ct = _image(folder, "CT")
    pet, truth = _image(folder, "SUV"), _image(folder, "SEG")
    return StudyFiles(case=safe_name(case), patient=patient, pet=pet, ct=ct, truth=truth)


def _image(folder: Path, name: str) -> Path:
    """The image of that name, whatever its ending; where there is none, its name as distributed."""
    paths = [folder / f"{name}{ending}" for ending in (".nii.gz", *SUFFIXES)]
    return next((path for path in paths if path.is_file()), paths[0])


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.name.lower().endswith(SUFFIXES) and not p.name.startswith("."))


def _subfolders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _wanted() -> str:
    return (
        "autopet (PETCT_<id>/<study>/SUV.nii.gz), nnunet (imagesTr), folders (<case>/SUV.nii.gz), "
        f"phantoms ({TABLE}), csv (a file)"
    )
