"""Compare the mask that a container wrote with the expected one; exit 1 with a sentence for every difference.

    python3 compare_output.py INPUT EXPECTED_OUTPUT OUTPUT [EDITION]

EDITION is autoPET's, 1 to 5 (default 2). It decides where the mask lies; III has a second file.
It needs only SimpleITK and numpy, since it runs inside the image that it checks.
All arithmetic is on Python integers, so counts of voxels cannot wrap.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk

MASKS = {
    edition: Path("images", "automated-petct-lesion-segmentation" if edition in "123" else "tumor-lesion-segmentation")
    for edition in "12345"
}
DATA_CENTRIC = Path("data-centric-model.json")  # of edition III: true or false
SMALLEST_DICE = 0.99
GEOMETRY = {
    "size": sitk.Image.GetSize,
    "spacing": sitk.Image.GetSpacing,
    "origin": sitk.Image.GetOrigin,
    "direction": sitk.Image.GetDirection,
}


def main(arguments: list[str]) -> int:
    folders, edition = [Path(argument) for argument in arguments[:3]], (arguments[3:] or ["2"])[0]
    if len(arguments) not in (3, 4) or edition not in MASKS:
        print("usage: compare_output.py INPUT EXPECTED_OUTPUT OUTPUT [EDITION, 1 to 5]", file=sys.stderr)
        return 2
    try:
        found = differences(*folders, edition)
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: SimpleITK; ValueError: JSON
        found = [f"a file could not be read: {error}"]
    for sentence in found:
        print(f"DIFFERENT: {sentence}", file=sys.stderr)
    return 1 if found else 0


def differences(input_folder: Path, expected_folder: Path, output_folder: Path, edition: str) -> list[str]:
    """Every difference from the expected output, a sentence each; empty if there is none.

    Raises OSError when the sample itself is not one PET, one CT and one expected mask named after the CT, in the
    folder of any edition.
    """
    pet_file = _only_volume(input_folder / "images/pet")
    name = _only_volume(input_folder / "images/ct").name
    mask_file = MASKS[edition] / name
    known = [path for path in sorted({m / name for m in MASKS.values()}) if (expected_folder / path).is_file()]
    if len(known) != 1:
        raise OSError(f"{expected_folder} must hold one mask {name}, it holds {len(known)}")

    wanted = sorted([mask_file, *([DATA_CENTRIC] if edition == "3" else [])])
    written = _files(output_folder)
    if written != wanted:
        names = ", ".join(map(str, written)) or "no file at all"
        number = "exactly one file" if len(wanted) == 1 else f"exactly {len(wanted)} files"
        return [f"{number} must come out, {', '.join(map(str, wanted))}; found {len(written)} ({names})"]
    if edition == "3" and not isinstance(json.loads((output_folder / DATA_CENTRIC).read_text()), bool):
        return [f"{DATA_CENTRIC} holds neither true nor false"]

    output = sitk.ReadImage(str(output_folder / mask_file))
    expected = sitk.ReadImage(str(expected_folder / known[0]))
    found = _other_geometry(output, "the expected mask", expected)
    found += _other_geometry(output, "the input PET", sitk.ReadImage(str(pet_file)))
    found += _no_mask(output, "the output") + _no_mask(expected, "the expected mask")
    if output.GetSize() == expected.GetSize() and not found:
        found += _other_voxels(sitk.GetArrayViewFromImage(output) == 1, sitk.GetArrayViewFromImage(expected) == 1)
    return found


def dice(one: np.ndarray, other: np.ndarray) -> float:
    """Dice coefficient of two boolean arrays of one shape; 1 when both are empty."""
    total = int(np.count_nonzero(one)) + int(np.count_nonzero(other))
    return 2 * int(np.count_nonzero(one & other)) / total if total else 1.0


def _other_voxels(output: np.ndarray, expected: np.ndarray) -> list[str]:
    score = dice(output, expected)
    numbers = (
        f"Dice {score:.6f}, {np.count_nonzero(output)} voxels where {np.count_nonzero(expected)} are expected, "
        f"{np.count_nonzero(output != expected)} of {output.size} voxels differ"
    )
    if score < SMALLEST_DICE:
        return [f"the mask is another one: {numbers}; Dice must be at least {SMALLEST_DICE}"]
    print(f"the mask is the expected one: {numbers}; same geometry as the expected mask and the PET")
    return []


def _other_geometry(output: sitk.Image, name: str, reference: sitk.Image) -> list[str]:
    return [
        f"{what} is {read(output)}, that of {name} is {read(reference)}"
        for what, read in GEOMETRY.items()
        if read(output) != read(reference)
    ]


def _no_mask(image: sitk.Image, name: str) -> list[str]:
    if image.GetPixelID() != sitk.sitkUInt8:
        return [f"{name} holds {image.GetPixelIDTypeAsString()}, not 8-bit unsigned integers"]
    values = np.unique(sitk.GetArrayViewFromImage(image)).tolist()
    return [] if set(values) <= {0, 1} else [f"{name} holds the values {values}; only 0 and 1 are allowed"]


def _only_volume(folder: Path) -> Path:
    volumes = sorted(folder.glob("*.mha"))
    if len(volumes) != 1:
        raise OSError(f"{folder} must hold exactly one .mha, it holds {len(volumes)}")
    return volumes[0]


def _files(folder: Path) -> list[Path]:
    """All files below the folder, relative to it, sorted."""
    return sorted(file.relative_to(folder) for file in folder.rglob("*") if file.is_file())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
