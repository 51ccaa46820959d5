"""Make the repository's sample: one synthetic study in test/input, its truth in test/truth.

    python -m training sample [--output test]

The same files come out every time. To keep them small, the CT's HU are rounded to steps of CT_STEP_HU.
"""

import argparse
import uuid
from dataclasses import replace
from pathlib import Path

import numpy as np

from training.phantom.study import Phantom, make_phantom, to_images

SAMPLE_SEED = 200_021  # of the test range, so that no training study equals it
SAMPLE_SITE, SAMPLE_DIAGNOSIS = "A", "lymphoma"
CT_STEP_HU = 20


def sample_phantom() -> Phantom:
    """The study of the sample, its CT rounded to CT_STEP_HU (air stays at -1000, bone below 3071)."""
    phantom = make_phantom(SAMPLE_SEED, SAMPLE_SITE, SAMPLE_DIAGNOSIS)
    steps = np.rint((phantom.ct.astype(np.float32) + 1000) / CT_STEP_HU) * CT_STEP_HU - 1000
    return replace(phantom, ct=steps.astype(np.int16))


def sample_name(modality: str) -> str:
    """Name of the sample's file of a modality ("pet" or "ct"): a UUID that depends on the seed alone."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"synthetic-petct/{SAMPLE_SEED}/{modality}"))


def write_sample(folder: Path) -> list[Path]:
    """Write input/images/pet/<uuid>.mha, input/images/ct/<uuid>.mha and truth/<CT uuid>.mha, compressed.

    Returns the three paths.
    """
    import SimpleITK as sitk

    pet, ct = sample_name("pet"), sample_name("ct")
    paths = [folder / f"input/images/pet/{pet}.mha", folder / f"input/images/ct/{ct}.mha", folder / f"truth/{ct}.mha"]
    for image, path in zip(to_images(sample_phantom()), paths, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(image, str(path), useCompression=True, compressionLevel=9)
    return paths


def run(options: argparse.Namespace) -> None:
    """Write the sample and print each file's size."""
    for path in write_sample(options.output):
        print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Cost: 10 s."
    parser.add_argument("--output", type=Path, default=Path("test"), help="folder to write into (default test)")
