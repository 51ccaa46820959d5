"""The studies of training nested: phantoms, real patients' studies, and their copies that are cut at random."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.errors import ConfigError
from model.files import sha256_of
from training.command import option_words, parse
from training.data import index as index_command
from training.data import recrop as recrop_command
from training.data.blend import Blend, blend
from training.data.folds import Fold
from training.data.pack import Pack, read_pack, unpack
from training.data.table import Study, read_table, write_table
from training.papers.plan_phantoms import make_phantoms
from training.papers.procedure import prepare_cases
from training.papers.shipping import Shipping
from training.weights.checkpoint import read_json, write_json

REAL, COPIES, SOURCE = "real.csv", "copies", "real.json"  # below --run: tables, and what they were made of
BLENDED = "blended"  # below --run: patients' tumours in phantoms' bodies
TABLES = {"real": Path(REAL), "copy": Path(COPIES) / "index.csv"}  # by what their studies are called in a pack


@dataclass(frozen=True, kw_only=True)
class NestedData:
    """All studies by case, prepared; the parts of the phantoms; each real patient's original and re-cropped cases.

    blended: each real patient's tumours in the bodies of phantoms that train.
    """

    studies: Mapping[str, Study]
    phantoms: Fold
    originals: Mapping[str, list[str]]
    copies: Mapping[str, list[str]]
    cache: Path
    blended: Mapping[str, list[str]] = field(default_factory=dict)


def data_of(shipping: Shipping, options: argparse.Namespace) -> NestedData:
    """Make the phantoms, and the real studies' re-cropped copies, and prepare all; or take them from a pack."""
    pack = read_pack(options.pack) if options.pack else None
    packed = {case: pack.studies[case] for case, kind in pack.kinds.items() if kind == "phantom"} if pack else {}
    index, phantoms = make_phantoms(shipping.plan, options.run, options.workers, options.maps, packed)
    if pack:
        check_same_source(options.run / SOURCE, take_real(pack, shipping, options.run))
    else:
        make_real(shipping, options)
    studies = dict(read_table(index))
    parts: list[dict[str, list[str]]] = []
    for path in (options.run / table for table in TABLES.values()):
        found: dict[str, list[str]] = {}
        for study in read_table(path).values():
            studies[study.case] = study
            found.setdefault(study.patient, []).append(study.case)
        parts.append(found)
    write_table(list(studies.values()), options.run / "index.csv")
    cache = options.run / "cache"
    if pack:
        unpack(pack, cache, shipping.plan.crop, studies.keys() & pack.studies.keys())
    prepare_cases(studies, studies, cache, shipping.plan.crop, options.workers)
    blended: dict[str, list[str]] = {}
    if shipping.blended:
        made = blend_tumours(shipping, [studies[case] for case in phantoms.train], options.run, options.workers)
        for study in made.values():
            studies[study.case] = study
            blended.setdefault(study.patient, []).append(study.case)
        write_table(list(studies.values()), options.run / "index.csv")
        prepare_cases(studies, made, cache, shipping.plan.crop, options.workers)
    return NestedData(
        studies=studies, phantoms=phantoms, originals=parts[0], copies=parts[1], cache=cache, blended=blended
    )


def blend_tumours(shipping: Shipping, bodies: list[Study], run: Path, workers: int) -> dict[str, Study]:
    """Put the patients' tumours into the bodies, once a run, all as they are prepared. Returns the new studies.

    Raises ConfigError for no body, or if the run's folder holds those of other bodies or copies.
    """
    if not bodies:
        raise ConfigError("blended needs bodies, and the plan has no phantoms to train; add some, or set blended: 0")
    folder, index = run / BLENDED, run / "bodies.csv"
    names = sorted(f"{study.case} {study.patient}" for study in bodies)
    source = {"blended": shipping.blended, "seed": shipping.seed, "bodies": names}
    check_same_source(folder.with_suffix(".json"), source)
    if not folder.exists():
        write_table(bodies, index)
        settings = Blend(seed=shipping.seed, copies=shipping.blended)
        blend(run / REAL, index, folder, settings, workers, run / "cache")
    return read_table(folder / "index.csv")


def make_real(shipping: Shipping, options: argparse.Namespace) -> None:
    """Index the real studies and make their copies, where they are not there yet."""
    real, copied = options.run / REAL, options.run / COPIES
    origin: dict[str, object] = {"diagnosis": options.diagnosis, "site": options.site}
    check_same_source(options.run / SOURCE, {"root": str(options.real.resolve())} | origin | cuts_of(shipping))
    if not real.exists():
        words = option_words(origin | {"output": real, "workers": options.workers})
        index_command.run(parse("index", index_command, [str(options.real), "--strict", *words]))
    if not copied.exists():
        words = option_words(cuts_of(shipping) | {"output": copied, "workers": options.workers})
        recrop_command.run(parse("recrop", recrop_command, [str(real), *words]))


def take_real(pack: Pack, shipping: Shipping, folder: Path) -> dict[str, Any]:
    """Write the tables of a pack's real studies and copies. Returns what they come from.

    Raises ConfigError if the copies are not those of the plan.
    """
    if differs := [key for key, value in cuts_of(shipping).items() if pack.source.get(key) != value]:
        raise ConfigError(
            f"pack '{pack.path}' has {differs[0]}: {pack.source.get(differs[0])}, the plan has "
            f"{cuts_of(shipping)[differs[0]]}; make a pack of this plan's run"
        )
    for kind, path in TABLES.items():
        write_table([study for case, study in pack.studies.items() if pack.kinds[case] == kind], folder / path)
    return {"pack": sha256_of(pack.path)} | pack.source


def source_of_pack(folder: Path) -> dict[str, Any]:
    """What the real studies of a run folder were made with, without the folder or the pack that they came from."""
    source: dict[str, Any] = read_json(folder / SOURCE, "run training nested first")
    return {key: value for key, value in source.items() if key not in ("root", "pack")}


def cuts_of(shipping: Shipping) -> dict[str, object]:
    """How the copies are cut."""
    return {"copies": shipping.copies, "seed": shipping.seed}


def check_same_source(path: Path, source: dict[str, Any]) -> None:
    """Write down at `path` what real studies and copies come from; refuse another source later. Raises ConfigError."""
    if not path.exists():
        write_json(path, source)
    elif (found := read_json(path)) != source:
        raise ConfigError(
            f"'{path.parent}' holds studies made from {found}, and {source} is asked for; give another --run"
        )
