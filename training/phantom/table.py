"""A folder of phantoms on the disk: the paths of a study's files, and studies.csv with a row for each study."""

import csv
import fcntl
import re
from pathlib import Path

from model.errors import ConfigError
from model.whole import whole_file

TABLE = "studies.csv"  # training index reads it
COLUMNS = ("case", "patient", "diagnosis", "tracer", "site", "pet", "ct", "truth")


def study_name(seed: int, site: str, on_map: bool = False, on_pet_grid: bool = False) -> str:
    """Name of a study's files, and its case. on_map: its organs are those of a real patient's map.

    on_pet_grid: its body was painted on the PET's voxels.
    """
    return f"{site}{'r' * on_map}{'p' * on_pet_grid}{seed:06d}"


def study_paths(folder: Path, name: str) -> list[Path]:
    """PET, CT and truth of a study; the truth is named after the CT, as a prediction is."""
    return [folder / f"images/pet/{name}_pet.mha", folder / f"images/ct/{name}_ct.mha", folder / f"truth/{name}_ct.mha"]


def read_rows(folder: Path) -> dict[str, dict[str, str]]:
    """The rows of studies.csv by case; none where there is no table. Raises ConfigError for another kind of table."""
    try:
        with (folder / TABLE).open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise ConfigError(f"'{folder / TABLE}' is not a table of phantoms; its columns must be {list(COLUMNS)}")
            return {row["case"]: row for row in reader}
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read '{folder / TABLE}': {error}; check access to it, or give another folder"
        ) from None


def write_row(folder: Path, name: str, patient: str, site: str, diagnosis: str) -> None:
    """Put a study's row into studies.csv, sorted by case. Other processes may add rows at the same time. Paths are
    relative to the table.
    """
    values = (name, patient, diagnosis, "FDG", site, *map(str, study_paths(Path(), name)))
    with (folder / f".{TABLE}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        rows = read_rows(folder) | {name: dict(zip(COLUMNS, values, strict=True))}
        with whole_file(folder / TABLE) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows[case] for case in sorted(rows))


def seed_of(case: str) -> tuple[str, int] | None:
    """Site and seed of a phantom, or of a random cut of one (-r<copy>), by its name; None for any other name."""
    match = re.fullmatch(r"([A-Z])r?p?(\d{6,})(?:-r\d+)*", case)
    return (match[1], int(match[2])) if match else None
