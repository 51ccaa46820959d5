import itertools
import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from scipy.interpolate import BPoly
from scipy.stats import kstest
from tiny_settings import tiny_training

from model.bundle.network import Network
from model.errors import ConfigError
from model.networks.unet import MiddleFusion
from training.data.prepared import Prepared, load
from training.runs import genesis
from training.runs.genesis import DistortedCrops, bezier_curve, body_box, distorted, network_for, reconstruction_loss

CASES = ("case0", "case1", "case2", "case3")
DISTORTIONS = (genesis.remapped, genesis.locally_shuffled, genesis.in_painted, genesis.out_painted, distorted)
SHAPES = ((1, 2, 3), (5, 7, 9), (16, 16, 16), (33, 20, 64))


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, np.float32)


def box_of(mask: np.ndarray) -> list[int]:
    """Edges of the box that a mask fills; fails if it is no full box."""
    found = np.argwhere(mask)
    edges = found.max(0) - found.min(0) + 1
    assert mask.sum() == edges.prod()
    return edges.tolist()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("distort", DISTORTIONS)
def test_a_distortion_is_a_function_of_crop_and_generator_alone(distort, shape) -> None:
    crop = noise(*shape)
    before = crop.copy()
    one, again = (distort(crop, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(one, again) and np.array_equal(crop, before)
    assert one.shape == shape and one.dtype == np.float32 and one.min() >= 0 and one.max() <= 1
    assert not np.shares_memory(one, crop)


@pytest.mark.parametrize("distort", DISTORTIONS)
def test_another_generator_distorts_differently(distort) -> None:
    results = {distort(noise(16, 16, 16), np.random.default_rng(seed)).tobytes() for seed in range(8)}
    assert len(results) >= 6


def test_the_curve_is_the_cubic_bezier_of_scipy() -> None:
    inner = np.array([[0.9, 0.2], [0.3, 0.7]])
    points = np.vstack([[0, 0], inner, [1, 1]])
    expected = BPoly(points[:, None, :], [0, 1])(np.linspace(0, 1, 1000))
    np.testing.assert_allclose(np.column_stack(bezier_curve(inner)), expected, atol=1e-12)


def test_the_curve_never_falls_and_stays_in_0_to_1() -> None:
    corners = [np.reshape(c, (2, 2)) for c in itertools.product((0.0, 1.0), repeat=4)]
    for inner in [*corners, *np.random.default_rng(0).random((200, 2, 2))]:
        for values in bezier_curve(inner):
            assert np.diff(values).min() >= -1e-12 and values[0] == 0 and values[-1] == 1


def test_intensities_keep_or_reverse_their_order_half_and_half() -> None:
    ramp = np.linspace(0, 1, 1000, dtype=np.float32).reshape(10, 10, 10)
    rising = 0
    for seed in range(400):
        steps = np.diff(genesis.remapped(ramp, np.random.default_rng(seed)).ravel())
        assert steps.min() >= 0 or steps.max() <= 0
        rising += steps.sum() > 0
    assert 160 < rising < 240  # four standard deviations of 400 even draws: 40


def test_intensities_follow_the_curve() -> None:
    rng = np.random.default_rng(4)
    x, y = bezier_curve(rng.random((2, 2)))
    if rng.random() >= 0.5:
        y = y[::-1]
    crop = noise(12, 12, 12)
    np.testing.assert_allclose(
        genesis.remapped(crop, np.random.default_rng(4)), np.interp(crop, x, y), atol=5e-3, rtol=0
    )  # looked up in a table of 2**14 levels


def test_shuffling_keeps_the_values_of_every_window_and_leaves_the_rest() -> None:
    crop, window = noise(6, 7, 8), np.random.default_rng(1).integers(0, 4, (6, 7, 8)).astype(np.uint16)
    out = genesis.shuffled_within(crop, window, np.random.default_rng(0))
    np.testing.assert_array_equal(out[window == 0], crop[window == 0])
    for number in (1, 2, 3):
        np.testing.assert_array_equal(np.sort(out[window == number]), np.sort(crop[window == number]))
        assert not np.array_equal(out[window == number], crop[window == number])


def test_every_order_of_a_window_is_equally_likely() -> None:
    crop, window = np.arange(3, dtype=np.float32).reshape(3, 1, 1), np.ones((3, 1, 1), np.uint16)
    rng = np.random.default_rng(0)
    orders = Counter(tuple(genesis.shuffled_within(crop, window, rng).ravel()) for _ in range(6000))
    assert len(orders) == 6 and all(880 < count < 1120 for count in orders.values())  # 1000, four deviations 115


def test_shuffling_moves_values_by_less_than_a_tenth_of_the_edge() -> None:
    shape = (40, 30, 20)
    for axis, edge in enumerate(shape):
        place = np.broadcast_to(np.indices(shape)[axis], shape).astype(np.float32)
        moved = np.abs(genesis.locally_shuffled(place, np.random.default_rng(0)) - place)
        assert moved.max() == edge // 10 - 1


def test_shuffling_changes_as_much_as_the_published_loop_of_ten_thousand_windows() -> None:
    """The loop as it stands in pytorch/utils.py: each window is read from the crop as it was."""
    crop, rng = noise(64, 64, 32), np.random.default_rng(0)
    loop = crop.copy()
    for _ in range(10_000):
        size = rng.integers(1, (7, 7, 4))
        first = rng.integers(0, np.array(crop.shape) - size + 1)
        box = tuple(slice(a, a + n) for a, n in zip(first, size, strict=True))
        loop[box] = rng.permutation(crop[box].ravel()).reshape(size)
    share, ours = (loop != crop).mean(), (genesis.locally_shuffled(crop, rng) != crop).mean()
    assert ours == pytest.approx(share, abs=0.03)


def test_in_painting_leaves_everything_outside_at_most_five_small_boxes() -> None:
    crop = np.full((36, 36, 36), -1, np.float32)
    shares = []
    for seed in range(50):
        painted = genesis.in_painted(crop, np.random.default_rng(seed)) != -1
        assert not painted[:3].any() and not painted[:, :, -3:].any()
        shares.append(painted.mean())
    assert max(shares) <= 5 / 27  # five boxes of a third of each edge
    assert np.mean(np.array(shares) > 0) > 0.8  # 95 in 100 have one


def test_an_in_painted_box_has_a_sixth_to_a_third_of_the_edges(monkeypatch) -> None:
    monkeypatch.setattr(genesis, "_count", lambda *_: 1)
    crop = np.full((36, 48, 60), -1, np.float32)
    edges = np.array([box_of(genesis.in_painted(crop, np.random.default_rng(seed)) != -1) for seed in range(200)])
    assert edges.min(0).tolist() == [6, 8, 10] and edges.max(0).tolist() == [12, 16, 20]


def test_out_painting_keeps_a_box_of_three_to_four_sevenths_of_the_edges(monkeypatch) -> None:
    monkeypatch.setattr(genesis, "_count", lambda *_: 0)
    crop = 2 + noise(35, 42, 49)
    edges = []
    for seed in range(200):
        out = genesis.out_painted(crop, np.random.default_rng(seed))
        np.testing.assert_array_equal(out[out >= 2], crop[out >= 2])
        edges.append(box_of(out >= 2))
    assert np.min(edges, 0).tolist() == [15, 18, 21] and np.max(edges, 0).tolist() == [20, 24, 28]


def test_out_painting_fills_the_border_with_even_noise() -> None:
    crop = np.full((32, 32, 32), 2, np.float32)
    out = genesis.out_painted(crop, np.random.default_rng(0))
    assert (out[:3] < 1).all() and (out[:, -3:] < 1).all()
    assert kstest(out[out < 1], "uniform").pvalue > 0.001


def test_distortions_happen_at_the_published_rates(monkeypatch) -> None:
    """config.py: local 0.5, non-linear 0.9, paint 0.9, of which in-painting 0.2."""
    seen: Counter[str] = Counter()
    for name in ("locally_shuffled", "remapped", "in_painted", "out_painted"):
        monkeypatch.setattr(genesis, name, lambda crop, rng, name=name: seen.update([name]) or crop)
    rng = np.random.default_rng(0)
    for _ in range(4000):
        distorted(noise(1, 1, 1), rng)
    expected = {"locally_shuffled": 0.5, "remapped": 0.9, "in_painted": 0.9 * 0.2, "out_painted": 0.9 * 0.8}
    assert {name: count / 4000 for name, count in seen.items()} == pytest.approx(expected, abs=0.032)


def test_flips_happen_at_the_published_rate() -> None:
    """0.6 have no flip, 0.4 * 0.6 one, 0.4^2 * 0.6 two, of which a third undo each other; 0.4^3 three."""
    crop, rng = noise(2, 2, 2), np.random.default_rng(0)
    eight = {np.flip(crop, axes).tobytes() for n in range(4) for axes in itertools.combinations(range(3), n)}
    seen = Counter(genesis.flipped(crop, rng).tobytes() for _ in range(4000))
    assert set(seen) == eight
    assert seen[crop.tobytes()] / 4000 == pytest.approx(0.6 + 0.4**2 * 0.6 / 3, abs=0.031)


def dataset(cache, **changes: object) -> DistortedCrops:
    return DistortedCrops(cache, CASES, tiny_training(**changes))


def test_a_crop_is_a_function_of_seed_and_number(tiny_cache) -> None:
    first, again, other = dataset(tiny_cache)[7], dataset(tiny_cache)[7], dataset(tiny_cache, seed=1)[7]
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])


