"""nnU-Net on a fold: what it gets to read, and when its training ends. Its own code is not needed here."""

from types import SimpleNamespace

import pytest
import SimpleITK as sitk
from tiny_studies import lesion_study

from benchmark.contenders import nnunet_trained
from model.errors import ConfigError


def test_a_case_lies_in_las_with_the_ct_on_the_pets_voxels(tmp_path) -> None:
    study = lesion_study(tmp_path, 0)
    for name in ("imagesTr", "labelsTr"):
        (tmp_path / name).mkdir()
    nnunet_trained.write_case(study, tmp_path)
    files = ("imagesTr/case0_0000", "imagesTr/case0_0001", "labelsTr/case0")
    ct, pet, truth = (sitk.ReadImage(str(tmp_path / f"{name}.nii.gz")) for name in files)
    turned = sitk.DICOMOrient(sitk.ReadImage(str(study.pet)), "LAS")
    assert pet.GetDirection() == turned.GetDirection() and pet.GetSize() == ct.GetSize() == truth.GetSize()
    assert (sitk.GetArrayFromImage(pet) == sitk.GetArrayFromImage(turned)).all()
    assert sitk.GetArrayFromImage(truth).sum() == sitk.GetArrayFromImage(sitk.ReadImage(str(study.truth))).sum()
    assert sitk.GetArrayFromImage(ct).min() == -1000


class Counting:
    """A trainer of one second a step, that notes its rates."""

    num_iterations_per_epoch, num_val_iterations_per_epoch, initial_lr = 4, 1, 0.01

    def __init__(self, clock: SimpleNamespace) -> None:
        self.clock, self.rates, self.ended = clock, [], 0
        self.optimizer = SimpleNamespace(param_groups=[{"lr": 1.0}])
        self.dataloader_train = self.dataloader_val = iter(int, 1)

    def __getattr__(self, name: str):
        if not name.startswith("on_"):
            raise AttributeError(name)
        return lambda *outputs: None

    def on_train_end(self) -> None:
        self.ended += 1

    def train_step(self, batch: object) -> dict:
        self.rates.append(self.optimizer.param_groups[0]["lr"])
        self.clock.now += 1.0
        return {}

    def validation_step(self, batch: object) -> dict:
        return {}


def test_training_ends_with_the_time_and_the_rate_falls_by_it(monkeypatch) -> None:
    """Ten seconds, one a step: ten steps in three epochs, rates of 0.01 (1 - t / 10)^0.9 (nnU-Net's polynomial)."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(nnunet_trained.time, "perf_counter", lambda: clock.now)
    trainer = Counting(clock)
    assert nnunet_trained.train_for(trainer, 10.0) == (10, 10.0) and trainer.ended == 1
    assert trainer.rates == pytest.approx([0.01 * (1 - step / 10) ** 0.9 for step in range(10)])


def test_a_fold_that_was_not_prepared_is_refused(tmp_path) -> None:
    options = SimpleNamespace(folder=tmp_path, minutes=1.0, steps=1, device="cpu")
    with pytest.raises(ConfigError, match="run this command with --prepare first"):
        nnunet_trained.train(options)
