"""A bundle of random networks, small enough for a test."""

from pathlib import Path

import torch

from model.bundle.format import Manifest, Provenance
from model.bundle.network import Network
from model.bundle.settings import Crop, Intensity, Window
from model.networks.unet import build
from training.bundles.write import write_bundle


def random_bundle(
    folder: Path,
    members: int = 2,
    weights: list[float] | None = None,
    half: bool = False,
    start: str | None = "0" * 64,
    **changes: object,
) -> Path:
    """Write a bundle of random networks. changes: of its manifest."""
    settings = (
        dict(
            format_version=1,
            name=folder.name,
            kind="volumes",
            network=Network(fusion="middle", widths=(2, 2, 4)),
            channels=("CT", "PET"),
            intensity=Intensity(),
            crop=Crop(),
            window=Window(size=(32, 32, 32)),
            method="eoa",
            provenance=Provenance(data="random", commit="", date="", scores={}, attribution=""),
            intended_use="tests",
            licence="MIT",
        )
        | changes
    )
    states = {}
    for number in range(members):
        torch.manual_seed(number)
        network = build(settings["network"])
        with torch.no_grad():  # so that random networks find both classes
            for name, parameter in network.named_parameters():
                if name.endswith("fc.bias"):
                    parameter.zero_()
        states[f"m{number}"] = network.state_dict()
    write_bundle(
        folder,
        states,
        lambda found: Manifest(members=found, **settings),
        weights=weights or [1.0] * members,
        start_sha256=start,
        half=half,
    )
    return folder
