"""The tables that come with data sets: which diagnosis a study has.

TCIA's table of FDG-PET-CT-Lesions (autoPET I and II: "Clinical Metadata FDG PET_CT Lesions.csv"; autoPET III:
fdg_metadata.csv) has one row a series, with the columns Subject ID, Study UID, Study Date, File Location and
diagnosis among others; psma_metadata.csv has Subject ID and Study Date and no diagnosis. A study's folder there is
named <MM-DD-YYYY>-NA-<description>-<last five digits of its Study UID>.
"""

import csv
import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from model.errors import ConfigError

PATIENT_COLUMNS = ("subject id", "patient id", "patient")
DIAGNOSIS_COLUMNS = ("diagnosis",)
PLACE_COLUMNS = ("file location", "study location")
UID_COLUMNS = ("study uid", "study instance uid")
DATE_COLUMNS = ("study date",)


@dataclass(frozen=True, kw_only=True)
class DiagnosisRow:
    """One row of a table: the folders it names, the study's UID and date (YYYY-MM-DD), the diagnosis."""

    places: frozenset[str]
    uid: str
    date: str
    diagnosis: str


@dataclass(frozen=True)
class Metadata:
    """Rows of all tables by patient."""

    rows: dict[str, list[DiagnosisRow]] = field(default_factory=dict)

    def diagnosis(self, patient: str, study: str) -> tuple[str, str]:
        """The study's diagnosis and "", or "" and why there is none; without any table both are empty.

        Rows are matched by the study's folder name, else by its UID's last digits, else by its date, else by the
        patient alone; the first of these that matches any row decides.
        """
        rows = self.rows.get(patient, [])
        if not rows:
            return "", "not in the tables" if self.rows else ""
        date, uid = iso_date(study), re.search(r"-(\d{5})$", study)
        tests = (
            lambda row: study and safe_name(study) in row.places,
            lambda row: uid and row.uid.endswith(uid[1]),
            lambda row: date and row.date == date,
            lambda row: True,
        )
        matching = next(some for test in tests if (some := [row for row in rows if test(row)]))
        found = sorted({row.diagnosis for row in matching} - {""})
        if len(found) == 1:
            return found[0], ""
        return "", f"with several diagnoses in the tables ({', '.join(found)})" if found else "without a diagnosis"


def read_metadata(paths: list[Path]) -> Metadata:
    """Read all tables into one. Raises ConfigError if one lacks a column, naming the columns looked for."""
    rows: dict[str, list[DiagnosisRow]] = defaultdict(list)
    for path in paths:
        names, table = csv_rows(path)
        missing = missing_columns(names)
        if missing:
            raise ConfigError(f"'{path}' has no column {' and none '.join(missing)}; it has {', '.join(names)}")
        columns = {_plain(name): name for name in names}

        def value(row: dict[str, str], wanted: tuple[str, ...], columns: dict[str, str] = columns) -> str:
            return next((row.get(columns[name], "") for name in wanted if name in columns), "")

        for row in table:
            rows[value(row, PATIENT_COLUMNS)].append(
                DiagnosisRow(
                    places=frozenset(safe_name(part) for part in re.split(r"[\\/]", value(row, PLACE_COLUMNS)) if part),
                    uid=value(row, UID_COLUMNS),
                    date=iso_date(value(row, DATE_COLUMNS)),
                    diagnosis=diagnosis_of(value(row, DIAGNOSIS_COLUMNS)),
                )
            )
    return Metadata(dict(rows))


def missing_columns(names: list[str]) -> list[str]:
    """The columns of which a table needs one more to give diagnoses: each as a text of its possible names."""
    found = {_plain(name) for name in names}
    return [" or ".join(map(repr, wanted)) for wanted in (PATIENT_COLUMNS, DIAGNOSIS_COLUMNS) if not found & {*wanted}]


def diagnosis_of(text: str) -> str:
    """A diagnosis in the words of our tables: LUNG_CANCER becomes lung cancer."""
    return text.replace("_", " ").lower()


def iso_date(text: str) -> str:
    """The date that a text begins with as YYYY-MM-DD; month first, as TCIA writes it, or year first; else ""."""
    if match := re.match(r"(\d{1,2})[-/](\d{1,2})[-/](\d{4})", text):
        return f"{match[3]}-{int(match[1]):02}-{int(match[2]):02}"
    if match := re.match(r"(\d{4})[-/](\d{1,2})[-/](\d{1,2})", text):
        return f"{match[1]}-{int(match[2]):02}-{int(match[3]):02}"
    return ""


def safe_name(name: str) -> str:
    """The name fit for a file: runs of anything but letters, digits, '_', '.' and '-' become one '-'."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.") or "unnamed"


def csv_rows(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Column names and rows, stripped of blanks; the separator is the one of , ; tab that the first line has most of.

    Raises ConfigError if it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"cannot read '{path}': {error.strerror}; give a CSV that this user may read") from None
    except UnicodeDecodeError:
        raise ConfigError(f"'{path}' is not UTF-8; save it as CSV UTF-8") from None
    lines = text.splitlines(keepends=True)
    first = lines[0] if lines else ""
    reader = csv.DictReader(lines, delimiter=max(",;\t", key=first.count), restkey="", restval="")
    try:
        rows = [{name.strip(): value.strip() for name, value in row.items() if name} for row in reader]
    except csv.Error as error:
        raise ConfigError(f"'{path}' is not a CSV: {error}; save it as CSV UTF-8") from None
    return [name.strip() for name in reader.fieldnames or []], rows


def _plain(name: str) -> str:
    """A column's name for comparison: lower case, one blank for anything that is no letter or digit."""
    return re.sub(r"[^a-z0-9]+", " ", name.lower()).strip()
