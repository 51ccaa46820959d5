"""A bundle of weights as a MONAI bundle, which runs by `monai.bundle` alone: it carries the program that it needs.

configs/ has metadata.json and inference.json, models/ the weights, twice, and scripts/ the program.
"""

import json
import shutil
from pathlib import Path

import torch

from model.bundle.manifest import Bundle, load_bundle
from model.files import sha256_of
from training.commit import ROOT
from training.packages.facts import model_card
from training.packages.in_monai.lesions import LesionNetworks
from training.packages.monai_metadata import metadata_of
from training.packages.program import NOTICES, ROAD_LIBRARIES, copy_road, copy_weights

OWN = Path("configs") / "metadata.json"  # by this a MONAI bundle is known
CARRIED = Path(__file__).resolve().parent / "in_monai"
RUN = """In this folder, with Python 3.11 to 3.13, `pip install "monai[fire]>={monai}" {libraries}`:

```
python -m monai.bundle run --config_file configs/inference.json --pet PET.nii.gz{ct} --output_dir MASKS
python -m monai.bundle run --config_file configs/inference.json --dataset_dir STUDIES --output_dir MASKS
```

{studies}
`--device cpu` and `--precision float32` choose where and how it computes. On the same device, in the same precision,
the mask is that of the program's own process.py.

scripts/model is the program, unchanged. `network_def` is a module that takes windows in network units and gives logits
(configs/metadata.json); `inferer` goes the whole road, from the study to the mask. models/ holds the weights as
safetensors, which the workflow reads after checking each file's sha256 in models/manifest.json. models/model.pt holds
the same tensors (of DiWA their mean) as the state of `network_def`, for platforms that load one; its sha256 stands in
configs/metadata.json."""

STUDIES = """PET in SUV and CT in HU are MHA, MHD, NRRD or NIfTI files on any grids. STUDIES holds a folder for each
study: with images/pet and images/ct, or with the DICOM of one PET and one CT series, which becomes SUV by its
headers."""
STUDIES_OF_PET = """PET in SUV is an MHA, MHD, NRRD or NIfTI file. STUDIES holds a folder for each study: with
images/pet, or with the DICOM of one PET series, which becomes SUV by its headers. These networks see PET alone: no CT
is needed, and one that is there is not read."""


def write_monai(bundle: Bundle, folder: Path) -> None:
    """Fill a folder that is there and empty. Raises WeightsError for weights that do not fit, OSError."""
    for name in ("configs", "docs", "scripts"):
        (folder / name).mkdir()
    copy_weights(bundle, folder / "models")
    copy_road(folder / "scripts")
    shutil.copyfile(CARRIED / "lesions.py", folder / "scripts" / "lesions.py")
    (folder / "scripts" / "__init__.py").write_text("")
    shutil.copyfile(CARRIED / "inference.json", folder / "configs" / "inference.json")
    for name in NOTICES:
        shutil.copyfile(ROOT / name, folder / name)
    weights = folder / "models" / "model.pt"
    with weights.open("wb") as file:  # by a path, torch makes a RuntimeError of a full disk
        torch.save(LesionNetworks(str(folder)).state_dict(), file)
    copied = load_bundle(folder / "models").manifest
    metadata = metadata_of(copied) | {"model_sha256": sha256_of(weights)}
    (folder / OWN).write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
    libraries = " ".join(f"{name}=={metadata['required_packages_version'][name]}" for name in ROAD_LIBRARIES)
    ct, studies = ("", STUDIES_OF_PET) if copied.pet_alone else (" --ct CT.nii.gz", STUDIES)
    run = RUN.format(monai=metadata["monai_version"], libraries=libraries, ct=ct, studies=studies)
    card = model_card(copied, run)
    (folder / "docs" / "README.md").write_text(card, encoding="utf-8")
