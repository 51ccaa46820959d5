"""Phantoms as studies, in memory."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.study.reading import Case, volume_of
from training.phantom.study import make_phantom, to_images


def phantom_case(seed: int) -> tuple[Case, NDArray[np.bool_]]:
    """A phantom of site A with lesions as a study, and its truth (z, y, x)."""
    phantom = make_phantom(seed, "A", "positive")
    pet, ct, _ = (volume_of(image, Path(f"phantom-{seed}")) for image in to_images(phantom))
    return Case(name=f"phantom {seed}", pet=pet, ct=ct, warnings=()), phantom.truth.astype(bool)
