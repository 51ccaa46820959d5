import pytest
import torch

from benchmark.command import PAPER_WIDTHS
from benchmark.roofline import matrix_rate, operations
from model.bundle.network import Network


def test_operations_are_two_for_every_product_of_a_weight() -> None:
    """Early fusion, widths 2 and 3, at 8^3: 3x3x3 convolutions, a 2x2x2 transposed one, 1x1x1 to two classes."""
    fine, coarse = 8**3, 4**3
    encoder = 27 * fine * (2 * 2 + 2 * 2) + 27 * coarse * (2 * 3 + 3 * 3)
    decoder = coarse * 3 * 2 * 8 + 27 * fine * (4 * 2 + 2 * 2) + fine * 2 * 2
    assert operations(Network(fusion="early", widths=(2, 3)), (8, 8, 8)) == 2 * (encoder + decoder)


@pytest.mark.parametrize(("edge", "tera"), [(160, 4.02), (192, 6.94)])
def test_the_papers_network_takes_the_operations_counted_by_hand(edge: int, tera: float) -> None:
    count = operations(Network(fusion="middle", widths=PAPER_WIDTHS), (edge, edge, edge))
    assert count / 1e12 == pytest.approx(tera, abs=0.005)


def test_a_rate_is_measured() -> None:
    assert matrix_rate(torch.device("cpu"), edge=16, seconds=0.0) > 0
