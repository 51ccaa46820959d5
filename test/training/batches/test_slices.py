from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_settings import tiny_slices

from model.errors import ConfigError
from model.inference.slices import slice_starts, slide_slices
from model.inference.view import image_of
from training.batches.slices import SliceDataset, augmented, lesion_slices, slice_of_study
from training.data.folds import Fold
from training.data.prepare import _points
from training.data.prepared import load

CASES = ("case0", "case1", "case3")  # the last without lesion


def test_an_epoch_has_every_slice_with_lesion_and_whole_bodies_of_the_same_cases(tiny_cache) -> None:
    """No slice of another patient, in either list: what the fold keeps apart stays apart."""
    fold = Fold(name="0", train=CASES, validate=("case2",), test=())
    data = SliceDataset(tiny_cache, fold.train, tiny_slices())
    assert {case for case, _ in data.order.lesion} == {"case0", "case1"}
    assert set(data.order.whole) == {"patient0", "patient1", "patient3"}
    assert {case for of in data.order.whole.values() for case, _ in of} == set(fold.train)
    for case in CASES:
        truth = np.asarray(load(tiny_cache, case).truth)
        expected = [z for z in range(truth.shape[2]) if truth[..., z].any()]
        assert [z for name, z in data.order.lesion if name == case] == expected == lesion_slices(load(tiny_cache, case))
    assert len(data) == 2 * len(data.order.lesion)


def test_a_training_slice_is_what_the_container_gives_the_network(tiny_cache) -> None:
    settings, study = tiny_slices(), load(tiny_cache, "case0")
    seen: list[torch.Tensor] = []

    def predict(patches: torch.Tensor) -> torch.Tensor:
        seen.append(patches)
        return patches[:, :1]

    hu, suv = (np.asarray(part).transpose(2, 1, 0) for part in (study.hu, study.suv))
    whole = image_of(hu, suv.astype(np.float32), settings.part)
    slide_slices(
        whole,
        predict,
        starts=slice_starts(whole[0].numpy(), settings.window.size)[0],
        window=settings.window.size,
        air_hu=-1000.0,
        device=torch.device("cpu"),
    )
    for z in lesion_slices(study):
        image, truth = slice_of_study(study, z, settings)
        torch.testing.assert_close(image, seen[z][0])
        assert truth.shape == (1, 64, 64) and truth.sum() == study.truth[..., z].sum()
        assert image[0][truth[0] > 0].mean() > image[0].mean()  # the lesions are bright: truth lies where PET does


def test_slices_are_a_function_of_seed_and_number_also_in_workers(tiny_cache) -> None:
    settings = tiny_slices(augmentation="strong")
    one, other = SliceDataset(tiny_cache, CASES, settings), SliceDataset(tiny_cache, CASES, settings)
    again = one.__reduce__()
    third = again[0](*again[1])
    for number in (5, 0, one.an_epoch + 3):
        for data in (other, third):
            assert all(torch.equal(a, b) for a, b in zip(one[number], data[number], strict=True))
    assert not torch.equal(one[0][0], SliceDataset(tiny_cache, CASES, settings.changed_to(seed=1))[0][0])


def test_epochs_begin_where_the_runs_do(tiny_cache) -> None:
    settings = tiny_slices(schedule={"epochs": 4, "warmup_epochs": 0, "steps_per_epoch": 3}, batch=2)
    data = SliceDataset(tiny_cache, CASES, settings, processes=2)
    assert data.an_epoch == 3 * 2 * 2
    data[13]
    assert data.listed == (1, data.order.epoch(1))


def test_slices_with_lesion_are_all_found_where_their_voxels_were_thinned(tiny_cache, monkeypatch) -> None:
    """Of four voxels at most three are kept, so every other one: two, and neither is in slice 7."""
    truth = np.zeros((8, 8, 12), np.uint8)
    for place in ((1, 1, 3), (2, 1, 7), (3, 1, 9), (4, 1, 9)):
        truth[place] = 1
    monkeypatch.setattr("training.data.prepare.MOST_POINTS", 3)
    monkeypatch.setattr("training.batches.slices.MOST_POINTS", 3)
    thinned = _points(truth)
    assert thinned[:, 2].tolist() == [3, 9]
    assert lesion_slices(replace(load(tiny_cache, "case0"), truth=truth, lesion=thinned)) == [3, 7, 9]


@pytest.mark.parametrize("strength", [0.5, 1.0, 1.5])
def test_augmentation_changes_the_image_and_keeps_a_truth_of_zeros_and_ones_with_it(strength) -> None:
    truth = torch.zeros(1, 64, 64)
    truth[:, 20:40, 24:44] = 1
    image = torch.stack([truth[0] * 4, truth[0] - 1])
    changed = 0
    for number in range(30):
        out, mask = augmented(image, truth, strength, [0, number], (0, 1))
        assert type(out) is type(mask) is torch.Tensor  # not MONAI's own, whose every operation is slower
        assert out.shape == image.shape and out.dtype == torch.float32 and set(mask.unique().tolist()) <= {0.0, 1.0}
        changed += not torch.equal(out, image)
        if mask.any():
            assert out[0][mask[0] > 0].mean() > 2 > out[0][mask[0] == 0].mean()
    assert changed > 10
    same = augmented(image, truth, 0.0, [0, 1])
    assert torch.equal(same[0], image) and torch.equal(same[1], truth)


def test_only_the_axes_asked_for_are_flipped() -> None:
    image = torch.arange(64.0).reshape(1, 8, 8).repeat(2, 1, 1)
    for flips, turned in (((0,), image.flip(-1)), ((1,), image.flip(-2))):
        found = [augmented(image, image[:1], 1e-9, [0, number], flips)[0] for number in range(20)]
        assert any(torch.equal(f, turned) for f in found) and all(
            torch.equal(f, turned) or torch.equal(f, image) for f in found
        )


@pytest.mark.parametrize("cases", [(), ("case3",)])
def test_a_fold_without_a_slice_to_train_on_is_refused(cases, tiny_cache) -> None:
    with pytest.raises(ConfigError, match=f"no slice to train on: of {len(cases)} training cases none"):
        SliceDataset(tiny_cache, cases, tiny_slices())
