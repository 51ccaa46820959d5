from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from tiny_settings import tiny_training

from model.inference.view import network_image
from training.batches import crops, device_crops
from training.batches.augment import convolved, smoothed
from training.batches.crops import CropDataset
from training.batches.device_crops import DeviceCrops, scaled
from training.data.prepared import load

CASES = ("case0", "case1", "case2", "case3")
CPU = torch.device("cpu")
LARGE = {"crops": {"size": [64, 64, 64]}, "window": {"size": [64, 64, 64]}}  # larger than the studies


@pytest.mark.parametrize("share", [1.0, 0.0], ids=["studies on the device", "studies in their files"])
@pytest.mark.parametrize("norm", ["instance", "body"])
def test_crops_equal_those_of_workers(share: float, norm: str, tiny_cache) -> None:
    network = {"fusion": "middle", "widths": [2, 2, 4], "norm": norm}
    network |= {"body": {"hu": 50.5, "suv": 2.05}} if norm == "body" else {}  # half of the voxels or so
    settings = tiny_training(augmentation="strong", network=network)
    here, there = CropDataset(tiny_cache, CASES, settings), DeviceCrops(tiny_cache, CASES, settings, CPU, share)
    kept = {type(array) for arrays in there.arrays.values() for array in arrays}
    assert (torch.Tensor in kept) == bool(share)
    for number in range(12):
        for found, expected in zip(there[number], here[number], strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("clip", [True, False])
def test_units_equal_the_containers(clip: bool, tiny_cache) -> None:
    settings = tiny_training(intensity={"ct_clip": clip, "suv_clip": clip, "suv_top": 1.5}).intensity
    study = load(tiny_cache, "case0")
    hu, suv = np.array(study.hu), np.array(study.suv)
    expected = network_image(hu.T, suv.astype(np.float32).T, settings)
    torch.testing.assert_close(scaled(torch.from_numpy(hu), torch.from_numpy(suv), settings), expected)


def test_batches_hold_the_crops_in_order(tiny_cache) -> None:
    data = DeviceCrops(tiny_cache, CASES, tiny_training(batch=2, augmentation="none"), CPU)
    first, second = data.batches([4, 1, 7, 2])
    assert torch.equal(first[0], torch.stack([data[4][0], data[1][0]]))
    assert torch.equal(second[1], torch.stack([data[7][1], data[2][1]]))


def test_a_scattered_study_lies_anywhere_in_its_crops_air(tiny_cache) -> None:
    """Whole, and moved: what its crop holds sums to the same, and starts in different places."""
    settings = tiny_training(augmentation="none", suv_tops=[20.0], **LARGE)
    middle = CropDataset(tiny_cache, CASES[:1], settings)
    crops = {"size": [64, 64, 64], "scattered": True}
    spread = CropDataset(
        tiny_cache, CASES[:1], tiny_training(augmentation="none", suv_tops=[20.0], window=LARGE["window"], crops=crops)
    )
    places = set()
    for number in range(20):
        (image, truth), (centred, there) = spread[number], middle[number]
        assert image.shape == centred.shape and image[1].sum() == pytest.approx(float(centred[1].sum()), rel=1e-5)
        assert truth.sum() == there.sum()
        places.add(tuple(int(axis.min()) for axis in image[1].nonzero(as_tuple=True)))
    assert len(places) > 10


@pytest.mark.parametrize("sigmas", [(0.25, 0.7, 1.1), (1.0, 0.4, 0.3)])
def test_a_gaussian_on_a_device_is_scipys(sigmas: tuple[float, float, float]) -> None:
    image = torch.rand(2, 12, 15, 18)
    expected = gaussian_filter(image.numpy(), (0, *sigmas), mode="nearest")
    torch.testing.assert_close(convolved(image, sigmas, 4, "replicate"), torch.from_numpy(expected))
    torch.testing.assert_close(smoothed(image, sigmas), torch.from_numpy(expected))


def test_the_smoothing_of_displacements_is_scipys() -> None:
    noise = torch.rand(3, 20, 24, 22) * 2 - 1
    expected = gaussian_filter(noise.numpy(), (0, 5, 5, 5), mode="constant", truncate=3)
    torch.testing.assert_close(convolved(noise, (5, 5, 5), 3, "constant"), torch.from_numpy(expected))


@pytest.mark.gpu
def test_every_row_on_a_gpu_equals_the_cpus() -> None:
    """On the same draws; the random values of single voxels are another generator's, and so left out."""
    from training.batches.augment import lowered, resampled, with_gamma

    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU here")
    image, truth = torch.rand(2, 40, 36, 44), (torch.rand(1, 40, 36, 44) > 0.9).float()
    shift = torch.randn(3, 40, 36, 44)
    rows = [
        lambda image: image.flip([1]),
        lambda image: with_gamma(image, 0.8),
        lambda image: image + 0.05,
        lambda image: image * 1.2,
        lambda image: smoothed(image, (0.4, 1.0, 0.7)),
        lambda image: lowered(image, (0.3, 0.1, 0.4)),
    ]
    for row in rows:
        torch.testing.assert_close(row(image.cuda()).cpu(), row(image), rtol=1e-4, atol=1e-4)
    for found, expected in zip(
        resampled(image.cuda(), truth.cuda(), (9.0, -4.0, 6.0), shift.cuda()),
        resampled(image, truth, (9.0, -4.0, 6.0), shift),
        strict=True,
    ):
        assert ((found.cpu() - expected).abs() > 1e-3).float().mean() < 1e-3  # nearest may round the other way


def test_a_study_that_is_too_large_leaves_room_for_smaller_ones(tiny_cache, monkeypatch) -> None:
    sizes = {
        case: sum(part.nbytes for part in (one.hu, one.suv, one.truth))
        for case in CASES
        for one in [load(tiny_cache, case)]
    }
    large = replace(load(tiny_cache, "case0"), hu=np.zeros((80, 80, 80), np.int16))
    monkeypatch.setattr(crops, "load", lambda cache, case: large if case == "case0" else load(cache, case))
    monkeypatch.setattr(device_crops, "free_bytes", lambda device: float(sizes["case1"] + sizes["case2"]))
    arrays = DeviceCrops(tiny_cache, CASES[:3], tiny_training(), CPU, share=1.0).arrays
    assert [isinstance(arrays[case][0], torch.Tensor) for case in CASES[:3]] == [False, True, True]
