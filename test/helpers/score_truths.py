"""Results of score.py in which the masks are the truths: to try what comes after the networks, without networks.

    python test/helpers/score_truths.py STUDIES RESULTS

STUDIES as `make_dicom_studies` writes them, with the truths beside it in STUDIES-truth. Then score.py takes every study
as scored, and `score.py STUDIES --output RESULTS --compare-dates` compares the dates.
"""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent.parent)]

import SimpleITK as sitk  # noqa: E402

from model.bundle.choice import bundle_of_options  # noqa: E402
from model.hospital.journal import Journal  # noqa: E402
from model.hospital.names import read_salt  # noqa: E402
from model.hospital.options import arguments  # noqa: E402
from model.hospital.queue import record_of  # noqa: E402
from model.hospital.run import plan_of  # noqa: E402
from model.hospital.score_study import Loaded, _read, score_study  # noqa: E402
from model.hospital.stored_results import StoredMask  # noqa: E402
from model.inference.device import choose_device  # noqa: E402


def main() -> int:
    studies, output = map(Path, sys.argv[1:3])
    output.mkdir(parents=True, exist_ok=True)
    options = arguments([str(studies), "--output", str(output), "--device", "cpu", "--precision", "float32"])
    bundle = bundle_of_options(options)
    plan, journal = plan_of(options, bundle, read_salt(output)), Journal(output)
    for job in plan.todo:
        truth = studies.with_name(f"{studies.name}-truth") / job.entry.source.relative_to(options.studies)
        path = truth.with_name(f"{truth.name}.mha")
        mask = sitk.GetArrayFromImage(sitk.ReadImage(str(path))) > 0
        stored = StoredMask(mask=mask, path=path, report={"batch": {"mask_warnings": [], "row": {}, "options": {}}})
        loaded = Loaded(ready=None, stored=stored, edited=None, seconds={}, **_read(job, bundle.manifest.limits))
        row = score_study(job, loaded, bundle, choose_device("cpu", "float32"), list)
        journal.add(record_of(job, {"state": "done", "row": row} | loaded.identity))
        print(f"{job.name}: {row['lesions']} lesions, {row['mtv_ml']:.1f} ml", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
