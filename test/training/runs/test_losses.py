"""Losses against arithmetic by hand and MONAI."""

from math import log

import pytest
import torch
from monai.losses import DiceFocalLoss, DiceLoss, FocalLoss
from torch import Tensor

from training.runs.losses import EPSILON, loss_function
from training.settings import Loss

TOLERANCE = 2e-5  # epsilon's part in a Dice of a few voxels


@pytest.fixture
def four_voxels() -> tuple[Tensor, Tensor]:
    """Lesion probabilities 3/4, 3/4, 1/4, 1/4, of which voxels 0 and 2 are lesion."""
    logits = torch.zeros(1, 2, 4, 1, 1)
    logits[0, 1, :, 0, 0] = torch.tensor([log(3), log(3), -log(3), -log(3)])
    truth = torch.tensor([1.0, 0.0, 1.0, 0.0]).reshape(1, 1, 4, 1, 1)
    return logits, truth


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    truth = (torch.rand(3, 1, 6, 5, 4) > 0.7).float()
    truth[1] = 0  # a crop without lesion
    return torch.randn(3, 2, 6, 5, 4) * 3, truth


def test_equation_1_by_hand(four_voxels: tuple[Tensor, Tensor]) -> None:
    # Dice = 2 (3/4 + 1/4) / (2 + 2) = 1/2; the true classes have p = 3/4, 1/4, 1/4, 3/4
    focal = 2 * (1 / 4) ** 2 * log(4 / 3) + 2 * (3 / 4) ** 2 * log(4)
    loss = loss_function(Loss(kind="equation_1", gamma=2.0))(*four_voxels)
    assert loss.item() == pytest.approx(1 - 1 / 4 + focal / 2, abs=TOLERANCE)


def test_equation_1_without_gamma_sums_the_cross_entropy(four_voxels: tuple[Tensor, Tensor]) -> None:
    loss = loss_function(Loss(kind="equation_1", gamma=0.0))(*four_voxels)
    assert loss.item() == pytest.approx(1 - 1 / 4 + log(4 / 3) + log(4), abs=TOLERANCE)


def test_equation_1_of_a_perfect_prediction_is_one_half() -> None:
    truth = torch.tensor([1.0, 0.0]).reshape(1, 1, 2, 1, 1)
    logits = torch.cat([-50 * truth, 50 * truth - 50 * (1 - truth)], dim=1)
    assert loss_function(Loss(kind="equation_1"))(logits, truth).item() == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("batch_dice", [False, True])
def test_equation_1_is_monais_dice_and_summed_softmax_focal(batch: tuple[Tensor, Tensor], batch_dice: bool) -> None:
    logits, truth = batch
    dice = DiceLoss(
        include_background=False, softmax=True, to_onehot_y=True, batch=batch_dice, smooth_nr=EPSILON, smooth_dr=EPSILON
    )(logits, truth)
    focal = FocalLoss(to_onehot_y=True, gamma=2.0, use_softmax=True, reduction="none")(logits, truth).sum() / 3
    loss = loss_function(Loss(kind="equation_1", batch_dice=batch_dice))(logits, truth)
    torch.testing.assert_close(loss, 0.5 + dice / 2 + focal / 2)


def test_dice_focal_by_hand(four_voxels: tuple[Tensor, Tensor]) -> None:
    # both classes have a Dice of 1/2. MONAI's focal takes each logit through a sigmoid of its own: the background's
    # logit 0 is 1/2 everywhere; the lesion's gives the probabilities 3/4, 3/4, 1/4, 1/4
    background = (1 / 2) ** 2 * log(2)
    lesion = (2 * (1 / 4) ** 2 * log(4 / 3) + 2 * (3 / 4) ** 2 * log(4)) / 4
    loss = loss_function(Loss())(*four_voxels)
    assert loss.item() == pytest.approx(1 / 2 + (background + lesion) / 2, abs=TOLERANCE)


@pytest.mark.parametrize(("gamma", "batch_dice"), [(2.0, False), (1.0, True)])
def test_dice_focal_is_monais(batch: tuple[Tensor, Tensor], gamma: float, batch_dice: bool) -> None:
    oracle = DiceFocalLoss(softmax=True, to_onehot_y=True, gamma=gamma, batch=batch_dice)
    torch.testing.assert_close(loss_function(Loss(gamma=gamma, batch_dice=batch_dice))(*batch), oracle(*batch))


@pytest.mark.parametrize("kind", ["dice_focal", "equation_1"])
def test_half_precision_logits_do_not_overflow(kind: str) -> None:
    truth = torch.zeros(1, 1, 48, 48, 48)  # 110,592 voxels: more than the 65,504 that a half can count
    truth[..., :24] = 1
    logits = torch.cat([-truth, truth], dim=1)
    loss = loss_function(Loss(kind=kind))
    torch.testing.assert_close(loss(logits.half(), truth.half()), loss(logits, truth))


@pytest.mark.parametrize("kind", ["dice_focal", "equation_1"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_the_gradient_is_finite_where_the_prediction_is_certain(kind: str, gamma: float) -> None:
    truth = torch.zeros(1, 1, 2, 2, 2)
    logits = torch.cat([torch.full_like(truth, 200.0), torch.full_like(truth, -200.0)], dim=1).requires_grad_()
    loss = loss_function(Loss(kind=kind, gamma=gamma))(logits, truth)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logits.grad).all()


def test_one_dice_over_the_batch_gives_an_empty_crop_a_gradient() -> None:
    truth = torch.zeros(2, 1, 4, 4, 4)
    truth[0] = 1  # the second crop holds no lesion
    slopes = {}
    for batch_dice in (False, True):
        logits = torch.zeros(2, 2, 4, 4, 4, requires_grad=True)
        loss_function(Loss(batch_dice=batch_dice, gamma=10.0))(logits, truth).backward()
        slopes[batch_dice] = logits.grad[1, 1].abs().sum().item()
    assert slopes[True] > 2 * slopes[False]
