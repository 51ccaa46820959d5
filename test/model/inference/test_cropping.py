import numpy as np

from model.inference.cropping import foreground_box, paste


def test_the_box_is_tight_and_has_no_margin() -> None:
    suv = np.zeros((5, 6, 7), np.float32)
    suv[1, 2, 3] = suv[3, 2, 5] = 1
    assert foreground_box(suv, 0.0) == (slice(1, 4), slice(2, 3), slice(3, 6))


def test_the_threshold_itself_is_background() -> None:
    suv = np.full((2, 2, 2), 0.5)
    assert foreground_box(suv, 0.5) is None
    assert foreground_box(suv, 0.4) == (slice(0, 2),) * 3


def test_negative_values_are_background() -> None:
    assert foreground_box(np.full((2, 2, 2), -0.1), 0.0) is None


def test_paste_undoes_the_crop() -> None:
    suv = np.zeros((4, 4, 4))
    suv[1:3, 2:4, 0:2] = 7
    box = foreground_box(suv, 0)
    assert box is not None
    np.testing.assert_array_equal(paste(suv[box], box, (4, 4, 4)), suv)
