"""Compare what `score.py --compare-dates` found with what `make_dicom_studies --two-dates` planted.

    python test/helpers/check_two_dates.py STUDIES RESULTS

Prints a line for each planted lesion, then how many were found as planted, by change, and what else was found.
"""

import argparse
import csv
import json
import sys
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent.parent), str(Path(__file__).resolve().parent)]

import numpy as np  # noqa: E402
from two_dates import PlantedLesion, read_planted  # noqa: E402

NEAR_MM = 12.0  # between the centre of what was found and of what was planted


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", type=Path, help="what make_dicom_studies --two-dates wrote")
    parser.add_argument("results", type=Path, help="what score.py made of it with --compare-dates")
    options = parser.parse_args()
    studies, output = options.studies, options.results
    keys = {row["study"]: row["patient_id"] for row in _rows(output / "keys.csv")}
    rows = _rows(output / "patients_lesions.csv")
    planted = [one for one in read_planted(studies.with_name(f"{studies.name}-truth") / "lesions.csv")]
    planted = [one for one in planted if one.patient in set(keys.values())]
    used, right = set[int](), Counter[str]()
    for one in planted:
        own = [n for n, row in enumerate(rows) if keys[row["study_1"]] == one.patient and _is_of(row, one, output)]
        used |= set(own)
        said = "+".join(rows[n]["change"] for n in own) or "not found"
        right[one.change] += said == one.change
        print(f"{one.patient} lesion {one.lesion}, {one.ml_1:.1f} to {one.ml_2:.1f} ml: {one.change}, said: {said}")
    print(f"planted: {len(planted)}, found as planted: {sum(right.values())}")
    for change, count in Counter(one.change for one in planted).items():
        print(f"  {change}: {right[change]} of {count}")
    print(f"rows of other lesions: {len(rows) - len(used)}")
    return 0


def _is_of(row: dict[str, str], one: PlantedLesion, output: Path) -> bool:
    """Whether a row is of a planted lesion: by the centre of a lesion at either date."""
    for side, centre in (("1", one.centre_1_mm), ("2", one.centre_2_mm)):
        table = json.loads((output / "studies" / row[f"study_{side}"] / "lesions.json").read_text())["lesions"]
        for number in filter(None, row[f"lesion_{side}"].split("+")):
            lesion = next(found for found in table if found["number"] == int(number))
            place = [lesion[f"centroid_{axis}_mm"] for axis in "xyz"]
            if centre is not None and np.linalg.norm(np.subtract(place, centre)) < NEAR_MM:
                return True
    return False


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    sys.exit(main())
