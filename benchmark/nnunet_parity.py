"""Our masks of nnU-Net's models beside those of nnU-Net's own predictor: a row a case, as a table in Markdown.

    python -m benchmark.nnunet_parity                                        # 19 models with random weights: 4 minutes
    python -m benchmark.nnunet_parity --study PET.nii.gz CT.nii.gz --cases   # real studies alone

nnU-Net sums logits and window weights in half precision, on a CPU too. The first two figures compare our mask, stored
and run in float32, with its predictor where these sums are float32; then the same with the predictor as it is; then our
mask by weights stored in float16 with the predictor in float32. Exit code 1 if a case has less than 99.99 % of voxels
or Dice 0.999 in the first comparison. --study adds a real study, by a plain and by a residual network.

nnU-Net must be importable, so run it in an environment of its own:

    python3.11 -m venv .nnunet && .nnunet/bin/pip install -r requirements.txt
    .nnunet/bin/pip install --no-deps -r benchmark/requirements.txt
    .nnunet/bin/python -m benchmark.nnunet_parity
"""

import argparse
import contextlib
import io
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from benchmark.nnunet_cases import (
    CASES,
    LEAST_DICE,
    LEAST_LESION,
    LEAST_SAME,
    MOST_LESION,
    REAL_STUDIES,
    Images,
    ParityCase,
    dice,
    made_study,
    ours,
    real_study,
    same_share,
)
from benchmark.record import figure, print_and_write, record, table

INSTALL = (
    "nnU-Net is not in this environment. Make one that has it:\n"
    "  python3.11 -m venv .nnunet && .nnunet/bin/pip install -r requirements.txt\n"
    "  .nnunet/bin/pip install --no-deps -r benchmark/requirements.txt\n"
    "  .nnunet/bin/python -m benchmark.nnunet_parity"
)
HEAD = [
    "case",
    "voxels",
    "lesion",
    "same voxels",
    "Dice",
    "same, nnU-Net as it is",
    "Dice, nnU-Net as it is",
    "same, ours in float16",
    "Dice, ours in float16",
]


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How a mask of ours agrees with nnU-Net's. Each pair: share of voxels that are the same, and Dice."""

    name: str
    voxels: int
    lesion: float  # share of the study
    float32: tuple[float, float]
    as_it_is: tuple[float, float]
    stored_half: tuple[float, float]

    @property
    def holds(self) -> bool:
        """Whether the masks are the same, and not by chance."""
        same, overlap = self.float32
        return same >= LEAST_SAME and overlap >= LEAST_DICE and LEAST_LESION < self.lesion < MOST_LESION

    @property
    def cells(self) -> list[str]:
        """The row under HEAD."""
        pairs = (self.float32, self.as_it_is, self.stored_half)
        figures = [text for same, overlap in pairs for text in (f"{100 * same:.3f} %", f"{overlap:.5f}")]
        return [self.name, f"{self.voxels:,}", f"{100 * self.lesion:.1f} %", *figures]


def main() -> int:
    options = arguments()
    if find_spec("nnunetv2") is None:
        print(INSTALL, file=sys.stderr)
        return 2
    found = []
    for name, case, images in compared(options):
        print(f"{name} ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            found.append(compare(name, case, images, Path(folder)))
    failed = [one.name for one in found if not one.holds]
    verdict = f"{len(found) - len(failed)} of {len(found)} cases: at least {100 * LEAST_SAME:g} % and {LEAST_DICE:g}"
    if failed:
        verdict += f"; not {', '.join(failed)}"
    figures = {f"{one.name}: Dice": figure([one.float32[1]], "", "more", 1 - LEAST_DICE) for one in found}
    printed = [*table(HEAD, [one.cells for one in found]), "", verdict]
    print_and_write(record("Masks beside nnU-Net's own predictor", printed, figures), options.json)
    return 1 if failed else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], epilog=INSTALL.splitlines()[0])
    add = parser.add_argument
    add(
        "--cases",
        nargs="*",
        choices=CASES,
        default=list(CASES),
        metavar="NAME",
        help=f"which models, about 10 s each on one core; no name: none (default: all: {', '.join(CASES)})",
    )
    add(
        "--study",
        nargs=2,
        type=Path,
        action="append",
        default=[],
        metavar=("PET", "CT"),
        help="a real study, PET in SUV and CT in HU; may be given again (default: none)",
    )
    add("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    absent = [str(path) for pair in options.study for path in pair if not path.is_file()]
    if absent:
        parser.error(f"--study: {', '.join(absent)}: no such file")
    if not options.cases and not options.study:
        parser.error("nothing to compare: name a case by --cases, or a study by --study")
    return options


def compared(options: argparse.Namespace) -> Iterator[tuple[str, ParityCase, Images]]:
    """Name, model and study of every row."""
    for name in options.cases:
        yield name, CASES[name], made_study(CASES[name])
    for number, (pet, ct) in enumerate(options.study, 1):
        for name, case in REAL_STUDIES.items():
            yield f"real study {number}, {name}", case, real_study(pet, ct)


def compare(name: str, case: ParityCase, images: Images, folder: Path) -> Parity:
    """One row: the mask of ours, twice, and of nnU-Net, twice."""
    model = case.write(folder / "model")
    with contextlib.redirect_stdout(io.StringIO()):  # nnU-Net talks
        exact, half_sums = (case.theirs(model, images, folder, float32) for float32 in (True, False))
    mask, stored_half = (ours(model, images, folder, case.words, store) for store in ("float32", "float16"))
    pairs = ((mask, exact), (mask, half_sums), (stored_half, exact))
    first, second, third = ((same_share(one, other), dice(one, other)) for one, other in pairs)
    return Parity(
        name=name,
        voxels=mask.size,
        lesion=float(exact.mean()),
        float32=first,
        as_it_is=second,
        stored_half=third,
    )


if __name__ == "__main__":
    sys.exit(main())
