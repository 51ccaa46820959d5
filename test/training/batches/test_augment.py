"""Table 1, row by row; MONAI, SciPy and arithmetic say what a row does."""

from types import MappingProxyType

import numpy as np
import pytest
import torch
from monai.networks.layers import GaussianFilter
from monai.transforms import AdjustContrast, Rand3DElastic, ScaleIntensity, ShiftIntensity
from torch import Tensor

from model.errors import ConfigError
from training.batches import augment
from training.batches.augment import (
    TABLE_1,
    Elastic,
    Range,
    Row,
    augmented,
    displacement,
    lowered,
    resampled,
    smoothed,
    with_gamma,
)
from training.settings import STRENGTHS


@pytest.fixture
def crop() -> tuple[Tensor, Tensor]:
    """A crop of three different sides, smooth enough to be resampled, with PET above 1, and a truth."""
    rng = np.random.default_rng(1)
    image = GaussianFilter(3, 2.0)(torch.from_numpy(rng.random((1, 2, 24, 20, 28), dtype=np.float32)))[0] * 4
    truth = torch.zeros(1, 24, 20, 28)
    truth[:, 8:15, 5:12, 10:20] = 1
    return image, truth


@pytest.fixture
def only(monkeypatch):
    """only(name, **ranges): table 1 with that row alone, which always happens, its ranges changed."""

    def leave(name: str, **ranges: Range) -> None:
        table = {other: Row(0.0, row.ranges) for other, row in TABLE_1.items()}
        table[name] = Row(1.0, dict(TABLE_1[name].ranges) | ranges)
        monkeypatch.setattr(augment, "TABLE_1", MappingProxyType(table))

    return leave


def exactly(value: float) -> Range:
    return Range(value, value)


