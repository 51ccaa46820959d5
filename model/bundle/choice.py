"""The part of a bundle's networks and mirrorings that a run uses: --folds and --mirroring.

Both trade time for quality: each fold is a network more, each mirrored axis doubles how often a network looks.
"""

import argparse
import dataclasses
import math
from collections.abc import Callable, Sequence

from msgspec.structs import replace as replaced

from model.bundle.format import FOLDS, Manifest, Member
from model.bundle.manifest import Bundle, chosen_bundle
from model.bundle.network import OF_NNUNET
from model.bundle.settings import Part, Window
from model.errors import ConfigError

MIRRORED = {"none": (), "fast": ("x",), "full": ("x", "y", "z")}  # the axes of each choice but model
MIRRORINGS = ("model", *MIRRORED)


def bundle_of_options(options: argparse.Namespace) -> Bundle:
    """The bundle of --weights, --method and --limit, with the networks of --folds and the axes of --mirroring.

    Raises WeightsError and ConfigError.
    """
    bundle = chosen_bundle(options.weights, options.method, options.limit)
    return chosen_members(bundle, options.folds, options.mirroring)


def check_choice(folds: Sequence[str] | None, mirroring: str) -> None:
    """Raise ConfigError for folds or a mirroring that no bundle can have."""
    if mirroring not in MIRRORINGS:
        raise ConfigError(f"--mirroring must be one of {', '.join(MIRRORINGS)}, got {mirroring!r}")
    if folds is None:
        return
    wrong = [fold for fold in folds if fold not in FOLDS]
    if wrong or not folds:
        raise ConfigError(f"--folds takes some of {', '.join(FOLDS)}, got {' '.join(wrong) or 'none'!r}")
    if len(set(folds)) < len(folds):
        raise ConfigError(f"--folds names a fold twice: {' '.join(folds)}")


def chosen_members(bundle: Bundle, folds: tuple[str, ...] | None, mirroring: str) -> Bundle:
    """The bundle with these folds alone (None: all it has), and with windows mirrored as asked.

    mirroring model: as the manifest says; none: not at all; fast: along the left-right axis x alone; full: along x, y
    and z. Members without a fold stay, and fast and full leave networks of other kinds than nnU-Net's as they are. In a
    bundle of several models each keeps its weight in the vote, however many of its folds are left.
    Raises ConfigError: a fold or mirroring that does not exist; folds that a model of the bundle lacks, or a bundle
    without folds; fast or full for a bundle without networks of nnU-Net's kind.
    """
    check_choice(folds, mirroring)
    manifest, changes, warnings = bundle.manifest, [*bundle.changes], [*bundle.warnings]
    if folds is not None:
        members = _members_of_folds(manifest, folds)
        if len(members) < len(manifest.members):
            kept = {member.fold for member in members}
            changes.append(f"folds {' '.join(fold for fold in FOLDS if fold in kept)}")
            manifest = replaced(manifest, members=members)
    if mirroring != "model":
        axes = MIRRORED[mirroring]
        beyond = _check_mirrored(manifest, mirroring)
        changed = _mirrored_along(manifest, axes)
        if changed != manifest:
            changes.append(f"mirrored along {', '.join(axes)}" if axes else "not mirrored")
            manifest = changed
        warnings += beyond
    return dataclasses.replace(bundle, manifest=manifest, changes=tuple(changes), warnings=tuple(warnings))


def passes_of(manifest: Manifest, windows: Callable[[Part], int]) -> list[tuple[Part, int]]:
    """Each network that runs, by its part, and how many windows it sees, mirrored ones counted.

    windows: how many there are for networks of a part. DiWA runs one network.
    """
    networks = manifest.members[:1] if manifest.method == "diwa" else manifest.members
    parts = [manifest.part(member) for member in networks]
    return [(part, windows(part) * 2 ** len(part.window.mirrored)) for part in parts]


def passes_a_window(manifest: Manifest) -> int:
    """How often a window is seen, by all networks and all mirrorings."""
    return sum(count for _, count in passes_of(manifest, lambda part: 1))


def cheaper_choice(bundle: Bundle) -> tuple[str, Bundle] | None:
    """The options that make the bundle fastest, and the bundle that they make; None if nothing is faster."""
    words, cheaper = [], bundle
    first = tuple(dict.fromkeys(_first_folds(bundle.manifest)))
    if first and len(_members_of_folds(bundle.manifest, first)) < len(bundle.manifest.members):
        words, cheaper = [f"--folds {' '.join(first)}"], chosen_members(bundle, first, "model")
    if any(bundle.manifest.part(member).window.mirrored for member in bundle.manifest.members):
        words, cheaper = [*words, "--mirroring none"], chosen_members(cheaper, None, "none")
    if not words and _has_soup(bundle.manifest):
        soup = replaced(bundle.manifest, method="diwa")
        words, cheaper = ["--method diwa"], dataclasses.replace(bundle, manifest=soup)
    faster = passes_a_window(cheaper.manifest) < passes_a_window(bundle.manifest)
    return (" ".join(words), cheaper) if faster else None


