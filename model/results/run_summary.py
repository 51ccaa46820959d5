"""The report of a run: report.json, and the lines on the terminal."""

import platform
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from model import RESEARCH, __version__
from model.bundle.manifest import Bundle
from model.files import peak_memory_bytes
from model.inference.device import Device
from model.inference.segment import Result
from model.results.metrics import components
from model.study.reading import Case


def make_report(
    case: Case, bundle: Bundle, device: Device, result: Result, warnings: list[str], seconds: dict[str, float]
) -> dict[str, Any]:
    """Everything that shows later how this mask was made; volumes in ml, times in s, memory in bytes."""
    _, lesions = components(result.mask)
    voxel_ml = case.pet.grid.voxel_ml
    return {
        "notice": RESEARCH,
        "case": case.name,
        "inputs": {"pet": str(case.pet.path), "ct": str(case.ct.path)},
        "lesions": lesions,
        "volume_ml": round(float(np.count_nonzero(result.mask)) * voxel_ml, 3),
        "pet_grid": {
            "size": list(case.pet.grid.size),
            "spacing_mm": list(case.pet.grid.spacing_mm),
            "origin_mm": list(case.pet.grid.origin_mm),
            "direction": list(case.pet.grid.direction),
        },
        "weights": {
            "name": bundle.manifest.name,
            "method": bundle.manifest.method,
            "manifest_sha256": bundle.sha256,
            "members": [{"sha256": m.sha256, "weight": m.weight} for m in bundle.manifest.members],
            "licence": bundle.manifest.licence,
            "citation": bundle.manifest.citation,
        },
        "run": {
            "device": device.name if _on(device, result.rung) else "CPU",
            "precision": _precision(device, result.rung),
            "rung": result.rung,
            "windows": result.windows,
            "windows_skipped": result.skipped,
        },
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
        "peak_memory_bytes": peak_memory_bytes(),
        "peak_gpu_memory_bytes": torch.cuda.max_memory_allocated() if device.torch_device.type == "cuda" else None,
        "warnings": warnings,
        "versions": {
            "petct-lesion-segmentation": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "simpleitk": sitk.Version_VersionString(),
            "numpy": np.__version__,
        },
    }


def _on(device: Device, rung: str) -> bool:
    """Whether a rung computes on the device that was chosen; else memory ran out there, and the CPU took over."""
    return rung.startswith(device.torch_device.type)


def _precision(device: Device, rung: str) -> str:
    """Of the convolutions; float32 where none was run, or where the CPU took over."""
    return str(device.precision).removeprefix("torch.") if _on(device, rung) else "float32"


def summary(report: dict[str, Any], mask_path: str) -> list[str]:
    """The report in a few lines for a person."""
    stages = "  ".join(f"{name} {value:.1f}" for name, value in report["seconds"].items())
    return [
        f"found: {report['lesions']} lesions, {report['volume_ml']:.1f} ml",
        f"mask:  {mask_path}",
        f"seconds: {stages}",
    ]
