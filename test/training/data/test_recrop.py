from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from found_studies import image, write

from model.errors import CaseError, ConfigError
from model.study.reading import read_volume, volume_of
from training.__main__ import main
from training.data.recrop import Recrop, covering_cut, crop, cut_of, draw_cut
from training.data.table import Study, read_table, study_sha256, write_table

SHAPE = (40, 36, 30)  # (z, y, x), voxels of 4 x 4 x 3 mm


def noise(low: float, high: float, kind: type) -> np.ndarray:
    return np.random.default_rng(3).uniform(low, high, SHAPE).astype(kind)


def cube(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """A truth of 8 x 8 x 8 voxels in the middle, more than 45 mm from no side."""
    mask = np.zeros(shape, np.uint8)
    mask[tuple(slice(n // 2 - 4, n // 2 + 4) for n in shape)] = 1
    return mask


def table(folder: Path, *cases: str, **images: sitk.Image) -> Path:
    """An index of studies whose CT lies on the PET grid, unless one is given."""
    rows = []
    for case in cases:
        (folder / case).mkdir(parents=True)
        images = {
            "pet": image(noise(0, 9, np.float32)),
            "ct": image(noise(-1000, 900, np.int16)),
            "truth": image(cube()),
        } | images
        found = write(folder / case, **images)
        rows.append(
            Study(
                case=case,
                patient=f"P{case}",
                diagnosis="x",
                tracer="FDG",
                site="A",
                pet=found.pet,
                ct=found.ct,
                truth=found.truth,
                lesion_ml=8**3 * 0.048,
                sha256=study_sha256(found.pet, found.ct, found.truth),
            )
        )
    write_table(rows, folder / "index.csv")
    return folder / "index.csv"


def run(index: Path, output: Path, *arguments: object) -> int:
    return main(["recrop", str(index), "--output", str(output), *map(str, ("--seed", 1, "--workers", 1, *arguments))])


def same_place(part: sitk.Image, whole: sitk.Image) -> bool:
    """Whether every voxel of `part` has the value that `whole` has at its place (SimpleITK's own resampling)."""
    there = sitk.Resample(whole, part, sitk.Transform(), sitk.sitkNearestNeighbor, -9999.0)
    return np.array_equal(sitk.GetArrayFromImage(there), sitk.GetArrayFromImage(part))


def test_copies_hold_the_values_of_their_place_and_lie_on_one_grid(tmp_path) -> None:
    index = table(tmp_path, "a")
    assert run(index, tmp_path / "out") == 0
    (before,), (after,) = read_table(index).values(), read_table(tmp_path / "out" / "index.csv").values()
    for what in ("pet", "ct", "truth"):
        assert same_place(sitk.ReadImage(str(getattr(after, what))), sitk.ReadImage(str(getattr(before, what))))
    grids = [read_volume(path, "x").grid for path in (after.pet, after.ct, after.truth)]
    assert grids[0] == grids[1] == grids[2] and grids[0].size != (30, 36, 40)


def test_the_table_keeps_the_patient_and_names_the_copies(tmp_path) -> None:
    index = table(tmp_path, "a", "b")
    run(index, tmp_path / "out", "--copies", 2)
    rows = read_table(tmp_path / "out" / "index.csv")
    assert list(rows) == ["a-r0", "a-r1", "b-r0", "b-r1"]
    assert [study.patient for study in rows.values()] == ["Pa", "Pa", "Pb", "Pb"]
    assert all(s.sha256 == study_sha256(s.pet, s.ct, s.truth) and s.pet.is_absolute() for s in rows.values())
    assert len({read_volume(s.pet, "PET").grid for s in rows.values()}) == 4


def test_the_copies_pass_the_index(tmp_path) -> None:
    run(table(tmp_path, "a"), tmp_path / "out", "--format", ".nii.gz")
    arguments = [tmp_path / "out" / "index.csv", "--output", tmp_path / "again.csv", "--workers", 1, "--strict"]
    assert main(["index", *map(str, arguments)]) == 0
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "out" / "index.csv").read_bytes()


def test_the_seed_decides_and_the_other_studies_do_not(tmp_path) -> None:
    both, alone = table(tmp_path / "both", "a", "b"), table(tmp_path / "alone", "b")
    for name, index, seed in (("1", both, 1), ("2", alone, 1), ("3", alone, 2)):
        run(index, tmp_path / name, "--seed", seed)
    one, two, three = (read_table(tmp_path / name / "index.csv")["b-r0"] for name in "123")
    assert one.sha256 == two.sha256 != three.sha256 and not one.made


def test_a_cut_of_a_computed_study_is_one(tmp_path) -> None:
    index, made = table(tmp_path, "a"), {}
    write_table([replace(study, made="phantoms 1") for study in read_table(index).values()], index)
    for seed in (1, 2):
        run(index, tmp_path / f"{seed}", "--seed", seed)
        made[seed] = read_table(tmp_path / f"{seed}" / "index.csv")["a-r0"].made
    assert made[1] == "cut by 1 of a (phantoms 1)" and made[2] == "cut by 2 of a (phantoms 1)"


@pytest.mark.slow
def test_two_processes_write_what_one_writes(tmp_path) -> None:
    index = table(tmp_path, "a", "b")
    run(index, tmp_path / "1")
    run(index, tmp_path / "2", "--workers", 2)
    hashes = [[s.sha256 for s in read_table(tmp_path / n / "index.csv").values()] for n in "12"]
    assert hashes[0] == hashes[1]


def test_the_lesions_volume_is_that_of_what_is_left(tmp_path) -> None:
    """Every voxel of the truth: any cut takes some of it."""
    full = image(np.ones(SHAPE, np.uint8))
    run(table(tmp_path, "a", truth=full), tmp_path / "out", "--low-mm", 5)
    (row,) = read_table(tmp_path / "out" / "index.csv").values()
    left = np.prod(sitk.ReadImage(str(row.truth)).GetSize())
    assert row.lesion_ml == pytest.approx(left * 0.048) and left < np.prod(SHAPE)


def test_a_side_loses_any_whole_number_of_voxels_between_the_two_lengths() -> None:
    """Of 4 mm voxels 8 to 20 mm are 2 to 5, of 3 mm voxels 3 to 6, and every number comes."""
    rng = np.random.default_rng(0)
    cuts = np.array([draw_cut(rng, (4.0, 4.0, 3.0), 8, 20) for _ in range(400)])
    assert [set(cuts[:, axis].ravel()) for axis in range(3)] == [{2, 3, 4, 5}, {2, 3, 4, 5}, {3, 4, 5, 6}]


def test_lengths_that_hold_no_whole_voxel_are_refused() -> None:
    with pytest.raises(ConfigError, match="no whole number of voxels of 4 mm along x is from 5 to 7 mm"):
        draw_cut(np.random.default_rng(0), (4.0, 4.0, 3.0), 5, 7)


def truth_of(mask: np.ndarray):
    return volume_of(image(mask), Path("truth.mha"))


@pytest.mark.parametrize("case", [f"c{n}" for n in range(20)])
def test_some_of_the_truth_is_always_left(case: str) -> None:
    """A lesion at a corner, which two cuts of three would take away whole."""
    mask = np.zeros(SHAPE, np.uint8)
    mask[:3, :3, :3] = 1
    cut = cut_of(case, 0, truth_of(mask), Recrop(seed=1, high_mm=20))
    assert max(low for low, _ in cut) < 3


def test_a_truth_that_every_cut_takes_away_is_refused() -> None:
    mask = np.zeros(SHAPE, np.uint8)
    mask[0, 0, 0] = 1
    with pytest.raises(CaseError, match="c: 100 cuts of 8 to 20 mm left nothing of its truth"):
        cut_of("c", 0, truth_of(mask), Recrop(seed=1, low_mm=8, high_mm=20))


def test_an_empty_truth_is_cut_like_any_other() -> None:
    cut = cut_of("c", 0, truth_of(np.zeros(SHAPE, np.uint8)), Recrop(seed=1, low_mm=8, high_mm=20))
    assert min(min(side) for side in cut) >= 2


def test_a_study_that_would_become_too_small_is_refused_and_nothing_is_written(tmp_path, capsys) -> None:
    index = table(tmp_path, "a")
    assert run(index, tmp_path / "out", "--low-mm", 45, "--high-mm", 48) == 3
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: a: cut by") and "every axis must keep 8" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "index.csv"]


def test_a_ct_on_a_grid_of_its_own_is_cut_to_cover(tmp_path) -> None:
    """A finer CT, turned about z, that reaches beyond the PET: what it gives on the cut PET grid does not change."""
    ct = sitk.GetImageFromArray(np.random.default_rng(5).integers(-1000, 900, (70, 120, 110)).astype(np.int16))
    ct.SetSpacing((1.5, 1.5, 2.0))
    ct.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    ct.SetOrigin((112.0, 140.0, 90.0))
    index = table(tmp_path, "a", ct=ct)
    assert run(index, tmp_path / "out") == 0
    (row,) = read_table(tmp_path / "out" / "index.csv").values()
    pet, small = sitk.ReadImage(str(row.pet)), sitk.ReadImage(str(row.ct))
    before, after = (
        sitk.GetArrayFromImage(sitk.Resample(one, pet, sitk.Transform(), sitk.sitkLinear, -1024.0, sitk.sitkFloat32))
        for one in (ct, small)
    )
    np.testing.assert_allclose(after, before, atol=1e-3)
    assert np.prod(small.GetSize()) < np.prod(ct.GetSize())


def test_a_ct_is_cut_to_the_voxels_that_meet_the_pets_edges() -> None:
    """PET edges at 8 and 24 mm; CT voxels of 1 mm at 0, 1, ...: voxels 8 to 24 stay of 40."""
    target = image(np.zeros((2, 4, 4), np.uint8), (4, 4, 8), (10, 10, 12))
    ct = volume_of(image(np.zeros((40, 40, 40), np.int16), (1, 1, 1), (0, 0, 0)), Path("ct"))
    assert covering_cut(ct, target) == ((8, 15), (8, 15), (8, 15))
    assert crop(ct.image, covering_cut(ct, target)).GetOrigin() == (8, 8, 8)


def test_a_ct_that_does_not_meet_the_cut_pet_is_refused() -> None:
    target = image(np.zeros((2, 4, 4), np.uint8), (4, 4, 8), (100, 10, 12))
    with pytest.raises(CaseError, match="covers nothing of the cut PET"):
        covering_cut(volume_of(image(np.zeros((40, 40, 40), np.int16), (1, 1, 1), (0, 0, 0)), Path("ct")), target)


def test_a_folder_in_use_is_refused(tmp_path, capsys) -> None:
    index = table(tmp_path, "a")
    assert run(index, tmp_path) == 2
    assert "is there and not empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"low_mm": -1.0}, "--low-mm must be from 0"),
        ({"low_mm": 50.0}, "got 50 and 45"),
        ({"copies": 0}, "--copies"),
        ({"seed": -1}, "--seed"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, message) -> None:
    with pytest.raises(ConfigError, match=message):
        Recrop(**({"seed": 0} | changes))


@pytest.mark.slow
def test_real_studies_lose_no_truth_where_the_image_goes_on_for_45_mm(real_data, tmp_path) -> None:
    """Each is cropped 50 mm around its contour, but for those whose scan ends in the tumour, or soon after it."""
    arguments = [real_data / "sts", "--output", tmp_path / "index.csv", "--workers", 1]
    assert main(["index", *map(str, arguments)]) == 0
    assert run(tmp_path / "index.csv", tmp_path / "out") == 0
    before, after = read_table(tmp_path / "index.csv"), read_table(tmp_path / "out" / "index.csv")
    far = 0
    for case, study in before.items():
        truth = read_volume(study.truth, "truth")
        inside = np.argwhere(truth.array)
        spacing = truth.grid.spacing_mm[::-1]
        margins_mm = np.stack([inside.min(axis=0), truth.array.shape - inside.max(axis=0) - 1]) * spacing
        left = after[f"{case}-r0"].lesion_ml
        assert left > 0 and min(read_volume(after[f"{case}-r0"].pet, "PET").grid.size) >= 8
        if margins_mm.min() >= 45:
            far += 1
            assert left == study.lesion_ml
    assert far == 21