def test_a_worker_draws_the_same_without_copying_arrays(tiny_cache) -> None:
    data = dataset(tiny_cache)
    copy = pickle.dumps(data)
    assert len(copy) < 10_000 and torch.equal(pickle.loads(copy)[3][0], data[3][0])


def test_the_original_is_the_studys_ct_scaled_to_0_to_1(tiny_cache, monkeypatch) -> None:
    monkeypatch.setattr(genesis, "flipped", lambda crop, rng: crop.copy())
    data = dataset(tiny_cache, intensity={"ct_low_hu": 0.0, "ct_high_hu": 50.0, "ct_clip": False})
    study = load(tiny_cache, CASES[int(np.random.default_rng([0, 1, 0]).permutation(4)[0])])
    hu = study.hu[body_box(study, data.settings, np.random.default_rng([0, 0]))]
    np.testing.assert_allclose(data[0][1][0], np.clip(hu / 50, 0, 1), rtol=1e-5)


def test_a_pass_shows_every_study_once(tiny_cache, monkeypatch) -> None:
    data, seen = dataset(tiny_cache), []
    monkeypatch.setattr(genesis, "body_box", lambda study, *_: seen.append(study.case) or np.s_[:16, :16, :16])
    for number in range(8):
        data[number]
    assert sorted(seen[:4]) == sorted(seen[4:]) == list(CASES)


