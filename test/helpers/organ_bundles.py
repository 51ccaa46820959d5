"""Settings of tiny bundles whose networks know organs, for `make_bundle` of conftest.py."""

from typing import Any

from model.bundle.network import Network
from model.bundle.nnunet import Normalisation, Preprocessing, UNetStage
from model.bundle.settings import Window

STAGES = (
    UNetStage(kernel=(3, 3, 3), stride=(1, 1, 1), blocks=1),
    UNetStage(kernel=(3, 3, 3), stride=(2, 2, 2), blocks=1),
)


def organ_network(organs: int = 11, **changes: Any) -> Network:
    """A plain U-Net of two stages with a head of `organs` classes; 0: without that head."""
    return Network(fusion="plain_unet", widths=(4, 6), stages=STAGES, organs=organs, **changes)


def organ_bundle(organs: int = 11, **changes: Any) -> dict[str, Any]:
    """Changes of a manifest: such a network, on voxels of its own, mirrored along x."""
    return {
        "network": organ_network(organs),
        "window": Window(size=(16, 16, 16), weighting="nnunet", placing="even", mirrored=("x",)),
        "preprocessing": Preprocessing(
            ct=Normalisation(scheme="clip", low=-900.0, high=900.0, mean=20.0, deviation=180.0),
            pet=Normalisation(scheme="clip", low=0.1, high=20.0, mean=5.0, deviation=4.0),
            spacing_mm=(8.0, 8.0, 8.0),
        ),
    } | changes
