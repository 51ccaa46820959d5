import itertools
import math

import numpy as np
import pytest
import torch
from monai.losses import DiceLoss
from torch.nn import functional

from training.runs.slice_loss import SMOOTH, SliceLoss, dice_loss, lovasz_hinge

TRUTH = torch.tensor([1.0, 0, 1, 0, 1, 0])


def jaccard_loss(wrong: set[int], lesion: set[int]) -> float:
    """1 - intersection over union where the pixels in `wrong` are predicted wrongly."""
    union = lesion | wrong
    return len(wrong) / len(union) if union else 0.0


def extension(errors: np.ndarray, lesion: set[int]) -> float:
    """The Lovasz extension as an integral over thresholds (Bach 2013, proposition 3.1): no sorting, no differences."""
    levels = sorted({0.0, *(float(e) for e in errors if e > 0)})
    total = 0.0
    for low, high in itertools.pairwise(levels):
        middle = (low + high) / 2
        total += (high - low) * jaccard_loss({i for i, e in enumerate(errors) if e > middle}, lesion)
    return total


@pytest.mark.parametrize("seed", range(5))
def test_the_lovasz_hinge_is_the_extension_of_the_jaccard_loss_at_the_hinge_errors(seed) -> None:
    margin = torch.randn(6, generator=torch.Generator().manual_seed(seed)) * 2
    errors = (1 - margin * (2 * TRUTH - 1)).clamp_min(0).numpy()
    assert float(lovasz_hinge(margin, TRUTH)) == pytest.approx(extension(errors, {0, 2, 4}), abs=1e-6)


def test_a_certain_right_prediction_costs_nothing_and_a_wrong_one_its_hinge() -> None:
    assert float(lovasz_hinge((2 * TRUTH - 1) * 3, TRUTH)) == 0
    assert float(lovasz_hinge(-(2 * TRUTH - 1), TRUTH)) == pytest.approx(2)  # all errors 2, Jaccard loss 1


def test_without_lesion_the_hinge_is_the_worst_pixels() -> None:
    """The first wrong pixel makes the Jaccard loss 1, the others add nothing."""
    margin = torch.tensor([-3.0, 0.5, -0.2])
    assert float(lovasz_hinge(margin, torch.zeros(3))) == pytest.approx(1.5)


def test_dice_is_monais_over_the_batch() -> None:
    margin, truth = torch.randn(3, 1, 8, 8), (torch.rand(3, 1, 8, 8) > 0.7).float()
    monai = DiceLoss(sigmoid=True, batch=True, smooth_nr=SMOOTH, smooth_dr=SMOOTH)
    torch.testing.assert_close(dice_loss(margin, truth), monai(margin, truth))


@pytest.mark.parametrize("classes", [1, 2])
def test_the_sum_follows_the_formula_and_two_classes_count_by_their_difference(classes) -> None:
    margin, truth = torch.randn(2, 1, 8, 8), (torch.rand(2, 1, 8, 8) > 0.7).float()
    logits = margin if classes == 1 else torch.cat([torch.randn(2, 1, 8, 8), torch.zeros(2, 1, 8, 8)], 1)
    if classes == 2:
        logits[:, 1:] = logits[:, :1] + margin
    loss = SliceLoss()
    with torch.no_grad():
        loss.scales.copy_(torch.tensor([1.0, 0.5, 2.0]))
    parts = [
        float(dice_loss(margin, truth)),
        float(lovasz_hinge(margin, truth)),
        float(functional.binary_cross_entropy(margin.sigmoid(), truth)),
    ]
    expected = sum(p / (2 * s * s) + math.log(1 + s * s) for p, s in zip(parts, (1, 0.5, 2), strict=True))
    assert float(loss(logits, truth)) == pytest.approx(expected, abs=1e-4)


def test_the_weights_have_gradients_and_a_batch_without_lesion_is_finite() -> None:
    loss = SliceLoss()
    logits = torch.randn(2, 2, 8, 8, requires_grad=True)
    loss(logits, torch.zeros(2, 1, 8, 8)).backward()
    assert loss.scales.grad is not None and (loss.scales.grad != 0).all()
    assert torch.isfinite(logits.grad).all() and logits.grad.abs().sum() > 0
