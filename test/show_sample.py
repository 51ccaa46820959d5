"""Compare the sample's mask with its truth and say what was found: python test/show_sample.py OUTPUT TRUTH."""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from model.results.metrics import score  # noqa: E402
from model.study.reading import read_volume  # noqa: E402


def main() -> int:
    output, truths = Path(sys.argv[1]), Path(sys.argv[2])
    report = json.loads((output / "report.json").read_text())
    name = report["case"]
    mask = output / "images" / "automated-petct-lesion-segmentation" / f"{name}.mha"
    found, truth = (read_volume(path, what) for path, what in ((mask, "mask"), (truths / f"{name}.mha", "truth")))
    if not found.grid.equals(truth.grid):
        print(f"error: '{mask}' does not lie on the truth's grid", file=sys.stderr)
        return 1
    scores = score(found.array, truth.array, truth.grid.voxel_ml)
    print("\nsample study (synthetic)")
    print(f"  lesions           {report['lesions']} found, {report['volume_ml']:.1f} ml")
    print(
        f"  against its truth {scores.lesions_found} of {scores.lesions_true} true lesions touched, "
        f"Dice {scores.dice:.3f}, FPV {scores.fpv_ml:.1f} ml, FNV {scores.fnv_ml:.1f} ml"
    )
    print("  seconds           " + ", ".join(f"{stage} {value:.2f}" for stage, value in report["seconds"].items()))
    print(f"  mask              {mask}")
    print(f"  preview           {output / (name + '_preview.png')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
