"""Write generated studies as DICOM, in the header styles of three vendors. `make score` scores them.

    python test/helpers/make_dicom_studies.py FOLDER --count 3
    python test/helpers/make_dicom_studies.py FOLDER --count 6 --two-dates

Folders and patients have names that must not leak. The truth of each, on the PET's grid, goes to FOLDER-truth. With
--two-dates each patient has two studies, and FOLDER-truth/lesions.csv says what was planted, lesion by lesion.
"""

import argparse
import sys
from datetime import date
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent.parent), str(Path(__file__).resolve().parent)]

import SimpleITK as sitk  # noqa: E402
from dicom_writer import write_study  # noqa: E402
from two_dates import Dated, PlantedLesion, read_planted, two_dates, write_planted  # noqa: E402

from training.phantom.study import TEST_SEEDS_FROM, make_phantom, to_images  # noqa: E402

VENDORS, SITES = ("ge", "siemens", "philips"), "ABC"
FIRST = TEST_SEEDS_FROM + 300
DAYS = (date(2024, 3, 5), date(2024, 6, 4))


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


def make_two_dates(folder: Path, number: int) -> Path:
    """Make both studies of one patient, unless they are there. Returns the patient's folder."""
    patient = f"DOE{number:03d}"
    table = folder.with_name(f"{folder.name}-truth") / "lesions.csv"
    planted = read_planted(table) if table.is_file() else []
    if patient not in {one.patient for one in planted}:
        first, second, lesions = two_dates(patient, FIRST + 200 + number, SITES[number % 3])
        write_two_dates(folder, number, (first, second), [*planted, *lesions])
    return folder / f"Doe_John_{number:03d}"


def write_two_dates(folder: Path, number: int, dates: tuple[Dated, Dated], planted: list[PlantedLesion]) -> None:
    """Both studies of a patient as DICOM, their truths, and then the table of all that was planted so far."""
    truths, patient = folder.with_name(f"{folder.name}-truth"), f"Doe_John_{number:03d}"
    for day, images, place in zip(DAYS, dates, (0, 1), strict=True):
        study = folder / patient / day.isoformat()
        fields = {"PatientID": f"DOE{number:03d}", "PatientName": f"Doe^John^{number}", "PatientBirthDate": "19600214"}
        fields |= {"PatientSex": "M", "PatientSize": 1.76, "StudyTime": "100000"}
        own = 1000 + 10 * number + place
        write_study(study, images.pet, images.ct, VENDORS[number % 3], own, day=day, **fields)
        truth = truths / patient / f"{day.isoformat()}.mha"
        truth.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(images.truth > 0, str(truth), True)
    write_planted(planted, truths / "lesions.csv")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the studies go")
    parser.add_argument("--count", type=int, default=3, help="how many (default: 3; cost: some 10 s and 40 MB each)")
    parser.add_argument(
        "--two-dates",
        action="store_true",
        help="two studies of each of --count patients, with lesions that grew, shrank, stayed, went and came (default: "
        "no; cost: four times that of one study)",
    )
    options = parser.parse_args()
    for number in range(options.count):
        made = make_two_dates(options.folder, number) if options.two_dates else make(options.folder, number)
        print(f"generated: {made}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
