"""The report of a run: report.json, and the lines on the terminal."""

import platform
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from model import PET_ALONE, RESEARCH, __version__
from model.bundle.choice import passes_a_window
from model.bundle.format import Member
from model.bundle.licence import spelt_out
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
    left_gpu = device.torch_device.type == "cuda" and result.rung.startswith("cpu")
    return {
        "notice": RESEARCH,
        "case": case.name,
        **({"channels": PET_ALONE} if bundle.manifest.pet_alone else {}),
        "inputs": {"pet": str(case.pet.path), "ct": str(case.ct.path) if case.ct else None},
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
            "members": [_member(bundle, member) for member in bundle.manifest.members],
            "changes": list(bundle.changes),
            "licence": spelt_out(bundle.manifest.licence),
            "citation": bundle.manifest.citation,
        },
        "run": {
            "device": device.name if result.rung.startswith(device.torch_device.type) else "CPU",
            "precision": "float32" if left_gpu else precision_of(device),
            "rung": result.rung,
            "passes_a_window": passes_a_window(bundle.manifest),
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


def precision_of(device: Device) -> str:
    """The precision of a device's convolutions, as --precision names it."""
    return str(device.precision).removeprefix("torch.")


def _member(bundle: Bundle, member: Member) -> dict[str, Any]:
    """One network in the report. fold and mirrored stand there only where it has them."""
    mirrored = bundle.manifest.part(member).window.mirrored
    own: dict[str, Any] = {"fold": member.fold} if member.fold else {}
    own |= {"mirrored": list(mirrored)} if mirrored else {}
    return {"sha256": member.sha256, "weight": member.weight} | own


def summary(report: dict[str, Any], mask_path: str) -> list[str]:
    """The report in a few lines for a person."""
    stages = "  ".join(f"{name} {value:.1f}" for name, value in report["seconds"].items())
    weights = report["weights"]
    cite = f"; cite: {weights['citation']}" if weights["citation"] else ""
    marked = f" ({report['channels']})" if "channels" in report else ""
    return [
        f"found: {report['lesions']} lesions, {report['volume_ml']:.1f} ml{marked}",
        f"mask:  {mask_path}",
        f"weights: {weights['name']}, licence {weights['licence']}{cite}",
        f"seconds: {stages}",
    ]
