import numpy as np
import pytest

from model.bundle.settings import Intensity
from model.inference.intensity import scale_hu, scale_suv


def test_suv_is_divided_by_40_and_not_clipped() -> None:
    np.testing.assert_allclose(scale_suv(np.array([-1.0, 0, 20, 80]), Intensity()), [-0.025, 0, 0.5, 2])


def test_hu_of_minus_1000_to_1000_becomes_0_to_1_and_is_not_clipped() -> None:
    np.testing.assert_allclose(scale_hu(np.array([-1024, -1000, 0, 1000, 3000]), Intensity()), [-0.012, 0, 0.5, 1, 2])


def test_clipping_is_a_setting() -> None:
    settings = Intensity(ct_clip=True, suv_clip=True, suv_top=20)
    np.testing.assert_allclose(scale_hu(np.array([-1024, 0, 3000]), settings), [0, 0.5, 1])
    np.testing.assert_allclose(scale_suv(np.array([-1.0, 10, 30]), settings), [0, 0.5, 1])


@pytest.mark.parametrize("kind", [np.int16, np.uint16, np.float32, np.float64])
def test_any_real_type_gives_float32_and_stays_unchanged(kind: type) -> None:
    values = np.array([0, 1000], dtype=kind)
    for scale in (scale_hu, scale_suv):
        assert scale(values, Intensity()).dtype == np.float32
    assert values.tolist() == [0, 1000]
