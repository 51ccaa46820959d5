import numpy as np
import pytest

from model.results.body_mask import body_of, hu_on
from model.study.geometry import Grid, image_on
from model.study.reading import volume_of


def grid(size: tuple[int, int, int], mm: tuple[float, float, float], origin=(0.0, 0.0, 0.0)) -> Grid:
    return Grid(size=size, spacing_mm=mm, origin_mm=origin, direction=(1, 0, 0, 0, 1, 0, 0, 0, 1))


def test_hu_lie_in_their_place_and_are_unknown_where_the_ct_does_not_reach(tmp_path) -> None:
    """A CT of 2 mm that rises by 1 HU a mm along x, from 0 at x = 0 to 38; a PET of 4 mm that begins at x = -4."""
    ct = np.broadcast_to(2.0 * np.arange(20, dtype=np.float32), (10, 10, 20))
    volume = volume_of(image_on(np.ascontiguousarray(ct), grid((20, 10, 10), (2, 2, 2))), tmp_path / "ct.mha")
    hu = hu_on(volume, grid((12, 4, 4), (4, 4, 4), (-4, 0, 0)))
    np.testing.assert_allclose(hu[1, 1], [np.nan, 0, 4, 8, 12, 16, 20, 24, 28, 32, 36, np.nan])


@pytest.mark.parametrize("mm", [(2.0, 2.0, 2.0), (10.0, 10.0, 10.0), (1.5, 4.0, 3.0)])
def test_the_body_is_filled_and_has_a_margin_of_10_mm(mm: tuple[float, float, float]) -> None:
    """A block of 80 mm with a lung open at the top, and 30 mm away a bag of half a percent of its size, in air."""
    size = tuple(round(200 / step) for step in mm)
    hu = np.full(size[::-1], -1000.0, np.float32)
    z, y, x = np.meshgrid(*(np.arange(n) * step for n, step in zip(size[::-1], mm[::-1], strict=True)), indexing="ij")
    block = (abs(x - 100) <= 40) & (abs(y - 80) <= 40) & (abs(z - 100) <= 40)
    hu[block] = 40
    hu[(abs(x - 100) <= 20) & (abs(y - 80) <= 20) & (z >= 100)] = -850
    bag = (abs(y - 160) <= 7) & (abs(x - 100) <= 7) & (abs(z - 100) <= 7)
    hu[bag] = 0
    assert 0 < np.count_nonzero(bag) < 0.01 * np.count_nonzero(block)
    body = body_of(hu, grid(size, mm))
    lung = (abs(x - 100) <= 18) & (abs(y - 80) <= 18) & (z >= 100) & (z <= 135)
    assert body[lung].all() and body[block].all()
    away = np.maximum(np.maximum(abs(x - 100), abs(y - 80)), abs(z - 100)) - 40  # mm from the block, at least
    assert not body[away > 10 + 2 * max(mm)].any()
    assert body[(away <= 8) & (abs(x - 100) <= 30) & (abs(z - 100) <= 30)].all()


def test_a_leg_apart_is_body_too() -> None:
    hu = np.full((40, 20, 40), -1000.0, np.float32)
    hu[:, 5:15, 2:16] = hu[:20, 5:15, 26:36] = 40
    assert body_of(hu, grid((40, 20, 40), (4, 4, 4)))[:20, 5:15, 26:36].all()


def test_where_the_ct_does_not_reach_may_be_body() -> None:
    """NaN beyond its volume, -1024 HU beyond the circle that it reconstructs: an arm may lie there."""
    hu = np.full((20, 20, 20), -1000.0, np.float32)
    hu[:, 2:8, 2:8], hu[:, 18:], hu[:, :, 18:] = 40, -1024, np.nan
    body = body_of(hu, grid((20, 20, 20), (4, 4, 4)))
    assert body[:, 18:].all() and body[:, :, 18:].all() and not body[:, 12:18, 12:18].any()


def test_without_a_dense_voxel_everything_may_be_body() -> None:
    assert body_of(np.full((4, 4, 4), -1000.0, np.float32), grid((4, 4, 4), (4, 4, 4))).all()