def run(crop: tuple[Tensor, Tensor], strength: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    return augmented(*crop, strength, np.random.default_rng(seed))


def test_the_probabilities_are_table_1() -> None:
    assert [row.probability for row in TABLE_1.values()] == [0.5, 0.2, 0.2, 0.3, 0.2, 0.2, 0.2, 0.3, 0.2]


@pytest.mark.parametrize(
    ("row", "what", "ends"),
    [
        ("rotate", "degrees", (-15, 15)),
        ("elastic", "alpha", (100, 400)),
        ("elastic", "sigma", (5, 13)),
        ("gamma", "gamma", (0.7, 1.5)),
        ("shift", "offset", (-0.1, 0.1)),
        ("scale", "factor", (-0.25, 0.25)),
        ("smooth", "sigma", (0.25, 1.1)),
        ("low_resolution", "share", (0, 0.4)),
        ("noise", "mean", (0, 0.1)),
        ("noise", "std", (0.001, 0.1)),
    ],
)
def test_the_ranges_are_table_1(row: str, what: str, ends: tuple[float, float]) -> None:
    assert TABLE_1[row].ranges[what].at(STRENGTHS["paper"]) == pytest.approx(ends)


def test_strong_multiplies_the_distance_from_the_value_that_changes_nothing() -> None:
    assert TABLE_1["gamma"].ranges["gamma"].at(STRENGTHS["strong"]) == pytest.approx((0.55, 1.75))


def test_strength_leaves_the_width_of_the_elastic_smoothing_alone() -> None:
    assert TABLE_1["elastic"].ranges["sigma"].at(STRENGTHS["weak"]) == (5, 13)


@pytest.mark.parametrize(("strength", "chances"), [("weak", (0.25, 0.1, 0.15)), ("strong", (0.5, 0.3, 0.45))])
def test_strength_multiplies_probabilities_and_a_flip_stays_at_one_half(
    strength: str, chances: tuple[float, ...]
) -> None:
    found = [TABLE_1[name].chance(STRENGTHS[strength]) for name in ("flip", "rotate", "gamma")]
    assert found == pytest.approx(chances)


def test_a_row_happens_as_often_as_its_probability_says() -> None:
    rng = np.random.default_rng(3)
    happened = sum(TABLE_1["gamma"].happens(1.5, rng) for _ in range(4000))
    assert abs(happened / 4000 - 0.45) < 4 * (0.45 * 0.55 / 4000) ** 0.5


def test_strength_none_changes_nothing(crop: tuple[Tensor, Tensor]) -> None:
    for seed in range(20):
        image, truth = run(crop, STRENGTHS["none"], seed)
        assert image is crop[0] and truth is crop[1]


def test_the_same_generator_gives_the_same_crop_to_the_bit(crop: tuple[Tensor, Tensor]) -> None:
    for seed in range(10):
        (image, truth), (again, truth_again) = run(crop, 1.5, seed), run(crop, 1.5, seed)
        assert torch.equal(image, again) and torch.equal(truth, truth_again)


def test_other_generators_give_other_crops(crop: tuple[Tensor, Tensor]) -> None:
    assert len({run(crop, 1.5, seed)[0].numpy().tobytes() for seed in range(10)}) == 10


def test_the_inputs_are_left_as_they_were(crop: tuple[Tensor, Tensor]) -> None:
    before = [volume.clone() for volume in crop]
    for seed in range(20):
        run(crop, 1.5, seed)
    assert all(torch.equal(*pair) for pair in zip(before, crop, strict=True))


def test_shapes_types_and_labels_stay(crop: tuple[Tensor, Tensor]) -> None:
    for seed in range(40):
        image, truth = run(crop, 1.5, seed)
        assert image.shape == crop[0].shape and image.dtype == truth.dtype == torch.float32
        assert torch.isfinite(image).all() and set(truth.unique().tolist()) <= {0.0, 1.0}


def test_a_flip_equals_numpys_for_image_and_truth(crop: tuple[Tensor, Tensor], only) -> None:
    only("flip")
    image, truth = run(crop)
    assert np.array_equal(image, np.flip(crop[0].numpy(), (1, 2, 3)))
    assert np.array_equal(truth, np.flip(crop[1].numpy(), (1, 2, 3)))


def test_each_axis_is_flipped_by_itself(crop: tuple[Tensor, Tensor], monkeypatch) -> None:
    table = {name: Row(0.0, row.ranges) for name, row in TABLE_1.items()} | {"flip": TABLE_1["flip"]}
    monkeypatch.setattr(augment, "TABLE_1", table)
    assert len({run(crop, seed=seed)[0].numpy().tobytes() for seed in range(100)}) == 8


def test_rotation_and_elastic_deformation_are_monais_rand_3d_elastic(crop: tuple[Tensor, Tensor]) -> None:
    noise = np.random.default_rng(7).random((3, 24, 20, 28), dtype=np.float32) * 2 - 1
    oracle = Rand3DElastic(sigma_range=(5, 13), magnitude_range=(100, 400), prob=1.0, rotate_range=(0.3, 0.3, 0.3))
    oracle._do_transform, oracle.rand_offset, oracle.magnitude, oracle.sigma = True, noise, 300.0, 5.0
    oracle.rand_affine_grid.rotate_params = np.deg2rad([12.0, -7.0, 4.0]).tolist()
    oracle.rand_affine_grid.randomize = lambda: None
    shift = (300 * GaussianFilter(3, 5.0, 3.0)(torch.from_numpy(noise)[None]))[0].numpy()
    found = resampled(*crop, (12.0, -7.0, 4.0), shift)
    for volume, mine, mode in zip(crop, found, ("bilinear", "nearest"), strict=True):
        wanted = oracle(volume, mode=mode, padding_mode="reflection", randomize=False).as_tensor()
        assert (wanted - volume).abs().max() > 0.3  # so that agreement says something
        close = torch.isclose(mine, wanted, atol=1e-4, rtol=0)
        assert close.all() if mode == "bilinear" else close.float().mean() > 0.9999  # ties of rounding


def test_the_displacement_is_monais() -> None:
    noise = np.random.default_rng(7).random((3, 24, 20, 28), dtype=np.float32) * 2 - 1
    wanted = 300 * GaussianFilter(3, 5.0, 3.0)(torch.from_numpy(noise)[None])[0].numpy()
    drawn = np.random.default_rng(7).random((3, 24, 20, 28), dtype=np.float32)
    found = displacement(Elastic(alpha=300.0, sigma=5.0, noise=drawn))
    assert np.abs(found - wanted).max() < 0.015 * np.abs(wanted).max()  # MONAI's kernel, cut off, sums to 0.99


def test_a_quarter_turn_about_z_takes_x_to_y() -> None:
    image = torch.rand(2, 8, 8, 5)
    turned, _ = resampled(image, image[:1], (0.0, 0.0, 90.0), None)
    torch.testing.assert_close(turned, torch.rot90(image, -1, (1, 2)), atol=1e-5, rtol=0)


def test_image_and_truth_are_bent_alike(crop: tuple[Tensor, Tensor], only) -> None:
    only("elastic", alpha=exactly(300.0))
    truth = crop[1]
    image, bent = run((truth.repeat(2, 1, 1, 1), truth))
    assert (bent != truth).sum() > 0.2 * bent.sum()
    assert ((image[0] > 0.5) != (bent[0] > 0.5)).sum() < 0.05 * bent.sum()


def test_the_displacement_is_as_long_as_smoothed_uniform_noise() -> None:
    # noise uniform in [-1, 1] has std 1 / sqrt 3; a Gaussian of sigma s multiplies it by (4 pi s^2)^(-3/4)
    drawn = np.random.default_rng(2).random((3, 64, 64, 64), dtype=np.float32)
    shift = displacement(Elastic(alpha=300.0, sigma=5.0, noise=drawn))[:, 16:-16, 16:-16, 16:-16]
    assert shift.std() == pytest.approx(300 / 3**0.5 * (4 * np.pi * 25) ** -0.75, rel=0.15)


@pytest.mark.parametrize("gamma", [0.55, 1.5])
def test_gamma_is_monais_on_each_channel_also_above_one(crop: tuple[Tensor, Tensor], gamma: float) -> None:
    assert crop[0].max() > 2
    for channel, found in zip(crop[0], with_gamma(crop[0], gamma), strict=True):
        torch.testing.assert_close(found, AdjustContrast(gamma)(channel).as_tensor(), atol=1e-5, rtol=1e-5)


def test_gamma_leaves_a_channel_of_one_value_alone() -> None:
    assert torch.equal(with_gamma(torch.full((2, 4, 4, 4), 0.3), 0.7), torch.full((2, 4, 4, 4), 0.3))


def test_the_shift_is_monais_and_the_same_for_both_channels(crop: tuple[Tensor, Tensor], only) -> None:
    only("shift", offset=exactly(0.07))
    torch.testing.assert_close(run(crop)[0], ShiftIntensity(0.07)(crop[0]).as_tensor())


def test_the_scale_is_monais_and_the_same_for_both_channels(crop: tuple[Tensor, Tensor], only) -> None:
    only("scale", factor=exactly(-0.2))
    wanted = ScaleIntensity(minv=None, maxv=None, factor=-0.2)(crop[0]).as_tensor()
    torch.testing.assert_close(run(crop)[0], wanted)


def test_smoothing_is_monais_gaussian_inside_the_crop(crop: tuple[Tensor, Tensor]) -> None:
    sharp = torch.rand(2, 24, 20, 28)
    wanted = GaussianFilter(3, [0.9, 1.1, 1.0], truncated=4.0, approx="sampled")(sharp[None])[0]
    inside = (slice(None), *[slice(5, -5)] * 3)
    torch.testing.assert_close(smoothed(sharp, (0.9, 1.1, 1.0))[inside], wanted[inside], atol=3e-4, rtol=0)


def test_smoothing_does_not_darken_the_faces_of_the_crop() -> None:
    torch.testing.assert_close(smoothed(torch.ones(2, 8, 8, 8), (1.1, 1.1, 1.1)), torch.ones(2, 8, 8, 8))


def test_half_the_voxels_of_an_axis_hold_the_means_of_pairs() -> None:
    image = torch.arange(8.0).remainder(2).reshape(1, 8, 1, 1).expand(2, 8, 6, 6).contiguous()
    torch.testing.assert_close(lowered(image, (0.5, 0.0, 0.0)), torch.full((2, 8, 6, 6), 0.5))


def test_low_resolution_by_nothing_gives_the_image_itself(crop: tuple[Tensor, Tensor]) -> None:
    torch.testing.assert_close(lowered(crop[0], (0.0, 0.0, 0.0)), crop[0])


def test_noise_has_the_drawn_mean_and_deviation_and_differs_between_channels(only, monkeypatch) -> None:
    only("noise", mean=exactly(0.06), std=exactly(0.08))
    monkeypatch.setattr(augment, "NOISE_WITHOUT_MEAN", 0.0)
    noise, _ = run((torch.zeros(2, 32, 32, 32), torch.zeros(1, 32, 32, 32)))
    assert noise.mean() == pytest.approx(0.06, abs=4 * 0.08 / 65536**0.5)
    assert noise.std() == pytest.approx(0.08, rel=0.02)
    assert np.corrcoef(noise.flatten(1))[0, 1] == pytest.approx(0, abs=4 / 32768**0.5)


def test_noise_has_no_mean_about_half_the_time(only) -> None:
    only("noise", mean=exactly(0.1), std=exactly(1e-6))
    means = [run((torch.zeros(2, 2, 2, 2), torch.zeros(1, 2, 2, 2)), seed=seed)[0].mean().item() for seed in range(400)]
    assert 160 < sum(abs(mean) < 1e-3 for mean in means) < 240


@pytest.mark.parametrize("strength", [-0.1, 2.1, float("nan")])
def test_a_strength_out_of_range_is_refused(crop: tuple[Tensor, Tensor], strength: float) -> None:
    with pytest.raises(ConfigError, match="from 0 to 2"):
        run(crop, strength)


def test_a_truth_of_another_size_is_refused(crop: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ConfigError, match="its truth"):
        run((crop[0], crop[1][:, :-1]))


def test_only_the_named_axes_are_flipped() -> None:
    image, truth = torch.rand(2, 4, 5, 6), torch.zeros(1, 4, 5, 6)
    truth[0, 0] = 1  # at the low end of x
    ends = set()
    for seed in range(40):
        _, turned = augmented(image, truth, 1.0, np.random.default_rng(seed), flips=(1, 2))
        ends.add((bool(turned[0, 0].float().mean() > 0.5), bool(turned[0, -1].float().mean() > 0.5)))
    assert (False, True) not in ends
    ends = {bool(augmented(image, truth, 1.0, np.random.default_rng(s), flips=(0,))[1][0, -1].any()) for s in range(40)}
    assert ends == {True, False}
