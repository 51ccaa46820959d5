import numpy as np
import pytest
import torch

from model.bundle.settings import Intensity
from model.inference.slices import (
    OUTSIDE,
    body_box,
    clipped_image,
    cut,
    normalised,
    paste,
    slice_starts,
    slide_slices,
)

AIR = -1000.0


def body(shape: tuple[int, int], low: tuple[int, int], high: tuple[int, int]) -> np.ndarray:
    """A slice (X, Y) of air with a box of water."""
    hu = np.full(shape, AIR, np.float32)
    hu[low[0] : high[0], low[1] : high[1]] = 0
    return hu


def test_the_body_is_the_largest_part_and_an_empty_slice_is_all_of_itself() -> None:
    hu = body((60, 50), (10, 20), (30, 45))
    hu[50:55, 2:8] = 40  # an arm
    assert body_box(hu) == ((10, 20), (30, 45))
    assert body_box(np.full((60, 50), AIR)) is None


def test_both_legs_are_body_and_the_window_lies_between_them() -> None:
    """Legs over x 80 to 149 and 250 to 299: the middle of 80 to 299 is 189, less 128; of y 150 to 219 it is 184."""
    hu = body((400, 400), (80, 150), (150, 220))
    hu[250:300, 150:220] = 0
    hu[300:340, 300:310] = 0  # a table, an eighth of the larger leg
    assert body_box(hu) == ((80, 150), (300, 220))
    assert slice_starts(hu[..., None], (256, 256, 1)) == ([(61, 56)], 0)


@pytest.mark.parametrize(
    ("shape", "low", "high", "window", "start"),
    [
        ((400, 400), (150, 100), (251, 201), (256, 256, 1), (72, 22)),  # centre 200, 150, less 128
        ((400, 400), (0, 300), (40, 400), (256, 256, 1), (0, 144)),  # moved to lie inside
        ((100, 300), (20, 100), (80, 200), (256, 256, 1), (-78, 21)),  # narrower than the window: around it
        ((200, 201), (0, 0), (9, 9), (256, 256, 1), (-28, -27)),
    ],
)
def test_the_window_lies_around_the_bodys_centre(shape, low, high, window, start) -> None:
    assert slice_starts(body(shape, low, high)[..., None], window)[0] == [start]


def test_without_a_body_the_window_lies_around_the_slices_centre() -> None:
    assert slice_starts(np.full((400, 300, 1), AIR, np.float32), (256, 256, 1)) == ([(71, 21)], 0)


def test_slices_whose_body_is_wider_than_the_window_are_counted() -> None:
    hu = np.stack(
        [
            body((400, 400), (20, 100), (390, 200)),
            body((400, 400), (100, 100), (300, 200)),
            np.full((400, 400), AIR, np.float32),
        ],
        -1,
    )
    assert slice_starts(hu, (256, 256, 1))[1] == 1


@pytest.mark.parametrize("shape", [(30, 20), (90, 100), (64, 64), (40, 90)])
def test_a_window_cut_and_pasted_back_is_the_slice_where_it_lay(shape) -> None:
    image = torch.rand(2, *shape, 1)
    (start,), _ = slice_starts(image[0].numpy(), (64, 64, 1))
    patch = cut(image, start, 0, (64, 64, 1), AIR)
    assert patch.shape == (2, 64, 64)
    for channel, number in (("PET", 1), ("CT", 0)):
        back = torch.full(shape, -5.0)
        paste(back, patch[0 if channel == "PET" else 1].T, start)
        covered = back != -5
        assert torch.equal(back[covered], image[number, ..., 0][covered])
        assert covered.sum() == min(shape[0], 64) * min(shape[1], 64)
    inside = min(shape[0], 64) * min(shape[1], 64)
    assert (patch[1] == AIR).sum() == (patch[0] == 0).sum() == 64 * 64 - inside  # beyond the slice there is air


def test_each_modality_of_each_slice_is_normalised_by_its_own_pixels() -> None:
    """By numpy, as the authors' container does: PET over what is not 0, CT over what is not air."""
    rng = np.random.default_rng(0)
    pet, ct = rng.gamma(2, 1, (3, 32, 32)), rng.normal(0, 200, (3, 32, 32))
    pet[:, :5], ct[:, :4] = 0, AIR
    patches = torch.tensor(np.stack([pet, ct], 1), dtype=torch.float32)
    found = normalised(patches, AIR).numpy()
    for slice_, one in zip(patches.numpy().astype(np.float64), found, strict=True):
        for channel, empty in ((0, 0), (1, AIR)):
            values = slice_[channel]
            counted = values[values != empty]
            np.testing.assert_allclose(one[channel], (values - counted.mean()) / counted.std(), rtol=1e-4, atol=1e-5)


def test_constant_and_empty_slices_stay_finite_and_zero() -> None:
    empty = torch.stack([torch.zeros(32, 32), torch.full((32, 32), AIR)])
    constant = torch.stack([torch.full((32, 32), 3.7), torch.full((32, 32), 40.0)])
    found = normalised(torch.stack([empty, constant]), AIR)
    assert torch.equal(found, torch.zeros_like(found))
    part = constant.clone()
    part[:, :10] = empty[:, :10]  # a constant body in air: the air lies below it, by a deviation that counts as 1
    found = normalised(part[None], AIR)
    assert torch.isfinite(found).all() and torch.equal(found[0, :, 20:], torch.zeros(2, 12, 32))


def test_ct_is_clipped_and_pet_only_where_it_is_asked_for() -> None:
    hu, suv = np.array([[[-3000.0, 5.4, 3000]]]), np.array([[[0.0, 12, 90]]])
    image = clipped_image(hu, suv, Intensity(ct_clip=True, suv_top=20))
    assert image[0].flatten().tolist() == [-1000, 5, 1000] and image[1].flatten().tolist() == [0, 12, 90]
    assert clipped_image(hu, suv, Intensity(suv_clip=True, suv_top=20))[1].max() == 20


def test_every_slice_is_run_once_pet_first_and_pasted_back() -> None:
    """`predict` returns the normalised PET, so the result is that of each slice, and OUTSIDE beyond its window."""
    rng = np.random.default_rng(1)
    hu, suv = rng.normal(0, 100, (7, 70, 90)), rng.gamma(2, 1, (7, 70, 90))  # (z, y, x)
    image = clipped_image(hu, suv, Intensity(ct_clip=True))
    counts: list[int] = []
    starts, _ = slice_starts(image[0].numpy(), (64, 64, 1))
    out = slide_slices(
        image,
        lambda patches: patches[:, :1],
        starts=starts,
        window=(64, 64, 1),
        air_hu=AIR,
        device=torch.device("cpu"),
        batch=3,
        on_windows=counts.append,
    )
    assert out.shape == (90, 70, 7) and counts == [3, 3, 1]
    for z, (x, y) in enumerate(starts):
        crop = suv[z, y : y + 64, x : x + 64]
        expected = (crop - crop[crop != 0].mean()) / crop[crop != 0].std()
        np.testing.assert_allclose(out[x : x + 64, y : y + 64, z].T, expected, rtol=1e-3, atol=1e-4)
        rest = out[..., z].clone()
        rest[x : x + 64, y : y + 64] = OUTSIDE
        assert (rest == OUTSIDE).all()
