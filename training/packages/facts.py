"""What a package says of a bundle: its networks, data, scores and terms, from the manifest alone."""

from collections.abc import Sequence
from typing import Any

from model import RESEARCH
from model.bundle.format import Manifest
from model.bundle.licence import UNKNOWN, spelt_out
from model.bundle.manifest import Bundle
from model.bundle.network import OF_NNUNET, UNETS
from model.bundle.settings import Part
from model.errors import ConfigError
from training.bundles.trained_on import TRAINED_ON

AUTHORS = "The petct-lesion-segmentation developers"
UNNAMED = "The manifest of the weights says nothing"  # of whose they are


def images_of(manifest: Manifest) -> str:
    """What the networks see."""
    return "PET" if manifest.pet_alone else "PET/CT"


def task(manifest: Manifest) -> str:
    """What the networks do, as a title."""
    return f"Tumour lesions in whole-body FDG {images_of(manifest)}"


def limitations(manifest: Manifest) -> str:
    """What the weights are not for, and what can be wrong with their masks."""
    images = "PET in SUV, without CT" if manifest.pet_alone else "PET in SUV with the CT of the same study"
    return (
        f"{RESEARCH} Made for whole-body FDG {images}; no other tracer. Brain, heart, kidneys, bladder and "
        "inflammation can be taken for lesions, and small or faint lesions missed: look at every mask."
    )


def attribution(manifest: Manifest) -> str:
    """Whose method or networks they are, as a sentence."""
    return f"{manifest.provenance.attribution.strip().rstrip('.') or UNNAMED}."


def check_licence(bundle: Bundle) -> None:
    """Raise ConfigError if nobody says that the weights, or some of a mixed bundle's, may be passed on, which is what a
    package is for.
    """
    if {"", UNKNOWN} & set(bundle.manifest.licence.strip().lower().split(" and ")):
        raise ConfigError(
            f"'{bundle.folder}' has the licence '{bundle.manifest.licence}', so its weights must not be passed on; if "
            "their authors state one, make the bundle again with --licence TEXT"
        )


def models_of(manifest: Manifest) -> list[Part]:
    """The different settings of the bundle's networks, in the manifest's order; most bundles have one."""
    parts: list[Part] = []
    for member in manifest.members:
        parts += [] if manifest.part(member) in parts else [manifest.part(member)]
    return parts


def network_count(manifest: Manifest) -> int:
    """How many networks vote: DiWA's are averaged to one."""
    return 1 if manifest.method == "diwa" else len(manifest.members)


def description(manifest: Manifest) -> str:
    """The method in a sentence or two."""
    count = network_count(manifest)
    kinds = " and ".join(dict.fromkeys(architecture(part) for part in models_of(manifest)))
    if manifest.method == "diwa":
        how = "One network of averaged weights (DiWA)"
    else:
        how = "One network" if count == 1 else f"{count} networks, whose predictions are averaged"
    images = f"{images_of(manifest)}{', without CT' if manifest.pet_alone else ''}"
    return f"Segments tumour lesions in whole-body FDG {images}. {how}: {kinds}."


def architecture(part: Part) -> str:
    """A network in a few words."""
    network = part.network
    if network.kind == "slices":
        return f"a 2-D U-Net with the encoder {network.fusion}"
    if network.fusion in OF_NNUNET:
        return f"a 3-D {'residual ' if network.fusion == 'residual_unet' else ''}U-Net of nnU-Net's kind"
    if network.fusion not in UNETS:
        return "a SwinUNETR"
    return "a 3-D U-Net" if network.pet_alone else f"a 3-D U-Net with {network.fusion} fusion"


def terms(manifest: Manifest) -> str:
    """Licence of the weights and of the program, and whom to cite."""
    cite = f" Cite: {manifest.citation}" if manifest.citation else ""
    return f"Weights: {spelt_out(manifest.licence)}. Program: MIT.{cite}"


def validation(manifest: Manifest) -> dict[str, str]:
    """Scores on the cases that the networks were selected on, by name; empty if the manifest has none."""
    scores: Any = manifest.provenance.scores.get("validation")
    if not isinstance(scores, dict):
        return {}
    return {name: f"{value:.4g}" for name, value in scores.items() if isinstance(value, int | float)}


def case_counts(manifest: Manifest) -> tuple[int | None, int | None]:
    """How many cases trained or selected the networks, and how many of these selected; None where it is not known."""
    trained, selected = (manifest.provenance.scores.get(key) for key in (TRAINED_ON, "selected_on_cases"))
    return (
        len(trained) if isinstance(trained, Sequence) and not isinstance(trained, str) else None,
        selected if isinstance(selected, int) else None,
    )


def scores_text(manifest: Manifest) -> str:
    """The validation scores in a sentence, with what they are worth."""
    found, (_, selected) = validation(manifest), case_counts(manifest)
    if not found:
        return "The manifest of the weights has no scores."
    numbers = ", ".join(f"{name} {value}" for name, value in found.items())
    on = f"the {selected} cases" if selected is not None else "the cases"
    return f"On {on} that the networks were selected on, so better than on new ones: {numbers}."


def model_card(manifest: Manifest, how_to_run: str) -> str:
    """README.md of a package, in Markdown. how_to_run: the paragraphs that differ from package to package."""
    sections = {
        "What it does": f"{description(manifest)}\n\nThe mask lies on the PET's grid: 1 is lesion.",
        "Run it": how_to_run,
        "Intended use": f"{manifest.intended_use}\n\n{limitations(manifest)}",
        "Training data": manifest.provenance.data,
        "Scores": scores_text(manifest),
        "Origin": f"{attribution(manifest)} Weights of {manifest.provenance.date or 'an unknown date'}.",
        "Terms": f"{terms(manifest)} NOTICE names what the program rests on.",
    }
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
    return f"# {task(manifest)}: {manifest.name}\n\n**{RESEARCH}**\n\n{body}\n"
