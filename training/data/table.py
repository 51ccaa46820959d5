"""The index, a CSV with one row for each study: every later command reads its cases from it."""

import csv
import dataclasses
import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from model.errors import ConfigError, OutputError
from model.files import sha256_of
from model.whole import recover, whole_file, whole_folder

UNKNOWN = "unknown"
CASE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")  # a case names a folder and files
SHOWN = 5  # names in one message
LONGEST_SHOWN = 80  # characters of a name in a message
NEGATIVE = "negative"  # the diagnosis of a study without lesion


@dataclass(frozen=True, kw_only=True)
class Study:
    """One study. Paths are absolute; lesion_ml: volume of its truth; sha256: of its three files (`study_sha256`).

    body: the patient whose body a tumour of `patient` was put into (training blend); empty for any other study.
    made: what computed it, by which version and seed; empty for a study that was measured. On every machine it is the
    same study but for the last bits, by which processors differ. Both are columns only where a study has them.
    """

    case: str  # unique in the table, safe as a file name
    patient: str
    diagnosis: str
    tracer: str
    site: str
    pet: Path
    ct: Path
    truth: Path
    lesion_ml: float
    sha256: str
    body: str = ""
    made: str = ""


COLUMNS = tuple(item.name for item in dataclasses.fields(Study))
MAY_LACK = ("body", "made")


def origin_of(study: Study) -> str:
    """What a study made of this one says of it: how this one was made, or else the start of its files' sha256."""
    return f"{study.case} ({study.made or study.sha256[:16]})"


def study_sha256(pet: Path, ct: Path, truth: Path) -> str:
    """One hash for the three files of a study: the sha256 of the sha256 of PET, CT and truth."""
    return hashlib.sha256("".join(sha256_of(path) for path in (pet, ct, truth)).encode()).hexdigest()


def write_table(studies: list[Study], path: Path) -> None:
    """Write the index, sorted by case, whole or not at all. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = [name for name in COLUMNS if name not in MAY_LACK or any(getattr(study, name) for study in studies)]
    with whole_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        for study in sorted(studies, key=lambda study: study.case):
            writer.writerow(dataclasses.asdict(study) | {"lesion_ml": f"{study.lesion_ml:.4f}"})


@contextmanager
def new_studies(output: Path) -> Iterator[tuple[Path, Path]]:
    """A hidden folder to write studies and their index.csv to, and the place of --output that it takes when the block
    ends well.

    Raises ConfigError if `output` is there and not empty, OutputError if it cannot be written.
    """
    final = output.resolve()
    recover(final)
    if final.exists() and (not final.is_dir() or any(final.iterdir())):
        raise ConfigError(f"--output '{output}' is there and not empty; give a new folder")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with whole_folder(final) as hidden:
            yield hidden, final
    except OSError as error:
        raise OutputError(
            f"cannot write '{output}': {error.strerror or error}; check free space and write permission"
        ) from None


def patients_in(studies: Iterable[Study]) -> set[str]:
    """Whose tumours and whose bodies the studies show."""
    return {name for study in studies for name in (study.patient, study.body) if name}


def some_of(names: Iterable[str]) -> str:
    """The first few of many names, sorted and cut to a length that can be shown, for a message; `none` without any."""
    names = sorted(names)
    return ", ".join(name[:LONGEST_SHOWN] for name in names[:SHOWN]) + (", ..." if len(names) > SHOWN else "") or "none"


def read_table(path: Path) -> dict[str, Study]:
    """The index by case, in the table's order. Raises ConfigError naming the file, the line and the column."""
    names = [name for name in COLUMNS if name not in MAY_LACK]
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise ConfigError(f"cannot read the index '{path}': {error.strerror}; make it with training index") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise ConfigError(f"'{path}' is not an index: {error}; make it with training index") from None
    studies: dict[str, Study] = {}
    for line, row in enumerate(rows, start=2):
        missing = [name for name in names if not row.get(name)]
        if missing:
            raise ConfigError(f"index '{path}', line {line}: no value for {', '.join(missing)}; fill it in")
        if not CASE.fullmatch(row["case"]):
            raise ConfigError(
                f"index '{path}', line {line}: case {row['case']!r} cannot be the name of a folder; use letters, "
                "digits, '_', '.' and '-', the first neither '.' nor '-'"
            )
        try:
            lesion_ml = float(row["lesion_ml"])
            if not 0 <= lesion_ml < 1e9:
                raise ValueError
        except ValueError:
            raise ConfigError(
                f"index '{path}', line {line}: lesion_ml {row['lesion_ml']!r} is no volume in ml; correct it"
            ) from None
        if row["case"] in studies:
            raise ConfigError(f"index '{path}', line {line}: case {row['case']!r} is there twice; remove one")
        studies[row["case"]] = Study(
            case=row["case"],
            patient=row["patient"],
            diagnosis=row["diagnosis"],
            tracer=row["tracer"],
            site=row["site"],
            pet=Path(row["pet"]),
            ct=Path(row["ct"]),
            truth=Path(row["truth"]),
            lesion_ml=lesion_ml,
            sha256=row["sha256"],
            body=row.get("body") or "",
            made=row.get("made") or "",
        )
    if not studies:
        raise ConfigError(f"index '{path}' holds no study; make it again with training index")
    return studies
