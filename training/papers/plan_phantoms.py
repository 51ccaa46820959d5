"""The phantoms of a plan: which there are, and how those that are missing are made."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from training.command import option_words, parse
from training.data import index as index_command
from training.data.folds import PARTS, Fold
from training.data.table import Study, read_table, write_table
from training.papers.plan import ExperimentPlan
from training.phantom import study as phantoms_command
from training.phantom.maps import OWN_MAPS
from training.phantom.study import VERSION
from training.phantom.table import study_name


def phantom_ranges(plan: ExperimentPlan, part: str) -> list[tuple[str, int, int, bool]]:
    """Site, first seed, how many, and whether on maps, of the phantoms of a part."""
    kinds = ((plan.phantoms, False), (plan.on_maps, True))
    return [(site, *seeds, on_map) for kind, on_map in kinds for site, seeds in (kind.get(part) or {}).items()]


def phantom_fold(plan: ExperimentPlan) -> Fold:
    """The names of the plan's phantoms, by part."""
    parts = {
        part: tuple(
            sorted(
                study_name(seed, site, on_map, plan.on_pet_grid)
                for site, first, count, on_map in phantom_ranges(plan, part)
                for seed in range(first, first + count)
            )
        )
        for part in PARTS
    }
    return Fold(name="phantoms", **parts)


def make_phantoms(
    plan: ExperimentPlan, folder: Path, workers: int, maps: Path = OWN_MAPS, packed: Mapping[str, Study] | None = None
) -> tuple[Path, Fold]:
    """Make the phantoms of the plan that are not there yet. Returns the path of their index, and their parts as a fold.

    maps: folder of organ maps for the plan's on_maps. packed: phantoms that came prepared and need no files. The index
    is made anew if it lacks a phantom, or if a phantom's file is newer.
    """
    packed, fold = packed or {}, phantom_fold(plan)
    for part in PARTS:
        for site, first, count, on_map in phantom_ranges(plan, part):
            names = [study_name(seed, site, on_map, plan.on_pet_grid) for seed in range(first, first + count)]
            for begin, end in stretches([name not in packed for name in names]):
                seeds: dict[str, object] = {"seed": first + begin, "count": end - begin, "site": site}
                seeds |= {"maps": maps} if on_map else {}
                words = option_words(seeds | {"output": folder / "phantoms", "workers": workers})
                words += ["--on-pet-grid"] * plan.on_pet_grid
                phantoms_command.run(parse("phantoms", phantoms_command, words))
    path, wanted = folder / "phantoms.csv", {name for part in PARTS for name in getattr(fold, part)}
    made = wanted - packed.keys()
    if made and (not path.exists() or changed_since(path, folder / "phantoms") or not wanted <= set(read_table(path))):
        words = [str(folder / "phantoms"), "--strict", *option_words({"output": path, "workers": workers})]
        index_command.run(parse("index", index_command, words))
        write_table([replace(study, made=f"phantoms {VERSION}") for study in read_table(path).values()], path)
    if packed:
        found = [study for case, study in read_table(path).items() if case in made] if made else []
        write_table([*found, *(packed[case] for case in sorted(wanted - made))], path)
    return path, fold


def stretches(wanted: Sequence[bool]) -> list[tuple[int, int]]:
    """Begin and end of every stretch of what is wanted."""
    edges = [0, *(n for n in range(1, len(wanted)) if wanted[n] != wanted[n - 1]), len(wanted)]
    return [(begin, end) for begin, end in itertools.pairwise(edges) if begin < end and wanted[begin]]


def changed_since(path: Path, folder: Path) -> bool:
    """Whether a file at any depth below the folder is newer than the one at `path`."""
    written = path.stat().st_mtime_ns
    return any(file.stat().st_mtime_ns > written for file in folder.rglob("*") if file.is_file())
