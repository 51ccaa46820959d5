"""Write the tables and the page of a run, all at once. The studies' own folders are written elsewhere."""

import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from model import RESEARCH, __version__
from model.hospital.journal import DONE, FAILED, Record
from model.hospital.names import KEYS, write_private
from model.hospital.pages.page import HTML, About, html_report, write_page
from model.hospital.pages.tables import (
    FAILURES,
    SUMMARY,
    Failure,
    earlier_failures,
    earlier_keys,
    failures_csv,
    failures_of,
    keys_csv,
    split_passed_over,
    summary_csv,
)
from model.hospital.plan import Plan
from model.results.metrics import CONVENTIONS
from model.results.organs import organs_csv
from model.results.writing import write_bytes, write_json
from model.whole import Staging

TOTALS, ORGANS = "summary.json", "organs.csv"


def write_results(
    output: Path, root: Path, plan: Plan, records: Mapping[str, Record], named: bool, about: About
) -> None:
    """Write summary.csv, summary.json, failures.csv, report.html and keys.csv, and organs.csv if a study has organs.

    records: of this run, by study. Studies of earlier runs stay in the tables.

    Raises OutputError; then the tables that were there stay.
    """
    ended = dict(plan.earlier) | dict(plan.done) | dict(records)
    rows = [ended[name].row for name in sorted(ended) if ended[name].state == DONE]
    failures = failures_of(plan, (r for r in ended.values() if r.state == FAILED), root, named)
    earlier = earlier_failures(output, plan, root)
    failures = sorted([*failures, *earlier], key=lambda failure: failure.study)
    waiting = len(plan.todo) - len(records)
    write_private(keys_csv(plan, root, earlier_keys(output, (failure.study for failure in failures))), output / KEYS)
    with Staging() as staging:
        write_bytes(summary_csv(rows).encode(), output / SUMMARY, staging)
        write_bytes(failures_csv(failures).encode(), output / FAILURES, staging)
        write_json(totals_of(rows, failures, waiting, about), output / TOTALS, staging)
        organs = [{"study": row["study"]} | organ for row in rows for organ in row.get("organs", ())]
        if organs:
            write_bytes(organs_csv(organs).encode(), output / ORGANS, staging)
        write_page(html_report(rows, failures, output, about, waiting), output / HTML, staging)
        staging.commit()
    if not organs:
        with suppress(OSError):  # an older table, of results that are gone
            (output / ORGANS).unlink(missing_ok=True)


def totals_of(
    rows: Sequence[Mapping[str, Any]], failures: Sequence[Failure], waiting: int, about: About
) -> dict[str, Any]:
    """The run in a few numbers. `truth`: means over the studies that have a truth; None if no study has that number."""
    failed, passed = split_passed_over(failures)
    content: dict[str, Any] = {
        "notice": RESEARCH,
        "version": __version__,
        "weights": about.weights,
        "weights_sha256": about.weights_sha256,
        "licence": about.licence,
        "citation": about.citation,
        "studies_scored": len(rows),
        "studies_not_scored": len(failed),
        "studies_still_to_do": waiting,
        "ct_without_pet": len(passed),
        "studies_with_lesions": sum(bool(row["lesions"]) for row in rows),
        "studies_with_warnings": sum(bool(row["warnings"]) for row in rows),
        "lesions": sum(row["lesions"] for row in rows),
        "mtv_ml_median": statistics.median(row["mtv_ml"] for row in rows) if rows else None,
    }
    if about.pet_only:
        content["weights_pet_only"] = {"weights": about.pet_only.weights, "sha256": about.pet_only.weights_sha256}
    if alone := sum("channels" in row for row in rows):
        content["studies_pet_alone"] = alone
    if edited := sum("edited" in row for row in rows):
        content["studies_edited"] = edited
    compared = [row for row in rows if "convention" in row]
    if compared:
        convention = compared[0]["convention"]
        content["truth"] = {"convention": convention, "empty_masks": CONVENTIONS[convention]}
        for name in ("dice", "fpv_ml", "fnv_ml"):
            values = [row[name] for row in compared if row[name] is not None]
            content["truth"] |= {
                f"{name}_mean": round(statistics.fmean(values), 4) if values else None,
                f"{name}_studies": len(values),
            }
    return content
