"""The loss of a segmentation: DiceFocal as the authors use it, and equation 1 as the paper prints it."""

from collections.abc import Callable

import torch
from monai.losses import DiceFocalLoss
from torch import Tensor

from training.runs.slice_loss import SliceLoss
from training.settings import Loss

EPSILON = 1e-5  # equation 1's "very small constant"; MONAI's value


def loss_function(settings: Loss) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss as a function of logits (B, 2, X, Y, Z), of any float type, and truth (B, 1, X, Y, Z) of 0 and 1.

    For slices a module of logits (B, 1 or 2, Y, X), whose parameters are learned. Returns one number in float32,
    whatever the logits are: sums over a crop overflow in half precision. A crop without lesion gives no NaN.
    """
    if settings.kind == "dice_lovasz_bce":
        return SliceLoss()
    if settings.kind == "equation_1":
        return lambda logits, truth: equation_1(logits, truth, settings.gamma, settings.batch_dice)
    dice_focal = DiceFocalLoss(
        softmax=True,
        to_onehot_y=True,
        include_background=True,
        gamma=settings.gamma,
        lambda_dice=1.0,
        lambda_focal=1.0,
        reduction="mean",
        batch=settings.batch_dice,
        smooth_nr=EPSILON,
        smooth_dr=EPSILON,
    )
    return lambda logits, truth: dice_focal(logits.float(), truth.float())


def equation_1(logits: Tensor, truth: Tensor, gamma: float, batch_dice: bool = False) -> Tensor:
    """1 - 1/2 Dice - 1/2 sum over voxels of (1 - p)^gamma log p (Ahn and Park, equation 1).

    The paper leaves open what its letters run over. Here N is the number of voxels of one crop. The prediction in the
    Dice term is the lesion's softmax probability, so the background has no Dice of its own. p is the probability of the
    voxel's true class. Of several crops the loss is the mean; batch_dice: with one Dice over all of them. The focal
    term is a sum, so it grows with the crop and outweighs the Dice; a perfect prediction has 1/2, not 0. The paper
    gives no value of gamma; 0 makes the sum a cross-entropy.
    """
    log_share = logits.float().log_softmax(dim=1)
    lesion, truth = log_share[:, 1:].exp(), truth.float()
    over = (0, 1, 2, 3, 4) if batch_dice else (1, 2, 3, 4)
    dice = (2 * (truth * lesion).sum(over) + EPSILON) / (truth.sum(over) + lesion.sum(over) + EPSILON)
    log_true = log_share.gather(1, truth.long())
    # 1 - p by expm1, and never quite 0: for a gamma below 1 the power's slope is infinite there, which would give NaN
    wrong = (-torch.expm1(log_true)).clamp_min(torch.finfo(torch.float32).tiny)
    focal = -(wrong**gamma * log_true).sum((1, 2, 3, 4))
    return (1 - dice / 2).mean() + focal.mean() / 2
