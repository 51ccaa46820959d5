"""What a network's output channels mean: from logits to values that are averaged, and from these to a margin.

A margin is above 0 where the network says lesion. Of two classes it is the logit of lesion less that of background,
which may be averaged and resampled as well before as after. Of more classes or regions all logits are kept until then.
The logits of an organ head follow those of lesion, and are all kept.
"""

import torch
from torch import Tensor

from model.bundle.network import Network


def values_of(logits: Tensor, network: Network) -> Tensor:
    """What is summed up and averaged of logits (B, C, ...): (B, K, ...) float32, K = 1 where one number decides.

    Logits of organs, if they follow the network's classes, come after the K values as they are.
    """
    lesion, organs = logits[:, : network.classes], logits[:, network.classes :]
    values = difference_of(lesion) if _one_number(network) else lesion.float()
    return torch.cat([values, organs.float()], 1) if organs.shape[1] else values


def split_organs(values: Tensor, network: Network) -> tuple[Tensor, Tensor]:
    """Values (K + organs, X, Y, Z) as those of lesion, (K, X, Y, Z), and the organs' logits, which may be none."""
    count = 1 if _one_number(network) else network.classes
    return values[:count], values[count:]


def difference_of(logits: Tensor) -> Tensor:
    """Logit of lesion less that of background, (B, 1, ...) float32, of logits (B, 2, ...), or (B, 1, ...) of lesion."""
    logits = logits.float()
    return logits if logits.shape[1] == 1 else logits[:, 1:] - logits[:, :1]


def lesion_margin(values: Tensor, network: Network) -> Tensor:
    """The margin (X, Y, Z) of averaged values (K, X, Y, Z).

    Classes: the largest logit of lesion less the largest of the others. Regions: each output above 0 writes its region,
    later ones over earlier ones (nnU-Net's regions_class_order); lesion is where the last that writes is of the lesion.
    """
    if _one_number(network):
        return values[0]
    lesion = set(network.lesion)
    if not network.regions:
        others = [number for number in range(len(values)) if number not in lesion]
        return values[list(network.lesion)].amax(0) - values[others].amax(0)
    margin: Tensor | None = None
    overwritten = torch.full_like(values[0], float("inf"))  # least of minus the later outputs that are no lesion
    for number in reversed(range(len(values))):
        if number in lesion:
            found = torch.minimum(values[number], overwritten)
            margin = found if margin is None else torch.maximum(margin, found)
        else:
            overwritten = torch.minimum(overwritten, -values[number])
    assert margin is not None  # a network has outputs of lesion
    return margin


def _one_number(network: Network) -> bool:
    if network.regions:
        return network.classes == 1
    return network.classes <= 2
