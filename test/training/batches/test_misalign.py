"""CT moved against the PET: by at most so much, smoothly, the PET untouched; read as SciPy reads."""

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from training.batches.misalign import drawn_nodes, misaligned, moved, movement
from training.settings import Misalignment

SPACING = (4.0, 4.0, 3.0)
ALWAYS = Misalignment(chance=1.0, most_mm=10.0, smooth_mm=60.0)


@pytest.fixture
def crop() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).random((2, 20, 18, 16), dtype=np.float32))


def field_of(size: tuple[int, ...], settings: Misalignment, seed: int) -> torch.Tensor:
    nodes = drawn_nodes(size, SPACING, settings, np.random.default_rng(seed))
    return movement(torch.from_numpy(nodes), size)


def test_the_ct_moves_and_the_pet_stays(crop) -> None:
    out = misaligned(crop, drawn_nodes(crop.shape[1:], SPACING, ALWAYS, np.random.default_rng(1)))
    assert torch.equal(out[1], crop[1]) and not torch.allclose(out[0], crop[0])
    assert out[0].min() >= crop[0].min() and out[0].max() <= crop[0].max()


def test_the_field_keeps_to_its_length_and_is_smooth() -> None:
    settings = Misalignment(chance=1.0, most_mm=10.0, smooth_mm=60.0)
    reached = 0.0
    for seed in range(30):
        field = field_of((40, 40, 40), settings, seed).numpy()
        mm = np.abs(field) * np.reshape(SPACING, (3, 1, 1, 1))
        reached = max(reached, float(mm.max()))
        assert mm.max() <= 10.0 + 1e-4
        for axis, step in enumerate(SPACING):  # four nodes over 39 voxels: 20 mm from one to the next at the most
            steps = np.abs(np.diff(field, axis=axis + 1)) * np.reshape(SPACING, (3, 1, 1, 1))
            assert steps.max() <= 20.0 * step / (39 * step / 3) + 1e-4
    assert reached > 8.0


def test_a_volume_is_read_as_scipy_reads_it(crop) -> None:
    field = field_of(crop.shape[1:], ALWAYS, 2)
    points = np.stack(np.meshgrid(*map(np.arange, crop.shape[1:]), indexing="ij")) + field.numpy()
    wanted = map_coordinates(crop[0].numpy(), points, order=1, mode="nearest")
    assert np.allclose(moved(crop[:1], field)[0].numpy(), wanted, atol=1e-4)


def test_the_chance_is_kept_and_none_draws_nothing(crop) -> None:
    half = Misalignment(chance=0.5)
    rng = np.random.default_rng(3)
    changed = sum(misaligned(crop, drawn_nodes(crop.shape[1:], SPACING, half, rng)) is not crop for _ in range(400))
    assert 160 < changed < 240  # four deviations around 200
    before = rng.bit_generator.state
    nodes = drawn_nodes(crop.shape[1:], SPACING, Misalignment(), rng)
    assert misaligned(crop, nodes) is crop and rng.bit_generator.state == before
