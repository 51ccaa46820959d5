"""Put the prepared studies of training nested into one file, for a machine that has none of them.

    python -m training pack --run runs/shipped --output shipped.pack
    python -m training nested --pack shipped.pack --run runs/gpu --all --output weights

The real studies and their copies go first, then as many phantoms as fit. Phantoms that are left out are made where the
pack is used; so is one to validate with, whose images the check of a bundle needs. What is unpacked is the cache, bit
for bit: its studies have the same sha256, so runs go on with it.
"""

import argparse
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from model.errors import ConfigError
from model.results.writing import check_output
from model.schema import build
from training.data.pack import write_pack
from training.data.prepared import one_crop
from training.data.table import Study, read_table
from training.papers.nested_data import TABLES, source_of_pack
from training.papers.plan_phantoms import phantom_fold
from training.papers.shipping import PLAN, Shipping
from training.settings import read_yaml

MOST_MB = 60.0  # all that travels with a repository for one piece of work


def run(options: argparse.Namespace) -> None:
    """Write the pack, and say what is in it. Raises ConfigError, OutputError."""
    if options.most_mb <= 0:
        raise ConfigError(f"--most-mb must be above 0, got {options.most_mb:g}")
    shipping = build(Shipping, read_yaml(options.plan), str(options.plan))
    tables = {kind: read_table(options.run / path) for kind, path in TABLES.items()}
    phantoms = phantoms_to_pack(shipping, read_table(options.run / "index.csv"))
    kinds = {case: kind for kind, studies in tables.items() for case in studies}
    kinds |= {study.case: "phantom" for study in phantoms}
    cache = options.run / "cache"
    crop = one_crop(cache, list(kinds))
    if crop != shipping.plan.crop:
        raise ConfigError(f"'{cache}' was prepared with {crop}, the plan has {shipping.plan.crop}; give its own --plan")
    check_output(options.output.parent)
    source = source_of_pack(options.run)
    groups = (
        *patients(study for studies in tables.values() for study in studies.values()),
        *([study] for study in phantoms),
    )
    left = write_pack(options.output, groups, kinds, cache, source, crop, 1e6 * options.most_mb)
    size = options.output.stat().st_size
    print(
        f"wrote '{options.output}', {size / 1e6:.2f} MB: {len(tables['real'])} real studies, "
        f"{sum(map(len, tables.values())) - len(tables['real'])} made of them, "
        f"{len(phantoms) - len(left)} of {len(phantoms)} phantoms; the others are made where it is used"
    )


def patients(studies: Iterable[Study]) -> Iterator[list[Study]]:
    """Every patient's studies, the real ones first: alike studies side by side compress best."""
    of: dict[str, list[Study]] = {}
    for study in studies:
        of.setdefault(study.patient, []).append(study)
    yield from of.values()


def phantoms_to_pack(shipping: Shipping, studies: dict[str, Study]) -> list[Study]:
    """The phantoms of the plan in the order in which they are packed: to validate, to train, to test.

    All but the first to validate with a lesion: by its images a bundle is checked. Raises ConfigError if one is not
    there.
    """
    fold = phantom_fold(shipping.plan)
    cases: Sequence[str] = (*fold.validate, *fold.train, *fold.test)
    if missing := [case for case in cases if case not in studies]:
        raise ConfigError(f"phantom {missing[0]} of the plan is not in the index; run training nested first")
    for_check = next((case for case in fold.validate if studies[case].lesion_ml > 0), fold.validate[0])
    return [studies[case] for case in cases if case != for_check]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Cost: about a second for a megabyte of prepared arrays."
    add = parser.add_argument
    add("--run", type=Path, required=True, help="folder of training nested that holds the prepared studies")
    add("--plan", type=Path, default=PLAN, help="its plan (default training/configs/shipped.yaml)")
    add("--output", type=Path, required=True, metavar="FILE", help="the pack; replaced if it exists")
    add(
        "--most-mb",
        type=float,
        default=MOST_MB,
        metavar="MB",
        help=f"largest size; phantoms that do not fit are left out (default {MOST_MB:g})",
    )
