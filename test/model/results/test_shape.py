import numpy as np
import pytest

from model.results.shape import mesh_measures, sphericity

# the digital phantom of arXiv:1612.07003, (z, y, x), 2 mm; 0: not in the mask
IBSI_MASK = np.array(
    [
        [[1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1]],
        [[1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [0, 1, 1, 1, 1], [1, 1, 1, 1, 1]],
        [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 1, 0, 1, 1], [1, 1, 1, 1, 1]],
        [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1]],
    ],
    bool,
)


def test_the_digital_phantom_of_the_ibsi_has_its_published_shape() -> None:
    """Volume (mesh) 556 mm3, surface area (mesh) 388 mm2, sphericity 0.843."""
    area, volume = mesh_measures(IBSI_MASK, (2.0, 2.0, 2.0))
    assert (round(area), round(volume)) == (388, 556)
    assert sphericity(IBSI_MASK, (2.0, 2.0, 2.0)) == pytest.approx(0.843, abs=0.0005)


def test_one_voxel_is_an_octahedron_and_a_flat_one_is_less_round() -> None:
    """The mesh of a voxel of edge 1 has its corners in the middle of the six faces: volume 1/6, area sqrt(3)."""
    one = np.ones((1, 1, 1), bool)
    assert mesh_measures(one, (1.0, 1.0, 1.0)) == pytest.approx((np.sqrt(3), 1 / 6))
    # half diagonals 2, 2 and 0.5 (x, y, z): volume 4/3 * 2 * 2 * 0.5; eight faces of 1/2 |(-2, 2, 0) x (-2, 0, 0.5)|
    area, volume = mesh_measures(one, (4.0, 4.0, 1.0))
    assert volume == pytest.approx(8 / 3) and area == pytest.approx(8 * 0.5 * np.sqrt(1 + 1 + 16))
    assert sphericity(one, (4.0, 4.0, 1.0)) < sphericity(one, (1.0, 1.0, 1.0)) < 1
