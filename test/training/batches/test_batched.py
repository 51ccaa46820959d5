"""Table 1 on a batch: each row against the CPU's own on the same draws, SciPy and torch; frequencies and ranges."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from device_reads import reads_of
from scipy.ndimage import gaussian_filter1d
from torch import Tensor
from torch.nn import functional

from training.batches import batched
from training.batches.augment import TABLE_1, Changes, Elastic, Noise, changed, drawn_changes, lowered_size

SIZE = (24, 20, 28)
ULP = 2.0**-23  # a rounding of float32, relative
MANY = 2000


def some(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


ELASTIC = Elastic(alpha=300.0, sigma=5.0, noise=some(3, *SIZE, seed=3))
# Values are at most 4. A point is rounded by half an ulp of 28 in each of some six operations, and a voxel differs from
# the next by at most 4: 28 * 6 * 4 ulp; a displacement, of at most 25 voxels, has 3 sums of at most 31 products before.
# A power multiplies the error of its base by at most 1.5; smoothing and low resolution are 3 sums of at most 9 products
ROWS = {
    "flip": (Changes(flips=(0, 2)), 0.0),
    "rotate": (Changes(degrees=(9.0, -4.0, 12.0)), 28 * 6 * 4 * ULP),
    "elastic": (Changes(elastic=ELASTIC), (28 * 6 + 25 * 93) * 4 * ULP),
    "rotate and elastic": (Changes(degrees=(-3.0, 14.0, 1.0), elastic=ELASTIC), (28 * 6 + 25 * 93) * 4 * ULP),
    "gamma": (Changes(gamma=0.8), 4 * 8 * ULP),
    "shift": (Changes(offset=-0.07), 4 * ULP),
    "scale": (Changes(factor=0.21), 4 * ULP),
    "smooth": (Changes(sigmas=(0.3, 1.1, 0.8)), 4 * 27 * ULP),
    "low_resolution": (Changes(shares=(0.4, 0.13, 0.25)), 4 * 27 * ULP),
    "smooth and low_resolution": (Changes(sigmas=(1.0, 0.4, 0.7), shares=(0.1, 0.3, 0.0)), 4 * 54 * ULP),
    "noise": (Changes(noise=Noise(mean=0.04, std=0.09, normal=some(2, *SIZE, seed=5))), 4 * ULP),
}


def batch(device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Four crops with values up to 4, and their truths."""
    images, truths = torch.from_numpy(some(4, 2, *SIZE)) * 4, torch.zeros(4, 1, *SIZE)
    truths[:, :, 8:15, 5:12, 10:20] = 1
    return images.to(device), truths.to(device)


def check_row(row: str, device: str) -> None:
    one, most = ROWS[row]
    images, truths = batch(device)
    batched.change_together(images, truths, [one, Changes(), one, Changes()])
    before, truth_before = batch()
    for n in (0, 2):
        expected, truth = changed(before[n], truth_before[n], one)
        assert not torch.equal(expected, before[n])
        assert (images[n].cpu() - expected).abs().max() <= most
        assert (truths[n].cpu() != truth).float().mean() < 1e-3  # nearest: a tie may be rounded the other way
    for n in (1, 3):  # to which the row does not apply: bit for bit as they were
        assert torch.equal(images[n].cpu(), before[n]) and torch.equal(truths[n].cpu(), truth_before[n])


