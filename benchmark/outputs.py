"""What score.py costs a study: the masks, then the outputs that are added to them, then the comparison of dates.

    python -m benchmark.outputs --studies STUDIES --weights eoa

STUDIES: a folder of DICOM studies; test/helpers/make_dicom_studies.py --two-dates makes some. Each line is a run of its
own over the results of the line before, which are removed at the end. Seconds are of the processor, user and system, of
all processes: they hold on a machine that does other things, too. They include the start of Python and the search for
studies. Memory is the peak of the largest process.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmark.command import ROOT, parser_for_studies
from benchmark.record import figure, print_and_write, record, table

STEPS = (
    ("masks, tables, SEG, pages", (), "studies/*/report.json"),
    ("then RTSTRUCT, SR, picture, PDF", ("--rtstruct", "--sr", "--picture", "--pdf"), "studies/*/report.pdf"),
    ("then two dates, a pair", ("--compare-dates",), "comparisons/*/pair.json"),
)  # what is made, by which options, and the file that each one has


def main() -> None:
    options = parser_for_studies(__doc__).parse_args()
    rows, figures = [], {}
    with tempfile.TemporaryDirectory() as folder:
        common = [str(options.studies), "--output", folder, "--device", options.device, "--weights", options.weights]
        for name, more, made in STEPS:
            seconds, peak_gb = measure([*common, *more])
            count = len(list(Path(folder).glob(made)))
            if count:
                rows.append([name, str(count), f"{seconds / count:.1f}", f"{peak_gb:.2f}"])
                figures[f"{name}: seconds"] = figure([seconds / count], "s")
                figures[f"{name}: memory"] = figure([peak_gb], "GB")
    head = ["what", "how many", "processor s each", "peak GB"]
    print_and_write(record(f"Outputs of score.py with {options.weights}", table(head, rows), figures), options.json)


def measure(words: list[str]) -> tuple[float, float]:
    """Seconds of the processor and peak memory (GB) of one run of score.py. Raises CalledProcessError if it fails."""
    command = [sys.executable, str(ROOT / "score.py"), *words]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    if code := os.waitstatus_to_exitcode(status):
        raise subprocess.CalledProcessError(code, command)
    return used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    main()
