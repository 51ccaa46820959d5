"""The generator of synthetic studies: two phantoms are built, one of them twice (about 10 s)."""

from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from training.make_sample import SAMPLE_SEED, sample_name
from training.phantom import TEST_SEEDS_FROM, Phantom, draw_truth, make_phantom, to_images
from training.phantom_lesions import DIAGNOSES, Cloud, Lesion, draw_diagnosis, occupancy
from training.phantom_physics import sample_matrix
from training.phantom_tissues import LABELS, TISSUES

FOLDER = Path(__file__).parent


@pytest.fixture(scope="module")
def healthy() -> Phantom:
    return make_phantom(100_003, "A", "negative", keep_organs=True)


@pytest.fixture(scope="module")
def ill() -> Phantom:
    return make_phantom(100_005, "B", "positive")


def inside(phantom: Phantom, organ: str, voxels: int) -> np.ndarray:
    """SUV of an organ more than `voxels` away from its surface, free of spill from outside."""
    return phantom.pet[binary_erosion(phantom.organs == LABELS[organ], iterations=voxels)]


def liver_cube(phantom: Phantom) -> np.ndarray:
    """SUV of the 9 x 9 x 9 voxels around the liver's deepest voxel."""
    mask = phantom.organs == LABELS["liver"]
    while (smaller := binary_erosion(mask)).any():
        mask = smaller
    z, y, x = np.argwhere(mask)[0]
    return phantom.pet[z - 4 : z + 5, y - 4 : y + 5, x - 4 : x + 5]


def test_a_seed_gives_the_same_study_to_the_bit(ill: Phantom) -> None:
    again = make_phantom(100_005, "B", "positive")
    for name in ("pet", "ct", "truth"):
        assert getattr(again, name).tobytes() == getattr(ill, name).tobytes()
    assert again.lesions == ill.lesions and again.pet_origin_mm == ill.pet_origin_mm


@pytest.mark.parametrize(("organ", "voxels"), [("liver", 3), ("spleen", 2), ("lung", 3), ("muscle", 2), ("bladder", 2)])
def test_mean_suv_of_an_organ_is_in_the_published_range(healthy: Phantom, organ: str, voxels: int) -> None:
    mean = inside(healthy, organ, voxels).mean()
    assert 0.9 * TISSUES[organ].suv_low < mean < 1.1 * TISSUES[organ].suv_high


def test_liver_varies_by_8_to_20_percent(healthy: Phantom) -> None:
    cube = liver_cube(healthy)
    assert 0.08 < cube.std() / cube.mean() < 0.20


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_noise_of_neighbours_is_correlated(healthy: Phantom, axis: int) -> None:
    cube = liver_cube(healthy) - liver_cube(healthy).mean()
    last = cube.shape[axis] - 1
    ahead, behind = np.take(cube, range(1, last + 1), axis), np.take(cube, range(last), axis)
    assert 0.1 < (ahead * behind).mean() / cube.var() < 0.9


def test_body_is_of_a_plausible_size(healthy: Phantom) -> None:
    body = healthy.organs > 0
    assert 35 < body.sum() * np.prod(healthy.pet_spacing_mm) / 1e6 < 140  # litres
    assert 900 < body.any((1, 2)).sum() * healthy.pet_spacing_mm[2] < 1400  # mm, head to mid-thigh


def test_negative_study_has_no_lesion(healthy: Phantom) -> None:
    assert healthy.diagnosis == "negative" and healthy.lesions == [] and not healthy.truth.any()


def test_positive_study_has_lesions_of_0_3_to_300_ml_inside_its_truth(ill: Phantom) -> None:
    assert ill.diagnosis in set(DIAGNOSES) - {"negative"}
    assert ill.lesions and all(0.3 <= lesion.volume_ml <= 300 for lesion in ill.lesions)
    assert ill.truth.max() == 1 and ill.pet[ill.truth > 0].mean() > 2 * ill.pet[ill.pet > 0.2].mean()


