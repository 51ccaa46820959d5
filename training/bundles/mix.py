"""One bundle of several: a mixed EoA, whose networks for volumes and for slices vote by their mean probability.

python -m training mix weights/eoa weights/mine --shares 1 1 --name mixed --output weights/mixed
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

import torch
from msgspec.structs import replace

from model.bundle.format import Manifest, Member, Provenance, channels_of
from model.bundle.manifest import Bundle, find_bundle, load_bundle
from model.bundle.settings import Part
from model.errors import ConfigError
from model.networks.weights import read_state
from training.bundles.trained_on import PATIENTS, TRAINED_ON
from training.bundles.write import State, check_bundle_name, write_bundle


def mix(bundles: list[Bundle], shares: list[float], name: str, output: Path, force: bool = False) -> None:
    """Write the bundle of all members of these bundles, each bundle's weights summing to its share.

    Bundles of nnU-Net's kind have a crop of their own, and the logits of their folds are averaged before they vote.
    Raises ConfigError if the others differ in crop, any in limits or in what they see, or if one votes as DiWA.
    """
    if len(shares) != len(bundles):
        raise ConfigError(f"--shares has {len(shares)} numbers, there are {len(bundles)} bundles")
    nnunet = {id(bundle) for bundle in bundles if bundle.manifest.preprocessing is not None}
    cropped = next((bundle for bundle in bundles if id(bundle) not in nnunet), bundles[0])
    first = cropped.manifest
    for bundle in bundles:
        if bundle.manifest.pet_alone != first.pet_alone:
            raise ConfigError(
                f"'{bundle.folder}' sees {' and '.join(bundle.manifest.channels)}, '{cropped.folder}' "
                f"{' and '.join(first.channels)}; give bundles that see the same"
            )
        same_crop = bundle.manifest.crop == first.crop or id(bundle) in nnunet
        if not same_crop or bundle.manifest.limits != first.limits:
            raise ConfigError(f"'{bundle.folder}' and '{cropped.folder}' differ in crop or limits, which all share")
        if bundle.manifest.method == "diwa" and len(bundle.manifest.members) > 1:
            raise ConfigError(f"'{bundle.folder}' averages weights; mix a bundle of the averaged network instead")
    states: dict[str, State] = {}
    weights: list[float] = []
    sources: list[
        tuple[Member, Part]
    ] = []  # for each new member: the member in its own bundle, and how its network is run
    for number, (bundle, share) in enumerate(zip(bundles, shares, strict=True), start=1):
        total = sum(member.weight for member in bundle.manifest.members)
        for member in bundle.manifest.members:
            states[f"{number}-{Path(member.file).stem}"] = without_loss(read_state(bundle, member))
            weights.append(share * member.weight / total)
            sources.append((member, bundle.manifest.part(member)))

    def manifest(written: tuple[Member, ...]) -> Manifest:
        members = tuple(
            replace(
                new,
                start_sha256=old.start_sha256,
                network=part.network,
                intensity=part.intensity,
                window=part.window,
                preprocessing=part.preprocessing,
                fold=old.fold,
            )
            for new, (old, part) in zip(written, sources, strict=True)
        )
        return replace(
            first,
            name=name,
            kind="mixed",
            channels=channels_of(first.network),
            method="eoa",
            combine="parts" if nnunet else "probabilities",
            preprocessing=None,
            citation=" ".join(
                dict.fromkeys(bundle.manifest.citation for bundle in bundles if bundle.manifest.citation)
            ),
            skip_suv=None,
            members=members,
            provenance=provenance_of(bundles),
            licence=" and ".join(dict.fromkeys(bundle.manifest.licence for bundle in bundles)),
        )

    write_bundle(output, states, manifest, weights=weights, start_sha256=None, force=force)


def without_loss(state: State) -> State:
    """The state in float16 if no number changes by that, as in files that hold float16; else as it is."""
    halves = {name: t.half() if t.dtype == torch.float32 else t for name, t in state.items()}
    same = all(torch.equal(halves[name].to(tensor.dtype), tensor) for name, tensor in state.items())
    return halves if same else state


def provenance_of(bundles: list[Bundle]) -> Provenance:
    """Where the members come from: the provenance of every bundle, and all cases that trained any of them."""
    origins = [bundle.manifest.provenance for bundle in bundles]
    scores: dict[str, object] = {bundle.manifest.name: "see its own bundle" for bundle in bundles}
    for key in (TRAINED_ON, PATIENTS):
        if all(key in origin.scores for origin in origins):
            scores[key] = sorted({name for origin in origins for name in origin.scores[key]})
    return Provenance(
        data=_joined(origin.data for origin in origins),
        commit=_joined(origin.commit for origin in origins),
        date=_joined(origin.date for origin in origins),
        scores=scores,
        attribution=_joined(origin.attribution for origin in origins),
    )


def run(options: argparse.Namespace) -> None:
    """Write the bundle that the options describe. Raises ConfigError, WeightsError or OutputError."""
    check_bundle_name(options.name)
    bundles = [load_bundle(find_bundle(name, None)) for name in options.bundles]
    mix(bundles, options.shares or [1.0] * len(bundles), options.name, options.output, options.force)
    print(f"wrote '{options.output}'; segment with: process.py --weights '{options.output}'")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Cost: the members' files, once more; a study takes as long as with each of the bundles in turn."
    add = parser.add_argument
    add("bundles", nargs="+", metavar="BUNDLE", help="folders, or names below weights/; the first gives intended use")
    add("--shares", nargs="+", type=float, metavar="S", help="what each bundle's vote counts (default: all 1)")
    add("--name", required=True, help="name in the manifest")
    add("--output", type=Path, required=True, metavar="DIR", help="the new bundle")
    add("--force", action="store_true", help="replace a bundle that is there (default: refuse)")


def _joined(texts: Iterable[str]) -> str:
    """Each different text once."""
    return "; ".join(dict.fromkeys(texts))
