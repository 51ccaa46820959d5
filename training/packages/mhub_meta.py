"""meta.json of a model folder of MHub.ai, as its schema has it (MHubAI/models, .github/schemas/meta.schema.json)."""

import re
from typing import Any
from uuid import UUID

from model import __version__
from model.bundle.licence import spelt_out
from model.bundle.manifest import Bundle
from training.packages.facts import (
    AUTHORS,
    architecture,
    attribution,
    case_counts,
    description,
    limitations,
    models_of,
    network_count,
    scores_text,
    task,
    validation,
)

DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
PROGRAM = "MIT"


def meta_of(bundle: Bundle, name: str, repository: str) -> dict[str, Any]:
    """The metadata. Its id is a function of the bundle: the same weights have the same one."""
    manifest = bundle.manifest
    date = manifest.provenance.date
    return {
        "id": str(UUID(bundle.sha256[:32], version=4)),
        "name": name,
        "title": f"{task(manifest)}: {manifest.name}",
        "summary": _summary(bundle),
        "details": {
            "name": manifest.name,
            "version": __version__,
            "devteam": AUTHORS,
            "type": "Segmentation",
            "date": {"weights": date} if DATE.fullmatch(date) else {},
            "cite": manifest.citation or attribution(manifest),
            "license": {"code": PROGRAM, "weights": spelt_out(manifest.licence)},
            "publications": [],
            "github": repository,
            "slicer": False,
        },
        "info": _info(bundle),
    }


def _summary(bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    parts = models_of(manifest)
    trained, selected = case_counts(manifest)
    flat = all(part.network.kind == "slices" for part in parts)
    approach = "ensemble" if network_count(manifest) > 1 else "2D" if flat else "3D"

    def image(label: str, what: str, modality: str, with_contrast: bool) -> dict[str, Any]:
        return {
            "label": label,
            "description": what,
            "format": "DICOM",
            "modality": modality,
            "bodypartexamined": "WHOLEBODY",
            "slicethickness": "0.1 to 50 mm",
            "non-contrast": True,
            "contrast": with_contrast,
        }

    inputs = [image("FDG PET", "Whole-body FDG PET whose headers give body-weight SUV", "PT", False)]
    if not manifest.pet_alone:
        inputs.append(image("CT", "The CT of the same study, with or without contrast agent", "CT", True))
    return {
        "description": f"{description(manifest)} Output: DICOM SEG on the PET, one segment a lesion.",
        "inputs": inputs,
        "outputs": [{"type": "Segmentation", "classes": ["FDG_AVID_TUMOR"]}],
        "model": {
            "architecture": " and ".join(dict.fromkeys(architecture(part) for part in parts)),
            "training": "supervised",
            "cmpapproach": approach,
        },
        "data": {
            "training": {} if trained is None else {"vol_samples": trained},
            "evaluation": {} if selected is None else {"vol_samples": selected},
            "public": False,  # no more is claimed than the manifest says: the texts below have it
            "external": False,
        },
    }


def _info(bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    scores = validation(manifest)
    table = [{"label": "Scores on the cases selected on", "entries": scores}] if scores else []
    limits = limitations(manifest)
    evaluated = f"Part of the training data: {manifest.provenance.data}" if scores else scores_text(manifest)
    return {
        "use": {"title": "Intended use", "text": f"{manifest.intended_use} {limits}"},
        "analyses": {"title": "Scores", "text": scores_text(manifest), "tables": table},
        "evaluation": {"title": "Evaluation data", "text": evaluated},
        "training": {"title": "Training data", "text": manifest.provenance.data},
        "limitations": {"title": "Limitations", "text": limits},
    }