def test_truth_lies_on_the_grid_of_the_pet(ill: Phantom) -> None:
    pet, ct, truth = to_images(ill)
    assert ill.truth.shape == ill.pet.shape and ill.truth.dtype == np.uint8
    assert truth.GetSpacing() == pet.GetSpacing() and truth.GetOrigin() == pet.GetOrigin()
    assert ct.GetSize() != pet.GetSize() and ct.GetOrigin() != pet.GetOrigin()
    assert all("SYNTHETIC" in image.GetMetaData("Synthetic") for image in (pet, ct, truth))


def test_pet_is_zero_outside_the_circle_only(healthy: Phantom) -> None:
    assert (healthy.pet[:, 0, 0] == 0).all() and (healthy.pet[:, 72, 72] > 0).all()


def test_ct_holds_air_fat_soft_tissue_and_bone(healthy: Phantom) -> None:
    assert healthy.ct.dtype == np.int16 and healthy.ct.min() == -1000
    assert all((healthy.ct > low).any() for low in (-120, 30, 700)) and np.median(healthy.ct) == -1000


def test_occupancy_of_a_cube_is_its_share_of_each_voxel() -> None:
    line = np.arange(0.25, 3, 0.5)  # 3 mm wide, from x = 0: voxels of 2 mm at -1..1, 1..3, 3..5
    z, y, x = np.meshgrid(line, line, line, indexing="ij")
    cloud = Cloud(np.stack([x, y, z], -1).reshape(-1, 3), np.zeros(216, bool), 0.125e-3, 0.0, 0.0)
    box, share = occupancy(cloud, ~cloud.dead, (4, 4, 4), (2, 2, 2), (0, 0, 0))
    assert [part.start for part in box] == [0, 0, 0] and share.sum() == pytest.approx(27 / 8)
    assert share[0, 0, 0] == pytest.approx(0.125) and share[1, 1, 1] == 1 and share[0, 1, 1] == pytest.approx(0.5)


def test_a_lesion_too_small_for_half_a_voxel_keeps_one() -> None:
    cloud = Cloud(np.array([[4.0, 4.0, 4.0]]), np.zeros(1, bool), 0.001, 0.0, 0.0)
    lesion = Lesion("node", 0.001, 5.0, (4.0, 4.0, 4.0))
    truth = draw_truth([(lesion, cloud)], (3, 3, 3), (4.0, 4.0, 4.0), np.zeros(3))
    assert truth.sum() == 1 and truth[1, 1, 1] == 1


def test_point_spread_keeps_the_sum_of_a_constant() -> None:
    matrix = sample_matrix(20, 4.0, 40.0, np.arange(0, 200, 2.0), 6.0, 0.0)
    np.testing.assert_allclose(np.asarray(matrix.sum(1)).ravel(), 1, atol=0.01)


def test_half_of_the_diagnoses_are_negative() -> None:
    drawn = [draw_diagnosis(np.random.default_rng(seed), None) for seed in range(400)]
    assert 0.4 < drawn.count("negative") / 400 < 0.6


def test_unknown_diagnosis_and_site_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown diagnosis 'flu'"):
        draw_diagnosis(np.random.default_rng(0), "flu")
    with pytest.raises(ValueError, match="unknown site 'Z'"):
        make_phantom(0, "Z")


def test_sample_is_there_synthetic_and_small() -> None:
    sitk = pytest.importorskip("SimpleITK")
    assert SAMPLE_SEED >= TEST_SEEDS_FROM
    pet, ct = sample_name("pet"), sample_name("ct")
    paths = [FOLDER / f"input/images/pet/{pet}.mha", FOLDER / f"input/images/ct/{ct}.mha", FOLDER / f"truth/{ct}.mha"]
    assert sum(path.stat().st_size for path in paths) < 6e6
    images = [sitk.ReadImage(str(path)) for path in paths]
    assert all("SYNTHETIC" in image.GetMetaData("Synthetic") for image in images)
    assert images[0].GetSize() == images[2].GetSize() and sitk.GetArrayViewFromImage(images[2]).max() == 1
