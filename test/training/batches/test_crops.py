import pickle

import numpy as np
import pytest
import torch
from tiny_settings import tiny_training

from training.batches.crops import CropDataset, draw_box, drawn, recropped
from training.data.prepared import load
from training.settings import Crops

CASES = ("case0", "case1", "case2", "case3")


def dataset(cache, **changes: object) -> CropDataset:
    return CropDataset(cache, CASES, tiny_training(augmentation="none", **changes))


def crops(**changes: object) -> Crops:
    return Crops(size=(16, 16, 16), **changes)


def test_a_crop_is_a_function_of_seed_and_number(tiny_cache) -> None:
    first, again = dataset(tiny_cache)[7], dataset(tiny_cache)[7]
    other = dataset(tiny_cache, seed=1)[7]
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_a_worker_draws_the_same_without_copying_arrays(tiny_cache) -> None:
    data = dataset(tiny_cache)
    copy = pickle.dumps(data)
    assert len(copy) < 10_000 and torch.equal(pickle.loads(copy)[3][0], data[3][0])


def test_image_and_truth_are_the_studys_own_voxels_in_network_units(tiny_cache) -> None:
    """suv_tops of one value, no augmentation: channel 1 is SUV / 20, channel 0 (HU + 1000) / 2000, clipped."""
    data = dataset(tiny_cache, suv_tops=[20.0])
    image, truth = data[0]
    rng = np.random.default_rng([0, 0])
    study = load(tiny_cache, CASES[int(np.random.default_rng([0, 1, 0]).permutation(4)[0])])
    box = draw_box(study, data.settings.crops, rng)
    np.testing.assert_allclose(image[1], np.asarray(study.suv[box], np.float32) / 20, rtol=1e-5)
    np.testing.assert_allclose(image[0], np.clip((study.hu[box].astype(float) + 1000) / 2000, 0, 1), rtol=1e-5)
    np.testing.assert_array_equal(truth[0], study.truth[box])


def test_suv_is_divided_by_20_or_by_40_at_random(tiny_cache) -> None:
    one, both = dataset(tiny_cache, suv_tops=[20.0]), dataset(tiny_cache)
    ratios = {round(float(both[n][0][1].sum() / one[n][0][1].sum()), 3) for n in range(16)}
    assert ratios == {0.5, 1.0}


@pytest.mark.parametrize("augmentation", ["none", "strong"])
def test_the_body_is_where_the_study_s_own_voxels_say_so(augmentation: str, tiny_cache) -> None:
    """HU above 50 or SUV above 2, whatever SUV is divided by and whatever noise and shift do to the image. Without
    turns and bends, which `strong` has by chance, the body has as many voxels as without augmentation.
    """
    network = {"fusion": "middle", "widths": [2, 2, 4], "norm": "body", "body": {"hu": 50.0, "suv": 2.0}}
    settings = tiny_training(augmentation=augmentation, network=network)
    data, plain = CropDataset(tiny_cache, CASES, settings), dataset(tiny_cache, suv_tops=[20.0])
    same = 0
    for number in range(12):
        (image, truth), (units, _) = data[number], plain[number]
        expected = (units[0] > (50 + 1000) / 2000) | (units[1] > 2 / 20)
        assert image.shape == (3, 16, 16, 16) and truth.shape == (1, 16, 16, 16)
        assert set(image[2].unique().tolist()) <= {0.0, 1.0} and 0 < expected.float().mean() < 1
        same += int(image[2].sum() == expected.sum())
        if augmentation == "none":
            assert torch.equal(image[2].bool(), expected)
    assert same >= 4


def test_a_body_is_padded_with_air(tiny_cache) -> None:
    large = {"crops": {"size": [64, 64, 64]}, "window": {"size": [64, 64, 64]}}
    image, _ = dataset(tiny_cache, network={"fusion": "middle", "widths": [2, 2, 4], "norm": "body"}, **large)[0]
    assert image[2].any() and not image[2, 0].any() and not image[2][image[:2].sum(0) == 0].any()


def test_a_pass_shows_every_study_once(tiny_cache, monkeypatch) -> None:
    data, seen = dataset(tiny_cache), []
    box = np.s_[0:1, 0:1, 0:1]
    monkeypatch.setattr("training.batches.crops.draw_box", lambda study, *_, **__: seen.append(study.case) or box)
    for number in range(8):
        data[number]
    assert sorted(seen[:4]) == sorted(seen[4:]) == list(CASES)


def test_even_crops_of_pairs_hold_lesion(tiny_cache) -> None:
    data = dataset(tiny_cache, crops={"size": [16, 16, 16], "pairs": True, "sought": 0.0})
    assert all(data[n][1].any() for n in range(0, 20, 2))


@pytest.mark.parametrize(
    ("changes", "low", "high"), [({"negative": 0.0, "sought": 1.0}, 1, 1), ({"sought": 0.0}, 0, 0.9)]
)
def test_a_sought_crop_is_around_a_lesion(changes: dict, low: float, high: float, tiny_cache) -> None:
    study = load(tiny_cache, "case0")
    hits = [study.truth[draw_box(study, crops(**changes), np.random.default_rng(n))].any() for n in range(100)]
    assert low <= np.mean(hits) <= high


