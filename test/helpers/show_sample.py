"""Compare the sample's mask with its truth and print what was found. `make run` ends with it.

    python test/helpers/show_sample.py OUTPUT TRUTH [--picture FILE.png]

--picture writes the preview with few colours, for docs/sample.png.
"""

import argparse
import json
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from model.results.metrics import score  # noqa: E402
from model.study.reading import read_volume  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="the folder that process.py wrote into")
    parser.add_argument("truth", type=Path, help="the folder of the true mask")
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="also write the preview here, small")
    options = parser.parse_args()
    report = json.loads((options.output / "report.json").read_text())
    name = report["case"]
    preview = options.output / f"{name}_preview.png"
    if options.picture:
        picture = Image.open(preview).convert("RGB")
        picture = picture.quantize(96, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)  # keeps the red
        picture.save(options.picture, optimize=True)
        return 0
    mask = options.output / "images" / "automated-petct-lesion-segmentation" / f"{name}.mha"
    found, truth = read_volume(mask, "mask"), read_volume(options.truth / f"{name}.mha", "truth")
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
    print(f"  preview           {preview}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
