"""evaluate --field-of-view: cuts and air of whole studies, against SimpleITK and arithmetic; the command."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from conftest import ROOT
from nnunet_bundles import write_nnunet_bundle

from model.bundle.manifest import load_bundle
from model.bundle.settings import Limits
from model.inference.device import choose_device
from model.inference.options import SegmentOptions
from model.study.reading import read_case, read_volume
from training.__main__ import main
from training.bundles import field_of_view, study_views
from training.bundles.field_of_view import THRESHOLDS, mask_in_air, masking_of, view_scores
from training.bundles.study_views import cut_case, originals_of, read_study, views_of
from training.bundles.views_page import markdown, means
from training.data.table import Study, read_table, write_table

SHAPE, SPACING = (30, 36, 40), (4.0, 5.0, 3.0)  # z, y, x; x, y, z


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    """A turned PET, SUV 1, a lesion of 6^3 voxels of SUV 6; CT of water on another grid."""
    folder = tmp_path_factory.mktemp("views")
    suv, truth = np.ones(SHAPE, np.float32), np.zeros(SHAPE, np.uint8)
    truth[12:18, 14:20, 16:22] = 1
    suv[truth > 0] = 6
    paths = {}
    for name, array in (("pet", suv), ("truth", truth)):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(SPACING)
        image.SetOrigin((7.0, -3.0, 11.0))
        image.SetDirection((1, 0, 0, 0, -1, 0, 0, 0, -1))
        paths[name] = folder / f"{name}.nii.gz"
        sitk.WriteImage(image, str(paths[name]))
    ct = sitk.GetImageFromArray(np.zeros((60, 120, 100), np.int16) - 1000 * (np.arange(100) < 5).astype(np.int16))
    ct.SetSpacing((2.0, 2.0, 2.0))
    ct.SetOrigin((0.0, -190.0, -90.0))
    sitk.WriteImage(ct, str(folder / "ct.nii.gz"))
    paths["ct"] = folder / "ct.nii.gz"
    names = {"case": "one", "patient": "p", "diagnosis": "sarcoma", "tracer": "FDG", "site": "A"}
    return Study(**names, **paths, lesion_ml=1.0, sha256="0" * 64)


def test_a_cut_study_lies_where_it_lay(study) -> None:
    """30 mm of 4, 5 and 3 mm are 7, 6 and 10 voxels. SimpleITK says where the first voxel that is left lies."""
    case = read_case([study.pet, study.ct], Limits())
    smaller, box = cut_case(case, 30)
    assert box == (slice(10, 20), slice(6, 30), slice(7, 33))
    np.testing.assert_array_equal(smaller.pet.array, case.pet.array[box])
    wanted = case.pet.image.TransformIndexToPhysicalPoint((7, 6, 10))
    assert np.allclose(smaller.pet.grid.origin_mm, wanted) and np.allclose(smaller.pet.image.GetOrigin(), wanted)
    assert smaller.pet.grid.size == smaller.pet.image.GetSize() == (26, 24, 10)
    assert np.array_equal(sitk.GetArrayFromImage(smaller.pet.image), smaller.pet.array)
    assert smaller.ct is case.ct


class Marking(torch.nn.Module):
    """A network that marks what is above SUV 3, whatever its window holds: it cannot depend on the field of view."""

    def __init__(self, top: float) -> None:
        super().__init__()
        self.level = 3 / top

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        margin = image[:, 1:2] - self.level
        return torch.cat([torch.zeros_like(margin), margin], 1)


@pytest.fixture
def marking(monkeypatch) -> SegmentOptions:
    bundle = load_bundle(ROOT / "weights/eoa")
    top = bundle.manifest.intensity.suv_top
    real = field_of_view.voters

    def voters(given):
        return [replace(voter, load=lambda: Marking(top)) for voter in real(given)]

    monkeypatch.setattr(field_of_view, "voters", voters)
    return SegmentOptions(bundle=bundle, device=choose_device("cpu"), voters=voters(bundle))


@pytest.mark.slow
def test_a_threshold_has_the_same_mask_in_air(study, marking) -> None:
    case = read_case([study.pet, study.ct], Limits())
    for voxels in (3, 16):
        np.testing.assert_array_equal(mask_in_air(case, voxels, marking), case.pet.array > 3)


@pytest.mark.slow
def test_a_network_that_looks_at_voxels_alone_scores_the_same_on_every_view(study, marking, monkeypatch) -> None:
    monkeypatch.setattr(study_views, "AIR_VOXELS", (8,))
    rows = view_scores(masking_of(marking.bundle, marking.device), [study])
    assert [row.view for row in rows] == ["0 mm cut", "15 mm cut", "30 mm cut", "45 mm cut", "8 voxels of air"]
    for row in rows:
        assert row.dice == 1 and row.agreement == 1
        assert row.thresholds[THRESHOLDS.index(3.0)] == 1 and row.thresholds[THRESHOLDS.index(8.0)] == 0
    found = means(rows)
    assert all(view["best_threshold_dice"] == 1 and view["best_threshold_suv"] == 1.1 for view in found)
    row = "| 0 mm cut | 1 | 1 | 1.0000 | 1.0000 | 0.00 | 0.00 | 13.0 | SUV 1.1: 1.0000 |"  # 216 x 0.06 ml
    assert row in markdown(found)


@pytest.mark.slow
def test_the_command_writes_a_row_a_view_and_the_means(study, tmp_path, monkeypatch, marking) -> None:
    monkeypatch.setattr(study_views, "AIR_VOXELS", (4,))
    write_table([study], tmp_path / "index.csv")
    words = ["evaluate", "--index", str(tmp_path / "index.csv"), "--weights", "eoa", "--device", "cpu"]
    assert main([*words, "--field-of-view", "--output", str(tmp_path / "views.csv")]) == 0
    rows = list(csv.DictReader((tmp_path / "views.csv").open()))
    assert [row["view"] for row in rows] == ["0 mm cut", "15 mm cut", "30 mm cut", "45 mm cut", "4 voxels of air"]
    written = json.loads((tmp_path / "views.json").read_text())
    assert [view["studies"] for view in written["views"]] == [1] * 5 and written["weights"]["name"]


def test_field_of_view_is_refused_for_masks(study, tmp_path, capsys) -> None:
    write_table([study], tmp_path / "index.csv")
    words = ["evaluate", "--index", str(tmp_path / "index.csv"), "--masks", str(tmp_path), "--field-of-view"]
    assert main([*words, "--output", str(tmp_path / "views.csv")]) == 2
    assert "--field-of-view goes with --weights" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nnunet", "mixed"])
def test_an_imported_and_a_mixed_bundle_get_their_page(study, tmp_path, monkeypatch, tiny_bundle, kind) -> None:
    """A page beside the scores: every view, the threshold's best, what was scored and what the bundle is."""
    monkeypatch.setattr(study_views, "AIR_VOXELS", (4,))
    write_table([study], tmp_path / "index.csv")
    bundle = write_nnunet_bundle(tmp_path / "nnunet", ["0"], mirrored=())
    if kind == "mixed":
        words = ["mix", str(bundle), str(tiny_bundle), "--name", "mixed", "--output", str(tmp_path / "mixed")]
        assert main(words) == 0
        bundle = tmp_path / "mixed"
    words = ["evaluate", "--index", str(tmp_path / "index.csv"), "--weights", str(bundle), "--device", "cpu"]
    words += ["--field-of-view", "--recrops", "1", "--output", str(tmp_path / "views.csv")]
    assert main(words) == 0
    text = (tmp_path / "views.md").read_text()
    assert text.startswith(f"# Field of view: bundle {bundle.name}\n") and "1 studies of 1 patients" in text
    views = ["0 mm cut", "15 mm cut", "30 mm cut", "45 mm cut", "re-cropped", "4 voxels of air"]
    assert [line.split(" | ")[0][2:] for line in text.splitlines() if " SUV 1.1: 1.0000 |" in line] == views
    assert "Worst cut: " in text and "Added air changes Dice by " in text
    assert "does not say (trained_on_cases)" in text


