"""From output channels to a margin: above 0 exactly where nnU-Net's rules say lesion."""

import itertools

import pytest
import torch

from model.bundle.network import Network
from model.bundle.nnunet import UNetStage
from model.inference.outputs import lesion_margin, values_of

STAGES = (
    UNetStage(kernel=(3, 3, 3), stride=(1, 1, 1), blocks=1),
    UNetStage(kernel=(3, 3, 3), stride=(2, 2, 2), blocks=1),
)


def network(classes: int, lesion: tuple[int, ...], regions: bool = False) -> Network:
    return Network(fusion="plain_unet", widths=(2, 4), stages=STAGES, classes=classes, lesion=lesion, regions=regions)


def every_case(count: int) -> torch.Tensor:
    """Every sign of `count` logits, (count, 1, 1, cases)."""
    cases = torch.tensor(list(itertools.product([-2.0, 1.0], repeat=count)))
    return (cases + torch.linspace(0, 0.5, count)).T[:, None, None]  # no two logits of a voxel are equal


def test_of_two_classes_the_difference_is_the_value() -> None:
    values = values_of(torch.tensor([[1.0], [4.0]])[None, ..., None, None], network(2, (1,)))
    assert values.shape == (1, 1, 1, 1, 1) and float(values.flatten()[0]) == 3.0


@pytest.mark.parametrize("lesion", [(1,), (2,), (1, 3)])
def test_of_more_classes_the_largest_output_decides(lesion) -> None:
    values = every_case(4)
    expected = torch.isin(values.argmax(0), torch.tensor(lesion))
    assert torch.equal(lesion_margin(values_of(values[None], network(4, lesion))[0], network(4, lesion)) > 0, expected)


@pytest.mark.parametrize("lesion", [(0,), (1,), (0, 2), (2,)])
def test_of_regions_the_last_that_is_above_a_half_decides(lesion) -> None:
    values = every_case(3)
    label = torch.full(values.shape[1:], -1)
    for number in range(3):  # as nnU-Net writes them, in the order of regions_class_order
        label[values[number].sigmoid() > 0.5] = number
    expected = torch.isin(label, torch.tensor(lesion))
    regions = network(3, lesion, regions=True)
    assert torch.equal(lesion_margin(values_of(values[None], regions)[0], regions) > 0, expected)
