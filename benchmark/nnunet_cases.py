"""Models and studies on which our masks are compared with those of nnU-Net's own predictor, and how that is done."""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from benchmark.nnunet_models import dataset_of, plans_of, study, write_model
from benchmark.nnunet_oracle import nnunet_mask
from model.bundle.manifest import load_bundle
from model.inference.device import choose_device
from model.inference.options import SegmentOptions
from model.inference.segment import segment
from model.study.reading import read_case
from training.__main__ import main as train

LEAST_SAME, LEAST_DICE = 0.9999, 0.999  # shares of voxels that are the same, and Dice
LEAST_LESION, MOST_LESION = 0.005, 0.99  # shares of a study: outside, a mask could be right by chance
Images = tuple[sitk.Image, sitk.Image]  # PET and CT, one grid, LAS
Mask = NDArray[np.bool_]  # (z, y, x)


@dataclass(frozen=True, kw_only=True)
class ParityCase:
    """A model and a study. plans, dataset, model and study are words for plans_of, dataset_of, write_model and study of
    benchmark.nnunet_models; words: options of `training import`; lesion: labels of nnU-Net's mask that are lesion.
    """

    plans: dict[str, Any] = field(default_factory=dict)
    dataset: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    study: dict[str, Any] = field(default_factory=dict)
    words: tuple[str, ...] = ()
    lesion: tuple[int, ...] = (1,)

    def write(self, folder: Path) -> Path:
        """Write the model below `folder`. Returns the model's own folder."""
        return write_model(folder, plans_of(**self.plans), dataset_of(**self.dataset), **self.model)

    def theirs(self, model: Path, images: Images, folder: Path, float32: bool = True) -> Mask:
        """The lesion by nnU-Net's predictor; its sums are made float32, or left in half precision."""
        names = self.dataset.get("names", ("CT", "PET"))
        channels = images[::-1] if names[0] == "CT" else images[: len(names)]
        folds, mirrored = self.model.get("folds", (0,)), "--no-mirroring" not in self.words
        return np.isin(nnunet_mask(model, channels, folder, folds, mirrored, float32), self.lesion)


CASES = {
    "plain": ParityCase(),
    "residual": ParityCase(plans={"residual": True}),
    "dual head": ParityCase(plans={"residual": True}, model={"organs": 11}),
    "two folds": ParityCase(model={"folds": (0, 1)}),
    "no mirroring": ParityCase(words=("--no-mirroring",)),
    "one mirrored axis": ParityCase(model={"mirrored": (2,)}),
    "slices of 5 mm": ParityCase(study={"size": (34, 30, 14), "spacing": (1.6, 1.6, 5.0)}),
    "to coarse slices": ParityCase(
        plans={"spacing": [7.0, 2.0, 2.0]}, study={"size": (26, 24, 20), "spacing": (3.0, 3.0, 3.0)}
    ),
    "zscore": ParityCase(plans={"normalization_schemes": ["ZScoreNormalization"] * 2}),
    "zscore inside": ParityCase(
        plans={
            "normalization_schemes": ["CTNormalization", "ZScoreNormalization"],
            "use_mask_for_norm": [False, True],
        },
        study={"empty": 3},
    ),
    "rescaled": ParityCase(plans={"normalization_schemes": ["RescaleTo01Normalization", "NoNormalization"]}),
    "plans of 2023": ParityCase(plans={"old": True, "widths": [4, 8, 16]}),
    "torch's resampling": ParityCase(plans={"torch_resampling": True}),
    "turned axes": ParityCase(
        plans={
            "transpose_forward": [2, 0, 1],
            "strides": [[1, 1, 1], [2, 1, 2], [2, 2, 2]],
            "patch_size": [16, 12, 20],
        }
    ),
    "smaller than the patch": ParityCase(study={"size": (12, 14, 10)}),
    "empty borders": ParityCase(study={"empty": 4}),
    "three classes": ParityCase(dataset={"labels": {"background": 0, "organ": 1, "lesion": 2}}, lesion=(2,)),
    "regions": ParityCase(
        dataset={"labels": {"background": 0, "tumor": [1, 2], "core": [2]}, "regions": [1, 2]},
        words=("--lesion", "tumor"),
        lesion=(1, 2),
    ),
    "PET before CT": ParityCase(dataset={"names": ("PT", "CT")}),
    "PET alone": ParityCase(
        plans={"normalization_schemes": ["ZScoreNormalization"], "use_mask_for_norm": [True], "residual": True},
        dataset={"names": ("PET",)},
        study={"empty": 3},
    ),
}
REAL_STUDIES = {  # the networks that real studies are segmented by: voxels of 4 mm, windows of 48
    "plain": ParityCase(plans={"spacing": [4.0, 4.0, 4.0], "patch_size": [48, 48, 48], "widths": [8, 16, 32]}),
    "residual": ParityCase(
        plans={"residual": True, "spacing": [4.0, 4.0, 4.0], "patch_size": [48, 48, 48], "widths": [8, 16, 32]},
        model={"folds": (0, 1), "background": -0.5},
    ),
}


def made_study(case: ParityCase) -> Images:
    """The case's made-up study."""
    return study(**case.study)


def real_study(pet: Path, ct: Path) -> Images:
    """A study's PET in LAS, and its CT on the same voxels; -1000 HU outside of it."""
    image = sitk.DICOMOrient(sitk.ReadImage(str(pet), sitk.sitkFloat32), "LAS")
    return image, sitk.Resample(
        sitk.ReadImage(str(ct), sitk.sitkFloat32), image, sitk.Transform(), sitk.sitkLinear, -1000.0
    )


def ours(model: Path, images: Images, folder: Path, words: Sequence[object] = (), store: str = "float32") -> Mask:
    """The lesion by the bundle that `training import` makes of the model."""
    command = ["import", str(model), "--name", "one", "--output-folder", str(folder / "bundles"), "--force"]
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        done = train([*command, "--store", store, "--licence", "CC BY 4.0", *map(str, words)])
    if done != 0:
        raise RuntimeError(f"'{model}' was not imported:\n{said.getvalue()}")
    paths = [folder / "pet.nii.gz", folder / "ct.nii.gz"]
    for path, image in zip(paths, images, strict=True):
        sitk.WriteImage(image, str(path))
    bundle = load_bundle(folder / "bundles/one")
    case = read_case(paths, bundle.manifest.limits)
    return segment(case, SegmentOptions(bundle=bundle, device=choose_device("cpu", "float32"))).mask


def same_share(one: Mask, other: Mask) -> float:
    """Share of voxels that two masks have alike."""
    return float((one == other).mean())


def dice(one: Mask, other: Mask) -> float:
    """Dice of two masks; 1 where both are empty."""
    total = int(one.sum()) + int(other.sum())
    return 2 * int((one & other).sum()) / total if total else 1.0
