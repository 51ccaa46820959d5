"""Resampling to other voxels: the values of SciPy's zoom, which scikit-image's resize and so nnU-Net call."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from model.inference.spacing import coarse_axis, resampled_size, resize

SIZES = [((9, 7, 5), (13, 7, 4)), ((6, 8, 5), (3, 15, 11)), ((4, 5, 6), (9, 2, 6))]


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize(("before", "after"), SIZES)
def test_it_is_scipys_zoom_of_all_axes_clipped_to_the_range(before, after, order) -> None:
    image = np.random.default_rng(0).normal(size=before)
    factors = [a / b for a, b in zip(after, before, strict=True)]
    zoomed = ndimage.zoom(image, factors, order=order, mode="nearest", grid_mode=True)
    expected = np.clip(zoomed, image.min(), image.max())
    found = resize(torch.from_numpy(image[None]).float(), after, order)[0]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5 * np.abs(expected).max())


def test_a_coarse_axis_is_repeated_and_its_slices_are_interpolated_one_by_one() -> None:
    image = np.random.default_rng(1).normal(size=(8, 6, 3))
    found = resize(torch.from_numpy(image[None]).float(), (12, 9, 6), 3, apart=2)[0].numpy()
    for number in range(3):
        part = image[:, :, number]
        zoomed = ndimage.zoom(part, 1.5, order=3, mode="nearest", grid_mode=True)
        expected = np.clip(zoomed, part.min(), part.max())
        for twin in (2 * number, 2 * number + 1):
            np.testing.assert_allclose(found[:, :, twin], expected, atol=1e-5 * np.abs(image).max())


def test_an_image_of_the_wanted_size_comes_back_itself() -> None:
    image = torch.rand(2, 4, 5, 6)
    assert resize(image, (4, 5, 6), 3) is image


def test_the_new_size_keeps_the_length_to_a_rounded_voxel() -> None:
    assert resampled_size((100, 100, 50), (4.0, 4.0, 5.0), (2.0, 3.0, 2.5)) == (200, 133, 100)
    assert resampled_size((5, 3, 1), (1.0, 1.0, 1.0), (2.0, 2.0, 2.0)) == (2, 2, 0)  # 2.5 and 0.5 round to even


@pytest.mark.parametrize(
    ("before", "after", "apart", "axis"),
    [
        ((1, 1, 5), (2, 2, 2), None, 2),  # more than three times as coarse before
        ((2, 2, 2), (1, 7, 2), None, 1),  # or after
        ((1, 1, 3), (1, 1, 3), None, None),  # three times is not more
        ((1, 4, 4), (2, 2, 2), None, None),  # two axes share the largest
        ((1, 1, 5), (2, 2, 2), False, None),
        ((1, 1, 2), (2, 2, 2), True, 2),
    ],
)
def test_which_axis_is_resampled_apart(before, after, apart, axis) -> None:
    assert coarse_axis(before, after, apart) == axis
