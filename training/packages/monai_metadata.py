"""configs/metadata.json of a MONAI bundle: MONAI's bundle specification, and its schema of 2024-07-25."""

from pathlib import Path
from typing import Any

from model import __version__
from model.bundle.format import Manifest, channels_of
from model.bundle.licence import spelt_out
from model.bundle.settings import Part
from training.commit import ROOT
from training.packages.facts import AUTHORS, description, images_of, models_of, task, validation
from training.packages.program import ROAD_LIBRARIES, installed_versions

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"


def metadata_of(manifest: Manifest) -> dict[str, Any]:
    """The metadata; `network_data_format` is of the first model, `model_1_data_format` of the second, and so on."""
    base = installed_versions(("monai", "torch", "numpy"))
    first, *others = (data_format(part) for part in models_of(manifest))
    return {
        "schema": SCHEMA,
        "version": __version__,
        "changelog": {__version__: f"weights {manifest.name}, made {manifest.provenance.date or 'at an unknown date'}"},
        "monai_version": base["monai"],
        "pytorch_version": base["torch"],
        "numpy_version": base["numpy"],
        "required_packages_version": installed_versions(ROAD_LIBRARIES),
        "name": f"FDG {images_of(manifest)} lesion segmentation: {manifest.name}",
        "task": task(manifest),
        "description": description(manifest),
        "authors": AUTHORS,
        "copyright": f"{copyright_line(ROOT / 'LICENSE')} Program: MIT. Weights: {spelt_out(manifest.licence)}.",
        "data_source": manifest.provenance.data,
        "data_type": "MHA, MHD, NRRD or NIfTI images, or DICOM series",
        "image_classes": "PET in SUV; network_def takes it in network units, as the channel says"
        if manifest.pet_alone
        else "PET in SUV, CT in HU; network_def takes both in network units, as the channels say",
        "label_classes": "single channel data, 1 is lesion, 0 is everything else",
        "pred_classes": "2 channels of logits, channel 1 is lesion; the mask is single channel data, 1 is lesion",
        "eval_metrics": {name: float(value) for name, value in validation(manifest).items()},
        "intended_use": manifest.intended_use,
        "references": [text for text in (manifest.provenance.attribution, manifest.citation) if text],
        "network_data_format": first,
    } | {f"model_{number}_data_format": other for number, other in enumerate(others, start=1)}


def data_format(part: Part) -> dict[str, Any]:
    """What a network takes and gives, a window at a time."""
    network = part.network
    units = _units(part)
    names = [f"{name} {units[name]}" for name in channels_of(network)]
    if network.norm == "body":
        names.append("body: 1 inside, 0 in the air")
    shape = list(part.window.size[:2] if network.kind == "slices" else part.window.size)
    tensor = {"type": "image", "spatial_shape": shape, "dtype": "float32", "is_patch_data": True}
    clipped = part.preprocessing is None and network.kind == "volumes" and part.intensity.ct_clip
    image = {
        "format": "magnitude",
        "modality": " and ".join(sorted(channels_of(network), reverse=True)),
        "num_channels": len(names),
        "value_range": [0, 1] if clipped and part.intensity.suv_clip else [],  # []: unbounded
        "channel_def": {str(number): name for number, name in enumerate(names)},
    }
    pred = {
        "format": "logits",
        "num_channels": 2,
        "value_range": [],
        "channel_def": {"0": "background", "1": "lesion"},
    }
    return {"inputs": {"image": tensor | image}, "outputs": {"pred": tensor | pred}}


def copyright_line(licence: Path) -> str:
    """The line of a licence that says whose copyright it is."""
    line = next(line for line in licence.read_text(encoding="utf-8").splitlines() if line.startswith("Copyright"))
    return f"{line}."


def _units(part: Part) -> dict[str, str]:
    """In which units a network takes CT and PET, after resampling."""
    if part.network.kind == "slices":
        return {"CT": "z-score of HU in the slice's body", "PET": "z-score of SUV in the slice"}
    if part.preprocessing is not None:
        spacing = " x ".join(f"{step:g}" for step in part.preprocessing.spacing_mm)
        return {"CT": f"normalised HU, voxels of {spacing} mm", "PET": f"normalised SUV, voxels of {spacing} mm"}
    levels = part.intensity
    ct = f"(HU - {levels.ct_low_hu:g}) / {levels.ct_high_hu - levels.ct_low_hu:g}"
    return {
        "CT": ct.replace("- -", "+ ") + (", clipped to 0 and 1" if levels.ct_clip else ""),
        "PET": f"SUV / {levels.suv_top:g}" + (", clipped to 0 and 1" if levels.suv_clip else ""),
    }
