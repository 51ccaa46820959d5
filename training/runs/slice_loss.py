"""The loss of networks for slices (Zhong et al., section 2.3): Dice, Lovasz hinge and binary cross-entropy."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.inference.outputs import difference_of

SMOOTH = 1.0  # pixels: so that a batch without lesion has a Dice, too


class SliceLoss(nn.Module):
    """The three losses, weighted by numbers that are learned with the network, at a rate of their own.

    logits (B, 1 or 2, Y, X), truth (B, 1, Y, X) of 0 and 1; of two classes their difference counts, whose sigmoid is
    the softmax probability of lesion. All three run over the whole batch, so that slices without lesion have
    gradients.

    The paper says "learned automatically"; its code names an AutomaticWeightedLoss and does not hold it. Here it is
    1 / (2 s^2) * loss + log(1 + s^2) for each, from s = 1 on (Liebel and Koerner, arXiv:1805.06334, equation 2). As a
    loss nears 0, its weight grows as 1 / sqrt(2 loss), and the total stays above 0. The regulariser of Kendall et al.
    (CVPR 2018), log s, would let the weight grow as 1 / loss, and the total fall below 0 without end. The learning rate
    of s is constant; the authors' cosine lowers it together with the network's.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scales = nn.Parameter(torch.ones(3))  # s of Dice, Lovasz hinge, cross-entropy

    def forward(self, logits: Tensor, truth: Tensor) -> Tensor:
        losses = torch.stack(self.parts(logits, truth))
        squares = self.scales**2
        return (losses / (2 * squares) + torch.log1p(squares)).sum()

    @staticmethod
    def parts(logits: Tensor, truth: Tensor) -> list[Tensor]:
        """Dice loss, Lovasz hinge, cross-entropy."""
        margin, truth = difference_of(logits), truth.float()
        return [
            dice_loss(margin, truth),
            lovasz_hinge(margin, truth),
            functional.binary_cross_entropy_with_logits(margin, truth),
        ]


def dice_loss(margin: Tensor, truth: Tensor) -> Tensor:
    """1 - 2 |P and T| / (|P| + |T|) of probabilities P, over all pixels of all slices."""
    share = margin.sigmoid()
    return 1 - (2 * (share * truth).sum() + SMOOTH) / (share.sum() + truth.sum() + SMOOTH)


def lovasz_hinge(margin: Tensor, truth: Tensor) -> Tensor:
    """The Lovasz extension of the Jaccard loss at the hinge errors (Berman et al., CVPR 2018, equations 8 and 9)."""
    margin, truth = margin.flatten(), truth.flatten()
    errors, order = (1 - margin * (2 * truth - 1)).sort(descending=True)
    truth = truth[order]
    union = truth.sum() + (1 - truth).cumsum(0)
    jaccard = 1 - (truth.sum() - truth.cumsum(0)) / union
    steps = torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])
    return torch.dot(functional.relu(errors), steps)