@pytest.mark.parametrize("row", ROWS)
def test_a_row_on_a_batch_is_the_cpus_on_each_crop(row: str) -> None:
    check_row(row, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("row", ROWS)
def test_a_row_on_a_gpu_is_the_cpus_on_each_crop(row: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU here")
    check_row(row, "cuda")


@pytest.mark.slow
def test_every_row_together_is_the_cpus_on_each_crop() -> None:
    changes = [drawn_changes((2, *SIZE), 1.5, np.random.default_rng(n), (0, 1, 2)) for n in range(16)]
    assert all(any(getattr(one, name) for one in changes) for name in CHANGES)
    images, truths = (part.repeat(4, 1, 1, 1, 1) for part in batch())
    before = images.clone(), truths.clone()
    batched.change_together(images, truths, changes)
    for n, one in enumerate(changes):
        expected, truth = changed(before[0][n], before[1][n], one)
        torch.testing.assert_close(images[n], expected, rtol=0, atol=2 * (28 * 6 + 25 * 93) * 6 * ULP)
        assert (truths[n] != truth).float().mean() < 1e-3


@pytest.mark.parametrize(("n", "sigma"), [(20, 1.1), (20, 0.25), (7, 5.0), (1, 1.0), (30, 13.0), (9, 0.0)])
@pytest.mark.parametrize(("mode", "truncate"), [("nearest", 4.0), ("constant", 3.0)])
def test_smoothing_is_scipys_gaussian(n: int, sigma: float, mode: str, truncate: float) -> None:
    line = np.random.default_rng(1).random(n)
    matrix = batched.gaussian(n, sigma, truncate, zeros_outside=mode == "constant")
    expected = gaussian_filter1d(line, sigma, mode=mode, truncate=truncate) if sigma else line
    np.testing.assert_allclose(matrix @ line, expected, atol=1e-12)


@pytest.mark.parametrize(("n", "share"), [(20, 0.4), (28, 0.13), (9, 0.0), (2, 0.4), (1, 0.3), (160, 0.37)])
def test_low_resolution_is_torchs_area_and_linear_resizing(n: int, share: float) -> None:
    line = torch.from_numpy(np.random.default_rng(1).random((1, 1, n)))
    small = functional.interpolate(line, size=lowered_size(n, share), mode="area")
    expected = functional.interpolate(small, size=n, mode="linear")[0, 0]
    np.testing.assert_allclose(batched.lowering(n, share) @ line[0, 0].numpy(), expected, atol=1e-12)


def test_the_matrices_of_a_crop_act_on_its_own_axes() -> None:
    volumes = torch.from_numpy(some(3, 2, 5, 6, 7))
    axes = [tuple(some(n, n, seed=10 * crop + n) for n in (5, 6, 7)) for crop in range(3)]
    found = batched.along_axes(volumes, axes)
    for crop, (x, y, z) in enumerate(axes):
        expected = np.einsum("ai,bj,ck,nijk->nabc", x, y, z, volumes[crop].numpy())
        np.testing.assert_allclose(found[crop], expected, rtol=1e-4)


@pytest.mark.slow
def test_nothing_waits_for_the_device() -> None:
    changes = [drawn_changes((2, *SIZE), 1.5, np.random.default_rng(n), (0, 1, 2), seeded=True) for n in range(16)]
    images, truths = (part.repeat(4, 1, 1, 1, 1) for part in batch())
    assert reads_of(lambda: images[0, 0, 0, 0, 0].item()) == ["_local_scalar_dense"]  # what would be found
    assert reads_of(lambda: batched.change_together(images, truths, changes)) == []


def test_a_seed_gives_the_same_values_again() -> None:
    one = Changes(noise=Noise(mean=0.0, std=0.1, normal=7), elastic=Elastic(alpha=300.0, sigma=5.0, noise=8))
    (first, _), (again, _), (other, _) = batch(), batch(), batch()
    for images, change in (
        (first, one),
        (again, one),
        (other, replace(one, noise=Noise(mean=0.0, std=0.1, normal=9))),
    ):
        batched.change_together(images, batch()[1], [change] * 4)
    assert torch.equal(first, again) and not torch.equal(first, other)


# the field of Changes that a row of table 1 draws, and its ranges
CHANGES = {
    "flips": ("flip", {}),
    "degrees": ("rotate", {"degrees": lambda one: one.degrees}),
    "elastic": ("elastic", {"alpha": lambda one: [one.elastic.alpha], "sigma": lambda one: [one.elastic.sigma]}),
    "gamma": ("gamma", {"gamma": lambda one: [one.gamma]}),
    "offset": ("shift", {"offset": lambda one: [one.offset]}),
    "factor": ("scale", {"factor": lambda one: [one.factor]}),
    "sigmas": ("smooth", {"sigma": lambda one: one.sigmas}),
    "shares": ("low_resolution", {"share": lambda one: one.shares}),
    "noise": ("noise", {"std": lambda one: [one.noise.std], "mean": lambda one: [one.noise.mean]}),
}
EDGE = 8  # of the small crops


@pytest.fixture(scope="module")
def many() -> list[Changes]:
    """What is drawn for 2,000 crops, as a GPU has it."""
    shape = (2, EDGE, EDGE, EDGE)
    return [drawn_changes(shape, 1.0, np.random.default_rng([5, n]), (0, 1, 2), seeded=True) for n in range(MANY)]


def as_often(happened: int, chance: float, of: int = MANY) -> bool:
    """Whether a count is within four standard deviations of what a probability gives."""
    return abs(happened - chance * of) <= 4 * (of * chance * (1 - chance)) ** 0.5


def test_the_nine_rows_are_all_that_is_drawn() -> None:
    assert {field.name for field in fields(Changes)} == set(CHANGES) and [row for row, _ in CHANGES.values()] == list(
        TABLE_1
    )


@pytest.mark.parametrize("name", [name for name in CHANGES if name != "flips"])
def test_a_row_is_drawn_as_often_and_in_the_ranges_of_table_1(name: str, many: list[Changes]) -> None:
    row, ranges = CHANGES[name]
    drawn = [one for one in many if getattr(one, name) is not None]
    assert as_often(len(drawn), TABLE_1[row].probability)
    for what, of in ranges.items():
        found = np.concatenate([of(one) for one in drawn])
        if what == "mean":  # half of the noise has none
            assert as_often(np.count_nonzero(found == 0), 0.5, len(found))
            found = found[found != 0]
        low, high = TABLE_1[row].ranges[what].at(1.0)
        assert found.min() >= low and found.max() <= high
        # n uniform numbers leave more than 12 / n of the range free at one end once in 160,000 times
        free = 12 / len(found) * (high - low)
        assert found.min() < low + free and found.max() > high - free
        assert abs(found.mean() - (low + high) / 2) < 4 * (high - low) / (12 * len(found)) ** 0.5


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_each_axis_is_flipped_in_half_of_the_crops(axis: int, many: list[Changes]) -> None:
    assert as_often(sum(axis in one.flips for one in many), 0.5)


def alone(name: str, many: list[Changes]) -> tuple[Tensor, Tensor]:
    """2,000 small crops with this row alone, and what they were: from 0 to 1, brightest in a corner."""
    before = torch.from_numpy(some(1, 2, EDGE, EDGE, EDGE)) * 0.9
    before[:, :, 0, 0, 0], before[:, :, -1, -1, -1] = 1.0, 0.0
    images = before.repeat(MANY, 1, 1, 1, 1)
    truths = torch.zeros(MANY, 1, EDGE, EDGE, EDGE)
    batched.change_together(images, truths, [Changes(**{name: getattr(one, name)}) for one in many])
    return images, before[0]


@pytest.mark.parametrize("name", CHANGES)
def test_the_images_show_a_row_as_often_as_table_1_says(name: str, many: list[Changes]) -> None:
    """A crop is flipped unless none of three axes is. Low resolution leaves an axis of 8 below a share of 1 / 16."""
    images, before = alone(name, many)
    seen = int((images != before).flatten(1).any(1).sum())
    chance = TABLE_1[CHANGES[name][0]].probability
    expected = {"flips": 1 - 0.5**3, "shares": chance * (1 - (1 / 16 / 0.4) ** 3)}.get(name, chance)
    assert as_often(seen, expected)


def test_the_images_show_what_was_drawn(many: list[Changes]) -> None:
    images, before = alone("flips", many)
    for axis in range(3):  # where the brightest voxel went
        at_end = images[:, 0].flatten(1).argmax(1) // EDGE ** (2 - axis) % EDGE == EDGE - 1
        assert as_often(int(at_end.sum()), 0.5)
    offset = (alone("offset", many)[0] - before).flatten(1)
    assert offset.abs().max() <= 0.1 and offset.std(1).max() < 1e-6
    assert offset.min() < -0.09 and offset.max() > 0.09
    factor = alone("factor", many)[0][:, 0, 0, 0, 0]
    assert 0.75 <= factor.min() < 0.77 and 1.23 < factor.max() <= 1.25
    gamma = (alone("gamma", many)[0][:, 0, 2, 3, 4].log() / before[0, 2, 3, 4].log()).numpy()
    assert 0.69 < gamma.min() < 0.72 and 1.48 < gamma.max() < 1.51
    noise = (alone("noise", many)[0] - before).flatten(1)
    spread, mean = noise.std(1)[noise.any(1)], noise.mean(1)[noise.any(1)]
    least, most = 0.001 * 0.9, 0.1 * 1.1  # of 1024 values: the deviation is known to 2 %
    assert least < spread.min() < 0.004 and 0.09 < spread.max() < most
    assert mean.min() > -0.02 and 0.08 < mean.max() < 0.12