def test_a_study_smaller_than_the_crop_is_padded_with_air(tiny_cache) -> None:
    """The study has 35 x 31 x 32 voxels at most, cropped to PET above 0."""
    out, original = dataset(tiny_cache, crops={"size": [48, 48, 48]})[0]
    assert out.shape == original.shape == (1, 48, 48, 48)
    assert (original[0, :4] == 0).all() and (original[0, :, :4] == 0).all() and (original[0, :, :, -4:] == 0).all()


def study_of(hu: np.ndarray) -> Prepared:
    none, no_part = np.empty((0, 3), np.int16), np.empty((0, 4), np.int16)
    return Prepared(
        case="x",
        patient="x",
        sha256="",
        hu=hu,
        suv=np.zeros(hu.shape, np.float16),
        truth=np.zeros(hu.shape, bool),
        lesion=none,
        uptake=none,
        lesion_parts=no_part,
        uptake_parts=no_part,
        spacing_mm=(4, 4, 4),
    )


def test_a_crop_of_air_is_drawn_again_but_not_for_ever(monkeypatch) -> None:
    draws, draw = [], genesis.draw_box
    monkeypatch.setattr(genesis, "draw_box", lambda *given: draws.append(1) or draw(*given))
    air = study_of(np.full((40, 40, 40), -1000, np.int16))
    body_box(air, tiny_training(), np.random.default_rng(0))
    assert len(draws) == 5
    body_box(study_of(air.hu + 160), tiny_training(), np.random.default_rng(0))  # lung
    assert len(draws) == 6


def test_crops_are_drawn_anywhere_in_the_body(tiny_cache) -> None:
    """Whatever is sought around lesions: the first voxels of crops spread over what the study allows."""
    study, settings = load(tiny_cache, "case0"), tiny_training(crops={"size": [4, 4, 8], "sought": 1.0})
    rng = np.random.default_rng(0)
    first = np.array([[part.start for part in body_box(study, settings, rng)] for _ in range(600)])
    assert (first.max(0) - first.min(0) > 0.7 * np.array(study.hu.shape)).all()
    shares = [np.mean(study.truth[tuple(slice(a, a + n) for a, n in zip(at, (4, 4, 8), strict=True))]) for at in first]
    assert np.mean(shares) < 3 * study.truth.mean()


def test_the_encoder_loads_strictly_into_the_ct_encoder_of_middle_fusion() -> None:
    widths = (2, 3, 4)
    network, other = network_for(Network(fusion="middle", widths=widths)), MiddleFusion(widths)
    other.ct_encoder.load_state_dict(network.get_submodule("encoder").state_dict(), strict=True)
    image = torch.rand(1, 1, 8, 8, 8)
    bodies = [None] * len(widths)  # this norm asks for none
    for ours, theirs in zip(network.encoder(image, bodies), other.ct_encoder(image, bodies), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert network(image).shape == image.shape


@pytest.mark.parametrize("fusion", ["early", "late", "late_features", "swin_unetr"])
def test_a_network_without_a_ct_encoder_is_refused(fusion: str) -> None:
    with pytest.raises(ConfigError, match=f"'{fusion}': only 'middle' has a CT encoder"):
        network_for(Network(fusion=fusion, widths=(12,) if fusion == "swin_unetr" else (2, 4)))


def test_the_loss_is_the_mean_squared_error_of_the_sigmoid() -> None:
    """sigmoid(0) = 1/2 and sigmoid(ln 3) = 3/4: (1/4 + 1/16) / 2."""
    out = torch.tensor([0.0, float(np.log(3))]).reshape(1, 1, 2, 1, 1)
    assert float(reconstruction_loss(out, torch.tensor([0.0, 1.0]).reshape(out.shape))) == pytest.approx(5 / 32)
