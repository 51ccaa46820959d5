"""The options --folds, --mirroring and --precision, which process.py and score.py share: time against quality."""

import argparse
import os
from typing import Any

from model.bundle.choice import MIRRORINGS, check_choice
from model.bundle.format import FOLDS
from model.errors import ConfigError

PRECISIONS = ("auto", "float32", "bfloat16", "float16")  # of convolutions


def add_choice_options(parser: Any) -> None:
    """Add the options to a parser or a group of it; the environment has their defaults."""
    parser.add_argument(
        "--folds",
        nargs="+",
        type=_fold,
        default=os.environ.get("LESION_FOLDS", "").split() or None,
        metavar="FOLD",
        help="run only these of the folds that a bundle of nnU-Net's kind has: of 0 1 2 3 4, or all, the fold of that "
        "name; members of other kinds run in any case (default: every fold it has; environment: LESION_FOLDS; cost: "
        "the time is in proportion to the folds, and fewer give a worse mask)",
    )
    parser.add_argument(
        "--mirroring",
        default=os.environ.get("LESION_MIRRORING") or "model",
        metavar="|".join(MIRRORINGS),
        help="how networks of nnU-Net's kind see each window: model: mirrored as their manifest says; none: once; "
        "fast: as it is and left for right; full: mirrored along all three axes (default: model; environment: "
        "LESION_MIRRORING; cost: none 1, fast 2, full 8 passes a window and fold; fewer give a slightly worse mask)",
    )
    parser.add_argument(
        "--precision",
        default=os.environ.get("LESION_PRECISION") or "auto",
        metavar="|".join(PRECISIONS),
        help="of the convolutions; sums are always float32. auto: float16 on a GPU, on a CPU bfloat16 if it multiplies "
        "in it, else float32 (default: auto; environment: LESION_PRECISION; cost: float32 takes the most time and "
        "memory; another precision may move single voxels at the border of a lesion)",
    )


def check_choice_options(options: argparse.Namespace) -> None:
    """Raise ConfigError for values that no run can use. Makes `folds` a tuple or None."""
    options.folds = tuple(options.folds) if options.folds else None
    check_choice(options.folds, options.mirroring)
    if options.precision not in PRECISIONS:
        raise ConfigError(f"--precision must be one of {', '.join(PRECISIONS)}, got {options.precision!r}")
    if options.precision == "float16" and options.device == "cpu":
        raise ConfigError(
            "--precision float16: a CPU does not compute in float16 here; use --precision bfloat16, float32 or auto"
        )


def _fold(word: str) -> str:
    if word not in FOLDS:
        raise argparse.ArgumentTypeError(
            f"{word!r} is no fold: there are {', '.join(FOLDS)}; other words go before --folds"
        )
    return word
