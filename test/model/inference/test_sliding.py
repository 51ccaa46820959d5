import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference
from scipy import ndimage

from model.bundle.network import Network
from model.inference.sliding import OUTSIDE, slide, window_starts, window_weight, windows_above
from model.networks.unet import build

SHAPES = [
    (16, 16, 16),
    (9, 11, 13),
    (16, 5, 40),
    (15, 16, 17),
    (17, 31, 33),
    (32, 32, 32),
    (33, 24, 16),
    (40, 17, 25),
    (8, 8, 130),
    (16, 16, 24),
    (1, 20, 20),
    (23, 47, 19),
    (48, 16, 31),
    (25, 25, 25),
]


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return build(Network(fusion="middle", widths=(2, 3, 4))).eval()


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("weighting", ["constant", "gaussian"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_logits_equal_monai(network: torch.nn.Module, shape: tuple, weighting: str, batch: int) -> None:
    torch.manual_seed(sum(shape))
    image = torch.rand(2, *shape)
    with torch.no_grad():
        ours = slide(image, network, window=(16, 16, 16), overlap=0.5, weighting=weighting, batch=batch)
        monai = sliding_window_inference(image[None], (16, 16, 16), batch, network, overlap=0.5, mode=weighting)[0]
    assert (ours - monai).abs().max() <= 1e-5 * monai.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.7])
def test_logits_equal_monai_for_other_overlaps_and_windows(network: torch.nn.Module, overlap: float) -> None:
    image = torch.rand(2, 20, 37, 29)
    with torch.no_grad():
        ours = slide(image, network, window=(8, 24, 16), overlap=overlap, batch=2)
        monai = sliding_window_inference(image[None], (8, 24, 16), 2, network, overlap=overlap)[0]
    assert (ours - monai).abs().max() <= 1e-5 * monai.abs().max()


def test_it_returns_the_image_when_the_network_is_the_identity() -> None:
    image = torch.rand(2, 9, 17, 30)
    torch.testing.assert_close(slide(image, lambda patch: patch, window=(8, 8, 8), overlap=0.5), image)


def test_windows_step_by_half_and_the_last_ends_at_the_edge() -> None:
    assert window_starts((10, 8, 4), (4, 4, 4), 0.5) == [(x, y, 0) for x in (0, 2, 4, 6) for y in (0, 2, 4)]
    assert [start[0] for start in window_starts((11, 4, 4), (4, 4, 4), 0.5)] == [0, 2, 4, 6, 7]


def test_every_window_is_reported() -> None:
    counts: list[int] = []
    slide(torch.rand(1, 8, 8, 8), lambda p: p, window=(4, 4, 4), overlap=0.5, batch=4, on_windows=counts.append)
    assert sum(counts) == 27


def test_a_permuted_image_gives_the_same_as_a_contiguous_one(network: torch.nn.Module) -> None:
    image = torch.rand(2, 18, 20, 22).permute(0, 3, 2, 1)
    with torch.no_grad():
        ours = [slide(i, network, window=(16, 16, 16), overlap=0.5) for i in (image, image.contiguous())]
    assert torch.equal(*ours)


def test_gaussian_weights_fall_from_the_centre_to_a_thousandth() -> None:
    weight = window_weight((16, 16, 16), "gaussian")
    assert weight.argmax() in (16 * 16 * 7 + 16 * 7 + 7, 16 * 16 * 8 + 16 * 8 + 8)
    assert float(weight.min()) == pytest.approx(1e-3)


def test_half_precision_predictions_are_summed_in_float32() -> None:
    image = torch.rand(1, 8, 8, 8)
    assert slide(image, lambda p: p.half(), window=(4, 4, 4), overlap=0.5).dtype == torch.float32


def test_windows_above_hold_a_bright_voxel() -> None:
    pet = torch.zeros(8, 8, 3)  # padded to 8 x 8 x 4, so that windows of 4^3 lie at 0, 2, 4 on two axes
    pet[5, 0, 2] = 1.0
    assert windows_above(pet, (4, 4, 4), 0.5, 0.5) == [(2, 0, 0), (4, 0, 0)]
    assert windows_above(pet, (4, 4, 4), 0.5, 1.0) == []


def test_voxels_in_no_window_that_is_run_are_background() -> None:
    image = torch.rand(1, 8, 8, 3)
    out = slide(image, lambda patch: patch, window=(4, 4, 4), overlap=0.5, starts=[(2, 0, 0), (4, 0, 0)])
    torch.testing.assert_close(out[:, 2:, :4], image[:, 2:, :4])
    assert (out[:, :2] == OUTSIDE).all() and (out[:, :, 4:] == OUTSIDE).all()
    assert (slide(image, lambda patch: patch, window=(4, 4, 4), overlap=0.5, starts=[]) == OUTSIDE).all()


def test_evenly_spread_windows_are_as_few_as_the_overlap_allows() -> None:
    # nnU-Net's own example: an edge of 110, windows of 64, a step of half a window: 0, 23, 46
    starts = window_starts((110, 64, 65), (64, 64, 64), 0.5, "even")
    assert sorted({x for x, _, _ in starts}) == [0, 23, 46]
    assert {y for _, y, _ in starts} == {0} and sorted({z for _, _, z in starts}) == [0, 1]


def test_nnunets_gaussian_is_scipys_filter_with_its_zeros_raised() -> None:
    window = (40, 16, 7)
    impulse = np.zeros(window)
    impulse[20, 8, 3] = 1
    expected = ndimage.gaussian_filter(impulse, [5.0, 2.0, 0.875], mode="constant")
    expected *= 10 / expected.max()
    expected[expected == 0] = expected[expected > 0].min()
    np.testing.assert_allclose(window_weight(window, "nnunet").numpy(), expected, rtol=1e-5)