def _members_of_folds(manifest: Manifest, folds: Sequence[str]) -> tuple[Member, ...]:
    """The members of these folds and those without a fold; the weights of each model's members sum to what they did."""
    have = [fold for fold in FOLDS if any(member.fold == fold for member in manifest.members)]
    if not have:
        raise ConfigError(
            f"--folds {' '.join(folds)}: the members of '{manifest.name}' have no folds, as those of nnU-Net's models "
            "have; leave --folds out"
        )
    if missing := [fold for fold in folds if fold not in have]:
        raise ConfigError(
            f"--folds: '{manifest.name}' has no fold {', '.join(missing)}; it has the folds {', '.join(have)}"
        )
    kept: dict[int, Member] = {}
    for model in _models(manifest):
        chosen = [number for number in model if manifest.members[number].fold in (None, *folds)]
        if not chosen:
            own = [str(manifest.members[number].fold) for number in model]
            raise ConfigError(
                f"--folds {' '.join(folds)} leaves out a whole model of '{manifest.name}', which has the folds "
                f"{', '.join(own)}; name one of them, too"
            )
        rest = math.fsum(manifest.members[number].weight for number in model)
        rest /= math.fsum(manifest.members[number].weight for number in chosen)
        for number in chosen:
            member = manifest.members[number]
            alone = len(chosen) == len(model) or len(model) == len(manifest.members)
            kept[number] = member if alone else replaced(member, weight=member.weight * rest)
    return tuple(kept[number] for number in sorted(kept))


def _models(manifest: Manifest) -> list[list[int]]:
    """The numbers of the members of each model: those that differ in nothing but their weights."""
    models: list[tuple[Part, list[int]]] = []
    for number, member in enumerate(manifest.members):
        part = manifest.part(member)
        found = next((numbers for other, numbers in models if other == part), None)
        if found is None:
            models.append((part, [number]))
        else:
            found.append(number)
    return [numbers for _, numbers in models]


def _first_folds(manifest: Manifest) -> list[str]:
    """The first fold of each model that has folds."""
    found = []
    for model in _models(manifest):
        folds = [fold for number in model if (fold := manifest.members[number].fold) is not None]
        found += sorted(folds, key=FOLDS.index)[:1]
    return found


def _check_mirrored(manifest: Manifest, mirroring: str) -> list[str]:
    """What to warn of. Raises ConfigError for fast or full without a network of nnU-Net's kind."""
    parts = [manifest.part(member) for member in manifest.members]
    of_nnunet = [part for part in parts if part.network.fusion in OF_NNUNET]
    axes = MIRRORED[mirroring]
    if not axes:
        return []
    if not of_nnunet:
        raise ConfigError(
            f"--mirroring {mirroring} is for networks of nnU-Net's kind, and '{manifest.name}' has none; leave it out"
        )
    beyond = sorted({axis for part in of_nnunet for axis in axes if axis not in part.window.mirrored})
    if not beyond:
        return []
    return [
        f"--mirroring {mirroring} mirrors along {', '.join(beyond)}, which the manifest of '{manifest.name}' does not: "
        "networks that were not trained so find less; compare with --mirroring model"
    ]


def _mirrored_along(manifest: Manifest, axes: tuple[str, ...]) -> Manifest:
    """The manifest with these axes for networks of nnU-Net's kind; without axes, for all."""

    def of(member: Member) -> Window:
        part = manifest.part(member)
        kept = axes and part.network.fusion not in OF_NNUNET
        return part.window if kept or set(part.window.mirrored) == set(axes) else replaced(part.window, mirrored=axes)

    if manifest.kind != "mixed":
        return replaced(manifest, window=of(manifest.members[0]))
    members = [
        member if of(member) == manifest.part(member).window else replaced(member, window=of(member))
        for member in manifest.members
    ]
    return replaced(manifest, members=tuple(members))


def _has_soup(manifest: Manifest) -> bool:
    """Whether --method diwa is possible: one start, no batch statistics, no networks of several kinds."""
    starts = {member.start_sha256 for member in manifest.members}
    one_start = len(starts) == 1 and None not in starts
    return manifest.kind == "volumes" and manifest.method == "eoa" and one_start and manifest.network.norm != "batch"
