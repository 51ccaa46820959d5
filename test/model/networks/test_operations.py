"""Operations of a network, by hand and as others count them."""

import pytest

from model.bundle.network import Network
from model.bundle.nnunet import UNetStage
from model.networks.operations import operations


def network(widths: tuple[int, ...], blocks: tuple[int, ...], fusion: str) -> Network:
    first, other = (1, 1, 1), (2, 2, 2)
    strides = (first,) + (other,) * (len(widths) - 1)
    stages = tuple(UNetStage(kernel=(3, 3, 3), stride=s, blocks=b) for s, b in zip(strides, blocks, strict=True))
    return Network(fusion=fusion, widths=widths, stages=stages)


def test_two_stages_by_hand() -> None:
    """Twice the multiplications: 2 -> 2 channels on 64 voxels, 2 -> 4 on 8, up, 4 -> 2 on 64, and the head."""
    by_hand = 2 * (64 * 2 * 2 * 27 + 8 * 2 * 4 * 27 + 8 * 4 * 2 * 8 + 64 * 4 * 2 * 27 + 64 * 2 * 2)
    assert operations(network((2, 4), (1, 1), "plain_unet"), (4, 4, 4)) == by_hand


def test_resenc_l_takes_what_its_authors_code_takes() -> None:
    """4.85 TFLOP a window of 192^3: counted with dynamic-network-architectures' own network."""
    one = network((32, 64, 128, 256, 320, 320), (1, 3, 4, 6, 6, 6), "residual_unet")
    assert operations(one, (192, 192, 192)) / 1e12 == pytest.approx(4.85, abs=0.005)
