"""Write generated studies as DICOM, in the header styles of three vendors. `make score` scores them.

    python test/helpers/make_dicom_studies.py FOLDER --count 3

Folders and patients have names that must not leak. The truth of each, on the PET's grid, goes to FOLDER-truth.
"""

import argparse
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent.parent), str(Path(__file__).resolve().parent)]

import SimpleITK as sitk  # noqa: E402
from dicom_writer import write_study  # noqa: E402

from training.phantom.study import TEST_SEEDS_FROM, make_phantom, to_images  # noqa: E402

VENDORS, SITES = ("ge", "siemens", "philips"), "ABC"
FIRST = TEST_SEEDS_FROM + 300


def make(folder: Path, number: int) -> Path:
    """Make one study, unless it is there. Returns its folder."""
    name = f"Doe_Jane_{number:03d}"
    study, truth = folder / name, folder.with_name(f"{folder.name}-truth") / f"{name}.mha"
    if not truth.exists():
        pet, ct, mask = to_images(make_phantom(FIRST + number, SITES[number % 3], "positive"))
        write_study(study, pet, ct, VENDORS[number % 3], number + 1, PatientName=f"Doe^Jane^{number}")
        truth.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(mask, str(truth), True)
    return study


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the studies go")
    parser.add_argument("--count", type=int, default=3, help="how many (default: 3; cost: some 10 s and 40 MB each)")
    options = parser.parse_args()
    for number in range(options.count):
        print(f"generated: {make(options.folder, number)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
