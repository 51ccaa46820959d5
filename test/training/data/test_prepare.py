import fcntl
import os
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage
from tiny_studies import lesion_study

from model.bundle.settings import Crop
from model.errors import CaseError, ConfigError
from training.__main__ import main
from training.data import prepare
from training.data.prepare import check_disk, prepare_all, prepare_one
from training.data.prepared import is_current, load
from training.data.table import study_sha256, write_table


def test_a_prepared_study_is_the_studys_voxels_in_las(tiny_studies, tiny_cache) -> None:
    """SimpleITK's DICOMOrient and NumPy alone give the same arrays."""
    study, ready = tiny_studies[0], load(tiny_cache, "case0")
    pet, ct, truth = (
        sitk.GetArrayFromImage(sitk.DICOMOrient(sitk.ReadImage(str(path)), "LAS")).T
        for path in (study.pet, study.ct, study.truth)
    )
    inside = np.argwhere(pet > 0)
    box = tuple(slice(a, b + 1) for a, b in zip(inside.min(0), inside.max(0), strict=True))
    np.testing.assert_allclose(ready.suv, pet[box], rtol=1e-3)
    np.testing.assert_array_equal(ready.hu, ct[box])
    np.testing.assert_array_equal(ready.truth, truth[box] > 0)
    assert ready.spacing_mm == (4, 4, 4) and ready.voxel_ml == pytest.approx(0.064) and ready.lost_ml == 0


def test_points_lie_in_lesion_and_in_uptake_outside_it(tiny_cache) -> None:
    ready = load(tiny_cache, "case0")
    assert len(ready.lesion) == ready.truth.sum() and ready.truth[tuple(ready.lesion.T)].all()
    assert (ready.suv[tuple(ready.uptake.T)] > 2.5).all() and not ready.truth[tuple(ready.uptake.T)].any()


def test_many_points_are_thinned_evenly(monkeypatch) -> None:
    monkeypatch.setattr(prepare, "MOST_POINTS", 10)
    points = prepare._points(np.ones((5, 5, 1), bool))
    assert len(points) == 9 and points[0].tolist() == [0, 0, 0] and points[-1].tolist() == [4, 4, 0]


def test_parts_are_scipys_components_with_their_own_numbers(tiny_cache) -> None:
    ready = load(tiny_cache, "case0")
    labels, count = ndimage.label(ready.truth, ndimage.generate_binary_structure(3, 2))
    found = labels[tuple(ready.lesion_parts[:, 1:].T)]
    pairs = set(zip(found, ready.lesion_parts[:, 0], strict=True))
    assert len(np.unique(ready.lesion_parts[:, 0])) == count == len(pairs)
    assert (found > 0).all()


def test_small_parts_and_most_points_of_large_ones_are_left_out(monkeypatch) -> None:
    monkeypatch.setattr(prepare, "MOST_POINTS_OF_A_PART", 10)
    mask = np.zeros((20, 20, 20), bool)
    mask[:5, :5, 0], mask[10:13, 10, 10], mask[19, 19, 19] = True, True, True  # 25, 3 and 1 voxels
    parts = prepare._parts(mask, 2)
    assert np.bincount(parts[:, 0])[1:].tolist() == [9, 3] and mask[tuple(parts[:, 1:].T)].all()
    assert prepare._parts(np.zeros((2, 2, 2), bool), 1).shape == (0, 4)


def test_truth_outside_the_crop_is_counted(tiny_studies, tmp_path) -> None:
    prepare_one(tiny_studies[0], tmp_path, Crop(suv_above=6.5))
    ready, whole = load(tmp_path, "case0"), sitk.GetArrayFromImage(sitk.ReadImage(str(tiny_studies[0].truth)))
    assert ready.lost_ml == pytest.approx((whole.sum() - ready.truth.sum()) * 0.064)


def test_components_wholly_outside_the_crop_are_counted_apart_from_cut_ones(tmp_path) -> None:
    """The crop is voxels 5 to 9: it cuts 3 of the 5 voxels off one component; another, of 8 voxels, lies outside."""
    whole = np.zeros((20, 20, 20), bool)
    whole[7, 7, 2:7], whole[15:17, 15:17, 15:17] = True, True
    found = prepare._outside(whole, np.s_[5:10, 5:10, 5:10], 0.5)
    assert found == {"lost_ml": 5.5, "lost_lesions": 1, "missed_ml": 4.0}
    inside = prepare._outside(whole, np.s_[0:20, 0:20, 0:20], 0.5)
    assert inside == {"lost_ml": 0, "lost_lesions": 0, "missed_ml": 0}


def test_only_what_changed_is_prepared_again(tiny_studies, tmp_path) -> None:
    prepare_all(tiny_studies[:2], tmp_path, Crop(), workers=1)
    times = {case: (tmp_path / case / "hu.npy").stat().st_mtime_ns for case in ("case0", "case1")}
    changed = [tiny_studies[0], lesion_study(tmp_path / "again", 1, lesions=2)]
    assert is_current(changed[0], tmp_path, Crop()) and not is_current(changed[1], tmp_path, Crop())
    prepare_all(changed, tmp_path, Crop(), workers=1)
    assert (tmp_path / "case0/hu.npy").stat().st_mtime_ns == times["case0"]
    assert (tmp_path / "case1/hu.npy").stat().st_mtime_ns > times["case1"]
    assert not is_current(changed[0], tmp_path, Crop(suv_above=0.2))


