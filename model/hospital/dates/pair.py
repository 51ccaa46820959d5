"""Compare two dates of one patient: lay the CTs onto each other, match the lesions, draw both dates side by side."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model import RESEARCH, __version__
from model.bundle.settings import Limits
from model.errors import CaseError
from model.files import peak_memory_bytes
from model.hospital.dates.change import lesion_rows
from model.hospital.dates.coarse_ct import CoarseCt, coarse_ct
from model.hospital.dates.matching import Match, match
from model.hospital.dates.numbering import Numbered, numbered
from model.hospital.dates.picture import Panel, draw_two_dates
from model.hospital.dates.registration import Alignment, align
from model.hospital.dates.stored_pairs import PAIR, PICTURE, SMALL_PICTURE, lesions_of, mask_of, plain_matches
from model.hospital.entry_reading import read_entry
from model.hospital.folder import COMPARISONS, result_folder
from model.hospital.job import Job, PairJob
from model.hospital.names import anonymous
from model.hospital.stored_results import read_report, same_images
from model.results.writing import json_bytes
from model.stopwatch import Stopwatch
from model.study.geometry import Grid, las_view


@dataclass(frozen=True)
class OneDate:
    """One date's images and lesions. suv: (z, y, x) on the grid of `lesions`; table: rows of lesions.json."""

    suv: NDArray[Any]
    ct: CoarseCt
    lesions: Numbered
    table: list[dict[str, Any]]


def compare_pair(job: PairJob) -> None:
    """Compare two dates and write the pair's folder. Raises the errors of model/errors.py; then nothing is written."""
    watch = Stopwatch()
    with watch.stage("read"):
        first, second = (_read(one, Limits(**job.limits)) for one in (job.first, job.second))
    with watch.stage("register"):
        alignment = align(first.ct, second.ct)
    with watch.stage("match"):
        matches = match(first.lesions, second.lesions, alignment.transform)
    with watch.stage("draw"):
        pictures, warnings = _pictures(job, first, second, matches, alignment)
    with result_folder(job.first.output / COMPARISONS, job.name) as folder:
        for name, content in pictures.items():
            folder.write(name, content)
        folder.write(PAIR, json_bytes(_pair(job, matches, alignment, warnings, watch)))


def _read(job: Job, limits: Limits) -> OneDate:
    """One date, as it was scored. Raises CaseError, also if its images changed since."""
    report = read_report(job.output, job.name)
    batch = report["batch"] if report else {}
    try:
        unchanged = same_images(job.entry, batch["images_stat"], batch["images_sha256"])
    except OSError as error:
        raise CaseError(f"'{error.filename}' cannot be read: {error.strerror}; check access to it") from None
    if not unchanged:
        raise CaseError(f"a file of '{job.entry.source}' changed since it was scored; run again")
    case = read_entry(job.entry, limits, job.name).case
    if case.ct is None:
        raise CaseError(f"PET '{case.pet.path}' has no CT, by which two dates are laid onto each other; give the CT")
    table, grid = lesions_of(job.output, job.name)["lesions"], case.pet.grid
    try:
        lesions = numbered(mask_of(job.output, job.name, grid), grid, table)
    except ValueError as error:
        raise CaseError(f"mask and lesion table of {job.name} do not agree: {error}; run again") from None
    return OneDate(case.pet.array, coarse_ct(case.ct), lesions, table)


def _pictures(
    job: PairJob, first: OneDate, second: OneDate, matches: tuple[Match, ...], alignment: Alignment
) -> tuple[dict[str, bytes], list[str]]:
    """The large picture and the small one; none and a warning if they cannot be drawn, whatever a library raises."""
    try:
        grid = second.lesions.grid
        middle = np.array(grid.corner_span_mm()).mean(axis=0)
        up_mm = float(alignment.transform.TransformPoint(middle.tolist())[2] - middle[2])
        rows = lesion_rows(matches, first.table, second.table)
        changes = [(one, row["change"]) for one, row in zip(matches, rows, strict=True)]
        titles = ("first date", f"{job.days} days later")
        panels = [
            _panel(date, title, {n: change for one, change in changes for n in getattr(one, side)}, offset_mm)
            for date, title, side, offset_mm in zip(
                (first, second), titles, ("first", "second"), (0.0, up_mm), strict=True
            )
        ]
        names = f"{job.patient}  {anonymous(job.first.name)}  {anonymous(job.second.name)}"
        return {
            PICTURE: draw_two_dates(panels[0], panels[1], f"{names}  {RESEARCH}"),
            SMALL_PICTURE: draw_two_dates(panels[0], panels[1]),
        }, []
    except Exception as error:  # a picture is an extra: the numbers stay
        return {}, [f"no picture was made: {type(error).__name__} (the numbers are whole)"]


def _panel(date: OneDate, title: str, changes: dict[int, str], up_mm: float) -> Panel:
    """One date as it is drawn. up_mm: how much higher the first date's coordinates are."""
    grid: Grid = date.lesions.grid
    view = las_view(grid)
    top_mm = float(grid.corner_span_mm()[1, 2]) + up_mm
    suv, numbers = view.to_las(date.suv), view.to_las(date.lesions.numbers)
    return Panel(title, suv, numbers, view.grid.spacing_mm, top_mm, changes)


def _pair(
    job: PairJob, matches: tuple[Match, ...], alignment: Alignment, warnings: list[str], watch: Stopwatch
) -> dict[str, Any]:
    """What pair.json holds: nothing that names a patient, a file or a date."""
    about = {item.name: getattr(alignment, item.name) for item in dataclasses.fields(alignment)}
    del about["transform"]
    return {
        "notice": RESEARCH,
        "version": __version__,
        "key": job.key,
        "patient": job.patient,
        "first": anonymous(job.first.name),
        "second": anonymous(job.second.name),
        "days": job.days,
        "alignment": about | {"correlation": round(alignment.correlation, 4), "moved_mm": round(alignment.moved_mm, 1)},
        "matches": plain_matches(matches),
        "warnings": [*alignment.warnings, *warnings],
        "seconds": {name: round(seconds, 2) for name, seconds in watch.seconds.items()},
        "peak_memory_bytes": peak_memory_bytes(),
    }