def test_four_fifths_by_one_to_a_fifth_is_two_thirds_around_a_lesion(tiny_cache, monkeypatch) -> None:
    """In the authors' code: 0.8 * 1 / 1.2 = 2/3."""
    study = load(tiny_cache, "case0")
    tiny = Crops(size=(2, 2, 2))  # so small that only a sought one holds lesion
    hits = [study.truth[draw_box(study, tiny, np.random.default_rng(n))].any() for n in range(3000)]
    by_chance = study.truth.mean() * 2
    assert 2 / 3 - 0.03 < np.mean(hits) < 2 / 3 + 0.03 + by_chance


def test_a_crop_without_lesion_may_be_sought_near_uptake(tiny_cache) -> None:
    study = load(tiny_cache, "case3")
    for seed in range(20):
        box = draw_box(study, Crops(size=(2, 2, 2), uptake=1.0), np.random.default_rng(seed))
        assert study.suv[box].max() > 2.5


def test_by_part_a_small_lesion_is_drawn_as_often_as_a_large_one() -> None:
    parts = np.array([[1, x, 0, 0] for x in range(99)] + [[2, 0, 5, 5]])
    rng = np.random.default_rng(0)
    small = np.mean([drawn(parts, rng).tolist() == [0, 5, 5] for _ in range(2000)])
    by_voxel = np.mean([drawn(parts[:, 1:], rng).tolist() == [0, 5, 5] for _ in range(2000)])
    assert 0.46 < small < 0.54 and by_voxel < 0.03


def test_a_crop_stays_inside_and_is_padded_with_zeros_to_its_size(tiny_cache) -> None:
    study = load(tiny_cache, "case0")
    big = Crops(size=(16, 16, 48), shift=0.5)
    for seed in range(50):
        box = draw_box(study, big, np.random.default_rng(seed))
        for part, edge, whole in zip(box, big.size, study.suv.shape, strict=True):
            assert 0 <= part.start and part.stop <= whole and part.stop - part.start == min(edge, whole)
    image, truth = dataset(tiny_cache, crops={"size": [16, 16, 48]})[0]
    assert image.shape == (2, 16, 16, 48) and truth.shape == (1, 16, 16, 48)
    assert not image[:, :, :, :8].any() and not image[:, :, :, 40:].any() and image[1, :, :, 8:40].any()


def test_recropping_cuts_up_to_so_many_mm_off_every_side(tiny_cache) -> None:
    study = load(tiny_cache, "case0")  # voxels of 4 mm: 20 mm are at most 4 of them (the fifth is not reached)
    cuts = [recropped(study, 20.0, np.random.default_rng(n)) for n in range(300)]
    shape = np.array(study.suv.shape)
    first, last = np.array([low for low, _ in cuts]), shape - np.array([high for _, high in cuts])
    assert first.min() == 0 and first.max() == 4 and last.min() == 0 and last.max() == 4
    low, high = recropped(study, 0.0, np.random.default_rng(0))
    assert low.tolist() == [0, 0, 0] and high.tolist() == shape.tolist()


def test_crops_lie_within_the_recropped_study(tiny_cache) -> None:
    study = load(tiny_cache, "case3")
    settings = Crops(size=(8, 8, 8), recrop_mm=30.0)
    for seed in range(50):
        low, high = recropped(study, 30.0, np.random.default_rng(seed))
        box = draw_box(study, settings, np.random.default_rng(seed))
        assert all(a <= part.start and part.stop <= b for a, part, b in zip(low, box, high, strict=True))


SHRINK = {"window": {"size": [32, 32, 32], "shrink": True}, "network": {"fusion": "middle", "widths": [2, 2, 4]}}


def test_crops_of_small_studies_are_as_small_as_their_windows(tiny_cache) -> None:
    """The studies have 34, 30 and 32 voxels; what 30 mm cuts leave is padded to a multiple of 4, at least 8."""
    data = dataset(tiny_cache, crops={"size": [32, 32, 16], "recrop_mm": 30}, **SHRINK)
    sizes = {tuple(data[number][0].shape[1:]) for number in range(20)}
    assert all(x % 4 == 0 and y % 4 == 0 and z == 16 and 8 <= min(x, y) <= max(x, y) <= 32 for x, y, z in sizes)
    assert len(sizes) > 1


def test_pairs_are_of_one_size_and_a_batch_is_padded_to_its_largest(tiny_cache) -> None:
    data = dataset(tiny_cache, crops={"size": [32, 32, 16], "pairs": True}, **SHRINK)
    for number in range(0, 12, 2):
        assert data[number][0].shape == data[number + 1][0].shape
    small, large = (torch.ones(2, 4, 6, 8), torch.ones(1, 4, 6, 8)), (torch.ones(2, 8, 4, 8), torch.ones(1, 8, 4, 8))
    image, truth = CropDataset.together([small, large])
    assert image.shape == (2, 2, 8, 6, 8) and truth.shape == (2, 1, 8, 6, 8)
    assert image[0, :, 2:6].min() == 1 and image[0, :, :2].max() == image[0, :, 6:].max() == 0
    assert truth.sum() == 4 * 6 * 8 + 8 * 4 * 8  # nothing is lost


def test_without_shrinking_a_small_study_is_padded_to_the_crop(tiny_cache) -> None:
    assert dataset(tiny_cache, crops={"size": [64, 64, 64]})[0][0].shape == (2, 64, 64, 64)
