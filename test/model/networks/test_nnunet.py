"""nnU-Net's U-Nets, by hand; test_nnunet_parity compares them with nnU-Net itself."""

import pytest
import torch
from torch import nn

from model.bundle.network import Network
from model.bundle.nnunet import UNetStage
from model.networks.nnunet import ResidualBlock, StridedUNet
from model.networks.unet import build, skeleton

ONE, TWO, THREE = (1, 1, 1), (2, 2, 2), (3, 3, 3)


def network(fusion: str, widths: tuple[int, ...], blocks: tuple[int, ...], decoder: int, **more) -> Network:
    stages = tuple(
        UNetStage(kernel=THREE, stride=TWO if number else ONE, blocks=count, decoder_blocks=decoder)
        for number, count in enumerate(blocks)
    )
    return Network(fusion=fusion, widths=widths, stages=stages, **more)


RES_ENC = {  # nnU-Net's own plans: M, L and XL differ in patch and blocks alone; the last has its blocks
    (1, 3, 4, 6, 6, 6): 102_350_634,
}


@pytest.mark.parametrize(("blocks", "theirs"), RES_ENC.items())
def test_res_enc_l_has_the_parameters_of_nnunets_without_its_unused_heads(blocks, theirs) -> None:
    widths = (32, 64, 128, 256, 320, 320)
    ours = sum(tensor.numel() for tensor in skeleton(network("residual_unet", widths, blocks, 1)).parameters())
    heads = sum(2 * width + 2 for width in widths[1:-1])  # of deep supervision, at the lower stages
    assert ours + heads == theirs


def test_a_residual_block_adds_the_pooled_and_widened_input() -> None:
    block = ResidualBlock(2, 4, THREE, TWO, bias=True).eval()
    for unit in (block.first, block.second):
        nn.init.zeros_(unit.conv.weight)
        nn.init.zeros_(unit.norm.bias)
    image = torch.rand(1, 2, 8, 8, 8)
    expected = nn.functional.leaky_relu(block.widen(nn.functional.avg_pool3d(image, 2)), 0.01)
    torch.testing.assert_close(block(image), expected)


@pytest.mark.parametrize("fusion", ["plain_unet", "residual_unet"])
def test_every_edge_may_be_any_multiple_of_its_strides(fusion) -> None:
    stages = (
        UNetStage(kernel=(3, 3, 1), stride=ONE, blocks=1),
        UNetStage(kernel=THREE, stride=(2, 2, 1), blocks=2),
        UNetStage(kernel=THREE, stride=(2, 2, 2), blocks=1),
    )
    settings = Network(fusion=fusion, widths=(2, 4, 6), stages=stages, classes=3, lesion=(2,))
    assert settings.divisors == (4, 4, 2)
    assert build(settings)(torch.rand(1, 2, 8, 12, 6)).shape == (1, 3, 8, 12, 6)


def test_the_organ_head_sees_the_features_of_the_lesion_head() -> None:
    unet = StridedUNet(network("plain_unet", (2, 4), (1, 1), 1, organs=11)).eval()
    image = torch.rand(1, 2, 8, 8, 8)
    lesion, organs = unet.with_organs(image)
    torch.testing.assert_close(lesion, unet(image))
    assert organs.shape == (1, 11, 8, 8, 8)
    with pytest.raises(ValueError, match="no organ head"):
        StridedUNet(network("plain_unet", (2, 4), (1, 1), 1)).with_organs(image)
