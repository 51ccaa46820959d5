"""The studies of training nested: phantoms, real patients' studies, and their copies that are cut at random."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import ConfigError
from training.command import option_words, parse
from training.data import index as index_command
from training.data import recrop as recrop_command
from training.data.folds import Fold
from training.data.table import Study, read_table, write_table
from training.papers.procedure import make_phantoms, prepare_cases
from training.papers.shipping import Shipping
from training.runs.checkpoint import read_json, write_json


@dataclass(frozen=True, kw_only=True)
class NestedData:
    """All studies by case, prepared; the parts of the phantoms; each real patient's original and re-cropped cases."""

    studies: Mapping[str, Study]
    phantoms: Fold
    originals: Mapping[str, list[str]]
    copies: Mapping[str, list[str]]
    cache: Path


def data_of(shipping: Shipping, options: argparse.Namespace) -> NestedData:
    """Make the phantoms, index the real studies, make their re-cropped copies, and prepare all."""
    index, phantoms = make_phantoms(shipping.plan, options.run, options.workers, options.maps)
    studies, real, copied = dict(read_table(index)), options.run / "real.csv", options.run / "copies"
    origin: dict[str, object] = {"diagnosis": options.diagnosis, "site": options.site}
    cuts: dict[str, object] = {"copies": shipping.copies, "seed": shipping.seed}
    check_same_source(real.with_suffix(".json"), {"root": str(options.real.resolve())} | origin | cuts)
    if not real.exists():
        words = option_words(origin | {"output": real, "workers": options.workers})
        index_command.run(parse("index", index_command, [str(options.real), "--strict", *words]))
    if not copied.exists():
        words = option_words(cuts | {"output": copied, "workers": options.workers})
        recrop_command.run(parse("recrop", recrop_command, [str(real), *words]))
    parts: list[dict[str, list[str]]] = []
    for path in (real, copied / "index.csv"):
        found: dict[str, list[str]] = {}
        for study in read_table(path).values():
            studies[study.case] = study
            found.setdefault(study.patient, []).append(study.case)
        parts.append(found)
    write_table(list(studies.values()), options.run / "index.csv")
    cache = options.run / "cache"
    prepare_cases(studies, studies, cache, shipping.plan.crop, options.workers)
    return NestedData(studies=studies, phantoms=phantoms, originals=parts[0], copies=parts[1], cache=cache)


def check_same_source(path: Path, source: dict[str, Any]) -> None:
    """Write down at `path` what real studies and copies come from; refuse another source later. Raises ConfigError."""
    if not path.exists():
        write_json(path, source)
    elif (found := read_json(path)) != source:
        raise ConfigError(
            f"'{path.parent}' holds studies made from {found}, and {source} is asked for; give another --run"
        )
