"""MHub's module for this model: it hands a study's PET and CT to scripts/run.sh, and takes the DICOM SEG."""

import shutil
import tempfile
from pathlib import Path

from mhubio.core import IO, Instance, InstanceData, Module

RUN = Path(__file__).resolve().parent.parent / "scripts" / "run.sh"


class LesionRunner(Module):  # type: ignore[misc]
    """Segments lesions in the PET of a study with its CT."""

    @IO.Instance()  # type: ignore[untyped-decorator]
    @IO.Input("in_ct", "dicom:mod=ct", the="CT of the study")  # type: ignore[untyped-decorator]
    @IO.Input("in_pt", "dicom:mod=pt", the="FDG PET of the study")  # type: ignore[untyped-decorator]
    @IO.Output(  # type: ignore[untyped-decorator]
        "out_seg",
        "lesions.seg.dcm",
        "dicomseg:mod=seg:model=PetCtLesions:roi=FDG_AVID_TUMOR",
        data="in_pt",
        bundle="model",
        the="lesions, one segment each, on the slices of the PET",
    )
    def task(self, instance: Instance, in_ct: InstanceData, in_pt: InstanceData, out_seg: InstanceData) -> None:
        with tempfile.TemporaryDirectory() as folder:
            study, results = Path(folder, "studies", "study"), Path(folder, "results")
            for name, data in (("ct", in_ct), ("pt", in_pt)):
                shutil.copytree(data.abspath, study / name)
            self.subprocess([str(RUN), str(study.parent), str(results)])
            found = sorted(results.glob("studies/*/seg.dcm"))
            if len(found) != 1:
                raise RuntimeError(f"'{in_pt.abspath}' was not segmented; the lines above say why and what to do")
            shutil.copyfile(found[0], out_seg.abspath)