def test_a_random_cut_is_the_copy_that_recrop_writes(study, tmp_path) -> None:
    write_table([study], tmp_path / "index.csv")
    words = ["recrop", str(tmp_path / "index.csv"), "--seed", "5", "--copies", "2", "--workers", "1"]
    assert main([*words, "--output", str(tmp_path / "out")]) == 0
    case, truth = read_study(study, Limits())
    views = [view for view in views_of(study, case, truth, copies=2, seed=5) if view.view == "re-cropped"]
    for view, (name, copy) in zip(views, read_table(tmp_path / "out" / "index.csv").items(), strict=True):
        pet, mask = read_volume(copy.pet, "PET"), read_volume(copy.truth, "truth")
        assert view.name == name and pet.grid.equals(view.case.pet.grid)
        assert np.array_equal(pet.array, view.case.pet.array) and np.array_equal(mask.array > 0, view.truth)


def test_copies_stand_for_their_originals_where_these_are_there(study) -> None:
    copies = [replace(study, case=f"one-r{n}") for n in range(2)]
    assert originals_of(copies, {"one": study}) == [study]
    assert originals_of(copies, {"one": replace(study, patient="another")}) == copies


def test_recrops_go_with_the_field_of_view(study, tmp_path, capsys) -> None:
    write_table([study], tmp_path / "index.csv")
    words = ["evaluate", "--index", str(tmp_path / "index.csv"), "--weights", "eoa", "--recrops", "2"]
    assert main([*words, "--output", str(tmp_path / "views.csv")]) == 2
    assert "--recrops must be 0 or more and goes with --field-of-view" in capsys.readouterr().err
