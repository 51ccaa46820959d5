"""Scores of a bundle, case by case: on fresh phantoms, or on real studies with their contours.

    python -m benchmark.scores --weights eoa --first 200200 --count 5
    python -m benchmark.scores --weights eoa --real ../shared/data/sts STS_001 STS_019

Phantom scores are of synthetic studies; seeds from 200,000 on are never used in training or selection.
Real folders hold SUV.nii.gz, CT.nii.gz (or CTres.nii.gz) and SEG.nii.gz. Times are of this machine.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.bundle.manifest import find_bundle, load_bundle
from model.bundle.settings import Limits
from model.inference.device import choose_device, make_deterministic
from model.inference.options import SegmentOptions
from model.inference.segment import segment
from model.results.metrics import Scores, score
from model.study.reading import Case, read_case, read_volume, volume_of
from training.phantom.study import TEST_SEEDS_FROM, make_phantom, to_images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", default="eoa", help="bundle folder or name (default eoa)")
    parser.add_argument("--method", help="eoa or diwa (default: the bundle's)")
    parser.add_argument("--device", default="auto", help="auto, cuda or cpu (default auto)")
    parser.add_argument("--first", type=int, default=TEST_SEEDS_FROM + 200, help="first phantom seed (default 200200)")
    parser.add_argument("--count", type=int, default=5, help="phantoms, seeds one apart (default 5)")
    parser.add_argument("--site", default="A", help="the phantoms' scanner (default A)")
    parser.add_argument("--real", nargs="+", metavar=("FOLDER", "CASE"), help="a folder of real studies, their names")
    options = parser.parse_args()
    make_deterministic()
    bundle = load_bundle(find_bundle(options.weights, options.method), options.method)
    device = choose_device(options.device)
    cases = real(Path(options.real[0]), options.real[1:]) if options.real else phantoms(options)
    print(f"{bundle.manifest.name} ({bundle.manifest.method}) on {device.name}, manifest sha256 {bundle.sha256[:12]}")
    print("| case | Dice | FPV ml | FNV ml | lesions found | seconds |\n|---|---|---|---|---|---|")
    for case, truth in cases:
        begun = time.perf_counter()
        mask = segment(case, SegmentOptions(bundle=bundle, device=device)).mask
        seconds = time.perf_counter() - begun
        print(row(case.name, score(mask, truth, case.pet.grid.voxel_ml), seconds), flush=True)


def row(name: str, scores: Scores, seconds: float) -> str:
    return (
        f"| {name} | {scores.dice:.3f} | {scores.fpv_ml:.1f} | {scores.fnv_ml:.1f} | "
        f"{scores.lesions_found} of {scores.lesions_true} | {seconds:.1f} |"
    )


def phantoms(options: argparse.Namespace) -> Iterator[tuple[Case, NDArray[np.bool_]]]:
    """Phantoms with lesions, one at a time."""
    for seed in range(options.first, options.first + options.count):
        yield phantom_case(seed, options.site)


def phantom_case(seed: int, site: str = "A") -> tuple[Case, NDArray[np.bool_]]:
    """A phantom with lesions as a study, and its truth (z, y, x)."""
    phantom = make_phantom(seed, site, "positive")
    pet, ct, _ = (volume_of(image, Path(f"phantom-{seed}")) for image in to_images(phantom))
    return Case(name=f"phantom {seed}", pet=pet, ct=ct, warnings=()), phantom.truth.astype(bool)


def real(folder: Path, names: list[str]) -> Iterator[tuple[Case, NDArray[np.bool_]]]:
    """Real studies by name (default: all), and their expert contours."""
    for name in names or sorted(p.name for p in folder.iterdir() if p.is_dir()):
        place = folder / name
        ct = place / "CT.nii.gz" if (place / "CT.nii.gz").exists() else place / "CTres.nii.gz"
        case = read_case([place / "SUV.nii.gz", ct], Limits())
        truth = read_volume(place / "SEG.nii.gz", "truth").array.astype(bool)
        yield Case(name=name, pet=case.pet, ct=case.ct, warnings=case.warnings), truth


if __name__ == "__main__":
    main()
