"""The tables of a run: summary.csv (results), failures.csv (what was not scored and why), keys.csv (who is who)."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model import RESEARCH
from model.errors import shown, split_remedy
from model.hospital.find.entry import FIND, NO_PET, Unusable
from model.hospital.folder import STUDIES
from model.hospital.job import Job
from model.hospital.journal import Record
from model.hospital.names import KEYS, digest_in, found_elsewhere, is_name, redacted
from model.hospital.plan import Plan
from model.results.lesion_numbers import ROW_NUMBERS
from model.results.lesion_table import csv_text, without_apostrophe

SUMMARY, FAILURES = "summary.csv", "failures.csv"
COLUMNS = ("study", "lesions", "mtv_ml", "tlg_suv_ml", "suv_max", "suv_peak", "dmax_mm")
TRUTH_COLUMNS = ("dice", "fpv_ml", "fnv_ml", "mtv_true_ml", "lesions_true", "lesions_found", "convention")
MORE_COLUMNS = (
    *ROW_NUMBERS,
    "channels",
    "found_lesions",
    "found_mtv_ml",
    "dropped_lesions",
    "dropped_ml",
    "rules",
    "edited",
    "given",
)  # the last of summary.csv, each there if a study has it
FAILURE_COLUMNS = ("study", "stage", "message", "remedy", "notice")
KEY_COLUMNS = ("study", "source", "patient", "patient_id", "pet", "ct", "found_in")


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A study that could not be scored: the stage (find, read, segment, measure, write), the reason and the remedy.

    With stage "no PET" it is a CT without a PET, which is passed over and no failure.
    """

    study: str
    stage: str
    message: str
    remedy: str

    @property
    def passed_over(self) -> bool:
        return self.stage == NO_PET


def failures_of(plan: Plan, records: Iterable[Record], root: Path, named: bool) -> list[Failure]:
    """What the search found and cannot be scored, and the records of studies that failed, sorted by name."""
    found = [_unusable(name, item, root, named) for name, item in plan.unusable.items()]
    failed = [Failure(study=r.study, stage=r.stage, message=r.message, remedy=r.remedy) for r in records]
    return sorted([*found, *failed], key=lambda failure: failure.study)


def split_passed_over(failures: Iterable[Failure]) -> tuple[list[Failure], list[Failure]]:
    """Failures, and what was passed over, each in the order given."""
    parts: tuple[list[Failure], list[Failure]] = ([], [])
    for failure in failures:
        parts[failure.passed_over].append(failure)
    return parts


def summary_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """One row for each scored study. Columns of the comparison, and MORE_COLUMNS, are there if any study has them."""
    truth = TRUTH_COLUMNS if any("convention" in row for row in rows) else ()
    more = [name for name in MORE_COLUMNS if any(row.get(name) is not None for row in rows)]
    names = [*COLUMNS, *truth, "warnings", "folder", "notice", *more]
    return csv_text(names, [dict(row) | _more_cells(row) for row in rows])


def _more_cells(row: Mapping[str, Any]) -> dict[str, str]:
    """The cells of a study's row that are put together."""
    cells = {"warnings": " | ".join(row["warnings"]), "folder": f"{STUDIES}/{row['study']}", "notice": RESEARCH}
    given = ", ".join(f"{name} {value}" for name, value in row.get("given", {}).items())
    return cells | ({"given": given} if given else {})


def failures_csv(failures: Sequence[Failure]) -> str:
    """One row for each study that was not scored; only the head if all were."""
    return csv_text(FAILURE_COLUMNS, [vars(failure) | {"notice": RESEARCH} for failure in failures])


def keys_csv(plan: Plan, root: Path, before: Iterable[Mapping[str, Any]] = ()) -> str:
    """Which study is which: its source, patient and files. root: the folder or list it was found in. before: rows of
    `earlier_keys`; the rows of studies that are not in the plan stay.
    """
    rows: dict[str, Mapping[str, Any]] = {row["study"]: row for row in before}
    for name, item in plan.unusable.items():
        rows[name] = {"study": name, "source": str(item.source), "found_in": str(root)}
    rows |= {job.name: _key(job) for job in plan.jobs.values()}
    return csv_text(KEY_COLUMNS, [rows[name] for name in sorted(rows)])


def earlier_failures(output: Path, plan: Plan, root: Path) -> list[Failure]:
    """What earlier runs over other studies could not score, by the failures.csv that is there.

    Left out are studies of this run, and what lies below `root`: this run would have found it again.
    """
    try:
        content = (output / FAILURES).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return []
    elsewhere = found_elsewhere(output, root)
    found = {digest_in(name) for name in (*plan.jobs, *plan.unusable, *plan.earlier)}
    earlier = []
    for row in csv.DictReader(io.StringIO(content, newline="")):
        cells = {name: without_apostrophe(row.get(name) or "") for name in FAILURE_COLUMNS[:4]}
        name = cells["study"]
        if cells["stage"] in (FIND, NO_PET) and is_name(name) and digest_in(name) not in found and name in elsewhere:
            earlier.append(Failure(**cells))
    return earlier


def earlier_keys(output: Path, studies: Iterable[str] = ()) -> list[dict[str, str]]:
    """Rows of the keys.csv that is there, of studies with results and of `studies`; empty if it cannot be read."""
    wanted = set(studies)
    try:
        content = (output / KEYS).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return []
    rows = [
        {name: without_apostrophe(value or "") for name, value in row.items() if name in KEY_COLUMNS}
        for row in csv.DictReader(io.StringIO(content, newline=""))
    ]
    named = [row for row in rows if is_name(row.get("study", ""))]
    return [row for row in named if row["study"] in wanted or (output / STUDIES / row["study"]).is_dir()]


def _key(job: Job) -> dict[str, Any]:
    person = [*job.entry.person, "", ""]
    return {
        "study": job.name,
        "source": str(job.entry.source),
        "patient": person[0],
        "patient_id": person[1] or job.entry.patient,
        "pet": str(job.entry.pet[0]),
        "ct": str(job.entry.ct[0]) if job.entry.ct else "",
        "found_in": str(job.root),
    }


def _unusable(name: str, item: Unusable, root: Path, named: bool) -> Failure:
    whole = item.message if named else redacted(item.message, item, root, name)
    message, remedy = split_remedy(shown(whole))
    return Failure(study=name, stage=item.stage, message=message, remedy=remedy)
