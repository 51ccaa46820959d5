"""Real studies on a CPU in bfloat16 and in float32: how far the masks agree, what each scores, and the seconds of both.

    python -m benchmark.precision STUDIES --weights eoa                # the folder of a data set with truth
    python -m benchmark.precision STUDIES --weights eoa mine --count 5 --json precision.json

STUDIES is laid out as `python -m training index` takes it. Each study is segmented as process.py does it, once in each
precision. Agreement is the Dice of the two masks (1 where both are empty) and how many voxels differ; Dice with the
truth is autoPET I's. Seconds are those of the network alone. On a processor without bfloat16 the same numbers are
multiplied in float32 and rounded: masks are those of bfloat16 but for the order of sums, seconds are not.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.command import parser_for
from benchmark.inference_tables import LEAST_DICE, agreement_of
from benchmark.record import figure, print_and_write, record, table
from model.bundle.manifest import Bundle, chosen_bundle
from model.errors import CaseError
from model.inference.device import choose_device, make_deterministic
from model.inference.options import SegmentOptions
from model.inference.segment import segment
from model.processor import has_bfloat16
from model.results.metrics import score
from model.stopwatch import Stopwatch
from model.study.masks import check_grid, read_mask
from model.study.reading import read_case
from training.data.layouts import LAYOUTS, StudyFiles, find

BOTH = ("float32", "bfloat16")
HEAD = [
    "study",
    "windows",
    "Dice of both masks",
    "voxels that differ",
    "Dice with truth, float32",
    "bfloat16",
    "change",
    "seconds, float32",
    "bfloat16",
]
NO_HARDWARE = (
    "This processor has no bfloat16: its seconds are those of the same arithmetic done in float32, and say nothing of "
    "a processor that has it."
)


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One study: agreement is (Dice, voxels that differ) of both masks; truth and seconds are by precision, as BOTH."""

    case: str
    windows: int
    agreement: tuple[float, int]
    truth: tuple[float, float]
    seconds: tuple[float, float]

    @property
    def change(self) -> float:
        """Dice with the truth in bfloat16 less that in float32; NaN where the truth and a mask are empty."""
        return self.truth[1] - self.truth[0]


def main() -> None:
    options = arguments()
    make_deterministic()
    _, found, _ = find(options.studies, options.layout)
    printed: list[str] = [] if has_bfloat16() else [NO_HARDWARE, ""]
    figures: dict[str, Any] = {}
    for weights in options.weights:
        bundle = chosen_bundle(weights, None, [])
        compared = []
        for files in found[: options.count]:
            compared.append(compare(files, bundle))
            print(" | ".join(row(compared[-1])), flush=True)
        printed += [f"{bundle.manifest.name}:", "", *table(HEAD, [*map(row, compared), *summary(compared)]), ""]
        figures |= figures_of(bundle.manifest.name, compared)
    title = f"bfloat16 beside float32 on {len(found[: options.count])} studies, {choose_device('cpu', 'float32').name}"
    print_and_write(record(title, printed, figures), options.json)


def arguments() -> argparse.Namespace:
    parser = parser_for(__doc__)
    add = parser.add_argument
    add("studies", type=Path, metavar="STUDIES", help="the folder of a data set with truth, or a CSV of studies")
    add("--layout", choices=("auto", *LAYOUTS), default="auto", help="how STUDIES is laid out (default: auto)")
    add("--weights", nargs="+", default=("eoa",), help="bundles, by name or folder (default eoa)")
    add("--count", type=int, help="only the first so many studies (default: all)")
    return parser.parse_args()


def compare(files: StudyFiles, bundle: Bundle) -> Compared:
    """Segment a study in both precisions. Raises CaseError if it cannot be read."""
    case = read_case([files.pet, files.ct], bundle.manifest.limits)
    truth, grid = read_mask(files.truth, "truth")
    check_grid(grid, f"truth '{files.truth}'", case.pet.grid, f"PET '{files.pet}'")
    masks, scores, seconds, windows = [], [], [], 0
    for precision in BOTH:
        watch = Stopwatch()
        device = choose_device("cpu", precision)
        result = segment(case, SegmentOptions(bundle=bundle, device=device), watch)
        if overflowed := [warning for warning in result.warnings if "overflowed" in warning]:
            raise CaseError(f"{files.case}: {overflowed[0]}: there is nothing to compare")
        masks.append(result.mask)
        scores.append(score(result.mask, truth, grid.voxel_ml).dice)
        seconds.append(watch.seconds.get("network", 0.0))
        windows = result.windows
    return Compared(
        case=files.case,
        windows=windows,
        agreement=agreement_of(masks[0], masks[1]),
        truth=(scores[0], scores[1]),
        seconds=(seconds[0], seconds[1]),
    )


def row(one: Compared) -> list[str]:
    """A study's cells under HEAD."""
    dice, voxels = one.agreement
    cells = [one.case, str(one.windows), f"{dice:.5f}", str(voxels), *(f"{value:.5f}" for value in one.truth)]
    return [*cells, f"{one.change:+.5f}", *(f"{value:.2f}" for value in one.seconds)]


def summary(compared: list[Compared]) -> list[list[str]]:
    """The last rows of a table: the least agreement and the largest change, and the means with the sum of seconds."""
    least = min(compared, key=lambda one: one.agreement)
    most = float(np.nanmax([abs(one.change) for one in compared]))
    means = [float(np.nanmean([one.truth[number] for one in compared])) for number in (0, 1)]
    agreement = float(np.mean([one.agreement[0] for one in compared]))
    voxels = sum(one.agreement[1] for one in compared)
    sums = [sum(one.seconds[number] for one in compared) for number in (0, 1)]
    worst = [
        f"least ({least.case}), largest change",
        "",
        f"{least.agreement[0]:.5f}",
        "",
        "",
        "",
        f"{most:.5f}",
        "",
        "",
    ]
    mean = ["mean; sums", str(sum(one.windows for one in compared)), f"{agreement:.5f}", str(voxels)]
    mean += [*(f"{value:.5f}" for value in means), f"{means[1] - means[0]:+.5f}", *(f"{value:.2f}" for value in sums)]
    return [worst, mean]


def figures_of(name: str, compared: list[Compared]) -> dict[str, dict[str, Any]]:
    """The figures of one bundle, for benchmark.compare; each has a value a study."""
    out = {f"{name}: Dice of both masks": figure([one.agreement[0] for one in compared], "", "more", LEAST_DICE)}
    for number, precision in enumerate(BOTH):
        out[f"{name}: seconds, {precision}"] = figure([one.seconds[number] for one in compared], "s")
        scored = [one.truth[number] for one in compared if not np.isnan(one.truth[number])]
        out[f"{name}: Dice with truth, {precision}"] = figure(scored, "", "more", LEAST_DICE)
    return out


if __name__ == "__main__":
    main()
