from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from model.bundle.format import Manifest, Provenance
from model.bundle.network import Network
from model.bundle.settings import Crop, Intensity, Window
from model.errors import ConfigError, WeightsError
from model.networks.unet import build
from training.bundles.check_skip import check_skip
from training.bundles.write import write_bundle
from training.data.table import Study, study_sha256

NETWORK = Network(fusion="early", widths=(2, 2))


def one_sided_bundle(folder: Path, lesion: float, skip_suv: float) -> Path:
    """A network whose bias decides: everything is lesion, or nothing."""
    torch.manual_seed(0)
    state = build(NETWORK).state_dict()
    state["decoder.fc.bias"] = torch.tensor([0.0, lesion])
    write_bundle(
        folder,
        {"m": state},
        lambda found: Manifest(
            format_version=1,
            name="one-sided",
            kind="volumes",
            network=NETWORK,
            channels=("CT", "PET"),
            intensity=Intensity(),
            crop=Crop(),
            window=Window(size=(32, 16, 16)),
            method="eoa",
            members=found,
            provenance=Provenance(data="", commit="", date="", scores={}, attribution=""),
            intended_use="tests",
            licence="MIT",
            skip_suv=skip_suv,
        ),
        weights=[1.0],
        start_sha256=None,
    )
    return folder


@pytest.fixture
def half_bright(tmp_path) -> Study:
    """64 x 16 x 16 voxels, SUV 0.1 on one side and 5 on the other: windows of 32 at 0, 16 and 32, the first dark."""
    pet, ct = np.full((16, 16, 64), 0.1, np.float32), np.full((16, 16, 64), 40, np.int16)
    pet[..., :32], ct[0] = 5.0, -1000
    paths = [tmp_path / name for name in ("pet.mha", "ct.mha", "truth.mha")]
    for path, array in zip(paths, (pet, ct, np.zeros((16, 16, 64), np.uint8)), strict=True):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing((4.0, 4.0, 4.0))
        sitk.WriteImage(image, str(path))
    return Study(
        case="half",
        patient="p",
        diagnosis="negative",
        tracer="FDG",
        site="A",
        pet=paths[0],
        ct=paths[1],
        truth=paths[2],
        lesion_ml=0.0,
        sha256=study_sha256(*paths),
    )


def test_no_voxel_changes_where_a_dark_window_holds_no_lesion_anyway(half_bright, tmp_path) -> None:
    found = check_skip(one_sided_bundle(tmp_path / "b", -50.0, 1.0), [half_bright], "cpu")
    assert found == "no voxel changes in 1 cases when 1 of 3 windows are left out"


def test_a_voxel_that_changes_is_an_error(half_bright, tmp_path) -> None:
    """The dark window alone covers 16 of 64 voxels along x: 16^3 voxels are lesion with it and background without."""
    with pytest.raises(WeightsError, match="case half: 4096 voxels .* above 1 are left out .1 of 3.: no bundle"):
        check_skip(one_sided_bundle(tmp_path / "b", 50.0, 1.0), [half_bright], "cpu")


def test_cases_that_leave_no_window_out_are_refused(half_bright, tmp_path) -> None:
    with pytest.raises(ConfigError, match="in 1 cases each of 3 windows holds PET above 0.05"):
        check_skip(one_sided_bundle(tmp_path / "b", -50.0, 0.05), [half_bright], "cpu")