def test_files_that_changed_since_the_index_are_refused(tiny_studies, tmp_path) -> None:
    other = lesion_study(tmp_path / "other", 1, lesions=2)
    stale = replace(tiny_studies[1], pet=other.pet, ct=other.ct, truth=other.truth)
    with pytest.raises(CaseError, match=f"{other.sha256}, the index says {stale.sha256}; run training index again"):
        prepare_one(stale, tmp_path, Crop())
    assert not (tmp_path / "case1").exists()


def test_an_interrupted_study_is_not_in_the_cache(tiny_studies, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(prepare.np, "savez", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prepare_one(tiny_studies[0], tmp_path, Crop())
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="run training prepare"):
        load(tmp_path, "case0")


def test_what_killed_processes_left_in_the_cache_is_removed_unless_one_still_writes(tiny_studies, tmp_path) -> None:
    prepare_all(tiny_studies[:1], tmp_path, Crop(), workers=1)
    left = tmp_path / ".partial-123-case1"
    left.mkdir()
    (left / "hu.npy").write_bytes(b"half")
    writing = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(writing, fcntl.LOCK_SH)  # as a process that prepares a study does
    prepare_all(tiny_studies[:1], tmp_path, Crop(), workers=1)
    assert left.is_dir()
    os.close(writing)
    prepare_all(tiny_studies[:1], tmp_path, Crop(), workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["case0"]


def test_a_bad_study_fails_alone_with_its_reason(tiny_studies, tmp_path, capsys, monkeypatch) -> None:
    bad = lesion_study(tmp_path / "bad", 9)
    small = sitk.ReadImage(str(bad.truth))[:-1, :, :]
    sitk.WriteImage(small, str(bad.truth))
    write_table([tiny_studies[0], bad], tmp_path / "index.csv")
    words = ["prepare", str(tmp_path / "index.csv"), "--cache", str(tmp_path / "cache"), "--workers", "1"]
    assert main(words) == CaseError.exit_code
    printed = capsys.readouterr()
    assert "not prepared: case9: truth" in printed.err and "must lie on the PET's grid" in printed.err
    assert "1 of 2 studies" in printed.out and "at most" in printed.out
    assert is_current(tiny_studies[0], tmp_path / "cache", Crop())


def test_a_full_disk_is_an_error_before_the_work(tiny_studies, tmp_path, monkeypatch) -> None:
    usage = prepare.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(prepare.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(ConfigError, match="name another with --cache"):
        check_disk(tiny_studies, tmp_path)


def test_a_folder_that_is_no_prepared_study_is_left_alone(tiny_studies, tmp_path) -> None:
    mine = tmp_path / "case0" / "mine.nii.gz"
    mine.parent.mkdir()
    mine.write_bytes(b"images")
    with pytest.raises(ConfigError, match="is no prepared study"):
        prepare_one(tiny_studies[0], tmp_path, Crop())
    assert mine.read_bytes() == b"images"


def test_a_ct_that_covers_little_of_the_pet_is_warned_about(tiny_studies, tmp_path, capsys, monkeypatch) -> None:
    half = sitk.ReadImage(str(tiny_studies[0].ct))[:, :, :16]  # of 32 slices
    sitk.WriteImage(half, str(tmp_path / "half.mha"))
    study = replace(tiny_studies[0], ct=tmp_path / "half.mha")
    study = replace(study, sha256=study_sha256(study.pet, study.ct, study.truth))
    write_table([study], tmp_path / "index.csv")
    words = ["prepare", str(tmp_path / "index.csv"), "--cache", str(tmp_path / "cache"), "--workers", "1"]
    assert main(words) == 0
    uptake = sitk.GetArrayFromImage(sitk.ReadImage(str(study.pet))) >= 0.5
    share = uptake[:16].sum() / uptake.sum()
    assert f"warning: case0: its CT covers {100 * share:.1f} % of the PET's uptake" in capsys.readouterr().err


def test_a_limit_can_be_moved_as_the_message_says(tiny_studies, tmp_path, capsys, monkeypatch) -> None:
    pet = sitk.ReadImage(str(tiny_studies[0].pet)) * 200  # as hot as a syringe in view
    sitk.WriteImage(pet, str(tmp_path / "hot.mha"))
    study = replace(tiny_studies[0], pet=tmp_path / "hot.mha")
    study = replace(study, sha256=study_sha256(study.pet, study.ct, study.truth))
    write_table([study], tmp_path / "index.csv")
    words = ["prepare", str(tmp_path / "index.csv"), "--cache", str(tmp_path / "cache"), "--workers", "1"]
    assert main(words) != 0 and "--limit pet_max_suv=" in capsys.readouterr().err
    assert main([*words, "--limit", "pet_max_suv=3000"]) == 0
