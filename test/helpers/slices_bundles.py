"""Settings of tiny bundles for slices, for `make_bundle` of conftest.py; and what their network says, step by step."""

from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from torch import nn

from model.bundle.network import Network
from model.bundle.settings import Crop, Intensity, Window

AIR_HU = -1000.0


def slices_bundle(**changes: Any) -> dict[str, Any]:
    """Changes of a manifest: the smallest encoder, one class, windows of 64 x 64, no crop, as published."""
    return {
        "kind": "slices",
        "network": Network(fusion="regnety_002", widths=(8, 8, 4, 4, 4), classes=1),
        "channels": ("PET", "CT"),
        "intensity": Intensity(ct_clip=True),
        "window": Window(size=(64, 64, 1)),
        "crop": Crop(suv_above=-1.0),
    } | changes


def logits_by_steps(network: nn.Module, pet: sitk.Image, ct: sitk.Image, side: int) -> np.ndarray:
    """The lesion's logits (z, y, x) on the grid of the PET, which lies as LPS: clip, z-score, network, slice by slice.

    network: of one class, on slices of `side` x `side` pixels. The grid must be smaller, so that where the window lies
    is not in question, and nothing is cropped.
    """
    las = sitk.DICOMOrient(pet, "LAS")
    suv = sitk.GetArrayFromImage(las)
    hu = sitk.GetArrayFromImage(sitk.Resample(ct, las, sitk.Transform(), sitk.sitkLinear, -1024.0, sitk.sitkFloat32))
    logits = np.zeros(suv.shape, np.float32)
    for z, (p, h) in enumerate(zip(suv, hu, strict=True)):
        before = [-((side - n) // 2) for n in p.shape]  # this grid is smaller than the window: it is padded around
        window = [np.full((side, side), empty, np.float32) for empty in (0, AIR_HU)]
        place = tuple(slice(-b, -b + n) for b, n in zip(before, p.shape, strict=True))
        window[0][place], window[1][place] = p, np.clip(h, AIR_HU, 1000)
        for w, empty in zip(window, (0, AIR_HU), strict=True):
            if (w != empty).any():
                w[:] = (w - w[w != empty].mean()) / w[w != empty].std()
        with torch.no_grad():
            logits[z] = network(torch.tensor(np.stack(window))[None])[0, 0].numpy()[place]
    image = sitk.GetImageFromArray(logits)
    image.CopyInformation(las)
    return sitk.GetArrayFromImage(sitk.DICOMOrient(image, "LPS"))
