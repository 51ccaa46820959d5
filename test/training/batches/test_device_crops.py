import time
from collections import deque
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from device_reads import reads_of
from tiny_settings import tiny_training

from model.inference.device import make_deterministic
from model.inference.view import network_image
from training.batches import crops, device_crops
from training.batches.crops import CropDataset
from training.batches.device_crops import DeviceCrops, to_network_units
from training.data.prepared import load

CASES = ("case0", "case1", "case2", "case3")
CPU = torch.device("cpu")
LARGE = {"crops": {"size": [64, 64, 64]}, "window": {"size": [64, 64, 64]}}  # larger than the studies


def share_of(cache: Path, cases: int, monkeypatch) -> float:
    """The share of a made-up free memory that holds this many of the studies."""
    sizes = [sum(part.nbytes for part in (one.hu, one.suv, one.truth)) for one in (load(cache, case) for case in CASES)]
    monkeypatch.setattr(device_crops, "free_bytes", lambda device: float(sum(sizes)))
    return sum(sizes[:cases]) / sum(sizes)


@pytest.mark.slow
@pytest.mark.parametrize("augmentation", ["strong", "none"])
@pytest.mark.parametrize("norm", ["instance", "body"])
def test_crops_equal_those_of_workers(augmentation: str, norm: str, tiny_cache) -> None:
    network = {"fusion": "middle", "widths": [2, 2, 4], "norm": norm}
    network |= {"body": {"hu": 50.5, "suv": 2.05}} if norm == "body" else {}  # half of the voxels or so
    settings = tiny_training(augmentation=augmentation, misalignment={"chance": 0.5}, network=network)
    here, there = CropDataset(tiny_cache, CASES, settings), DeviceCrops(tiny_cache, CASES, settings, CPU)
    for number in range(12):
        for found, expected in zip(there[number], here[number], strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("kept", [0, 2], ids=["no study on the device", "two of four"])
@pytest.mark.parametrize("ahead", [False, True])
def test_a_crop_does_not_depend_on_where_its_study_lies_nor_on_a_thread(
    kept: int, ahead: bool, tiny_cache, monkeypatch
) -> None:
    settings = tiny_training(augmentation="strong", batch=3, crops={"size": [16, 16, 16], "recrop_mm": 20})
    everywhere = DeviceCrops(tiny_cache, CASES, settings, CPU)
    some = DeviceCrops(tiny_cache, CASES, settings, CPU, share_of(tiny_cache, kept, monkeypatch))
    assert [isinstance(some.arrays[case][0], torch.Tensor) for case in CASES] == [n < kept for n in range(4)]
    for one, other in zip(everywhere.batches(range(12)), some.batches(range(12), ahead), strict=True):
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


def test_at_most_one_batch_waits(tiny_cache, monkeypatch) -> None:
    drawn: list[int] = []
    plan = DeviceCrops.plan
    monkeypatch.setattr(DeviceCrops, "plan", lambda self, number, seeded: drawn.append(number) or plan(self, number))
    data = DeviceCrops(tiny_cache, CASES, tiny_training(batch=2), CPU)
    batches = data.batches(range(20), ahead=True)
    for used in range(1, 4):
        next(batches)
        time.sleep(0.2)  # time for a thread to make all of them
        assert drawn == list(range(2 * used + 2))
    batches.close()


def test_at_most_four_batches_lie_on_a_device_that_is_behind(tiny_cache) -> None:
    """Two that no step is done with, the one that is used now, and the one that is made."""
    done: list[int] = []

    class Step:
        def __init__(self, number: int) -> None:
            self.number = number

        def synchronize(self) -> None:
            done.append(self.number)

    used = deque(map(Step, range(2)))
    data = DeviceCrops(tiny_cache, CASES, tiny_training(batch=2), CPU)
    data._make([0, 1], None, used)
    assert done == []
    used.append(Step(2))
    data._make([0, 1], None, used)
    assert done == [0] and [step.number for step in used] == [1, 2]


def test_an_error_of_the_thread_is_raised_where_its_batch_would_come(tiny_cache, monkeypatch) -> None:
    def plan(self: DeviceCrops, number: int, seeded: bool = False) -> None:
        raise OSError(f"crop {number}")

    monkeypatch.setattr(DeviceCrops, "plan", plan)
    with pytest.raises(OSError, match="crop 0"):
        next(DeviceCrops(tiny_cache, CASES, tiny_training(), CPU).batches(range(4), ahead=True))


def test_crops_of_several_sizes_are_padded_to_the_largest(tiny_cache) -> None:
    changes = {"augmentation": "strong", "batch": 4, "window": {"size": [64, 64, 64], "shrink": True}}
    settings = tiny_training(crops={"size": [64, 64, 64], "recrop_mm": 60}, **changes)
    data, workers = DeviceCrops(tiny_cache, CASES, settings, CPU), CropDataset(tiny_cache, CASES, settings)
    assert len({data.plan(number).size for number in range(4)}) > 1
    images, truths = next(data.batches(range(4)))
    expected, truth = workers.together([workers[number] for number in range(4)])
    torch.testing.assert_close(images, expected, rtol=0, atol=2e-5)
    assert torch.equal(truths, truth)


@pytest.mark.slow
def test_a_batch_waits_for_no_value_of_the_device(tiny_cache) -> None:
    data = DeviceCrops(tiny_cache, CASES, tiny_training(augmentation="strong", misalignment={"chance": 1.0}), CPU)
    assert reads_of(lambda: data.batch(range(8))) == []


@pytest.mark.gpu
@pytest.mark.parametrize("kept", [0, 2, 4])
def test_a_gpu_makes_the_same_crops_wherever_studies_lie_and_waits_for_none(kept: int, tiny_cache, monkeypatch) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU here")
    make_deterministic()
    settings = tiny_training(augmentation="strong", batch=3, misalignment={"chance": 0.5})
    gpu = torch.device("cuda", 0)
    everywhere = DeviceCrops(tiny_cache, CASES, settings, gpu)
    some = DeviceCrops(tiny_cache, CASES, settings, gpu, share_of(tiny_cache, kept, monkeypatch))
    expected = list(everywhere.batches(range(12), ahead=False))
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = list(some.batches(range(12)))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for one, other in zip(expected, found, strict=True):
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


@pytest.mark.parametrize("clip", [True, False])
def test_units_equal_the_containers(clip: bool, tiny_cache) -> None:
    settings = tiny_training(intensity={"ct_clip": clip, "suv_clip": clip, "suv_top": 1.5}).intensity
    study = load(tiny_cache, "case0")
    hu, suv = np.array(study.hu), np.array(study.suv)
    expected = network_image(hu.T, suv.astype(np.float32).T, settings)
    found = torch.stack([torch.from_numpy(hu).float(), torch.from_numpy(suv).float()])[None]
    to_network_units(found, settings)
    torch.testing.assert_close(found[0], expected)


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
